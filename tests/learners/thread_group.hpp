// ThreadGroup: a group of shards that are threads of one test, with one planned fault. Sums are in rank order.
#pragma once

#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "learners/group/collective.hpp"

namespace myriad {

/// Calls f(rank) in `size` threads; rethrows the first exception.
inline void in_threads(uint32_t size, const std::function<void(uint32_t)>& f) {
  std::vector<std::exception_ptr> failures(size);
  std::vector<std::thread> threads;
  for (uint32_t r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      try {
        f(r);
      } catch (...) { failures[r] = std::current_exception(); }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

class ThreadGroup {
 public:
  /// At its `operation`-th operation (from 0) shard `rank` breaks the group: before it gave its part, or after
  /// everybody's result was there, which it alone does not get.
  struct Fault {
    uint32_t rank = 0;
    uint64_t operation = 0;
    bool after = false;
  };

  /// `overlap_floats`: Collective's; a sum that is begun is done.
  explicit ThreadGroup(uint32_t size, std::optional<Fault> fault = std::nullopt, size_t overlap_floats = 0)
      : state_(std::make_shared<State>(size, fault, overlap_floats)) {}

  std::shared_ptr<Collective> member(uint32_t rank) { return std::make_shared<Member>(state_, rank); }

 private:
  using Bytes = std::vector<std::byte>;
  using Combine = std::function<Bytes(const std::vector<Bytes>& inputs)>;
  struct Round {
    std::vector<Bytes> inputs;
    uint32_t arrived = 0;
    std::optional<Bytes> result;
  };
  struct State {
    State(uint32_t n, std::optional<Fault> f, size_t floats) : size(n), fault(f), overlap_floats(floats) {}
    uint32_t size;
    std::optional<Fault> fault;
    size_t overlap_floats;
    std::mutex mutex;
    std::condition_variable changed;
    std::map<uint64_t, Round> rounds;
    bool broken = false;
  };

  class Member final : public Collective {
   public:
    Member(std::shared_ptr<State> state, uint32_t rank) : state_(std::move(state)), rank_(rank) {}
    uint32_t rank() const override { return rank_; }
    uint32_t size() const override { return state_->size; }
    uint64_t operations() const override { return operations_; }
    bool inside() const override { return false; }
    size_t overlap_floats() const override { return state_->overlap_floats; }

    void all_reduce(std::span<float> values) override { sum(values); }
    void all_reduce(std::span<double> values) override { sum(values); }
    void broadcast(std::span<std::byte> bytes, uint32_t root) override {
      const Bytes result = round({bytes.begin(), bytes.end()}, [root](const auto& inputs) { return inputs[root]; });
      std::copy(result.begin(), result.end(), bytes.begin());
    }
    void abort() noexcept override {
      const std::lock_guard lock(state_->mutex);
      state_->broken = true;
      state_->changed.notify_all();
    }

   private:
    template <class T>
    void sum(std::span<T> values) {
      const auto bytes = std::as_bytes(values);
      const Bytes result = round({bytes.begin(), bytes.end()}, [](const std::vector<Bytes>& inputs) {
        Bytes total = inputs[0];
        for (size_t r = 1; r < inputs.size(); ++r)
          for (size_t at = 0; at < total.size(); at += sizeof(T)) {
            T a, b;
            std::memcpy(&a, &total[at], sizeof a);
            std::memcpy(&b, &inputs[r].at(at), sizeof b);
            a += b;
            std::memcpy(&total[at], &a, sizeof a);
          }
        return total;
      });
      std::memcpy(values.data(), result.data(), result.size());
    }

    Bytes round(Bytes input, const Combine& combine) {
      const uint64_t index = operations_++;
      const bool faulty = state_->fault && state_->fault->rank == rank_ && state_->fault->operation == index;
      std::unique_lock lock(state_->mutex);
      if (faulty && !state_->fault->after) break_group();
      Round& round = state_->rounds[index];
      round.inputs.resize(state_->size);
      round.inputs[rank_] = std::move(input);
      if (++round.arrived == state_->size) {
        round.result = combine(round.inputs);
        state_->changed.notify_all();
      }
      state_->changed.wait(lock, [&] { return round.result || state_->broken; });
      if (!round.result) throw GroupBroken("a peer broke the group");
      if (faulty) break_group();
      return *round.result;
    }

    [[noreturn]] void break_group() {
      state_->broken = true;
      state_->changed.notify_all();
      throw GroupBroken("as planned");
    }

    std::shared_ptr<State> state_;
    uint32_t rank_;
    uint64_t operations_ = 0;
  };

  std::shared_ptr<State> state_;
};

}  // namespace myriad
