// guarded(): calls of MuJoCo whose fatal errors (mju_error: a stack that is full, a plugin that gives up) come back as
// an Error with MuJoCo's words.
//
// MuJoCo's handler must not return, and libmujoco has an unwinder of its own, through which no exception of ours
// passes: the handler jumps (longjmp), as that of MuJoCo's Python package does. An mjData whose call failed is left
// amid it.
#pragma once

#include <memory>
#include <string>
#include <type_traits>

namespace myriad {

/// Sets MuJoCo's handlers and loads the plugins that come with it (pid, cable, sdf, ...), once a process. Throws
/// Error("mujoco") for a plugin that cannot be loaded.
void prepare_mujoco();

/// Throws Error("mujoco"): "`what`: MuJoCo: ..." for a fatal error within `call(argument)`.
void guarded_call(const std::string& what, void (*call)(void*), void* argument);

/// What `f` would destroy at its end is lost when MuJoCo gives up amid it.
template <class F>
void guarded(const std::string& what, F&& f) {
  guarded_call(
      what, [](void* argument) { (*static_cast<std::remove_reference_t<F>*>(argument))(); }, std::addressof(f));
}

}  // namespace myriad
