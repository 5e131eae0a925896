// Rendezvous: how the shards of one epoch find each other: a map that every shard of the group has a copy of.
//
//   set() here -> publish -> driver -> put() at every shard of the epoch
//
// The learner's I/O thread puts what the driver relays; the update thread sets, and waits for what others set. It ends
// with its epoch.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "learners/group/collective.hpp"

namespace myriad {

class Rendezvous {
 public:
  using Value = std::vector<uint8_t>;
  using Publish = std::function<void(const std::string& key, const Value& value)>;

  /// `publish` is called by whoever calls set().
  explicit Rendezvous(Publish publish) : publish_(std::move(publish)) {}

  void set(const std::string& key, Value value) {
    put(key, value);
    publish_(key, value);
  }

  /// What another shard has set; a repeat changes nothing.
  void put(const std::string& key, Value value) {
    {
      const std::lock_guard lock(mutex_);
      values_.emplace(key, std::move(value));
    }
    changed_.notify_all();
  }

  /// Waits for `key`. Throws GroupBroken after `patience`, or when the epoch ends.
  Value get(const std::string& key, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return over_ || values_.contains(key); });
    const auto it = values_.find(key);
    if (over_ || it == values_.end()) throw GroupBroken(over_ ? "the epoch is over" : "no '" + key + "' in time");
    return it->second;
  }

  bool has(const std::string& key) const {
    const std::lock_guard lock(mutex_);
    return values_.contains(key);
  }

  bool over() const {
    const std::lock_guard lock(mutex_);
    return over_;
  }

  /// The epoch is over: whoever waits, or will, gets GroupBroken.
  void abort() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
  }

 private:
  Publish publish_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Value> values_;
  bool over_ = false;
};

}  // namespace myriad
