#include "apps/driver/driver_core.hpp"

#include <doctest/doctest.h>

#include <csignal>

namespace myriad {
namespace {

using Outputs = std::vector<DriverCore::Output>;
constexpr uint64_t kRun = 3;

template <class T>
const T* find(const Outputs& outputs) {
  for (const auto& output : outputs)
    if (const T* found = std::get_if<T>(&output)) return found;
  return nullptr;
}
template <class T>
size_t count(const Outputs& outputs) {
  size_t n = 0;
  for (const auto& output : outputs) n += std::holds_alternative<T>(output) ? 1 : 0;
  return n;
}
template <class T>
const T* sent(const Outputs& outputs) {
  for (const auto& output : outputs)
    if (const auto* send = std::get_if<DriverCore::Send>(&output))
      if (const T* body = send->message.as<T>()) return body;
  return nullptr;
}

/// A driver with its processes, by hand.
struct Run {
  DriverCore core;
  Time now = std::chrono::seconds(1);

  static DriverCore::Options options() {
    DriverCore::Options options;
    options.run = kRun;
    options.slots.num_slots = 2;
    options.slots.max_crashes_per_minute = 1;
    options.smoothing_episodes = 2;
    return options;
  }
  explicit Run(DriverCore::Options options) : core(std::move(options)) { step(DriverCore::Start{}); }

  Outputs step(const DriverCore::Input& input) {
    Outputs outputs;
    core.step(input, now, outputs);
    return outputs;
  }
  template <class T>
  Outputs receive(T body, const std::string& peer = "learner-0") {
    Message message = make_message(std::move(body));
    message.run = kRun;
    message.epoch = 1;
    return step(DriverCore::Received{peer, std::move(message)});
  }
  Outputs learner_hello(uint32_t protocol = kProtocolVersion) {
    wire::LearnerHelloT hello;
    hello.protocol = protocol;
    return receive(std::move(hello));
  }
  Outputs report(uint64_t iteration, uint64_t env_steps = 0, double episode_return = 0) {
    wire::IterationReportT report;
    report.training_iteration = iteration;
    report.num_env_steps_sampled_lifetime = env_steps;
    report.episodes.emplace_back(episode_return, 1, 0);
    return receive(std::move(report));
  }
  /// The checkpoint asked for: prepared, written by the learner, committed.
  Outputs complete_save(uint64_t sequence) {
    step(DriverCore::Saved{CheckpointWriter::Prepared{"checkpoints/.partial"}});
    wire::CheckpointDoneT done;
    done.sequence = sequence;
    done.training_iteration = core.training_iteration();
    receive(std::move(done));
    return step(DriverCore::Saved{CheckpointWriter::Committed{"checkpoints/1", core.training_iteration()}});
  }
};

}  // namespace

TEST_SUITE("driver/driver_core") {
  TEST_CASE("DriverCore: Start spawns the learner and every runner; its timer does not spin before the hello") {
    DriverCore core(Run::options());
    Outputs outputs;
    core.step(DriverCore::Start{}, Time{}, outputs);
    CHECK(count<DriverCore::SpawnLearner>(outputs) == 1);
    CHECK(count<DriverCore::SpawnRunner>(outputs) == 2);
    core.step(DriverCore::Tick{}, std::chrono::seconds(1), outputs);
    CHECK(core.next_timer() > std::chrono::seconds(1));
  }

  TEST_CASE("DriverCore: training_iteration stops at exactly its iteration, after a last checkpoint") {
    auto options = Run::options();
    options.stop.training_iteration = 2;
    Run run(options);
    const Outputs go = run.learner_hello();
    CHECK(sent<wire::CommandT>(go)->until == 1);
    CHECK(sent<wire::CommandT>(run.report(1))->until == 2);
    const Outputs last = run.report(2);
    CHECK(find<DriverCore::Save>(last) != nullptr);
    CHECK(sent<wire::CommandT>(last) == nullptr);
    const Outputs stop = run.complete_save(1);
    CHECK(sent<wire::StopT>(stop)->reason == "training_iteration 2");
    CHECK(count<DriverCore::KillRunner>(stop) == 2);
    run.step(DriverCore::RunnerExited{0, 0, "SIGTERM"});
    run.step(DriverCore::RunnerExited{1, 0, "SIGTERM"});
    const Outputs finished = run.step(DriverCore::LearnerExited{"exit 0"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK(find<DriverCore::Finished>(finished)->exit == Exit::ok);
  }

  TEST_CASE("DriverCore: num_env_steps_sampled_lifetime stops at the first report that reaches it") {
    auto options = Run::options();
    options.stop.num_env_steps_sampled_lifetime = 100;
    Run run(options);
    run.learner_hello();
    CHECK(find<DriverCore::Save>(run.report(1, 99)) == nullptr);
    CHECK(find<DriverCore::Save>(run.report(2, 100)) != nullptr);
  }

  TEST_CASE("DriverCore: episode_return_mean stops once the smoothing window is full and its mean is there") {
    auto options = Run::options();
    options.stop.episode_return_mean = 10.0;
    Run run(options);
    run.learner_hello();
    CHECK(find<DriverCore::Save>(run.report(1, 0, 50.0)) == nullptr);   // one episode of two
    CHECK(find<DriverCore::Save>(run.report(2, 0, -31.0)) == nullptr);  // mean 9.5
    CHECK(find<DriverCore::Save>(run.report(3, 0, 51.0)) != nullptr);   // mean of -31 and 51: 10
  }

  TEST_CASE("DriverCore: time_total_s acts at the next report") {
    auto options = Run::options();
    options.stop.time_total_s = 60;
    Run run(options);
    run.learner_hello();
    run.report(1);
    run.now += std::chrono::seconds(60);
    run.step(DriverCore::Tick{});
    CHECK(run.core.finishing());
    CHECK(find<DriverCore::Save>(run.report(2)) != nullptr);
  }

  TEST_CASE("DriverCore: a repeated report counts once") {
    Run run(Run::options());
    run.learner_hello();
    run.report(1, 10);
    CHECK(run.report(1, 10).empty());
    CHECK(run.core.episodes_lifetime() == 1);
  }

  TEST_CASE("DriverCore: the first Ctrl-C saves and stops, the second ends at once") {
    Run run(Run::options());
    run.learner_hello();
    run.report(1);
    CHECK(find<DriverCore::Finished>(run.step(DriverCore::Interrupted{})) == nullptr);
    CHECK(find<DriverCore::Save>(run.report(2)) != nullptr);
    const Outputs second = run.step(DriverCore::Interrupted{});
    CHECK(find<DriverCore::KillAll>(second) != nullptr);
    REQUIRE(find<DriverCore::Finished>(second) != nullptr);
    CHECK(find<DriverCore::Finished>(second)->exit == Exit::interrupted);
  }

  TEST_CASE("DriverCore: Ctrl-C before the first iteration has nothing to save") {
    Run run(Run::options());
    run.learner_hello();
    CHECK(find<DriverCore::Finished>(run.step(DriverCore::Interrupted{})) != nullptr);
  }

  TEST_CASE("DriverCore: another protocol version is refused with both numbers") {
    Run run(Run::options());
    const Outputs outputs = run.learner_hello(kProtocolVersion + 1);
    CHECK(find<DriverCore::KillAll>(outputs) != nullptr);
    run.step(DriverCore::RunnerExited{0, 0, "SIGKILL"});
    run.step(DriverCore::RunnerExited{1, 0, "SIGKILL"});
    const Outputs finished = run.step(DriverCore::LearnerExited{"SIGKILL"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK(find<DriverCore::Finished>(finished)->error_code == "version-skew");
    CHECK(find<DriverCore::Finished>(finished)->exit == Exit::usage);
  }

  TEST_CASE("DriverCore: when every slot is quarantined the run ends with the cause's own words and exit code") {
    Run run(Run::options());
    run.learner_hello();
    run.step(DriverCore::RunnerExited{0, 0, "SIGSEGV"});
    wire::ProcessErrorT error;
    error.code = "env-contract";
    error.message = "reward is not finite";
    error.exit = static_cast<int32_t>(Exit::environment);
    run.receive(std::move(error), "runner-1.0");
    const Outputs stop = run.step(DriverCore::RunnerExited{1, 0, "exit 3"});
    CHECK(sent<wire::StopT>(stop)->reason == "reward is not finite");
    const Outputs finished = run.step(DriverCore::LearnerExited{"exit 0"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK(find<DriverCore::Finished>(finished)->exit == Exit::environment);
    CHECK(find<DriverCore::Finished>(finished)->error_code == "env-contract");
  }

  TEST_CASE("DriverCore: when no runner can be started the run ends for want of a resource") {
    Run run(Run::options());
    run.learner_hello();
    run.step(DriverCore::SpawnFailed{0, "fork: Resource temporarily unavailable"});
    const Outputs stop = run.step(DriverCore::SpawnFailed{1, "fork: Resource temporarily unavailable"});
    REQUIRE(sent<wire::StopT>(stop) != nullptr);
    const Outputs finished = run.step(DriverCore::LearnerExited{"exit 0"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK(find<DriverCore::Finished>(finished)->exit == Exit::resource);
  }

  TEST_CASE("DriverCore: a lost learner ends the run, and says so") {
    Run run(Run::options());
    run.learner_hello();
    run.step(DriverCore::LearnerExited{"SIGKILL"});
    run.step(DriverCore::RunnerExited{0, 0, "SIGTERM"});
    const Outputs finished = run.step(DriverCore::RunnerExited{1, 0, "SIGTERM"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK(find<DriverCore::Finished>(finished)->error_code == "learner-lost");
    CHECK(find<DriverCore::Finished>(finished)->exit == Exit::internal);
  }

  TEST_CASE("DriverCore: commands and slot states are repeated every 250 ms") {
    Run run(Run::options());
    run.learner_hello();
    run.now += DriverCore::kRetry;
    CHECK(run.core.next_timer() <= run.now);
    const Outputs outputs = run.step(DriverCore::Tick{});
    CHECK(sent<wire::CommandT>(outputs)->until == 1);
    CHECK(sent<wire::SlotStateT>(outputs)->up);
    CHECK(count<DriverCore::Send>(outputs) == 3);
  }

  TEST_CASE("DriverCore: a late hello of a process that ended does not declare it up") {
    auto options = Run::options();
    options.slots.max_crashes_per_minute = 9;
    Run run(options);
    run.learner_hello();
    run.step(DriverCore::RunnerExited{0, 0, "SIGSEGV"});  // restarts at once as incarnation 1
    run.step(DriverCore::RunnerExited{0, 1, "SIGSEGV"});  // backs off
    wire::RunnerHelloT hello;
    hello.slot = 0;
    hello.incarnation = 1;
    hello.protocol = kProtocolVersion;
    const Outputs outputs = run.receive(std::move(hello), "runner-0.1");
    REQUIRE(sent<wire::SlotStateT>(outputs) != nullptr);
    CHECK(!sent<wire::SlotStateT>(outputs)->up);
  }

  TEST_CASE("DriverCore: only the first process of a slot continues the saved environments") {
    auto options = Run::options();
    options.slots.max_crashes_per_minute = 9;
    options.runner_states = {SharedBytes::of(std::vector<std::byte>(8)), SharedBytes{}};
    Run run(options);
    const auto payload_of_welcome = [&](uint32_t incarnation) {
      wire::RunnerHelloT hello;
      hello.incarnation = incarnation;
      hello.protocol = kProtocolVersion;
      size_t bytes = 99;
      for (const auto& output : run.receive(std::move(hello), "r"))
        if (const auto* send = std::get_if<DriverCore::Send>(&output);
            send != nullptr && send->message.as<wire::RunnerWelcomeT>() != nullptr)
          bytes = send->message.payloads.at(0).view.size();
      return bytes;
    };
    CHECK(payload_of_welcome(0) == 8);
    run.step(DriverCore::RunnerExited{0, 0, "SIGSEGV"});
    CHECK(payload_of_welcome(1) == 0);
  }

  TEST_CASE("DriverCore: a failed checkpoint is an event and training goes on") {
    auto options = Run::options();
    options.checkpoint_frequency = 1;
    Run run(options);
    run.learner_hello();
    CHECK(find<DriverCore::Save>(run.report(1)) != nullptr);
    const Outputs outputs =
        run.step(DriverCore::Saved{CheckpointWriter::Failed{"MANIFEST.json: No space left on device"}});
    CHECK(find<DriverCore::Event>(outputs)->kind == "checkpoint-failed");
    CHECK(sent<wire::CommandT>(outputs)->until == 2);
  }

  TEST_CASE("DriverCore: a learner that does not answer a save for 60 s is not waited for") {
    auto options = Run::options();
    options.checkpoint_frequency = 1;
    Run run(options);
    run.learner_hello();
    run.report(1);
    run.step(DriverCore::Saved{CheckpointWriter::Prepared{"d"}});
    run.now += DriverCore::kSaveDeadline;
    const Outputs outputs = run.step(DriverCore::Tick{});
    REQUIRE(find<DriverCore::Save>(outputs) != nullptr);
    CHECK(std::holds_alternative<CheckpointWriter::Abandon>(find<DriverCore::Save>(outputs)->input));
  }

  TEST_CASE("DriverCore: processes that do not stop within 5 s are killed") {
    auto options = Run::options();
    options.training_iteration = options.stop.training_iteration = 4;  // resumed at its end
    Run run(options);
    CHECK(sent<wire::StopT>(run.learner_hello()) != nullptr);
    run.now += DriverCore::kStopDeadline;
    CHECK(find<DriverCore::KillAll>(run.step(DriverCore::Tick{})) != nullptr);
  }
}

}  // namespace myriad
