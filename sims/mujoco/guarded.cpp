#include "sims/mujoco/guarded.hpp"

#include <dlfcn.h>
#include <mujoco/mujoco.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string_view>
#include <utility>

#include "rl/check.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

thread_local std::jmp_buf* way_back = nullptr;  // of the guarded call that this thread is in
thread_local char words[1000];                  // of the last fatal error

/// Without handlers MuJoCo writes MUJOCO_LOG.TXT into the working folder: ten thousand runners share one.
void on_warning(const char* message) {
  // Those of a simulation, which mjData counts, are told by MujocoEnv: MuJoCo repeats them in each episode.
  if (std::string_view(message).find(" Time = ") == std::string_view::npos)
    std::fprintf(stderr, "warning: MuJoCo: %s\n", message);
}

void on_fatal_error(const char* message) {
  std::snprintf(words, sizeof words, "%s", message);
  std::replace(std::begin(words), std::end(words), '\n', ' ');
  if (way_back != nullptr) std::longjmp(*way_back, 1);
  std::fprintf(stderr, "error[mujoco] MuJoCo: %s\n", words);
  std::_Exit(static_cast<int>(Exit::environment));
}

bool succeeds(void (*call)(void*), void* argument) {
  struct Way {  // also out by an exception of `call`
    std::jmp_buf here;
    std::jmp_buf* outer = std::exchange(way_back, &here);
    ~Way() { way_back = outer; }
  } way;
  if (setjmp(way.here) != 0) return false;
  call(argument);
  return true;
}

/// Beside libmujoco: plugin/ in the Python wheel, ../bin/mujoco_plugin/ in a release of MuJoCo.
void load_plugins() {
  Dl_info library{};
  if (dladdr(reinterpret_cast<const void*>(&mj_step), &library) == 0) return;
  const fs::path folder = fs::path(library.dli_fname).parent_path();
  for (const fs::path& plugins : {folder / "plugin", folder / "../bin/mujoco_plugin"}) {
    std::error_code missing;
    if (!fs::is_directory(plugins, missing)) continue;
    const std::string path = plugins.string();
    guarded(path, [&] { mj_loadAllPluginLibraries(path.c_str(), nullptr); });
    return;
  }
}

}  // namespace

void guarded_call(const std::string& what, void (*call)(void*), void* argument) {
  if (!succeeds(call, argument)) fail(Exit::environment, "mujoco", "{}: MuJoCo: {}", what, words);
}

void prepare_mujoco() {
  static std::once_flag once;
  std::call_once(once, [] {
    mju_user_error = on_fatal_error;
    mju_user_warning = on_warning;
    load_plugins();
  });
}

}  // namespace myriad
