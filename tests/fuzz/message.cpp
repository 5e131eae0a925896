// decode(): [mode][u16 length][envelope] then [u16 length][payload] ... The modes let the fuzzer past the checksums.
#include "rl/check.hpp"
#include "rl/hash.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/parcel.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace myriad {
namespace {

enum Mode : uint8_t { raw, envelope_sum_repaired, payloads_repaired, modes };

std::vector<std::byte> with_sum(std::vector<std::byte> envelope) {
  const uint32_t sum = crc32c(envelope);
  const auto bytes = std::as_bytes(std::span(&sum, 1));
  envelope.insert(envelope.end(), bytes.begin(), bytes.end());
  return envelope;
}

/// Writes lengths and checksums of `payloads` over the ones in an envelope that FlatBuffers accepts.
void repair_payloads(std::vector<std::byte>& envelope, const std::vector<SharedBytes>& payloads) {
  std::vector<uint64_t> words((envelope.size() + 7) / 8);
  if (!envelope.empty()) std::memcpy(words.data(), envelope.data(), envelope.size());
  const auto* data = reinterpret_cast<const uint8_t*>(words.data());
  flatbuffers::Verifier verifier(data, envelope.size(), 8, 1000);
  if (envelope.size() < 12 || !wire::VerifyEnvelopeBuffer(verifier)) return;
  // A payload's table may lie over its own vtable: every place is read before the first is written.
  struct Write {
    ptrdiff_t at;
    uint64_t value;
    size_t size;
  };
  std::vector<Write> writes;
  const wire::Envelope* root = wire::GetEnvelope(data);
  const auto repair = [&](const auto* body) {
    if (body == nullptr || body->payloads() == nullptr) return;
    for (size_t i = 0; i < std::min<size_t>(body->payloads()->size(), payloads.size()); ++i) {
      const auto* table =
          reinterpret_cast<const flatbuffers::Table*>(body->payloads()->Get(static_cast<flatbuffers::uoffset_t>(i)));
      if (const uint8_t* bytes = table->GetAddressOf(wire::Payload::VT_BYTES))
        writes.push_back({bytes - data, payloads[i].view.size(), sizeof(uint64_t)});
      if (const uint8_t* sum = table->GetAddressOf(wire::Payload::VT_CRC32C))
        writes.push_back({sum - data, crc32c(payloads[i].view), sizeof(uint32_t)});
    }
  };
  repair(root->body_as_FragmentHeader());
  repair(root->body_as_RunnerState());
  repair(root->body_as_WeightsHeader());
  repair(root->body_as_RunnerWelcome());
  repair(root->body_as_AgentWelcome());
  repair(root->body_as_Parcel());
  for (const Write& write : writes) std::memcpy(envelope.data() + write.at, &write.value, write.size);
}

/// What the receivers do with a message that decode() gave them.
void use(const Message& message) {
  if (const auto* header = message.as<wire::FragmentHeaderT>()) (void)id_of(*header);
  if (message.as<wire::WeightsHeaderT>() != nullptr) {
    const auto weights = weights_from(message);
    fuzz::require(!weights || weights->values.size() * sizeof(float) == message.payloads[0].view.size(),
                  "the weights are the payload");
  }
  if (message.as<wire::ParcelT>() != nullptr)
    for (const Frames& frames : ParcelReceiver().accept(message)) (void)decode(frames);
  Frames first;
  try {
    first = encode(message);
  } catch (const Error&) {
    return;  // FlatBuffers may share a string among tables; written out, it can be too long for an envelope
  }
  const auto again = decode(first);
  fuzz::require(std::holds_alternative<Message>(again), "what was decoded and encoded is a message");
  const Frames second = encode(std::get<Message>(again));
  fuzz::require(std::ranges::equal(first[0].view, second[0].view), "encoding again gives the same bytes");
}

}  // namespace
}  // namespace myriad

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  fuzz::Input input(data, size);
  const auto mode = static_cast<Mode>(input.u8() % modes);
  std::vector<std::byte> envelope = input.copy(input.number<uint16_t>());
  std::vector<SharedBytes> payloads;
  while (!input.empty() && payloads.size() < kMaxFrames + 1)
    payloads.push_back(SharedBytes::of(input.copy(input.number<uint16_t>())));
  if (mode == payloads_repaired) repair_payloads(envelope, payloads);
  if (mode != raw) envelope = with_sum(std::move(envelope));
  Frames frames;
  if (mode != raw || !envelope.empty()) frames.push_back(SharedBytes::of(std::move(envelope)));
  frames.insert(frames.end(), payloads.begin(), payloads.end());
  const auto decoded = decode(frames);
  if (const auto* message = std::get_if<Message>(&decoded))
    use(*message);
  else
    fuzz::require(name_of(std::get<Malformed>(decoded)) != "?", "a refusal has a name");
  return 0;
}
