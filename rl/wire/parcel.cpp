#include "rl/wire/parcel.hpp"

#include <algorithm>

#include "rl/wire/packed.hpp"

namespace myriad {

void ParcelSender::add(std::span<const std::byte> packed) {
  if (open_count_ > 0 && (open_.size() + packed.size() > kParcelBytes || open_count_ == kMaxParcelMessages)) close();
  open_.insert(open_.end(), packed.begin(), packed.end());
  ++open_count_;
  ++next_;
}

void ParcelSender::add(const Message& message) {
  std::vector<std::byte> packed;
  pack(encode(message), packed);
  add(packed);
}

void ParcelSender::close() {
  closed_.push_back({next_ - open_count_, open_count_, SharedBytes::of(std::exchange(open_, {})), Time::zero()});
  open_count_ = 0;
}

Message ParcelSender::parcel(const Kept& kept) const {
  wire::ParcelT header;
  header.agent = agent_;
  header.incarnation = incarnation_;
  header.first = kept.first;
  header.count = kept.count;
  return make_message(std::move(header), {kept.payload});
}

size_t ParcelSender::first_unreceived() const {
  const auto it = std::partition_point(kept_.begin(), kept_.end(),
                                       [this](const Kept& kept) { return kept.first + kept.count <= received_; });
  return static_cast<size_t>(it - kept_.begin());
}

void ParcelSender::flush(Time now, std::vector<Message>& outputs) {
  if (open_count_ > 0) close();
  const size_t first = first_unreceived();
  if (first < kept_.size() && now >= kept_[first].sent_at + kRetry)
    for (size_t i = first; i < kept_.size(); ++i) {  // all of them, in order: what follows a gap is not taken
      kept_[i].sent_at = now;
      resent_ += kept_[i].count;
      outputs.push_back(parcel(kept_[i]));
    }
  for (Kept& kept : closed_) {
    kept.sent_at = now;
    outputs.push_back(parcel(kept));
    kept_.push_back(std::move(kept));
  }
  closed_.clear();
}

void ParcelSender::acknowledge(uint64_t received) { received_ = std::clamp(received, received_, next_); }

void ParcelSender::release(uint64_t released) {
  acknowledge(released);
  while (!kept_.empty() && kept_.front().first + kept_.front().count <= released) kept_.pop_front();
}

void ParcelSender::restart() {
  received_ = !kept_.empty() ? kept_.front().first : !closed_.empty() ? closed_.front().first : next_ - open_count_;
  for (Kept& kept : kept_) kept.sent_at = -kRetry;
}

std::vector<Frames> ParcelReceiver::accept(const Message& message) {
  const auto& header = *message.as<wire::ParcelT>();
  const uint64_t end = header.first + header.count;
  if (header.first > next_) ++gaps_;
  if (header.first > next_ || end <= next_) return {};
  auto messages = message.payloads.size() == 1 ? unpack_all(message.payloads[0], header.count) : std::nullopt;
  if (!messages) {
    ++malformed_;
    return {};
  }
  messages->erase(messages->begin(), messages->begin() + static_cast<std::ptrdiff_t>(next_ - header.first));
  next_ = end;
  return std::move(*messages);
}

}  // namespace myriad
