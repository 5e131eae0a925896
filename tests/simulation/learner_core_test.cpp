#include "learners/learner_core.hpp"

#include <doctest/doctest.h>

namespace myriad {
namespace {

using Outputs = std::vector<LearnerCore::Output>;
constexpr uint64_t kRun = 5;

/// A learner of two slots, one fragment each, before its first round.
struct Fixture {
  LearnerCore core;
  Time now{};

  Fixture() : core(options()) {
    Outputs outputs;
    core.start(weights(0), now, outputs);
  }
  static LearnerCore::Options options() {
    LearnerCore::Options options;
    options.run = kRun;
    options.num_slots = options.fragments_per_batch = 2;
    options.steps = options.environments = 1;
    options.spec_hash = 1;
    options.fragment_hash = 2;
    options.violation = [](const wire::FragmentHeaderT& header, std::span<const std::byte>) -> std::string {
      return header.final_rows == 0 ? "" : "column reward has a value that is not finite";
    };
    return options;
  }
  static WeightsPtr weights(uint64_t version) {
    return std::make_shared<const Weights>(Weights{version, 1, {1.0f}, {}});
  }

  Outputs step(LearnerCore::Input input) {
    Outputs outputs;
    core.step(input, now, outputs);
    return outputs;
  }
  template <class T>
  static Message message(T body, std::vector<SharedBytes> payloads = {}) {
    Message message = make_message(std::move(body), std::move(payloads));
    message.run = kRun;
    message.epoch = 1;
    return message;
  }
  Outputs command(wire::CommandKind kind, uint64_t until, uint64_t sequence = 0) {
    wire::CommandT body;
    body.kind = kind;
    body.until = until;
    body.sequence = sequence;
    body.directory = "d";
    return step(LearnerCore::FromDriver{message(std::move(body))});
  }
  Outputs join(uint32_t slot, uint32_t incarnation = 0, uint64_t spec = 1, int64_t version = -1) {
    wire::JoinT body;
    body.slot = slot;
    body.incarnation = incarnation;
    body.spec_hash = spec;
    body.fragment_hash = 2;
    body.weights_version = version;
    return step(LearnerCore::FromRunner{"r" + std::to_string(slot), message(std::move(body))});
  }
  Outputs fragment(uint32_t slot, uint64_t seq, uint64_t version, double episode_return = 0, bool valid = true) {
    wire::FragmentHeaderT body;
    body.key = std::make_unique<wire::FragmentKey>(slot, 0, seq);
    body.weights_version = version;
    body.steps = body.environments = 1;
    body.final_rows = valid ? 0 : 1;
    body.episodes.emplace_back(episode_return, 1, slot);
    return step(LearnerCore::FromRunner{"r" + std::to_string(slot),
                                        message(std::move(body), {SharedBytes::of(std::vector<std::byte>(4))})});
  }
  Outputs state(uint32_t slot, uint64_t seq, uint64_t checkpoint) {
    wire::RunnerStateT body;
    body.slot = slot;
    body.seq = seq;
    body.checkpoint = checkpoint;
    return step(LearnerCore::FromRunner{"r" + std::to_string(slot),
                                        message(std::move(body), {SharedBytes::of(std::vector<std::byte>(4))})});
  }
  /// Iteration 1 done and reported.
  Outputs first_iteration() {
    join(0), join(1);
    command(wire::CommandKind::go, 1);
    fragment(0, 0, 0), fragment(1, 0, 0);
    return step(LearnerCore::Updated{weights(1), {}});
  }
};

template <class T>
size_t count(const Outputs& outputs) {
  size_t n = 0;
  for (const auto& output : outputs) n += std::holds_alternative<T>(output) ? 1 : 0;
  return n;
}
/// The first message with body T among those to the driver or to runners.
template <class T>
const T* sent(const Outputs& outputs) {
  for (const auto& output : outputs) {
    const T* body = nullptr;
    if (const auto* driver = std::get_if<LearnerCore::ToDriver>(&output)) body = driver->message.as<T>();
    if (const auto* runner = std::get_if<LearnerCore::ToRunner>(&output)) body = runner->message.as<T>();
    if (body != nullptr) return body;
  }
  return nullptr;
}

}  // namespace

TEST_SUITE("learners/learner_core") {
  TEST_CASE_FIXTURE(Fixture, "LearnerCore: a join is answered with weights and a grant; credit comes with go") {
    const Outputs outputs = join(0);
    REQUIRE(sent<wire::WeightsHeaderT>(outputs) != nullptr);
    REQUIRE(sent<wire::GrantT>(outputs) != nullptr);
    CHECK(sent<wire::GrantT>(outputs)->granted == 0);
    const Outputs after = command(wire::CommandKind::go, 1);
    REQUIRE(sent<wire::GrantT>(after) != nullptr);
    CHECK(sent<wire::GrantT>(after)->granted == 1);
  }

  TEST_CASE_FIXTURE(Fixture, "LearnerCore: the last place starts the update, its end is reported and published") {
    join(0), join(1);
    command(wire::CommandKind::go, 1);
    CHECK(count<LearnerCore::Update>(fragment(1, 0, 0)) == 0);
    const Outputs full = fragment(0, 0, 0);
    CHECK(count<LearnerCore::Assemble>(full) == 1);
    CHECK(count<LearnerCore::Update>(full) == 1);
    const Outputs after = step(LearnerCore::Updated{weights(1), {{"loss", 0.5}}});
    REQUIRE(sent<wire::IterationReportT>(after) != nullptr);
    CHECK(sent<wire::IterationReportT>(after)->training_iteration == 1);
    CHECK(sent<wire::IterationReportT>(after)->num_env_steps_sampled_lifetime == 2);
    CHECK(sent<wire::WeightsHeaderT>(after)->version == 1);
  }

  TEST_CASE_FIXTURE(Fixture, "LearnerCore: episodes are reported in the order of places, not of arrival") {
    join(0), join(1);
    command(wire::CommandKind::go, 1);
    fragment(1, 0, 0, 11.0);
    fragment(0, 0, 0, 10.0);
    const Outputs after = step(LearnerCore::Updated{weights(1), {}});
    const auto& episodes = sent<wire::IterationReportT>(after)->episodes;
    REQUIRE(episodes.size() == 2);
    CHECK(episodes[0].episode_return() == 10.0);
    CHECK(episodes[1].episode_return() == 11.0);
  }

  TEST_CASE_FIXTURE(Fixture, "LearnerCore: the report is repeated every 250 ms until the driver answers it") {
    first_iteration();
    now += LearnerCore::kRetry;
    CHECK(sent<wire::IterationReportT>(step(LearnerCore::Tick{})) != nullptr);
    command(wire::CommandKind::go, 1);  // the old answer
    now += LearnerCore::kRetry;
    CHECK(sent<wire::IterationReportT>(step(LearnerCore::Tick{})) != nullptr);
    command(wire::CommandKind::go, 2);
    now += LearnerCore::kRetry;
    CHECK(sent<wire::IterationReportT>(step(LearnerCore::Tick{})) == nullptr);
  }

  TEST_CASE_FIXTURE(Fixture, "LearnerCore: a module that differs is refused in words") {
    const Outputs outputs = join(0, 0, /*spec=*/99);
    REQUIRE(sent<wire::RefusedT>(outputs) != nullptr);
    CHECK(sent<wire::RefusedT>(outputs)->reason.find("differ") != std::string::npos);
    CHECK(sent<wire::RefusedT>(join(7))->reason == "slot 7 is not one of 2");
  }

  TEST_CASE_FIXTURE(Fixture,
                    "LearnerCore: a fragment that breaks its contract is refused, not asked for again for ever") {
    join(0), join(1);
    command(wire::CommandKind::go, 1);
    const Outputs outputs = fragment(0, 0, 0, 0, /*valid=*/false);
    REQUIRE(sent<wire::RefusedT>(outputs) != nullptr);
    CHECK(sent<wire::RefusedT>(outputs)->reason ==
          "fragment 0 of runner 0 is not used: column reward has a value that is not finite");
    CHECK(core.drops().at("dropped/invalid") == 1);
  }

  TEST_CASE_FIXTURE(Fixture, "LearnerCore: messages of another run or epoch are counted and dropped") {
    wire::JoinT body;
    Message foreign = message(body);
    foreign.run = 1;
    CHECK(step(LearnerCore::FromRunner{"x", foreign}).empty());
    foreign = message(body);
    foreign.epoch = 0;
    CHECK(step(LearnerCore::FromRunner{"x", foreign}).empty());
    CHECK(core.drops().at("dropped/foreign_run_or_epoch") == 2);
  }

  TEST_CASE_FIXTURE(Fixture, "LearnerCore: a checkpoint waits for every runner's state, then is written once") {
    first_iteration();
    CHECK(count<LearnerCore::WriteCheckpoint>(command(wire::CommandKind::checkpoint, 1, 1)) == 0);
    CHECK(count<LearnerCore::WriteCheckpoint>(state(0, 1, 1)) == 0);
    const Outputs complete = state(1, 1, 1);
    REQUIRE(count<LearnerCore::WriteCheckpoint>(complete) == 1);
    CHECK(count<LearnerCore::WriteCheckpoint>(command(wire::CommandKind::checkpoint, 1, 1)) == 0);
    const Outputs done = step(LearnerCore::CheckpointWritten{1, {}, ""});
    CHECK(sent<wire::CheckpointDoneT>(done)->training_iteration == 1);
    CHECK(sent<wire::CheckpointDoneT>(command(wire::CommandKind::checkpoint, 1, 1)) != nullptr);  // the answer was lost
  }

  TEST_CASE_FIXTURE(Fixture, "LearnerCore: a state that does not come is waited for no longer than 5 s") {
    first_iteration();
    command(wire::CommandKind::checkpoint, 1, 1);
    now += LearnerCore::kStateDeadline;
    CHECK(count<LearnerCore::WriteCheckpoint>(step(LearnerCore::Tick{})) == 1);
  }

  TEST_CASE_FIXTURE(Fixture,
                    "LearnerCore: a checkpoint of an iteration that is past is not written with newer weights") {
    first_iteration();
    command(wire::CommandKind::go, 2);
    fragment(0, 1, 1), fragment(1, 1, 1);
    step(LearnerCore::Updated{weights(2), {}});
    CHECK(count<LearnerCore::WriteCheckpoint>(command(wire::CommandKind::checkpoint, 1, 1)) == 0);
    now += LearnerCore::kStateDeadline;
    CHECK(count<LearnerCore::WriteCheckpoint>(step(LearnerCore::Tick{})) == 0);
  }

  TEST_CASE_FIXTURE(Fixture, "LearnerCore: Stop ends it with the driver's reason") {
    wire::StopT stop;
    stop.reason = "done";
    const Outputs outputs = step(LearnerCore::FromDriver{message(std::move(stop))});
    REQUIRE(count<LearnerCore::Exit>(outputs) == 1);
    CHECK(std::get<LearnerCore::Exit>(outputs[0]).reason == "done");
  }
}

}  // namespace myriad
