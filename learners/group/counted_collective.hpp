// CountedCollective: the books of a Collective: operations begun, whether one runs, what they took.
#pragma once

#include <atomic>
#include <chrono>

#include "learners/group/collective.hpp"

namespace myriad {

class CountedCollective : public Collective {
 public:
  uint64_t operations() const override { return operations_; }
  bool inside() const override { return inside_; }
  double seconds() const override { return seconds_; }

 protected:
  using Steady = std::chrono::steady_clock;

  /// One operation, as long as it lives.
  class Operation {
   public:
    explicit Operation(CountedCollective& collective) : self_(collective) {
      ++self_.operations_;
      self_.inside_ = true;
    }
    ~Operation() {
      self_.inside_ = false;
      self_.seconds_ += std::chrono::duration<double>(Steady::now() - start_).count();
    }
    Operation(const Operation&) = delete;

   private:
    CountedCollective& self_;
    Steady::time_point start_ = Steady::now();
  };

 private:
  std::atomic<uint64_t> operations_{0};
  std::atomic<bool> inside_{false};
  double seconds_ = 0;
};

}  // namespace myriad
