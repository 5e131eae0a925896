// The messages of simulators and clients: decode(), and what is made of a Hello's spaces.
#include "rl/check.hpp"
#include "rl/simulator/messages.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace myriad;  // NOLINT: a program of its own

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<std::byte> bytes(reinterpret_cast<const std::byte*>(data),
                                     reinterpret_cast<const std::byte*>(data) + size);
  const auto message = simulator::decode(bytes);
  if (!message) return 0;
  const std::vector<std::byte> frame = simulator::frame(*message);
  const auto again = simulator::decode(std::span(frame).subspan(sizeof(uint32_t)));
  fuzz::require(again && again->body.type == message->body.type, "said again, the same message");
  const auto* hello = simulator::as<simulator::HelloT>(*message);
  if (hello == nullptr) return 0;
  for (const auto* space : {hello->observation.get(), hello->action.get()}) {
    try {
      const Space read = simulator::to_space(space, "fuzzed");
      if (read.row_bytes() > 1 << 20) continue;
      const Space back = simulator::to_space(simulator::to_wire(read).get(), "written");
      fuzz::require(back.to_string() == read.to_string(), "written and read, the same space");
    } catch (const Error& error) {
      fuzz::require(error.code() == "bad-space", "a space that is refused is the simulator's to change");
    }
  }
  return 0;
}
