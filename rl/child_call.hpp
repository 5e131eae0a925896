// Foreign code that answers from a process of its own, so that its crash is only its own.
//
//   answer_of()    in the child: what a function gives or throws, as JSON
//   answer_from()  in the parent: reads that until the child closes its end, and throws what the child threw
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <functional>
#include <string>

#include "rl/sandbox.hpp"

namespace myriad {

/// What `f` gives, or what it threw. `library` is for messages: the file that `f` calls.
boost::json::object answer_of(const std::string& library, const std::function<boost::json::object()>& f);

/// Reads answer_of() of `child` from `fd`, closes `fd`, kills the child and waits for it. Throws the Error of the
/// answer, of Exit::usage or Exit::environment, or Error("plugin-broken") where there is none: a crash, or nothing
/// written for `patience`.
boost::json::object answer_from(int child, int fd, const std::string& library, std::chrono::seconds patience);

/// What `f` gives in a forked child that is inside `sandbox` and has 30 s. Throws as answer_from().
boost::json::object call_in_child(const std::string& library, const Sandbox::Options& sandbox,
                                  const std::function<boost::json::object()>& f);

}  // namespace myriad
