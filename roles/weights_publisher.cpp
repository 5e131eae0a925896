#include "roles/weights_publisher.hpp"

#include "rl/check.hpp"

namespace myriad {

/// One version at a time is on its way: a slow peer gets fewer of them, not a queue of old ones.
void WeightsPublisher::send_if_behind(const std::string& name, Peer& peer, Time now, std::vector<Send>& outputs) const {
  if (newest_ == nullptr || peer.has >= static_cast<int64_t>(newest_->version)) return;
  if (peer.sent > peer.has && now - peer.sent_at < kResend) return;
  peer.sent = static_cast<int64_t>(newest_->version);
  peer.sent_at = now;
  outputs.push_back({name, newest_});
}

void WeightsPublisher::step(const Input& input, std::vector<Send>& outputs) {
  if (const auto* publish = std::get_if<Publish>(&input)) {
    check(newest_ == nullptr || publish->weights->version > newest_->version, "weights {} published after {}",
          publish->weights->version, newest_ == nullptr ? 0 : newest_->version);
    newest_ = publish->weights;
    for (auto& [name, peer] : peers_) send_if_behind(name, peer, publish->now, outputs);
  } else if (const auto* has = std::get_if<PeerHas>(&input)) {
    Peer& peer = peers_[has->peer];
    peer.has = has->version;
    send_if_behind(has->peer, peer, has->now, outputs);
  } else {
    peers_.erase(std::get<PeerGone>(input).peer);
  }
}

}  // namespace myriad
