// WeightsPublisher: keeps the newest weights and sees to it that every peer gets them, late joiners and lossy links
// included.
//
// A peer says what it has in each Join; whoever is behind is sent the newest version. A version never goes back, and a
// published version is never changed (it is shared and immutable). A state machine: one thread, no clock, no socket.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "rl/weights.hpp"

namespace myriad {

class WeightsPublisher {
 public:
  struct Publish {
    WeightsPtr weights;
  };
  struct PeerHas {
    std::string peer;
    int64_t version;
  };  ///< -1: none; INT64_MAX: takes its weights from elsewhere
  struct PeerGone {
    std::string peer;
  };
  using Input = std::variant<Publish, PeerHas, PeerGone>;
  struct Send {
    std::string peer;
    WeightsPtr weights;
  };

  /// Appends what is to be sent. Throws Error when a version is published that is not newer.
  void step(const Input& input, std::vector<Send>& outputs);

  const WeightsPtr& newest() const { return newest_; }
  size_t num_peers() const { return peers_.size(); }

 private:
  WeightsPtr newest_;
  std::map<std::string, int64_t> peers_;  // peer -> what it said it has
};

}  // namespace myriad
