// weights_from() and the filter's state in it: [version][hash][u16 length][values][filter].
#include "rl/check.hpp"
#include "rl/connector.hpp"
#include "rl/wire/messages.hpp"
#include "tests/fuzz/fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  fuzz::Input input(data, size);
  wire::WeightsHeaderT header;
  header.version = input.number<uint64_t>();
  header.spec_hash = input.number<uint64_t>();
  SharedBytes values = SharedBytes::of(input.copy(input.number<uint16_t>()));
  SharedBytes filter = SharedBytes::of(input.copy(input.size()));
  const size_t off = header.spec_hash % 4;  // a received frame has no alignment to promise
  values.view = values.view.subspan(std::min(off, values.view.size()));
  const Message message = make_message(header, {values, filter});
  const auto weights = weights_from(message);
  fuzz::require(weights.has_value() == (values.view.size() % 4 == 0 && filter.view.size() % 8 == 0),
                "weights are whole numbers of floats and doubles");
  if (!weights) return 0;
  const auto back = weights_from(weights_message(std::make_shared<const Weights>(*weights)));
  fuzz::require(back && back->version == header.version && back->layout_hash == header.spec_hash &&
                    std::ranges::equal(std::as_bytes(std::span(back->values)), values.view) &&
                    std::ranges::equal(std::as_bytes(std::span(back->filter)), filter.view),
                "there and back, the same");
  if (weights->filter.size() < 3) return 0;
  MeanStdFilter statistics(static_cast<int>((weights->filter.size() - 1) / 2));
  try {
    statistics.set_state(weights->filter);
  } catch (const Error&) { return 0; }
  std::vector<float> rows(static_cast<size_t>(statistics.size()) * 2, 0.5f);
  statistics.apply(rows, rows);
  statistics.update(rows);
  fuzz::require(statistics.state().size() == weights->filter.size(), "the state keeps its length");
  return 0;
}
