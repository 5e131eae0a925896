#include "rl/wire/messages.hpp"

#include <cstring>

#include "rl/check.hpp"
#include "rl/hash.hpp"

namespace myriad {
namespace {

constexpr size_t kChecksumBytes = sizeof(uint32_t);

/// The payload descriptions of whichever body carries some; null for the others.
const std::vector<std::unique_ptr<wire::PayloadT>>* payloads_of(const wire::BodyUnion& body) {
  switch (body.type) {
    case wire::Body::FragmentHeader:
      return &body.AsFragmentHeader()->payloads;
    case wire::Body::RunnerState:
      return &body.AsRunnerState()->payloads;
    case wire::Body::WeightsHeader:
      return &body.AsWeightsHeader()->payloads;
    case wire::Body::RunnerWelcome:
      return &body.AsRunnerWelcome()->payloads;
    case wire::Body::AgentWelcome:
      return &body.AsAgentWelcome()->payloads;
    case wire::Body::Parcel:
      return &body.AsParcel()->payloads;
    default:
      return nullptr;
  }
}

/// Tables of a buffer may share one string; as structs each has its own. A megabyte must not become a gigabyte.
size_t unpacked_text(const wire::Envelope& envelope) {
  size_t bytes = 0;
  const auto add = [&](const flatbuffers::String* text) { bytes += text == nullptr ? 0 : text->size(); };
  if (const auto* report = envelope.body_as_IterationReport(); report != nullptr && report->metrics() != nullptr)
    for (const auto* row : *report->metrics()) add(row->key());
  if (const auto* done = envelope.body_as_CheckpointDone(); done != nullptr && done->files() != nullptr)
    for (const auto* file : *done->files()) add(file->name());
  return bytes;
}

}  // namespace

Frames encode(const Message& message) {
  wire::EnvelopeT envelope;
  envelope.run = message.run;
  envelope.epoch = message.epoch;
  envelope.body = message.body;
  if (auto* payloads = const_cast<std::vector<std::unique_ptr<wire::PayloadT>>*>(payloads_of(envelope.body))) {
    payloads->clear();
    for (const SharedBytes& bytes : message.payloads) {
      auto payload = std::make_unique<wire::PayloadT>();
      payload->bytes = bytes.view.size();
      payload->crc32c = crc32c(bytes.view);
      payloads->push_back(std::move(payload));
    }
  } else {
    check(message.payloads.empty(), "a {} carries no payload", wire::EnumNameBody(message.body.type));
  }
  flatbuffers::FlatBufferBuilder builder(512);
  wire::FinishEnvelopeBuffer(builder, wire::Envelope::Pack(builder, &envelope));
  Frames frames;
  frames.reserve(1 + message.payloads.size());
  const auto* data = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  const size_t size = builder.GetSize();
  check(size + kChecksumBytes <= kMaxEnvelopeBytes, "a message header of {} bytes is over the limit of {}", size,
        kMaxEnvelopeBytes);
  std::vector<std::byte> envelope_and_sum(size + kChecksumBytes);
  std::memcpy(envelope_and_sum.data(), data, size);
  const uint32_t sum = crc32c({data, size});
  std::memcpy(envelope_and_sum.data() + size, &sum, kChecksumBytes);
  frames.push_back(SharedBytes::of(std::move(envelope_and_sum)));
  frames.insert(frames.end(), message.payloads.begin(), message.payloads.end());
  return frames;
}

std::string_view name_of(Malformed malformed) {
  switch (malformed) {
    case Malformed::no_frames:
      return "no_frames";
    case Malformed::too_many_frames:
      return "too_many_frames";
    case Malformed::too_large:
      return "too_large";
    case Malformed::envelope_checksum:
      return "envelope_checksum";
    case Malformed::not_an_envelope:
      return "not_an_envelope";
    case Malformed::payload_mismatch:
      return "payload_mismatch";
    case Malformed::payload_checksum:
      return "payload_checksum";
    case Malformed::count:
      break;
  }
  return "?";
}

std::variant<Message, Malformed> decode(const Frames& frames) {
  if (frames.empty()) return Malformed::no_frames;
  if (frames.size() > kMaxFrames) return Malformed::too_many_frames;
  if (frames[0].view.size() > kMaxEnvelopeBytes) return Malformed::too_large;
  if (frames[0].view.size() < 12 + kChecksumBytes) return Malformed::not_an_envelope;
  // FlatBuffers' verifier finds a malformed buffer, but not a flipped bit in a counter.
  const auto envelope_bytes = frames[0].view.first(frames[0].view.size() - kChecksumBytes);
  uint32_t sum = 0;
  std::memcpy(&sum, frames[0].view.data() + envelope_bytes.size(), kChecksumBytes);
  if (crc32c(envelope_bytes) != sum) return Malformed::envelope_checksum;
  // FlatBuffers reads scalars at their natural alignment; a received frame has none to promise.
  const std::vector<uint64_t> copy = [&] {
    std::vector<uint64_t> words((envelope_bytes.size() + 7) / 8);
    std::memcpy(words.data(), envelope_bytes.data(), envelope_bytes.size());
    return words;
  }();
  const auto* data = reinterpret_cast<const uint8_t*>(copy.data());
  flatbuffers::Verifier verifier(data, envelope_bytes.size(), /*max_depth=*/8, /*max_tables=*/1 << 16);
  if (!wire::VerifyEnvelopeBuffer(verifier)) return Malformed::not_an_envelope;
  const wire::Envelope* envelope = wire::GetEnvelope(data);
  if (envelope->body() == nullptr) return Malformed::not_an_envelope;
  if (unpacked_text(*envelope) > envelope_bytes.size()) return Malformed::too_large;
  Message message;
  message.run = envelope->run();
  message.epoch = envelope->epoch();
  message.body.type = envelope->body_type();
  message.body.value = wire::BodyUnion::UnPack(envelope->body(), envelope->body_type(), nullptr);
  if (message.body.value == nullptr) return Malformed::not_an_envelope;
  if (const auto* header = message.as<wire::FragmentHeaderT>(); header != nullptr && header->key == nullptr)
    return Malformed::not_an_envelope;
  const auto* payloads = payloads_of(message.body);
  if (frames.size() - 1 != (payloads == nullptr ? 0 : payloads->size())) return Malformed::payload_mismatch;
  for (size_t i = 1; i < frames.size(); ++i) {
    const wire::PayloadT& payload = *(*payloads)[i - 1];
    if (frames[i].view.size() > kMaxPayloadBytes) return Malformed::too_large;
    if (frames[i].view.size() != payload.bytes) return Malformed::payload_mismatch;
    if (crc32c(frames[i].view) != payload.crc32c) return Malformed::payload_checksum;
    message.payloads.push_back(frames[i]);
  }
  return message;
}

FragmentId id_of(const wire::FragmentHeaderT& header) {
  return {header.key->slot(), header.key->incarnation(), header.key->seq()};
}

Message fragment_message(std::shared_ptr<Fragment> fragment, uint64_t sampling_ns, uint64_t waiting_ns,
                         uint64_t clients_lag) {
  wire::FragmentHeaderT header;
  header.key = std::make_unique<wire::FragmentKey>(fragment->id.slot, fragment->id.incarnation, fragment->id.seq);
  header.weights_version = fragment->weights_version;
  header.clients_lag = clients_lag;
  header.steps = static_cast<uint32_t>(fragment->layout().steps());
  header.environments = static_cast<uint32_t>(fragment->layout().environments());
  header.final_rows = fragment->final_rows;
  header.episodes.reserve(fragment->episodes.size());
  for (const EpisodeStats& e : fragment->episodes)
    header.episodes.emplace_back(e.episode_return, e.length, e.env_index, e.level);
  const EnvReport& report = fragment->report;
  if (report.failures != EnvFailureCounts{}) header.failures.assign(report.failures.begin(), report.failures.end());
  header.outside = report.outside;
  for (const NumberStats& n : report.numbers) {
    auto stats = std::make_unique<wire::NumberStatsT>();
    stats->name = n.name;
    stats->episodes = n.episodes;
    stats->mean_sum = n.mean_sum, stats->mean_min = n.mean_min, stats->mean_max = n.mean_max;
    stats->last_sum = n.last_sum;
    header.numbers.push_back(std::move(stats));
  }
  header.sampling_ns = sampling_ns;
  header.waiting_ns = waiting_ns;
  const auto used = fragment->used();
  return make_message(std::move(header), {SharedBytes{std::move(fragment), used}});
}

Message weights_message(const WeightsPtr& weights) {
  wire::WeightsHeaderT header;
  header.version = weights->version;
  header.spec_hash = weights->layout_hash;
  header.published = weights->published;
  return make_message(std::move(header), {SharedBytes{weights, std::as_bytes(std::span(weights->values))},
                                          SharedBytes{weights, std::as_bytes(std::span(weights->filter))}});
}

std::optional<Weights> weights_from(const Message& message) {
  const auto* header = message.as<wire::WeightsHeaderT>();
  if (header == nullptr || message.payloads.size() != 2) return std::nullopt;
  const auto values = message.payloads[0].view, filter = message.payloads[1].view;
  if (values.size() % sizeof(float) != 0 || filter.size() % sizeof(double) != 0) return std::nullopt;
  Weights weights{header->version, header->spec_hash, std::vector<float>(values.size() / sizeof(float)),
                  std::vector<double>(filter.size() / sizeof(double)), header->published};
  if (!values.empty()) std::memcpy(weights.values.data(), values.data(), values.size());
  if (!filter.empty()) std::memcpy(weights.filter.data(), filter.data(), filter.size());
  return weights;
}

}  // namespace myriad
