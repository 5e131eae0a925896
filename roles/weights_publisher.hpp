// WeightsPublisher: keeps the newest weights and sends them to every peer that lacks them, late joiners and peers on
// lossy links included.
//
// Each Join names the version its peer has. A peer that is behind is sent the newest version, and the next one when it
// has that. Versions only grow, and a published version is never changed (it is shared and immutable). A state machine:
// one thread, no clock, no socket.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "rl/system.hpp"
#include "rl/weights.hpp"

namespace myriad {

class WeightsPublisher {
 public:
  static constexpr Time kResend = std::chrono::seconds(1);

  struct Publish {
    WeightsPtr weights;
    Time now;
  };
  struct PeerHas {
    std::string peer;
    int64_t version;
    Time now;
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
  struct Peer {
    int64_t has = -1;   // by its last Join
    int64_t sent = -1;  // the newest that is on its way, or was
    Time sent_at{};
  };
  void send_if_behind(const std::string& name, Peer& peer, Time now, std::vector<Send>& outputs) const;

  std::map<std::string, Peer> peers_;
};

}  // namespace myriad
