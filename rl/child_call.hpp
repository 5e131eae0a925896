// call_in_child: foreign code answers from a process of its own, inside the sandbox, so that its crash is only its own.
#pragma once

#include <boost/json/object.hpp>
#include <functional>
#include <string>

namespace myriad {

/// What `f` gives in a forked child that is inside foreign_sandbox() and has 30 s; `path` is the library, for messages.
/// Throws the Error that `f` threw, or Error("plugin-broken") where the child gave no answer or `f` threw anything
/// else.
boost::json::object call_in_child(const std::string& path, const std::function<boost::json::object()>& f);

}  // namespace myriad
