#include "rl/simulator/messages.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "rl/check.hpp"

using namespace myriad;
using simulator::SpaceKind;

namespace {

std::string refused(const simulator::SpaceT& space) {
  try {
    (void)simulator::to_space(&space, "action");
  } catch (const Error& error) { return error.what(); }
  return "";
}

}  // namespace

TEST_SUITE("rl/simulator_messages") {
  TEST_CASE("a frame is its length and a message that is verified, numbers of every width in it") {
    simulator::HelloT hello;
    hello.protocol = 1;
    hello.name = "odd";  // so that what follows is not aligned by chance
    hello.observation =
        simulator::to_wire(Dict{{{"a", Space::box(-1.5, 2, {2, 3}, DType::f64)}, {"b", Space::discrete(3, -1)}}});
    hello.action = simulator::to_wire(Tuple{{MultiDiscrete{{2, 3}}, MultiBinary{4}}});
    hello.reward_threshold = 475;
    const std::vector<std::byte> frame = simulator::frame_of(std::move(hello));
    uint32_t size = 0;
    std::memcpy(&size, frame.data(), sizeof size);
    REQUIRE(frame.size() == sizeof size + size);
    const auto message = simulator::decode(std::span(frame).subspan(sizeof size));
    REQUIRE(message.has_value());
    const auto* read = simulator::as<simulator::HelloT>(*message);
    REQUIRE(read != nullptr);
    CHECK(read->reward_threshold == 475);
    CHECK(simulator::to_space(read->observation.get(), "observation").to_string() ==
          "Dict('a': Box(-1.5, 2.0, (2, 3), float64), 'b': Discrete(3, start=-1))");
    CHECK(simulator::to_space(read->action.get(), "action").row_bytes() == 6 * sizeof(int32_t));
    CHECK(simulator::as<simulator::StepT>(*message) == nullptr);
  }

  TEST_CASE("every message with 64-bit numbers is verified as it is written") {
    simulator::WelcomeT welcome;
    welcome.session.assign(16, 3);
    welcome.episode = 7;
    simulator::SteppedT stepped;
    stepped.rewards = {0.5};
    stepped.flags = {1};
    simulator::ResetT reset;
    reset.envs = {1};
    reset.seeds = {uint64_t{1} << 40};
    for (const std::vector<std::byte>& frame :
         {simulator::frame_of(welcome), simulator::frame_of(stepped), simulator::frame_of(reset)})
      CHECK(simulator::decode(std::span(frame).subspan(4)).has_value());
  }

  TEST_CASE("bytes that are cut or changed are no message, or another one: never read beyond") {
    simulator::ObservationT seen;
    seen.episode = 3;
    seen.observation.assign(8, 1);
    const std::vector<std::byte> frame = simulator::frame_of(std::move(seen));
    const std::vector<std::byte> message(frame.begin() + 4, frame.end());
    for (size_t size = 0; size < message.size(); ++size)
      CHECK_FALSE(simulator::decode(std::span(message).first(size)).has_value());
    const auto at = std::ranges::search(message, std::vector<std::byte>(8, std::byte{1})).begin();
    REQUIRE(at != message.end());
    const auto observed = static_cast<size_t>(at - message.begin());  // where the observation's bytes lie
    size_t refused = 0, others = 0;
    for (size_t i = 0; i < 8 * message.size(); ++i) {
      CAPTURE(i);
      const size_t byte = i / 8;
      std::vector<std::byte> flipped = message;
      flipped[byte] ^= std::byte{1} << (i % 8);
      const auto got = simulator::decode(flipped);
      if (byte >= 4 && byte < 8) CHECK_FALSE(got.has_value());  // the identifier
      if (!got) {
        ++refused;
        continue;
      }
      // What is taken is a whole message: it can be said again, and is understood as the same.
      const std::vector<std::byte> again = simulator::frame(*got);
      const auto heard = simulator::decode(std::span(again).subspan(4));
      REQUIRE(heard.has_value());
      CHECK(simulator::frame(*heard) == again);
      others += again != frame ? 1 : 0;
      if (byte < observed || byte >= observed + 8) continue;
      const auto* other = simulator::as<simulator::ObservationT>(*got);
      REQUIRE(other != nullptr);
      CHECK(other->episode == 3);
      std::vector<uint8_t> want(8, 1);
      want[byte - observed] = static_cast<uint8_t>(flipped[byte]);
      CHECK(other->observation == want);
    }
    CHECK(refused > 32);
    CHECK(others >= 64);
  }

  TEST_CASE("a space that is none is refused with its reason") {
    simulator::SpaceT box;
    box.shape = {2};
    box.low = {0};
    box.high = {-1};
    CHECK(refused(box) == "the simulator's action space has a low above its high, or no number");
    box.high = {1, 2, 3};
    CHECK(refused(box) == "the simulator's action space wants one bound, or one of each element");
    box.shape = {1 << 20, 1 << 20};
    CHECK(refused(box).find("elements: ") != std::string::npos);
    simulator::SpaceT none;
    none.kind = SpaceKind::Discrete;
    CHECK(refused(none) == "the simulator's action space has n = 0, want 1 to 67108864");
    simulator::SpaceT multi;
    multi.kind = SpaceKind::MultiDiscrete;
    multi.nvec = {2, 3};
    multi.starts = {1};
    CHECK(refused(multi) == "the simulator's action space has 1 starts, want 2");
    multi.starts = {0, INT32_MAX};
    CHECK(refused(multi) == "the simulator's action space has values beyond int32");
    multi.starts = {0, 5};
    multi.shape = {2, 2};
    CHECK(refused(multi) == "the simulator's action space has a shape of 4 elements, and has 2");
    multi.shape = {-1, -2};
    CHECK(refused(multi).find("has a size of -1") != std::string::npos);
    simulator::SpaceT binary;
    binary.kind = SpaceKind::MultiBinary;
    binary.n = 4;
    binary.shape = {1 << 25, 1 << 25, 1 << 25};
    CHECK(refused(binary) == "the simulator's action space has a shape of 67108864 elements, and has 4");
  }

  TEST_CASE("a part that is no space is refused with its path; parts have names of their own") {
    const auto dict = [](std::vector<std::string> names, int32_t n) {
      simulator::SpaceT space;
      space.kind = SpaceKind::Dict;
      space.names = std::move(names);
      for (size_t i = 0; i < space.names.size(); ++i) {
        space.spaces.push_back(std::make_unique<simulator::SpaceT>());
        space.spaces.back()->kind = SpaceKind::Discrete;
        space.spaces.back()->n = n;
      }
      return space;
    };
    CHECK(refused(dict({"a", "b"}, 2)) == "");
    CHECK(refused(dict({"a", "b"}, 0)) == "the simulator's action 'a' space has n = 0, want 1 to 67108864");
    CHECK(refused(dict({"a", "a"}, 2)) == "the simulator's action space has two parts of the name 'a'");
    CHECK(refused(dict({"a", ""}, 2)) == "the simulator's action space has a part without a name");
    simulator::SpaceT tuple;
    tuple.kind = SpaceKind::Tuple;
    tuple.spaces.push_back(std::make_unique<simulator::SpaceT>(dict({"x"}, 0)));
    CHECK(refused(tuple) == "the simulator's action '0/x' space has n = 0, want 1 to 67108864");
  }

  TEST_CASE("starts and shapes go over the wire") {
    const Space space =
        Tuple{{MultiDiscrete{{2, 3, 4, 5}, {-1, 0, 25, 3}, {2, 2}}, MultiBinary{6, {2, 3}}, MultiDiscrete{{2}}}};
    CHECK(simulator::to_space(simulator::to_wire(space).get(), "action").to_string() == space.to_string());
  }
}
