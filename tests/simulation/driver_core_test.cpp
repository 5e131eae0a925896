#include "roles/driver_core.hpp"

#include "rl/wire/packed.hpp"
#include "rl/wire/process_error.hpp"
#include "tests/simulation/driver_harness.hpp"

namespace myriad {

using namespace driver_harness;

TEST_SUITE("driver/driver_core") {
  TEST_CASE("DriverCore: Start spawns the learner and every agent; its timer does not spin before the hello") {
    DriverCore core(Run::options());
    Outputs outputs;
    core.step(DriverCore::Start{}, Time{}, outputs);
    CHECK(count<DriverCore::SpawnLearner>(outputs) == 1);
    CHECK(count<DriverCore::SpawnAgent>(outputs) == 2);
    core.step(DriverCore::Tick{}, std::chrono::seconds(1), outputs);
    CHECK(core.next_timer() > std::chrono::seconds(1));
  }

  TEST_CASE("DriverCore: training_iteration stops at exactly its iteration, after a last checkpoint") {
    auto options = Run::options();
    options.stop.training_iteration = 2;
    Run run(options);
    const Outputs go = run.learner_forms();
    run.agent_hello(0);
    run.agent_hello(1);
    CHECK(sent<wire::CommandT>(go)->until == 1);
    CHECK(sent<wire::CommandT>(run.report(1))->until == 2);
    const Outputs last = run.report(2);
    CHECK(find<DriverCore::Save>(last) != nullptr);
    CHECK(sent<wire::CommandT>(last) == nullptr);
    const Outputs stop = run.complete_save(1);
    CHECK(sent<wire::StopT>(stop)->reason == "training_iteration 2");
    CHECK(stop_peers(stop) == std::vector<std::string>{"learner-0", "agent-0.0", "agent-1.0"});
    CHECK(count<DriverCore::KillAgent>(stop) == 0);  // SIGTERM would be a preemption
    Outputs outputs;
    const auto* finished = run.finish(outputs);
    REQUIRE(finished != nullptr);
    CHECK(finished->exit == Exit::ok);
  }

  TEST_CASE("DriverCore: num_env_steps_sampled_lifetime stops at the first report that reaches it") {
    auto options = Run::options();
    options.stop.num_env_steps_sampled_lifetime = 100;
    Run run(options);
    run.learner_forms();
    CHECK(find<DriverCore::Save>(run.report(1, 99)) == nullptr);
    CHECK(find<DriverCore::Save>(run.report(2, 100)) != nullptr);
  }

  TEST_CASE("DriverCore: episode_return_mean stops once the smoothing window is full and its mean is there") {
    auto options = Run::options();
    options.stop.episode_return_mean = 10.0;
    Run run(options);
    run.learner_forms();
    CHECK(find<DriverCore::Save>(run.report(1, 0, 50.0)) == nullptr);   // one episode of two
    CHECK(find<DriverCore::Save>(run.report(2, 0, -31.0)) == nullptr);  // mean 9.5
    CHECK(find<DriverCore::Save>(run.report(3, 0, 51.0)) != nullptr);   // mean of -31 and 51: 10
  }

  TEST_CASE("DriverCore: return and length are means over the last episodes alone, the checkpoint's among them") {
    DriverCore::Options options = Run::options();
    options.smoothing_episodes = 3;
    options.recent_returns = {100, 7};
    options.recent_lengths = {1000, 20};
    options.num_episodes_lifetime = 5;
    Run run(options);
    run.learner_forms();
    CHECK(run.core.episode_len_mean() == 510);
    run.report_episodes(1, {{1, 40, 0, 0}});
    CHECK(run.core.episode_return_mean() == 36);                        // 100 + 7 + 1
    CHECK(run.core.episode_len_mean() == doctest::Approx(1060.0 / 3));  // 1000 + 20 + 40
    run.report_episodes(2, {{4, 30, 0, 0}, {-2, 80, 1, 0}});
    CHECK(run.core.recent_returns() == std::deque<double>{1, 4, -2});
    CHECK(run.core.recent_lengths() == std::deque<double>{40, 30, 80});
    CHECK(run.core.episode_return_mean() == 1);
    CHECK(run.core.episode_len_mean() == 50);
    run.report_episodes(3, {});  // none ended: nothing leaves
    CHECK(run.core.episode_len_mean() == 50);
    CHECK(run.core.episodes_lifetime() == 8);
  }

  TEST_CASE("DriverCore: a level ends when the mean of as many episodes that began at it is good enough") {
    auto options = Run::options();  // 2 episodes
    options.levels = {.count = 3, .advance_at = 10.0, .episodes = 2};
    options.stop.episode_return_mean = 5.0;
    Run run(options);
    const auto level = [](const Outputs& outputs) {
      const auto* command = sent<wire::CommandT>(outputs);
      return command == nullptr ? -1 : static_cast<int>(command->level);
    };
    CHECK(level(run.learner_forms()) == 0);
    CHECK(level(run.report(1, 0, 50.0)) == 0);   // one episode of two
    CHECK(level(run.report(2, 0, -31.0)) == 0);  // mean 9.5
    const Outputs up = run.report(3, 0, 51.0);   // 10
    CHECK(level(up) == 1);
    REQUIRE(event(up, "curriculum") != nullptr);
    CHECK(event(up, "curriculum")->text == "level 1 of 0 to 2 after iteration 3: the mean return was 10.0");
    CHECK(level(run.report(4, 0, 99.0, 0)) == 1);  // it began before
    CHECK(level(run.report(5, 0, 99.0, 1)) == 1);
    CHECK(run.core.levels().returns().size() == 1);
    CHECK(level(run.report(6, 0, 99.0, 1)) == 2);
    // The stop criterion counts at the last level alone.
    CHECK(find<DriverCore::Save>(run.report(7, 0, 99.0, 1)) == nullptr);
    CHECK(find<DriverCore::Save>(run.report(8, 0, 4.0, 2)) == nullptr);
    CHECK(find<DriverCore::Save>(run.report(9, 0, 6.0, 2)) != nullptr);
    CHECK(run.core.levels().level() == 2);  // there is no other
  }

  TEST_CASE("DriverCore: a level's last episodes are those by environment, in whatever order runners bring them") {
    DriverCore::Options options = Run::options();
    options.levels = {.count = 2, .advance_at = 10.0, .episodes = 3};
    Run run(options);
    run.learner_forms();
    // By environment 0 | 5 -9 | 40: the last three have the mean 12. As they come they are 5 0 -9.
    run.report_episodes(1, {{40, 1, 2, 0}, {5, 1, 1, 0}, {0, 1, 0, 0}, {-9, 1, 1, 0}});
    CHECK(run.core.levels().level() == 1);
  }

  TEST_CASE("DriverCore: time_total_s acts at the next report") {
    auto options = Run::options();
    options.stop.time_total_s = 60;
    Run run(options);
    run.learner_forms();
    run.report(1);
    run.now += std::chrono::seconds(60);
    run.step(DriverCore::Tick{});
    CHECK(run.core.finishing());
    CHECK(find<DriverCore::Save>(run.report(2)) != nullptr);
  }

  TEST_CASE("DriverCore: time_total_s counts what was spent before the resume, to the moment") {
    using std::chrono::milliseconds;
    DriverCore::Options options = Run::options();
    options.stop.time_total_s = 100;
    options.time_total_s = 70;
    options.training_iteration = 4;
    Run run(options);  // at 1 s: 100 s of it are over at 31 s
    run.learner_forms();
    run.now = milliseconds(30'900);
    run.step(DriverCore::Tick{});  // the next repeat is at 31.15 s
    CHECK_FALSE(run.core.finishing());
    CHECK(run.core.next_timer() == milliseconds(31'000));
    run.now = milliseconds(31'000);
    run.step(DriverCore::Tick{});
    CHECK(run.core.finishing());
    CHECK(run.core.time_total_s(run.now) == 100);
  }

  TEST_CASE("DriverCore: checkpoints are of the iterations that checkpoint_frequency divides, resumed or not") {
    DriverCore::Options options = Run::options();
    options.checkpoint_frequency = 2;
    options.training_iteration = 3;
    Run run(options);
    run.learner_forms();
    CHECK(find<DriverCore::Save>(run.report(4)) != nullptr);
    run.complete_save(1);
    CHECK(find<DriverCore::Save>(run.report(5)) == nullptr);
    CHECK(find<DriverCore::Save>(run.report(6)) != nullptr);
  }

  TEST_CASE("DriverCore: a checkpoint that a learner wrote of another iteration is not committed") {
    DriverCore::Options options = Run::options();
    options.checkpoint_frequency = 1;
    for (const uint64_t iteration : {1u, 2u, 3u}) {
      CAPTURE(iteration);
      Run run(options);
      run.learner_forms();
      run.report(1);
      run.complete_save(1);
      run.report(2);
      run.step(DriverCore::Saved{CheckpointWriter::Prepared{"checkpoints/.partial"}});
      wire::CheckpointDoneT done;
      done.sequence = 2;
      done.training_iteration = iteration;
      CHECK((find<DriverCore::Save>(run.receive(std::move(done))) != nullptr) == (iteration == 2));
    }
  }

  TEST_CASE("DriverCore: a repeated report counts once") {
    Run run(Run::options());
    run.learner_forms();
    run.report(1, 10);
    CHECK(run.report(1, 10).empty());  // LearnerGroup drops it
    CHECK(run.report(3, 30).empty());  // and what cannot be
    CHECK(run.core.episodes_lifetime() == 1);
    CHECK(run.core.training_iteration() == 1);
    CHECK(sent<wire::CommandT>(run.report(2, 20))->until == 3);
    CHECK(run.core.episodes_lifetime() == 2);
  }

  TEST_CASE("DriverCore: the first Ctrl-C saves and stops, the second ends at once") {
    Run run(Run::options());
    run.learner_forms();
    run.report(1);
    CHECK(find<DriverCore::Finished>(run.step(DriverCore::Interrupted{})) == nullptr);
    CHECK(find<DriverCore::Save>(run.report(2)) != nullptr);
    run.now += DriverCore::kSameInterrupt;
    const Outputs second = run.step(DriverCore::Interrupted{});
    CHECK(find<DriverCore::KillAll>(second) != nullptr);
    REQUIRE(find<DriverCore::Finished>(second) != nullptr);
    CHECK(find<DriverCore::Finished>(second)->exit == Exit::interrupted);
  }

  TEST_CASE("DriverCore: Ctrl-C before the first iteration has nothing to save") {
    Run run(Run::options());
    run.learner_forms();
    CHECK(find<DriverCore::Finished>(run.step(DriverCore::Interrupted{})) != nullptr);
  }

  TEST_CASE("DriverCore: two interrupts within a moment are one; a second of those that come in pairs is none") {
    Run run(Run::options());
    run.learner_forms();
    run.report(1);
    CHECK(event(run.step(DriverCore::Interrupted{}), "interrupt") != nullptr);
    run.now += std::chrono::milliseconds(5);
    CHECK(run.step(DriverCore::Interrupted{}).empty());
    run.now += DriverCore::kSameInterrupt;
    CHECK(run.step(DriverCore::Interrupted{.may_hurry = false}).empty());
    CHECK(find<DriverCore::Finished>(run.step(DriverCore::Interrupted{})) != nullptr);
  }

  TEST_CASE("DriverCore: an interrupted run whose data do not come is cut: its learners' last epoch is saved") {
    Run run(Run::options());
    run.everybody();
    run.report(1, 100);
    run.step(DriverCore::Interrupted{});
    CHECK(sent<wire::GroupOrderT>(run.wait(DriverCore::kFinish - DriverCore::kRetry)) == nullptr);
    const Outputs cut = run.wait(2 * DriverCore::kRetry);
    REQUIRE(sent<wire::GroupOrderT>(cut) != nullptr);
    CHECK_FALSE(sent<wire::GroupOrderT>(cut)->form);
    CHECK(stop_peers(cut) == std::vector<std::string>{"agent-0.0", "agent-1.0"});
    CHECK(find<DriverCore::Save>(run.learner_follows(2, 1, 100)) != nullptr);
    const Outputs asked = run.step(DriverCore::Saved{CheckpointWriter::Prepared{"checkpoints/.partial"}});
    REQUIRE(sent<wire::CommandT>(asked) != nullptr);
    CHECK(sent<wire::CommandT>(asked)->at_once);
    CHECK(stop_peers(run.complete_save(1, 2)) == std::vector<std::string>{"learner-0"});
    Outputs outputs;
    const auto* finished = run.finish(outputs);
    REQUIRE(finished != nullptr);
    CHECK(finished->exit == Exit::interrupted);
    CHECK(run.core.newest_is_saved());
  }

  TEST_CASE("DriverCore: updates of an iteration that did not end are one, when the run is cut") {
    Run run(Run::options());
    run.everybody();
    run.report(1, 100);
    run.quarantine(0, "SIGSEGV");
    run.quarantine(1, "SIGSEGV");
    const Outputs last = run.learner_follows(2, 1, 160);
    REQUIRE(find<DriverCore::Report>(last) != nullptr);
    CHECK(find<DriverCore::Report>(last)->report.training_iteration == 2);
    CHECK(run.core.env_steps() == 160);
    CHECK(event(last, "report-lost") == nullptr);
    REQUIRE(find<DriverCore::Save>(last) != nullptr);
    CHECK(std::get<CheckpointWriter::Prepare>(find<DriverCore::Save>(last)->input).training_iteration == 2);
  }

  TEST_CASE("DriverCore: learners whose updates fail are saved as they are, and end the run in their words") {
    Run run(Run::options());
    run.everybody();
    run.report(1, 100);
    run.receive(
        process_error(Error(Exit::internal, "diverged", "3 updates in a row had a gradient that is not finite")));
    wire::LearnerStatusT broken;
    broken.stage = wire::LearnerStage::formed;
    broken.version = broken.num_parts = 1;
    broken.parts = {0};
    broken.broken = "3 updates in a row had a gradient that is not finite";
    CHECK(sent<wire::GroupOrderT>(run.receive(std::move(broken))) != nullptr);
    const Outputs cut = run.learner_follows(2, 1, 100);
    CHECK(find<DriverCore::Save>(cut) == nullptr);
    CHECK(find<DriverCore::Save>(run.learner_follows(3, 1, 100)) != nullptr);
    CHECK(stop_peers(run.complete_save(1, 3)) == std::vector<std::string>{"learner-0"});
    Outputs outputs;
    const auto* finished = run.finish(outputs);
    REQUIRE(finished != nullptr);
    CHECK(finished->exit == Exit::internal);
    CHECK(finished->error_code == "diverged");
    CHECK_FALSE(finished->goes_on);
    CHECK(run.core.newest_is_saved());
  }

  TEST_CASE("DriverCore: runners that are lost end the run with their cause, after a last checkpoint") {
    Run run(Run::options());
    run.everybody();
    run.report(1);
    run.quarantine(0, "SIGSEGV");
    CHECK(sent<wire::GroupOrderT>(run.quarantine(1, "SIGSEGV")) != nullptr);
    CHECK(run.quarantine(1, "SIGSEGV").size() == 1);  // it is told to stop, again
    run.learner_follows(2, 1, 0);
    run.complete_save(1, 2);
    Outputs outputs;
    const auto* finished = run.finish(outputs);
    REQUIRE(finished != nullptr);
    CHECK(finished->error_code == "runners-lost");
    CHECK(finished->exit == Exit::environment);
    CHECK(run.core.newest_is_saved());
  }

  TEST_CASE("DriverCore: a run whose learner is lost amid its last save ends unsaved, with what ended it") {
    Run run(Run::options());
    run.everybody();
    run.report(1);
    run.quarantine(0, "SIGSEGV");
    run.quarantine(1, "SIGSEGV");
    CHECK(stop_peers(run.step(DriverCore::LearnerExited{0, 0, "SIGKILL"})).empty());
    Outputs outputs;
    run.step(DriverCore::AgentExited{0, 0, "exit status 0"});
    outputs = run.step(DriverCore::AgentExited{1, 0, "exit status 0"});
    const auto* finished = find<DriverCore::Finished>(outputs);
    REQUIRE(finished != nullptr);
    CHECK(finished->error_code == "runners-lost");
    CHECK_FALSE(run.core.newest_is_saved());
  }

  TEST_CASE("DriverCore: learners that do not form their last epoch are not waited for") {
    Run run(Run::options());
    run.everybody();
    run.report(1);
    run.step(DriverCore::Interrupted{});
    run.wait(DriverCore::kFinish);
    CHECK(stop_peers(run.wait(std::chrono::seconds(9))).empty());  // it is killed when it is silent for 10 s
    bool stopped = false;
    for (int i = 0; i < 60 && !stopped; ++i) {
      run.learner_status(wire::LearnerStage::leaving);
      stopped = !stop_peers(run.wait(std::chrono::seconds(1))).empty();
    }
    CHECK(stopped);
  }

  TEST_CASE("DriverCore: time_total_s ends a run to which no data come") {
    auto options = Run::options();
    options.stop.time_total_s = 25;
    Run run(options);
    run.everybody();
    run.report(1);
    CHECK(sent<wire::GroupOrderT>(run.wait(std::chrono::seconds(23))) == nullptr);
    CHECK(sent<wire::GroupOrderT>(run.wait(std::chrono::seconds(2))) != nullptr);
  }

  TEST_CASE("DriverCore: fragments that arrive have a minute to become the last iteration of time_total_s") {
    auto options = Run::options();
    options.stop.time_total_s = 25;
    Run run(options);
    run.everybody();
    run.report(1);
    const auto data_come = [&](Time time) {
      Outputs all;
      for (const Time until = run.now + time; run.now < until;) {
        wire::AgentStatusT status = Run::status(0);
        status.fragments = static_cast<uint64_t>(run.now.count());
        run.receive(std::move(status), Run::peer(0, 0));
        for (auto& output : run.wait(std::chrono::seconds(1))) all.push_back(std::move(output));
      }
      return all;
    };
    CHECK(sent<wire::GroupOrderT>(data_come(std::chrono::seconds(80))) == nullptr);
    CHECK(sent<wire::GroupOrderT>(data_come(std::chrono::seconds(10))) != nullptr);
  }

  TEST_CASE("DriverCore: that no data come is told after 30 s, then after twice as long, with what is missing") {
    Run run(Run::options());
    run.learner_forms();
    run.agent_hello(0);
    const Outputs first = run.wait(std::chrono::seconds(31));
    REQUIRE(event(first, "waiting") != nullptr);
    CHECK(event(first, "waiting")->text.starts_with("no data for 30 s: host agents 1/2;"));
    CHECK(event(run.wait(std::chrono::seconds(28)), "waiting") == nullptr);
    CHECK(event(run.wait(std::chrono::seconds(3)), "waiting") != nullptr);
  }

  TEST_CASE("DriverCore: checkpoint_interval makes a checkpoint at the first report after it") {
    DriverCore::Options options = Run::options();
    options.checkpoint_interval = std::chrono::seconds(300);
    Run run(options);
    run.learner_forms();
    run.now += std::chrono::seconds(299);
    CHECK(find<DriverCore::Save>(run.report(1)) == nullptr);
    run.now += std::chrono::seconds(1);
    CHECK(find<DriverCore::Save>(run.report(2)) != nullptr);
    run.complete_save(1);
    CHECK(find<DriverCore::Save>(run.report(3)) == nullptr);
  }

  TEST_CASE("DriverCore: another protocol version is refused with both numbers") {
    Run run(Run::options());
    const Outputs outputs = run.learner_hello(kProtocolVersion + 1);
    CHECK(find<DriverCore::KillAll>(outputs) != nullptr);
    Outputs last;
    const auto* finished = run.finish(last);
    REQUIRE(finished != nullptr);
    CHECK(finished->error_code == "version-skew");
    CHECK(finished->exit == Exit::usage);
  }

  TEST_CASE("DriverCore: an agent is welcomed once the learner listens, with its slots and where to send") {
    Run run(Run::options());
    run.learner_hello();
    CHECK(run.agent_hello(1).empty());
    run.learner_hello(kProtocolVersion, "ipc://learner");
    CHECK(run.agent_hello(1).empty());
    const Outputs called = run.learner_status(wire::LearnerStage::called);
    REQUIRE(sent<wire::GroupOrderT>(called) != nullptr);
    CHECK(sent<wire::GroupOrderT>(called)->form);
    CHECK(run.agent_hello(1).empty());
    CHECK(sent<wire::CommandT>(run.learner_status(wire::LearnerStage::formed)) != nullptr);
    const Outputs outputs = run.agent_hello(1);
    const auto* welcome = sent<wire::AgentWelcomeT>(outputs);
    REQUIRE(welcome != nullptr);
    CHECK(welcome->agent == 1);
    CHECK(welcome->config == "seed = 1");
    CHECK(welcome->first_slot == 2);
    CHECK(welcome->num_slots == 2);
    CHECK(welcome->learner_endpoint == "ipc://learner");
    CHECK(welcome->weights_endpoint.empty());
    const auto* state = told_learner(outputs);
    REQUIRE(state != nullptr);
    CHECK((state->agent == 1 && state->incarnation == 0 && state->up && state->first_slot == 2));
    CHECK(run.core.fleet().counts().hosts == 1);
    CHECK(run.core.fleet().counts().running == 2);                    // it starts them now
    CHECK(sent<wire::AgentWelcomeT>(run.agent_hello(1)) != nullptr);  // the first one may have been lost
    CHECK(event(outputs, "agent-joined") == nullptr);
  }

  TEST_CASE("DriverCore: runner slots are split evenly, none twice") {
    auto options = Run::options();
    options.fleet.num_slots = 10;
    options.fleet.agents.num_slots = 4;
    Run run(options);
    run.learner_forms();
    uint32_t next = 0;
    for (uint32_t agent = 0; agent < 4; ++agent) {
      const Outputs outputs = run.agent_hello(agent);
      CHECK(sent<wire::AgentWelcomeT>(outputs)->first_slot == next);
      CHECK(sent<wire::AgentWelcomeT>(outputs)->num_slots == (agent % 2 == 0 ? 2 : 3));
      next += sent<wire::AgentWelcomeT>(outputs)->num_slots;
    }
    CHECK(next == 10);
  }

  TEST_CASE("DriverCore: an agent that ends is down at the learner and comes again with the next incarnation") {
    Run run(Run::lenient());
    run.everybody();
    auto status = Run::status(0);
    status.restarts = 3;
    run.receive(status, Run::peer(0, 0));
    CHECK(run.core.fleet().counts().restarts == 3);
    const Outputs outputs = run.step(DriverCore::AgentExited{0, 0, "SIGSEGV"});
    CHECK((told_learner(outputs)->agent == 0 && !told_learner(outputs)->up));
    REQUIRE(find<DriverCore::SpawnAgent>(outputs) != nullptr);
    CHECK(find<DriverCore::SpawnAgent>(outputs)->incarnation == 1);
    CHECK(event(outputs, "agent-down")->text == "host agent 0 ended: SIGSEGV; restarted");
    CHECK(run.core.fleet().counts().hosts == 1);
    CHECK(run.core.fleet().counts().restarts == 5);  // and the two runners that are started anew
    CHECK(run.agent_hello(0, 0).empty());            // a late word of the one that ended
    CHECK(sent<wire::AgentWelcomeT>(run.agent_hello(0, 1))->incarnation == 1);
  }

  TEST_CASE("DriverCore: an agent without a word for 10 s is killed") {
    Run run(Run::lenient());
    run.everybody();
    run.now += Fleet::kAgentTimeout;
    run.receive(Run::status(1), Run::peer(1, 0));
    CHECK(run.core.next_timer() <= run.now);
    const Outputs outputs = run.step(DriverCore::Tick{});
    REQUIRE(find<DriverCore::KillAgent>(outputs) != nullptr);
    CHECK(find<DriverCore::KillAgent>(outputs)->agent == 0);
    CHECK(find<DriverCore::KillAgent>(outputs)->signal == SIGKILL);
    CHECK(count<DriverCore::KillAgent>(outputs) == 1);
    CHECK(event(outputs, "agent-hung") != nullptr);
  }

  TEST_CASE("DriverCore: a preempted agent is down when it says it leaves, and comes again without a crash counted") {
    Run run(Run::options());  // one crash would quarantine it
    run.everybody();
    auto status = Run::status(1);
    status.leaving = true;
    const Outputs left = run.receive(status, Run::peer(1, 0));
    CHECK(event(left, "agent-left") != nullptr);
    CHECK(!told_learner(left)->up);
    CHECK(run.receive(status, Run::peer(1, 0)).empty());
    const Outputs outputs = run.step(DriverCore::AgentExited{1, 0, "exit status 75", true});
    REQUIRE(find<DriverCore::SpawnAgent>(outputs) != nullptr);
    CHECK(find<DriverCore::SpawnAgent>(outputs)->incarnation == 1);
    // Its last status may have been lost.
    CHECK(find<DriverCore::SpawnAgent>(run.step(DriverCore::AgentExited{0, 0, "exit status 75", true})) != nullptr);
  }

  TEST_CASE("DriverCore: launcher none spawns nothing; agents from outside take the places in order") {
    Run run(Run::from_outside());
    run.learner_forms();
    const Outputs first = run.hello_from("join-a");
    CHECK(sent<wire::AgentWelcomeT>(first)->agent == 0);
    CHECK(event(first, "agent-joined")->text == "host agent 0 joined from node7");
    CHECK(sent<wire::AgentWelcomeT>(run.hello_from("join-b"))->agent == 1);
    CHECK(sent<wire::AgentWelcomeT>(run.hello_from("join-a"))->agent == 0);  // asked again: the same
    const Outputs third = run.hello_from("join-c");
    CHECK(sent<wire::AgentWelcomeT>(third) == nullptr);
    CHECK(event(third, "agent-refused") != nullptr);
    CHECK(run.hello_from("join-c").empty());  // told once, not at each of its tries
    CHECK(count<DriverCore::SpawnAgent>(run.step(DriverCore::Start{})) == 0);
  }

  TEST_CASE("DriverCore: a place whose agent from outside fell silent is taken by the next, one incarnation on") {
    auto options = Run::from_outside();
    options.fleet.runner_states.assign(4, SharedBytes::of(std::vector<std::byte>(8)));
    Run run(options);
    run.learner_forms();
    run.hello_from("join-a");
    run.hello_from("join-b");
    run.now += Fleet::kAgentTimeout / 2;
    run.receive(Run::status(0), "join-a");
    run.now += Fleet::kAgentTimeout / 2;
    CHECK(run.core.next_timer() <= run.now);
    const Outputs lost = run.step(DriverCore::Tick{});
    CHECK(event(lost, "agent-lost") != nullptr);
    CHECK((told_learner(lost)->agent == 1 && !told_learner(lost)->up));
    const Outputs outputs = run.hello_from("join-c");
    CHECK(sent<wire::AgentWelcomeT>(outputs)->agent == 1);
    CHECK(sent<wire::AgentWelcomeT>(outputs)->incarnation == 1);
    CHECK((told_learner(outputs)->incarnation == 1 && told_learner(outputs)->up));
    // The one given up was only slow: it must not go on beside the other.
    CHECK(stop_peers(run.receive(Run::status(1), "join-b")) == std::vector<std::string>{"join-b"});
    CHECK(sent<wire::AgentWelcomeT>(run.hello_from("join-b")) == nullptr);  // nor take its old place again
    CHECK(run.core.fleet().counts().hosts == 2);
  }

  TEST_CASE("DriverCore: an agent from outside that leaves or fails frees its place, and the run goes on") {
    Run run(Run::from_outside());
    run.learner_forms();
    run.hello_from("join-a");
    auto status = Run::status(0);
    status.leaving = true;
    CHECK(!told_learner(run.receive(status, "join-a"))->up);
    CHECK(sent<wire::AgentWelcomeT>(run.hello_from("join-b"))->incarnation == 1);
    const Outputs failed = run.error("join-b", UINT32_MAX, Exit::usage, "no simulator here");
    CHECK(!told_learner(failed)->up);
    CHECK(stop_peers(failed).empty());
    CHECK(sent<wire::AgentWelcomeT>(run.hello_from("join-c"))->incarnation == 2);
  }

  TEST_CASE("DriverCore: beside the driver's own agents only a place given up is free") {
    Run run(Run::options());
    run.everybody();
    CHECK(sent<wire::AgentWelcomeT>(run.hello_from("join-a")) == nullptr);
    run.step(DriverCore::AgentExited{1, 0, "SIGKILL"});  // one crash: quarantined
    const Outputs outputs = run.hello_from("join-a");
    REQUIRE(sent<wire::AgentWelcomeT>(outputs) != nullptr);
    CHECK(sent<wire::AgentWelcomeT>(outputs)->agent == 1);
    CHECK(sent<wire::AgentWelcomeT>(outputs)->incarnation == 1);
    // With somebody in it, the run does not end when the other place is given up.
    CHECK(stop_peers(run.step(DriverCore::AgentExited{0, 0, "SIGKILL"})).empty());
  }

  TEST_CASE("DriverCore: an agent from outside with another protocol is turned away, one of ours ends the run") {
    Run run(Run::from_outside());
    run.learner_forms();
    const Outputs away = run.hello_from("join-a", Fleet::kAnyPlace, 0, kProtocolVersion + 1);
    CHECK(stop_peers(away) == std::vector<std::string>{"join-a"});
    CHECK(sent<wire::AgentWelcomeT>(run.hello_from("join-b")) != nullptr);
    Run ours(Run::options());
    ours.learner_forms();
    CHECK(sent<wire::StopT>(ours.agent_hello(0, 0, kProtocolVersion + 1)) != nullptr);
  }

  TEST_CASE("DriverCore: the weights go down a tree of agents; who is fed by one that is not up asks the learner") {
    auto options = Run::lenient();
    options.fleet.num_slots = options.fleet.agents.num_slots = 7;
    options.fleet.weights_fanout = 2;
    Run run(options);
    run.learner_forms();
    for (uint32_t agent = 0; agent < 2; ++agent) {
      CHECK(sent<wire::AgentWelcomeT>(run.agent_hello(agent))->weights_endpoint.empty());
      auto status = Run::status(agent);
      status.weights_endpoint = fmt::format("ipc://weights-{}", agent);
      run.receive(status, Run::peer(agent, 0));
    }
    const auto source = [&](uint32_t agent) {
      const Outputs outputs = run.agent_hello(agent);
      const auto* welcome = sent<wire::AgentWelcomeT>(outputs);
      return welcome == nullptr ? "not yet" : welcome->weights_endpoint;
    };
    CHECK(source(2) == "ipc://weights-0");
    CHECK(source(3) == "ipc://weights-0");
    CHECK(source(4) == "ipc://weights-1");
    CHECK(source(5) == "ipc://weights-1");
    CHECK(source(6) == "not yet");  // of agent 2, which has not said where
    run.now += Fleet::kRelayGrace;
    CHECK(source(6).empty());
    auto status = Run::status(2);
    status.weights_endpoint = "ipc://weights-2";
    run.receive(status, Run::peer(2, 0));
    run.step(DriverCore::AgentExited{6, 0, "SIGKILL"});
    run.agent_hello(6, 1);
    CHECK(sent<wire::AgentWelcomeT>(run.agent_hello(6, 1))->weights_endpoint == "ipc://weights-2");
  }

  TEST_CASE("DriverCore: what agents say goes to the events, of peers it does not know nothing does") {
    Run run(Run::options());
    run.everybody();
    wire::EventT said;
    said.kind = "runner-down";
    said.text = "runner 3 ended: SIGSEGV; restarted";
    CHECK(event(run.receive(said, Run::peer(1, 0)), "runner-down")->text == said.text);
    CHECK(run.receive(said, "somebody").empty());
    CHECK(run.error("somebody", 3, Exit::usage, "stop everything").empty());
    auto status = Run::status(0);  // in another's name
    status.quarantined = 2;
    CHECK(told_learner(run.receive(status, Run::peer(1, 0))) == nullptr);
    CHECK(run.core.fleet().counts().quarantined == 0);
    CHECK(run.receive(wire::IterationReportT{}, Run::peer(1, 0)).empty());
  }

  TEST_CASE("DriverCore: when every runner of every agent is quarantined the run ends with the last cause") {
    Run run(Run::options());
    run.everybody();
    CHECK(stop_peers(run.quarantine(0, "SIGSEGV")).empty());
    CHECK(sent<wire::StopT>(run.quarantine(1, "SIGABRT"))->reason ==
          "every runner slot is quarantined; the last cause: SIGABRT");
    Outputs outputs;
    const auto* finished = run.finish(outputs);
    REQUIRE(finished != nullptr);
    CHECK(finished->exit == Exit::environment);
    CHECK(finished->error_code == "runners-lost");
  }

  TEST_CASE("DriverCore: ... and with the runner's own words and exit code where it had some") {
    Run run(Run::options());
    run.everybody();
    run.quarantine(0, "SIGSEGV");
    run.error(Run::peer(1, 0), 3, Exit::environment, "reward is not finite");
    CHECK(sent<wire::StopT>(run.quarantine(1, "error[env-contract] reward is not finite"))->reason ==
          "reward is not finite");
    Outputs outputs;
    const auto* finished = run.finish(outputs);
    REQUIRE(finished != nullptr);
    CHECK(finished->exit == Exit::environment);
    CHECK(finished->error_code == "env-contract");
  }

  TEST_CASE("DriverCore: a runner's failure that no other process mends ends the run in its words") {
    for (const bool ends_run : {false, true}) {
      Run run(Run::options());
      run.everybody();
      wire::ProcessErrorT error = process_error(Error(Exit::environment, "env-exception", "the joint came off"));
      error.slot = 3;
      error.ends_run = ends_run;
      const Outputs outputs = run.receive(std::move(error), Run::peer(1, 0));
      const auto* stop = sent<wire::StopT>(outputs);
      REQUIRE((stop != nullptr) == ends_run);
      if (ends_run) CHECK(stop->reason == "the joint came off");
    }
  }

  TEST_CASE("DriverCore: a run is saved and ends when more episodes fail than may, of 100 or more") {
    const auto reported = [](Run& run, uint64_t iteration, size_t finished, double failed) {
      wire::IterationReportT report;
      report.training_iteration = iteration;
      report.episodes.assign(finished, wire::Episode(1, 1, 0, 0));
      report.metrics.push_back(std::make_unique<wire::KeyValueT>());
      report.metrics.back()->key = "num_env_failures/nan";
      report.metrics.back()->value = failed;
      return run.receive(std::move(report));
    };
    DriverCore::Options options = Run::options();
    options.max_failed_episodes = 0.5;
    Run run(options);
    run.everybody();
    wire::EventT event;
    event.kind = "env-failure";
    event.text = "runner 2: the joint came off";
    run.receive(std::move(event), Run::peer(1, 0));
    CHECK(find<DriverCore::Save>(reported(run, 1, 9, 90)) == nullptr);   // 99 in all: too few to judge
    CHECK(find<DriverCore::Save>(reported(run, 2, 91, 10)) == nullptr);  // 10 of the last 101
    CHECK(find<DriverCore::Save>(reported(run, 3, 100, 0)) == nullptr);
    CHECK(find<DriverCore::Save>(reported(run, 4, 20, 30)) == nullptr);  // 30 of the last 150
    const Outputs outputs = reported(run, 5, 20, 80);
    REQUIRE(find<DriverCore::Save>(outputs) != nullptr);
    run.complete_save(1);
    Outputs rest;
    const auto* finished = run.finish(rest);
    REQUIRE(finished != nullptr);
    CHECK(finished->exit == Exit::environment);
    CHECK(finished->error_code == "episodes-failed");
    CHECK(finished->reason ==
          "80 of the last 100 episodes failed, more than fault_tolerance.max_failed_episodes = 0.5 lets; one was: "
          "runner 2: the joint came off");
  }

  TEST_CASE("DriverCore: a place nobody holds yet keeps a run of launcher none going") {
    Run run(Run::from_outside());
    run.learner_forms();
    run.hello_from("join-a");
    auto status = Run::status(0);
    status.quarantined = 2;
    CHECK(stop_peers(run.receive(status, "join-a")).empty());
  }

  TEST_CASE("DriverCore: a runner's mistake that restarting cannot mend ends the run at once") {
    Run run(Run::lenient());
    run.everybody();
    CHECK(sent<wire::StopT>(run.error(Run::peer(0, 0), 1, Exit::usage, "no asset humanoid.xml"))->reason ==
          "no asset humanoid.xml");
  }

  TEST_CASE("DriverCore: last words belong to the process that said them") {
    Run run(Run::lenient());
    run.everybody();
    run.error(Run::peer(0, 0), UINT32_MAX, Exit::environment, "zygote is gone");
    CHECK(event(run.step(DriverCore::AgentExited{1, 0, "SIGKILL"}), "agent-down")->text ==
          "host agent 1 ended: SIGKILL; restarted");
    CHECK(event(run.step(DriverCore::AgentExited{0, 0, "exit status 3"}), "agent-down")->text ==
          "host agent 0 ended: error[env-contract] zygote is gone; restarted");
    const Outputs stop = run.step(DriverCore::LearnerExited{0, 0, "SIGKILL"});
    CHECK(count<DriverCore::KillAgent>(stop) == 2);  // respawned, without a hello: nothing to drain
    run.step(DriverCore::AgentExited{0, 1, "SIGKILL"});
    const Outputs finished = run.step(DriverCore::AgentExited{1, 1, "SIGKILL"});
    CHECK(find<DriverCore::Finished>(finished)->reason == "learner 0 ended: SIGKILL");
  }

  TEST_CASE("DriverCore: an agent's own mistake that restarting cannot mend ends the run without a respawn") {
    Run run(Run::lenient());
    run.everybody();
    run.error(Run::peer(0, 0), UINT32_MAX, Exit::usage, "keys are missing");
    const Outputs outputs = run.step(DriverCore::AgentExited{0, 0, "exit status 2"});
    CHECK(sent<wire::StopT>(outputs)->reason == "keys are missing");
    CHECK(count<DriverCore::SpawnAgent>(outputs) == 0);
  }

  TEST_CASE("DriverCore: when every agent is given up the run ends") {
    Run run(Run::options());
    run.everybody();
    CHECK(stop_peers(run.step(DriverCore::AgentExited{0, 0, "SIGKILL"})).empty());
    CHECK(sent<wire::StopT>(run.step(DriverCore::AgentExited{1, 0, "SIGSEGV"}))->reason ==
          "every host agent is given up; the last cause: SIGSEGV");
    const Outputs finished = run.step(DriverCore::LearnerExited{0, 0, "exit status 0"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK(find<DriverCore::Finished>(finished)->error_code == "agents-lost");
  }

  TEST_CASE("DriverCore: with keys only a learner may be the learner") {
    Run run(Run::options());
    wire::LearnerHelloT hello;
    hello.protocol = kProtocolVersion;
    Message message = make_message(std::move(hello));
    message.run = kRun;
    message.epoch = 1;
    CHECK(run.step(DriverCore::Received{"learner-0", message, "agent-3"}).empty());
    CHECK(sent<wire::LearnerWelcomeT>(run.step(DriverCore::Received{"learner-0", message, "learner-0"})) != nullptr);
    CHECK(run.step(DriverCore::Received{"learner-1", message, "learner-0"}).empty());  // there is one
  }

  TEST_CASE("DriverCore: when no agent can be started the run ends for want of a resource") {
    Run run(Run::options());
    run.learner_forms();
    run.step(DriverCore::SpawnFailed{0, 0, 0, "fork: Resource temporarily unavailable"});
    const Outputs stop = run.step(DriverCore::SpawnFailed{1, 0, 0, "fork: Resource temporarily unavailable"});
    REQUIRE(sent<wire::StopT>(stop) != nullptr);
    const Outputs finished = run.step(DriverCore::LearnerExited{0, 0, "exit 0"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK(find<DriverCore::Finished>(finished)->exit == Exit::resource);
  }

  TEST_CASE("DriverCore: a lost learner ends the run, and says so") {
    Run run(Run::options());
    run.learner_forms();
    run.step(DriverCore::LearnerExited{0, 0, "SIGKILL"});
    run.step(DriverCore::AgentExited{0, 0, "exit status 0"});
    const Outputs finished = run.step(DriverCore::AgentExited{1, 0, "exit status 0"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK(find<DriverCore::Finished>(finished)->error_code == "learner-lost");
    CHECK(find<DriverCore::Finished>(finished)->exit == Exit::internal);
    CHECK_FALSE(find<DriverCore::Finished>(finished)->goes_on);
  }

  TEST_CASE("DriverCore: interrupted while the processes of a run without learners end, none goes on from it") {
    DriverCore::Options options = Run::options();
    options.next_run = 9;
    options.resume_directory = "checkpoints/000000004";
    Run run(options);
    run.learner_forms();
    run.step(DriverCore::LearnerExited{0, 0, "SIGKILL"});
    run.step(DriverCore::Interrupted{});
    run.step(DriverCore::AgentExited{0, 0, "exit status 0"});
    const Outputs finished = run.step(DriverCore::AgentExited{1, 0, "exit status 0"});
    REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
    CHECK_FALSE(find<DriverCore::Finished>(finished)->goes_on);
    CHECK(find<DriverCore::Finished>(finished)->exit == Exit::interrupted);
    CHECK(find<DriverCore::Finished>(finished)->reason == "interrupted");
  }

  TEST_CASE("DriverCore: with a checkpoint and a number for it, another run goes on when all learners are lost") {
    for (const bool checkpoint : {false, true})
      for (const uint64_t next_run : {0u, 9u, 10u}) {
        CAPTURE(checkpoint);
        CAPTURE(next_run);
        DriverCore::Options options = Run::options();
        options.next_run = next_run;
        if (checkpoint) options.resume_directory = "checkpoints/000000004";
        options.last_life = next_run == 10;  // and it made none itself
        const uint64_t told = checkpoint && !options.last_life ? next_run : 0;
        Run run(options);
        run.everybody();
        const Outputs lost = run.step(DriverCore::LearnerExited{0, 0, "SIGKILL"});
        REQUIRE(sent<wire::StopT>(lost) != nullptr);
        CHECK(sent<wire::StopT>(lost)->next_run == told);
        run.step(DriverCore::AgentExited{0, 0, "exit status 0"});
        const Outputs finished = run.step(DriverCore::AgentExited{1, 0, "exit status 0"});
        REQUIRE(find<DriverCore::Finished>(finished) != nullptr);
        CHECK(find<DriverCore::Finished>(finished)->goes_on == (told != 0));
      }
  }

  TEST_CASE("DriverCore: an agent that missed the end of the life before is told of this one") {
    DriverCore::Options options = Run::options();
    options.previous_run = 77;
    Run run(options);
    const auto late = [&](auto body, uint64_t number) {
      Message message = make_message(std::move(body));
      message.run = number;
      return run.step(DriverCore::Received{"join-1", std::move(message)});
    };
    const Outputs outputs = late(wire::AgentStatusT{}, 77);
    REQUIRE(sent<wire::StopT>(outputs) != nullptr);
    CHECK(sent<wire::StopT>(outputs)->next_run == kRun);
    CHECK(find<DriverCore::Send>(outputs)->message.run == 77);
    CHECK(late(wire::AgentStatusT{}, 78).empty());
    CHECK(late(wire::LearnerStatusT{}, 77).empty());
  }

  TEST_CASE("DriverCore: commands and agents' states are repeated every 250 ms") {
    Run run(Run::lenient());
    run.everybody();
    run.step(DriverCore::AgentExited{1, 0, "SIGSEGV"});  // restarts at once, and has not said hello
    run.now += DriverCore::kRetry;
    CHECK(run.core.next_timer() <= run.now);
    const Outputs outputs = run.step(DriverCore::Tick{});
    CHECK(sent<wire::CommandT>(outputs)->until == 1);
    CHECK(sent<wire::AgentStateT>(outputs)->up);
    CHECK(!told_learner(outputs)->up);
    CHECK(told_learner(outputs)->incarnation == 0);  // of the next one nothing is known
    CHECK(count<DriverCore::Send>(outputs) == 3);
  }

  TEST_CASE("DriverCore: agents' states are repeated however quick the iterations are") {
    Run run(Run::options());
    run.everybody();
    size_t told = 0;
    for (uint64_t iteration = 1; iteration <= 10; ++iteration) {
      run.now += DriverCore::kRetry / 2;
      run.report(iteration);
      if (run.core.next_timer() > run.now) continue;
      told += told_learner(run.step(DriverCore::Tick{})) != nullptr ? 1 : 0;
    }
    CHECK(told == 5);
  }

  TEST_CASE("DriverCore: the learner hears of a place that is given up before its agent said hello") {
    Run run(Run::options());
    run.learner_forms();
    run.agent_hello(0);
    const Outputs outputs = run.step(DriverCore::AgentExited{1, 0, "SIGSEGV"});
    const auto* state = told_learner(outputs);
    REQUIRE(state != nullptr);
    CHECK(state->agent == 1);
    CHECK(state->num_slots == 2);
    CHECK(!state->up);
  }

  TEST_CASE("DriverCore: only the first agent of a place gets its runners' saved states, each in its own message") {
    auto options = Run::lenient();
    options.fleet.runner_states = {SharedBytes{}, SharedBytes{}, SharedBytes::of(std::vector<std::byte>(8)),
                                   SharedBytes::of(std::vector<std::byte>(9))};
    Run run(options);
    run.learner_forms();
    const auto states = [&](uint32_t agent, uint32_t incarnation) {
      std::vector<std::pair<uint32_t, size_t>> found;  // slot, bytes
      for (const auto& output : run.agent_hello(agent, incarnation)) {
        const auto* send = std::get_if<DriverCore::Send>(&output);
        if (send == nullptr || send->message.as<wire::AgentWelcomeT>() == nullptr) continue;
        for (SharedBytes rest = send->message.payloads.at(0); !rest.view.empty();) {
          const size_t size = packed_size(rest.view, kMaxPayloadBytes).value();
          const auto decoded = decode(*unpack({rest.owner, rest.view.first(size)}));
          const Message& message = std::get<Message>(decoded);
          CHECK(message.run == kRun);
          found.emplace_back(message.as<wire::RunnerStateT>()->slot, message.payloads.at(0).view.size());
          rest.view = rest.view.subspan(size);
        }
      }
      return found;
    };
    CHECK(states(0, 0).empty());
    CHECK(states(1, 0) == std::vector<std::pair<uint32_t, size_t>>{{2, 8}, {3, 9}});
    run.step(DriverCore::AgentExited{1, 0, "SIGSEGV"});
    CHECK(states(1, 1).empty());
  }

  TEST_CASE("DriverCore: a failed checkpoint is an event and training goes on") {
    auto options = Run::options();
    options.checkpoint_frequency = 1;
    Run run(options);
    run.learner_forms();
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
    run.learner_forms();
    run.report(1);
    run.step(DriverCore::Saved{CheckpointWriter::Prepared{"d"}});
    run.now += DriverCore::kSaveDeadline;
    const Outputs outputs = run.step(DriverCore::Tick{});
    REQUIRE(find<DriverCore::Save>(outputs) != nullptr);
    CHECK(std::holds_alternative<CheckpointWriter::Abandon>(find<DriverCore::Save>(outputs)->input));
  }

  TEST_CASE("DriverCore: who asks while the run stops is told again; who does not stop within 15 s is killed") {
    Run run(Run::options());
    run.everybody();
    run.step(DriverCore::LearnerExited{0, 0, "SIGKILL"});
    CHECK(stop_peers(run.receive(Run::status(0), Run::peer(0, 0))) == std::vector<std::string>{"agent-0.0"});
    CHECK(stop_peers(run.hello_from("join-a")) == std::vector<std::string>{"join-a"});
    run.now += DriverCore::kStopDeadline;
    CHECK(find<DriverCore::KillAll>(run.step(DriverCore::Tick{})) != nullptr);
  }

  TEST_CASE("DriverCore: agents that have not said hello are killed when the run stops") {
    auto options = Run::options();
    options.training_iteration = options.stop.training_iteration = 4;  // resumed at its end
    Run run(options);
    const Outputs stop = run.learner_forms();
    CHECK(stop_peers(stop) == std::vector<std::string>{"learner-0"});
    CHECK(count<DriverCore::KillAgent>(stop) == 2);
  }
}

}  // namespace myriad
