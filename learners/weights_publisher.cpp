#include "learners/weights_publisher.hpp"

#include "rl/check.hpp"

namespace myriad {

void WeightsPublisher::step(const Input& input, std::vector<Send>& outputs) {
  if (const auto* publish = std::get_if<Publish>(&input)) {
    check(newest_ == nullptr || publish->weights->version > newest_->version, "weights {} published after {}",
          publish->weights->version, newest_ == nullptr ? 0 : newest_->version);
    newest_ = publish->weights;
    for (const auto& [peer, version] : peers_)
      if (version < static_cast<int64_t>(newest_->version)) outputs.push_back({peer, newest_});
  } else if (const auto* has = std::get_if<PeerHas>(&input)) {
    peers_[has->peer] = has->version;
    if (newest_ != nullptr && has->version < static_cast<int64_t>(newest_->version))
      outputs.push_back({has->peer, newest_});
  } else {
    peers_.erase(std::get<PeerGone>(input).peer);
  }
}

}  // namespace myriad
