// fragment_violation(), then what a learner does with a buffer it lets through: [flags][final_rows u64][buffer].
// flags: 2 bits layout, 1 bit length made to fit, 1 bit final_rows made to fit, 1 bit floats made finite, 3 bits by
// which the buffer is off its alignment (a received frame has none to promise).
#include "rl/fragment.hpp"

#include <cmath>

#include "learners/batch_assembler.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace myriad {
namespace {

constexpr uint32_t kPlaces = 3;

struct Case {
  Space actions;
  std::shared_ptr<FragmentLayout> layout;
  BatchAssembler assembler{layout, kPlaces};
};

std::shared_ptr<FragmentLayout> layout_of(int steps, int environments, DType action, std::vector<int> action_shape,
                                          int frame_stack = 1) {
  auto layout = std::make_shared<FragmentLayout>(steps, environments, frame_stack);
  if (frame_stack == 1)
    layout->add("obs", Rows::step_and_bootstrap, DType::f32, {3});
  else
    layout->add("frames", Rows::frame, DType::f32, {1});
  layout->add("actions", Rows::step, action, std::move(action_shape))
      .add("rewards", Rows::step, DType::f32, {})
      .add("terminateds", Rows::step, DType::u8, {})
      .add("truncateds", Rows::step, DType::u8, {})
      .add("logp", Rows::step, DType::f32, {});
  return layout;
}

std::vector<Case> make_cases() {
  std::vector<Case> cases;
  auto discrete = layout_of(4, 2, DType::i32, {1}, 3);
  discrete->add("final_obs", Rows::final_step, DType::f32, {3});
  cases.push_back({Space::discrete(3, -1), discrete});
  auto box = layout_of(3, 3, DType::f32, {2});
  box->add("extra", Rows::step, DType::f64, {2})
      .add("picture", Rows::environment, DType::u8, {5})
      .add("count", Rows::environment, DType::i64, {})
      .add("action_dist_inputs", Rows::step, DType::f32, {4})
      .add("final_obs", Rows::final_step, DType::f32, {3});
  cases.push_back({Space::box(-1, 1, {2}), box});
  cases.push_back({Space(MultiDiscrete{{2, 3, 5}}), layout_of(1, 5, DType::i32, {3})});
  auto integers = layout_of(5, 1, DType::i32, {2});
  integers->add("final_obs", Rows::final_step, DType::f64, {2});
  cases.push_back({Space::box(-2, 5, {2}, DType::i32), integers});
  return cases;
}

/// The rows of final_obs that the flags ask for.
size_t cut_steps(const FragmentLayout& layout, std::span<const std::byte> buffer) {
  const Column& over = layout.column("terminateds");
  const Column& cut = layout.column("truncateds");
  size_t count = 0;
  for (size_t i = 0; i < layout.rows(cut); ++i)
    count += buffer[cut.offset + i] != std::byte{0} && buffer[over.offset + i] == std::byte{0} ? 1 : 0;
  return count;
}

/// Clears the top bit of every float's exponent.
void make_finite(const FragmentLayout& layout, std::span<std::byte> buffer) {
  for (const Column& column : layout.columns()) {
    if (column.dtype != DType::f32 && column.dtype != DType::f64) continue;
    const size_t size = size_of(column.dtype);
    const size_t end = std::min(buffer.size(), column.offset + layout.rows(column) * column.row_bytes);
    for (size_t at = column.offset + size - 1; at < end; at += size) buffer[at] &= std::byte{0xBF};
  }
}

}  // namespace
}  // namespace myriad

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  static std::vector<Case> cases = make_cases();
  fuzz::Input input(data, size);
  const uint8_t flags = input.u8();
  Case& chosen = cases[flags & 3];
  const FragmentLayout& layout = *chosen.layout;
  const size_t most_rows = static_cast<size_t>(layout.steps() * layout.environments());
  auto final_rows = static_cast<size_t>(input.number<uint64_t>());
  std::vector<std::byte> bytes = input.copy(input.size());
  if ((flags & 4) != 0) {
    bytes.resize(layout.used_bytes(most_rows));
    if ((flags & 8) != 0) final_rows = cut_steps(layout, bytes);
    if ((flags & 16) != 0) make_finite(layout, bytes);
    bytes.resize(layout.used_bytes(std::min(final_rows, most_rows)));
  }
  const size_t off = flags >> 5;
  bytes.insert(bytes.begin(), off, std::byte{});
  SharedBytes buffer = SharedBytes::of(std::move(bytes));
  buffer.view = buffer.view.subspan(off);
  if (!fragment_violation(layout, buffer.view, final_rows, chosen.actions).empty()) return 0;
  for (uint32_t place = 0; place < kPlaces; ++place) chosen.assembler.add(place, buffer, final_rows);
  const Fragment& batch = chosen.assembler.take(1);
  fuzz::require(batch.final_rows == (layout.find("final_obs") != nullptr ? kPlaces * final_rows : 0),
                "the batch has the final_obs rows of its fragments");
  if (layout.find("final_obs") != nullptr || final_rows == 0)
    fuzz::require(fragment_violation(batch.layout(), batch.used(), batch.final_rows, chosen.actions).empty(),
                  "a batch of good fragments is good");
  return 0;
}
