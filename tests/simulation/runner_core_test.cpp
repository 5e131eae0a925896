#include "env_runners/runner_core.hpp"

#include <doctest/doctest.h>

namespace myriad {
namespace {

constexpr uint64_t kRun = 9, kEpoch = 2, kSpec = 11;

RunnerCore core() { return RunnerCore({kRun, kEpoch, 3, 1, kSpec, 12, 2, 1}); }

template <class T>
Message from_learner(T body, std::vector<SharedBytes> payloads = {}) {
  Message message = make_message(std::move(body), std::move(payloads));
  message.run = kRun;
  message.epoch = kEpoch;
  return message;
}

Message grant(uint64_t granted, uint64_t acknowledged, uint64_t version, uint64_t want_state = 0,
              uint32_t incarnation = 1) {
  wire::GrantT body;
  body.incarnation = incarnation;
  body.granted = granted;
  body.acknowledged = acknowledged;
  body.weights_version = version;
  body.want_state = want_state;
  return from_learner(std::move(body));
}

Message weights(uint64_t version, size_t parameters = 2, uint64_t spec = kSpec) {
  auto kept = std::make_shared<const Weights>(Weights{version, spec, std::vector<float>(parameters, 1.0f), {1.0}});
  Message message = weights_message(kept);
  message.run = kRun;
  message.epoch = kEpoch;
  return message;
}

std::shared_ptr<Fragment> fragment() {
  auto layout = std::make_shared<FragmentLayout>(1, 1);
  layout->add("rewards", Rows::step, DType::f32, {});
  return std::make_shared<Fragment>(layout);
}

size_t count(const std::vector<Message>& messages, wire::Body type) {
  size_t n = 0;
  for (const Message& message : messages) n += message.body.type == type ? 1 : 0;
  return n;
}

}  // namespace

TEST_SUITE("env_runners/runner_core") {
  TEST_CASE("RunnerCore: it samples with credit and new enough weights, and not without") {
    RunnerCore runner = core();
    CHECK(!runner.may_sample());
    runner.received(grant(1, 0, 5), Time{});
    CHECK(!runner.may_sample());
    runner.received(weights(4), Time{});
    CHECK(!runner.may_sample());
    runner.received(weights(5), Time{});
    CHECK(runner.may_sample());
    runner.finished(fragment(), 1, 2, Time{});
    CHECK(!runner.may_sample());
    CHECK(runner.next_seq() == 1);
  }

  TEST_CASE("RunnerCore: weights never go back, whatever the order of arrival") {
    RunnerCore runner = core();
    runner.received(weights(7), Time{});
    runner.received(weights(6), Time{});
    CHECK(runner.weights()->version == 7);
  }

  TEST_CASE("RunnerCore: foreign runs, epochs, layouts and incarnations are counted and change nothing") {
    RunnerCore runner = core();
    Message foreign = grant(9, 0, 0);
    foreign.run = 1;
    runner.received(foreign, Time{});
    foreign = grant(9, 0, 0);
    foreign.epoch = 1;
    runner.received(foreign, Time{});
    runner.received(weights(1, 3), Time{});
    runner.received(weights(1, 2, 99), Time{});
    runner.received(grant(9, 0, 0, 0, /*incarnation=*/0), Time{});
    CHECK(runner.dropped() == 5);
    CHECK(runner.weights() == nullptr);
    runner.received(weights(1), Time{});
    CHECK(!runner.may_sample());
  }

  TEST_CASE("RunnerCore: what is not acknowledged is sent again after 250 ms, what is comes back as a buffer") {
    RunnerCore runner = core();
    runner.received(grant(2, 0, 0), Time{});
    runner.received(weights(0), Time{});
    runner.finished(fragment(), 1, 1, Time{});
    runner.finished(fragment(), 1, 1, Time{});
    CHECK(count(runner.take_outputs(), wire::Body::FragmentHeader) == 2);
    runner.tick(RunnerCore::kRetry - Time(1));
    CHECK(runner.take_outputs().empty());
    runner.tick(RunnerCore::kRetry);
    const auto again = runner.take_outputs();
    CHECK(count(again, wire::Body::FragmentHeader) == 2);
    CHECK(count(again, wire::Body::Join) == 1);
    runner.received(grant(2, 1, 0), Time{});
    runner.tick(2 * RunnerCore::kRetry);
    const auto rest = runner.take_outputs();
    REQUIRE(count(rest, wire::Body::FragmentHeader) == 1);
    CHECK(rest[0].as<wire::FragmentHeaderT>()->key->seq() == 1);
  }

  TEST_CASE("RunnerCore: a buffer still on its way out is not handed out again") {
    RunnerCore runner = core();
    runner.received(grant(1, 0, 0), Time{});
    runner.received(weights(0), Time{});
    runner.finished(fragment(), 1, 1, Time{});
    auto in_socket = runner.take_outputs();
    runner.received(grant(1, 1, 0), Time{});
    CHECK(runner.take_free() == nullptr);
    in_socket.clear();
    CHECK(runner.take_free() != nullptr);
  }

  TEST_CASE(
      "RunnerCore: the state is asked for at the fragment boundary, repeated, and not after the next round began") {
    RunnerCore runner = core();
    runner.received(weights(0), Time{});
    runner.received(grant(1, 0, 0, /*want_state=*/4), Time{});
    CHECK(!runner.wants_state());  // credit first
    runner.finished(fragment(), 1, 1, Time{});
    REQUIRE(runner.wants_state());
    runner.state_saved(SharedBytes::of(std::vector<std::byte>(8)), Time{});
    CHECK(!runner.wants_state());
    (void)runner.take_outputs();
    runner.tick(RunnerCore::kRetry);
    const auto again = runner.take_outputs();
    REQUIRE(count(again, wire::Body::RunnerState) == 1);
    CHECK(again[0].as<wire::RunnerStateT>()->seq == 1);
    CHECK(again[0].as<wire::RunnerStateT>()->checkpoint == 4);
    runner.received(grant(2, 1, 0), Time{});
    runner.tick(2 * RunnerCore::kRetry);
    CHECK(count(runner.take_outputs(), wire::Body::RunnerState) == 0);
  }

  TEST_CASE("RunnerCore: a refusal is kept for the shell to end with") {
    RunnerCore runner = core();
    wire::RefusedT refused;
    refused.reason = "slot 9 is not one of 4";
    runner.received(from_learner(std::move(refused)), Time{});
    CHECK(runner.refused() == "slot 9 is not one of 4");
  }
}

}  // namespace myriad
