#include "rl/wire/parcel.hpp"

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

void ParcelSender::flush(Time now, std::vector<Message>& outputs) {
  if (open_count_ > 0) close();
  if (!kept_.empty() && now >= kept_.front().sent_at + kRetry)
    for (Kept& kept : kept_) {  // all of them, in order: what follows a gap is not taken
      kept.sent_at = now;
      resent_ += kept.count;
      outputs.push_back(parcel(kept));
    }
  for (Kept& kept : closed_) {
    kept.sent_at = now;
    outputs.push_back(parcel(kept));
    kept_.push_back(std::move(kept));
  }
  closed_.clear();
}

void ParcelSender::acknowledge(uint64_t received) {
  while (!kept_.empty() && kept_.front().first + kept_.front().count <= received) kept_.pop_front();
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
