// A group whose shards are threads of one test, and whose rendezvous is a function call.
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "learners/group/gloo_collective.hpp"
#include "learners/group/shared_collective.hpp"
#include "tests/learners/thread_group.hpp"

namespace myriad {

class LocalRendezvous {
 public:
  explicit LocalRendezvous(uint32_t size) {
    for (uint32_t r = 0; r < size; ++r)
      maps_.push_back(std::make_unique<Rendezvous>([this, r](const std::string& key, const Rendezvous::Value& value) {
        for (size_t other = 0; other < maps_.size(); ++other)
          if (other != r) maps_[other]->put(key, value);
      }));
  }
  Rendezvous& of(uint32_t rank) { return *maps_[rank]; }

 private:
  std::vector<std::unique_ptr<Rendezvous>> maps_;
};

using MakeCollective = std::unique_ptr<Collective> (*)(Rendezvous& rendezvous, uint32_t rank, uint32_t size,
                                                       std::chrono::milliseconds deadline);

inline std::unique_ptr<Collective> make_local_gloo(Rendezvous& rendezvous, uint32_t rank, uint32_t size,
                                                   std::chrono::milliseconds deadline) {
  return make_gloo_collective(rendezvous, rank, size, "127.0.0.1", deadline);
}

/// By name: every way for processes to be a group.
constexpr std::array<std::pair<const char*, MakeCollective>, 2> kCollectives{
    {{"Gloo", make_local_gloo}, {"shared memory", make_shared_collective}}};

inline std::vector<std::shared_ptr<Collective>> make_group(
    MakeCollective make, uint32_t size, std::chrono::milliseconds deadline = std::chrono::seconds(20)) {
  LocalRendezvous rendezvous(size);
  std::vector<std::shared_ptr<Collective>> group(size);
  in_threads(size, [&](uint32_t r) { group[r] = make(rendezvous.of(r), r, size, deadline); });
  return group;
}

}  // namespace myriad
