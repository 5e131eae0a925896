#include "rl/action_mask.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/error_of.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("rl/action_mask");

namespace {

const Space kView = Space::box(-1, 1, {2});

template <class T>
void put(std::vector<std::byte>& row, size_t offset, std::vector<T> values) {
  std::memcpy(row.data() + offset, values.data(), values.size() * sizeof(T));
}

std::vector<std::byte> bytes_of(std::vector<int32_t> values) {
  std::vector<std::byte> bytes(values.size() * sizeof(int32_t));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

}  // namespace

TEST_CASE("ActionMask: is found by its key, before, behind and between other parts, and alone") {
  const Space bits = MultiBinary{3}, actions = Space::discrete(3);
  CHECK(!ActionMask::of(kView, actions));
  CHECK(!ActionMask::of(Dict{{{"view", kView}, {"mask", bits}}}, actions));
  CHECK(!ActionMask::of(Dict{{{"view", Dict{{{"action_mask", bits}}}}}}, actions));
  const auto first = ActionMask::of(Dict{{{"action_mask", bits}, {"observation", kView}}}, actions);
  REQUIRE(first);
  CHECK(first->offset() == 0);
  CHECK(first->size() == 3);
  CHECK(first->rest()->to_string() == kView.to_string());
  const auto last =
      ActionMask::of(Dict{{{"room", Space::discrete(5)}, {"view", kView}, {"action_mask", bits}}}, actions);
  CHECK(last->offset() == 7);  // the room is one-hot
  CHECK(last->rest()->to_string() == "Dict('room': Discrete(5), 'view': Box(-1.0, 1.0, (2,), float32))");
  const auto between =
      ActionMask::of(Dict{{{"room", Space::discrete(5)}, {"action_mask", bits}, {"view", kView}}}, actions);
  CHECK(between->offset() == 5);
  CHECK(!ActionMask::of(Dict{{{"action_mask", bits}}}, actions)->rest());
}

TEST_CASE("ActionMask: one that does not fit the actions is refused with what would") {
  const auto error = [](const Space& mask, const Space& action) {
    return error_of([&] { (void)ActionMask::of(Dict{{{"action_mask", mask}, {"view", kView}}}, action); });
  };
  CHECK(error(MultiBinary{3}, Space::discrete(4)) ==
        "error[unsupported-space] the observations' action_mask is MultiBinary(3), want 4 numbers within [0, 1], as "
        "Box(0, 1, (4,), uint8), for Discrete(4) actions");
  CHECK(error(MultiBinary{3}, Space::discrete(3)).empty());
  CHECK(error(Space::box(0, 1, {3}, DType::i32), Space::discrete(3, 7)).empty());
  CHECK(error(Space::box(0, 2, {3}), Space::discrete(3)).find("within [0, 1]") != std::string::npos);
  CHECK(error(Space::box(-1, 1, {3}), Space::discrete(3)).find("within [0, 1]") != std::string::npos);
  CHECK(error(Space::discrete(3), Space::discrete(3)).find("within [0, 1]") != std::string::npos);
  CHECK(error(MultiBinary{5}, MultiDiscrete{{2, 3}}).empty());
  CHECK(error(MultiBinary{6}, MultiDiscrete{{2, 3}}).find("want 5 numbers") != std::string::npos);
  CHECK(error(Tuple{{MultiBinary{2}, Space::box(0, 1, {3}, DType::u8)}}, MultiDiscrete{{2, 3}}).empty());
  CHECK(error(MultiBinary{6}, MultiBinary{3}).empty());
  CHECK(error(MultiBinary{3}, MultiBinary{3}).find("want 6 numbers") != std::string::npos);
  CHECK(error(MultiBinary{3}, Space::box(-1, 1, {3}))
            .starts_with("error[unsupported-space] an action_mask among the observations masks Discrete, MultiDiscrete "
                         "and MultiBinary actions, not Box"));
}

TEST_CASE("ActionMask: of a Dict of actions has the options of its choices, and none of a Box") {
  const Space pad = Dict{{{"aim", Space::box(-1, 1, {2})},
                          {"keys", MultiBinary{2}},
                          {"more", Tuple{{Space::box(0, 1, {1}, DType::f64), MultiDiscrete{{3}}}}},
                          {"move", Space::discrete(2, 7)}}};
  const std::vector<Choice> choices = choices_of(pad);
  REQUIRE(choices.size() == 4);  // f32 x 2, i32 x 2, f64, i32, i32
  CHECK(std::vector{choices[0].offset, choices[1].offset, choices[2].offset, choices[3].offset} ==
        std::vector<size_t>{8, 12, 24, 28});
  CHECK(choices[2].name == "action.more/1[0]");
  CHECK((choices[3].n == 2 && choices[3].start == 7 && choices[2].start == 0));
  const Space space = Dict{{{"action_mask", Tuple{{MultiBinary{4}, MultiBinary{3}, MultiBinary{2}}}}, {"view", kView}}};
  const ActionMask mask = *ActionMask::of(space, pad);
  CHECK(mask.size() == 9);
  std::vector<std::byte> row(space.row_bytes()), action(pad.row_bytes());
  put(row, 0, std::vector<int32_t>{0, 1, 1, 1, 0, 1, 1, 1, 0});
  CHECK(mask.allows_any(row));
  RandomStream random(3, StreamPurpose::action, 0);
  float least = 1;
  for (int i = 0; i < 200; ++i) {
    mask.sample(random, row, action);
    CHECK(pad.violation(action, "action").empty());
    CHECK(mask.violation(row, action) == "");
    float aim;
    std::memcpy(&aim, action.data(), sizeof aim);
    least = std::min(least, aim);
  }
  CHECK(least < -0.9f);  // real numbers are drawn, too
  put(action, 8, std::vector<int32_t>{1, 0});
  put(action, 24, std::vector<int32_t>{1, 8});
  CHECK(mask.violation(row, action) == "action.move[0] = 8 is masked");
  put(action, 24, std::vector<int32_t>{0, 7});
  CHECK(mask.violation(row, action) == "action.more/1[0] = 0 is masked");
  put(row, 0, std::vector<int32_t>{0, 1, 0, 0, 0, 1, 1, 1, 0});
  CHECK(!mask.allows_any(row));  // the second key can be neither
}

TEST_CASE("ActionMask: of every type says what is allowed, element by element") {
  // MultiDiscrete [2, 3]: the choices 0 1 | 0 1 2.
  const Space actions = MultiDiscrete{{2, 3}};
  for (const DType dtype : {DType::f32, DType::f64, DType::u8, DType::i32, DType::i64}) {
    const Space space =
        Dict{{{"view", Space::box(0, 1, {1}, DType::u8)}, {"action_mask", Space::box(0, 1, {5}, dtype)}}};
    const ActionMask mask = *ActionMask::of(space, actions);
    std::vector<std::byte> row(space.row_bytes());
    const auto set = [&](const std::vector<int>& allowed) {
      const size_t at = space.leaves()[1].offset;
      if (dtype == DType::f32) put(row, at, std::vector<float>(allowed.begin(), allowed.end()));
      if (dtype == DType::f64) put(row, at, std::vector<double>(allowed.begin(), allowed.end()));
      if (dtype == DType::u8) put(row, at, std::vector<uint8_t>(allowed.begin(), allowed.end()));
      if (dtype == DType::i32) put(row, at, std::vector<int32_t>(allowed.begin(), allowed.end()));
      if (dtype == DType::i64) put(row, at, std::vector<int64_t>(allowed.begin(), allowed.end()));
    };
    set({0, 1, 1, 0, 1});
    CHECK(mask.allows_any(row));
    CHECK(mask.violation(row, bytes_of({1, 2})) == "");
    CHECK(mask.violation(row, bytes_of({0, 2})) == "action[0] = 0 is masked");
    CHECK(mask.violation(row, bytes_of({1, 1})) == "action[1] = 1 is masked");
    for (const std::vector<int>& none : {std::vector{0, 0, 1, 1, 1}, {1, 1, 0, 0, 0}, {0, 0, 0, 0, 0}}) {
      set(none);
      CHECK(!mask.allows_any(row));
    }
  }
}

TEST_CASE("ActionMask: draws each allowed action as often, and no other") {
  const Space space = Dict{{{"action_mask", MultiBinary{4}}}}, actions = Space::discrete(4, 10);
  const ActionMask mask = *ActionMask::of(space, actions);
  const std::vector<std::byte> row = bytes_of({1, 0, 1, 1});
  CHECK(mask.violation(row, bytes_of({11})) == "action[0] = 11 is masked");
  RandomStream random(3, StreamPurpose::action, 0);
  std::vector<int> counts(4);
  std::vector<std::byte> action(4);
  for (int i = 0; i < 30000; ++i) {
    mask.sample(random, row, action);
    int32_t value;
    std::memcpy(&value, action.data(), 4);
    ++counts.at(static_cast<size_t>(value - 10));
  }
  CHECK(counts[1] == 0);
  for (const size_t i : {0u, 2u, 3u}) CHECK(std::abs(counts[i] - 10000) < 4 * std::sqrt(30000 * 2.0 / 9));
}

TEST_CASE("sample_allowed: the log probability is that of the draw; nothing to draw is an error") {
  RandomStream random(3, StreamPurpose::action, 0);
  const std::vector<Choice> groups = choices_of(MultiDiscrete{{2, 3}});
  const std::vector<float> mask{1, 1, 0, 0.5f, 1}, none{1, 1, 0, 0, 0};
  std::vector<std::byte> action(8);
  CHECK(sample_allowed(random, groups, mask.data(), action) == doctest::Approx(std::log(0.25)));
  CHECK_THROWS_AS((void)sample_allowed(random, groups, none.data(), action), Error);
}

TEST_CASE("with_action_mask: the mask has the observation's elements' type and lies right behind them") {
  const Space pixels = with_action_mask(Space::box(0, 255, {3, 3}, DType::u8), Space::discrete(5));
  CHECK(pixels.row_bytes() == 14);
  CHECK(pixels.leaves()[1].offset == 9);
  CHECK(ActionMask::of(pixels, Space::discrete(5))->offset() == 9);
  const Space room = with_action_mask(Space::discrete(7), MultiDiscrete{{2, 3}});
  CHECK(room.row_bytes() == 24);
  CHECK(room.leaves()[1].dtype == DType::i32);
  CHECK_THROWS_AS((void)with_action_mask(kView, kView), Error);
}

TEST_SUITE_END();
