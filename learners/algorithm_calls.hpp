// AlgorithmCalls: what goes wrong in an algorithm's plugin is reported with its name.
#pragma once

#include <string>

#include "learners/group/collective.hpp"
#include "rl/algorithm_info.hpp"

namespace myriad {

/// "MyAlgorithm of PATH"; "" for a built-in one.
std::string plugin_name(const AlgorithmInfo& info);

/// Runs `f`, which comes into the algorithm's code. What it throws, but GroupBroken, leaves as an Error that names a
/// plugin. A signal that ends the process meanwhile is written to standard error with that name. One plugin a process.
class AlgorithmCalls {
 public:
  explicit AlgorithmCalls(const AlgorithmInfo& info);

  template <class F>
  auto operator()(F&& f) const {
    if (name_.empty()) return f();
    const Inside inside;
    try {
      return f();
    } catch (const GroupBroken&) { throw; } catch (...) {
      rethrow_named();
    }
  }

 private:
  struct Inside {
    Inside();
    ~Inside();
  };
  [[noreturn]] void rethrow_named() const;
  std::string name_;
};

}  // namespace myriad
