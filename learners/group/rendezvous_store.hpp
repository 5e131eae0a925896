// A c10d store over a Rendezvous: what process groups need of one to connect their members, values that are set once.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "learners/group/rendezvous.hpp"

namespace myriad {

/// The way from a process group's threads to a Rendezvous that may end before them: cut() comes before that, and then
/// every call throws GroupBroken.
class RendezvousLink {
 public:
  explicit RendezvousLink(Rendezvous& rendezvous) : rendezvous_(&rendezvous) {}

  void set(const std::string& key, const std::vector<uint8_t>& value);
  Rendezvous::Value get(const std::string& key, std::chrono::milliseconds patience);
  bool has(const std::string& key);
  bool over();
  void cut();

 private:
  std::mutex mutex_;
  Rendezvous* rendezvous_;
};

c10::intrusive_ptr<c10d::Store> make_rendezvous_store(std::shared_ptr<RendezvousLink> link,
                                                      std::chrono::milliseconds patience);

}  // namespace myriad
