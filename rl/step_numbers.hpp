// StepNumbers: what an environment's steps have to say, for Environment::numbers(): parts of the reward, success.
//
//   StepNumbers numbers_{{"forward", "effort"}};         // reset(): numbers_.begin();  step(): numbers_.add(0,
//   forward); std::span<const EpisodeNumber> numbers() override { return numbers_.episode(); }
//
// A step allocates nothing. What a resumed episode had before its checkpoint is not in its numbers.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "rl/environment.hpp"

namespace myriad {

class StepNumbers {
 public:
  explicit StepNumbers(std::vector<std::string> names) : names_(std::move(names)), of_(names_.size()) {}

  /// An episode begins.
  void begin() { of_.assign(of_.size(), {}); }
  /// Of this step, the number with the `i`-th name.
  void add(size_t i, double value) {
    of_[i].sum += value;
    of_[i].last = value;
    ++of_[i].count;
  }
  /// Of the steps since begin(); those without a value are left out.
  std::span<const EpisodeNumber> episode() {
    given_.clear();
    for (size_t i = 0; i < of_.size(); ++i)
      if (of_[i].count > 0) given_.push_back({names_[i], of_[i].sum / of_[i].count, of_[i].last});
    return given_;
  }

 private:
  struct One {
    double sum = 0, count = 0, last = 0;
  };
  std::vector<std::string> names_;
  std::vector<One> of_;
  std::vector<EpisodeNumber> given_;
};

}  // namespace myriad
