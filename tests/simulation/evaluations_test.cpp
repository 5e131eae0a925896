#include "roles/evaluations.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "tests/simulation/driver_harness.hpp"

namespace myriad {

using namespace driver_harness;

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// Evaluations, and the checkpoints of a run, by hand.
struct Books {
  Evaluations evaluations;
  Time now = seconds(1);

  explicit Books(const Evaluations::Options& options) : evaluations(options) {}
  static std::string directory(uint64_t iteration) { return fmt::format("checkpoints/{}", iteration); }
  Evaluations::Outputs saved(uint64_t iteration, bool last = false, double return_mean = kNone) {
    Evaluations::Outputs outputs;
    evaluations.reported(iteration, outputs);
    evaluations.saved(iteration, directory(iteration), return_mean, last, now, outputs);
    return outputs;
  }
  Evaluations::Outputs evaluated(uint64_t iteration, double return_mean, const std::string& failure = "") {
    Evaluations::Outputs outputs;
    evaluations.evaluated(iteration, return_mean, failure, now, outputs);
    return outputs;
  }
  Evaluations::Outputs tick() {
    Evaluations::Outputs outputs;
    evaluations.tick(now, outputs);
    return outputs;
  }
};

std::optional<uint64_t> begun(const Evaluations::Outputs& outputs) {
  const auto* begin = find<Evaluations::Begin>(outputs);
  return begin == nullptr ? std::nullopt : std::optional(begin->training_iteration);
}
std::string best(const Evaluations::Outputs& outputs) {
  const auto* best = find<Evaluations::NewBest>(outputs);
  return best == nullptr ? "" : best->directory;
}
std::string told(const Evaluations::Outputs& outputs) {
  const auto* event = find<Evaluations::Event>(outputs);
  return event == nullptr ? "" : event->kind + ": " + event->text;
}

DriverCore::Options every(uint64_t interval, bool parallel) {
  DriverCore::Options options = Run::options();
  options.evaluations = {.interval = interval, .parallel = parallel};
  return options;
}

}  // namespace

TEST_SUITE("driver/evaluations") {
  TEST_CASE("Improvement: the best so far, and how many came since; NaN is none of them") {
    Improvement improvement;
    CHECK(improvement.add(-5));
    CHECK_FALSE(improvement.add(-5));  // no better
    CHECK_FALSE(improvement.add(kNone));
    CHECK_FALSE(improvement.add(-6));
    CHECK(improvement == Improvement{-5, 2});
    CHECK(improvement.add(-4));
    CHECK(improvement == Improvement{-4, 0});
  }

  TEST_CASE("Evaluations: checkpoints that the interval divides are evaluated, one at a time") {
    Books books({.interval = 2});
    CHECK_FALSE(books.evaluations.wants(1));
    CHECK(begun(books.saved(1)) == std::nullopt);
    CHECK(books.evaluations.wants(2));
    CHECK(begun(books.saved(2)) == 2);
    CHECK_FALSE(books.evaluations.wants(4));
    const auto skipped = books.saved(4);
    CHECK(begun(skipped) == std::nullopt);
    CHECK(told(skipped).starts_with(
        "evaluation-skipped: iteration 4 is not evaluated: the evaluation of iteration 2 still runs."));
    CHECK(told(books.saved(6)).empty());  // counted
    CHECK(books.evaluations.num_skipped() == 2);
    books.evaluated(2, 10);
    CHECK_FALSE(books.evaluations.running());
    CHECK(begun(books.saved(8)) == 8);
  }

  TEST_CASE("Evaluations: without an interval there is none, at the end neither") {
    Books books({.interval = 0, .at_end = true});
    CHECK_FALSE(books.evaluations.wants(1));
    CHECK(books.saved(1, true).empty());
  }

  TEST_CASE("Evaluations: the last checkpoint's is begun where it is not due, after the one that runs") {
    Books due({.interval = 4, .at_end = true});
    CHECK(begun(due.saved(5, true)) == 5);
    Books books({.interval = 4, .at_end = true});
    books.saved(4);
    CHECK(begun(books.saved(5, true)) == std::nullopt);
    CHECK(books.evaluations.kept() == std::set<uint64_t>{4, 5});
    CHECK(begun(books.evaluated(4, 1)) == 5);
    CHECK(books.evaluations.running());
    CHECK(books.evaluations.kept() == std::set<uint64_t>{4, 5});  // the best, and the one that runs
    books.evaluated(5, 0);
    CHECK(books.evaluations.kept() == std::set<uint64_t>{4});
    Books not_at_end({.interval = 4});
    CHECK(begun(not_at_end.saved(5, true)) == std::nullopt);
  }

  TEST_CASE("Evaluations: the best is the checkpoint of the highest return, the earlier of two alike") {
    Books books({.interval = 1});
    books.saved(1);
    CHECK(best(books.evaluated(1, -3)) == "checkpoints/1");
    books.saved(2);
    CHECK(best(books.evaluated(2, -3)).empty());
    books.saved(3);
    CHECK(best(books.evaluated(3, -2)) == "checkpoints/3");
    CHECK(books.evaluations.best() == Evaluations::Best{3, -2});
    CHECK(books.evaluations.returns() == Improvement{-2, 0});
    CHECK(books.evaluations.kept() == std::set<uint64_t>{3});
    books.saved(4);
    CHECK(books.evaluations.kept() == std::set<uint64_t>{3, 4});
  }

  TEST_CASE("Evaluations: scored by the training's return, a checkpoint needs no evaluation; of too few it has none") {
    Books books({.scores_training = true});
    CHECK(best(books.saved(1)).empty());
    CHECK(best(books.saved(2, false, 7)) == "checkpoints/2");
    CHECK(best(books.saved(3, false, 6)).empty());
    Books both({.interval = 1, .scores_training = true});
    CHECK(best(both.saved(1, false, 1)) == "checkpoints/1");
    CHECK(best(both.evaluated(1, 100)).empty());
    CHECK(both.evaluations.best() == Evaluations::Best{1, 1, true});
    CHECK(both.evaluations.returns() == Improvement{100, 0});
  }

  TEST_CASE("Evaluations: one that takes too long is killed, told and forgotten") {
    Books books({.interval = 1, .timeout = seconds(5)});
    CHECK(books.evaluations.next_timer() == Time::max());
    books.saved(1);
    CHECK(books.evaluations.next_timer() == seconds(6));
    books.now = seconds(6) - Time(1);
    CHECK(books.tick().empty());
    books.now = seconds(6);
    const auto outputs = books.tick();
    CHECK(find<Evaluations::Kill>(outputs) != nullptr);
    CHECK(told(outputs) == "evaluation-failed: iteration 1 was not evaluated: it had not ended after 5 s");
    CHECK_FALSE(books.evaluations.running());
    CHECK(books.evaluated(1, 99).empty());  // too late
    CHECK_FALSE(books.evaluations.best().has_value());
    CHECK(books.evaluations.num_failed() == 1);
  }

  TEST_CASE("Evaluations: a failure is told where its cause is new, counted always, and no standstill") {
    Books books({.interval = 1});
    books.saved(1);
    CHECK(told(books.evaluated(1, kNone, "SIGSEGV")) == "evaluation-failed: iteration 1 was not evaluated: SIGSEGV");
    books.saved(2);
    CHECK(books.evaluated(2, kNone, "SIGSEGV").empty());
    books.saved(3);
    CHECK_FALSE(told(books.evaluated(3, kNone, "SIGFPE")).empty());
    CHECK(books.evaluations.num_failed() == 3);
    CHECK(books.evaluations.returns() == Improvement{});
    books.saved(4);
    books.evaluated(4, 1);
    books.saved(5);
    CHECK_FALSE(told(books.evaluated(5, kNone, "SIGFPE")).empty());  // there was a good one between
  }

  TEST_CASE("Evaluations: what a checkpoint knew is gone on with") {
    Books books({.interval = 2, .best = Evaluations::Best{4, 8}, .returns = {8, 3}});
    CHECK(books.evaluations.kept() == std::set<uint64_t>{4});
    CHECK(begun(books.saved(10)) == 10);
    CHECK(best(books.evaluated(10, 8)).empty());
    CHECK(books.evaluations.returns() == Improvement{8, 4});
  }

  TEST_CASE("Evaluations: another measure of the best begins with none") {
    CHECK_FALSE(Books({.scores_training = true, .best = Evaluations::Best{4, 8}}).evaluations.best().has_value());
    CHECK_FALSE(Books({.best = Evaluations::Best{4, 8, true}}).evaluations.best().has_value());
  }

  TEST_CASE("Evaluations: stopped, it kills what runs and begins nothing more") {
    Books books({.interval = 1, .at_end = true});
    books.saved(1);
    books.saved(2, true);
    Evaluations::Outputs outputs;
    books.evaluations.stop(outputs);
    CHECK(count<Evaluations::Kill>(outputs) == 1);
    CHECK_FALSE(books.evaluations.running());
    CHECK(books.evaluated(1, 5).empty());
    CHECK(books.saved(3).empty());
  }

  TEST_CASE("DriverCore: an interval of evaluations is one of checkpoints; training goes on while one is evaluated") {
    Run run(every(2, true));
    run.learner_forms();
    CHECK(find<DriverCore::Save>(run.report(1)) == nullptr);
    CHECK(find<DriverCore::Save>(run.report(2)) != nullptr);
    const Outputs saved = run.complete_save(1);
    REQUIRE(find<DriverCore::Evaluate>(saved) != nullptr);
    CHECK(find<DriverCore::Evaluate>(saved)->directory == "checkpoints/1");
    REQUIRE(sent<wire::CommandT>(saved) != nullptr);
    CHECK(sent<wire::CommandT>(saved)->until == 3);
    run.report(3);
    const Outputs skipped = run.report(4);
    CHECK(find<DriverCore::Save>(skipped) == nullptr);
    CHECK(event(skipped, "evaluation-skipped") != nullptr);
    CHECK(find<DriverCore::NewBest>(run.step(DriverCore::Evaluated{2, 12.5, ""})) != nullptr);
    run.report(5);
    CHECK(find<DriverCore::Save>(run.report(6)) != nullptr);
  }

  TEST_CASE("DriverCore: where training waits, the learners go on when the evaluation has ended, well or not") {
    for (const char* failure : {"", "SIGSEGV"}) {
      CAPTURE(failure);
      Run run(every(1, false));
      run.learner_forms();
      run.report(1);
      CHECK(sent<wire::CommandT>(run.complete_save(1)) == nullptr);
      run.now += seconds(1);
      const Outputs repeated = run.step(DriverCore::Tick{});
      CHECK(sent<wire::CommandT>(repeated)->until == 1);  // nothing new
      CHECK(sent<wire::CommandT>(run.step(DriverCore::Evaluated{1, 3, failure}))->until == 2);
    }
  }

  TEST_CASE("DriverCore: where training waits, it waits for no evaluation that hangs") {
    Run run(every(1, false));
    run.learner_forms();
    run.report(1);
    run.complete_save(1);
    run.now += std::chrono::minutes(10);
    const Outputs outputs = run.step(DriverCore::Tick{});
    CHECK(find<DriverCore::KillEvaluation>(outputs) != nullptr);
    CHECK(event(outputs, "evaluation-failed") != nullptr);
    CHECK(run.core.next_timer() > run.now);
    REQUIRE(sent<wire::CommandT>(outputs) != nullptr);
    Outputs last;
    for (const auto& output : outputs)
      if (const auto* send = std::get_if<DriverCore::Send>(&output);
          send != nullptr && send->message.as<wire::CommandT>())
        last = {output};
    CHECK(sent<wire::CommandT>(last)->until == 2);
  }

  TEST_CASE("DriverCore: evaluations_without_improvement stops where training waits at once, else at the next report") {
    for (const bool parallel : {false, true}) {
      CAPTURE(parallel);
      DriverCore::Options options = every(1, parallel);
      options.stop.evaluations_without_improvement = 2;
      Run run(options);
      run.learner_forms();
      const double returns[] = {5, 4, 5};
      Outputs outputs;
      for (uint64_t i = 1; i <= 3; ++i) {
        CHECK_FALSE(run.core.finishing());
        run.report(i);
        run.complete_save(i);
        outputs = run.step(DriverCore::Evaluated{i, returns[i - 1], ""});
      }
      if (parallel) {
        run.step(DriverCore::Tick{});
        CHECK(run.core.finishing());
        run.report(4);
        outputs = run.complete_save(4);
        run.step(DriverCore::Evaluated{4, 5, ""});  // due, too
      }
      REQUIRE(sent<wire::StopT>(outputs) != nullptr);
      CHECK(sent<wire::StopT>(outputs)->reason == "evaluations_without_improvement 2, the best return was 5.0");
    }
  }

  TEST_CASE("DriverCore: iterations_without_improvement counts from the best mean of enough episodes") {
    DriverCore::Options options = Run::options();  // 2 episodes
    options.stop.iterations_without_improvement = 2;
    options.training_return = {};
    Run run(options);
    run.learner_forms();
    run.report(1, 0, 100);  // one episode
    run.report(2, 0, 0);    // 50
    run.report(3, 0, 50);   // 25
    CHECK_FALSE(run.core.finishing());
    run.report(4, 0, 51);  // 50.5
    run.report(5, 0, 50);
    CHECK_FALSE(run.core.finishing());
    CHECK(find<DriverCore::Save>(run.report(6, 0, 50)) != nullptr);
    CHECK(sent<wire::StopT>(run.complete_save(1))->reason ==
          "iterations_without_improvement 2, the best episode_return_mean was 50.5");
  }

  TEST_CASE("DriverCore: another level of the curriculum begins another count of iterations without improvement") {
    DriverCore::Options options = Run::options();
    options.levels = {.count = 2, .advance_at = 10.0, .episodes = 1};
    options.stop.iterations_without_improvement = 2;
    Run run(options);
    run.learner_forms();
    run.report(1, 0, 9, 0);
    run.report(2, 0, 11, 0);  // the next level
    CHECK(run.core.training_return() == Improvement{});
    run.report(3, 0, 1, 1);
    run.report(4, 0, 1, 1);
    CHECK_FALSE(run.core.finishing());
    CHECK(find<DriverCore::Save>(run.report(5, 0, 1, 1)) != nullptr);
  }

  TEST_CASE("DriverCore: a run that is done ends when its last evaluation has, and not before its processes") {
    DriverCore::Options options = every(1, true);
    options.stop.training_iteration = 1;
    Run run(options);
    run.everybody();
    run.report(1);
    const Outputs saved = run.complete_save(1);
    CHECK(find<DriverCore::Evaluate>(saved) != nullptr);
    CHECK(sent<wire::StopT>(saved) != nullptr);
    Outputs outputs;
    CHECK(run.finish(outputs) == nullptr);
    const Outputs last = run.step(DriverCore::Evaluated{1, 1, ""});
    CHECK(find<DriverCore::NewBest>(last) != nullptr);
    REQUIRE(find<DriverCore::Finished>(last) != nullptr);
    CHECK(find<DriverCore::Finished>(last)->exit == Exit::ok);
  }

  TEST_CASE("DriverCore: Ctrl-C ends an evaluation, and training that waits for it") {
    for (const bool parallel : {false, true}) {
      CAPTURE(parallel);
      Run run(every(1, parallel));
      run.everybody();
      run.report(1);
      run.complete_save(1);
      const Outputs outputs = run.step(DriverCore::Interrupted{});
      CHECK(find<DriverCore::KillEvaluation>(outputs) != nullptr);
      if (parallel) {
        run.report(2);
        const Outputs saved = run.complete_save(2);
        CHECK(find<DriverCore::Evaluate>(saved) == nullptr);
        CHECK(sent<wire::StopT>(saved) != nullptr);
      } else {
        CHECK(sent<wire::StopT>(outputs) != nullptr);
      }
      Outputs last;
      REQUIRE(run.finish(last) != nullptr);
      CHECK(run.finish(last) == nullptr);
    }
  }

  TEST_CASE("DriverCore: a run that fails waits for no evaluation") {
    DriverCore::Options options = every(1, true);
    options.learners.max_failures_in_a_row = 0;
    Run run(options);
    run.everybody();
    run.report(1);
    run.complete_save(1);
    const Outputs outputs = run.step(DriverCore::LearnerExited{0, 0, "SIGKILL"});
    CHECK(find<DriverCore::KillEvaluation>(outputs) != nullptr);
  }

  TEST_CASE("DriverCore: a resumed run evaluates its checkpoint, where that is due, for the result is not in it") {
    DriverCore::Options options = every(4, false);
    options.resume_directory = "checkpoints/8";
    options.training_iteration = 8;
    DriverCore core(options);
    Outputs outputs;
    core.step(DriverCore::Start{}, Time{}, outputs);
    REQUIRE(find<DriverCore::Evaluate>(outputs) != nullptr);
    CHECK(find<DriverCore::Evaluate>(outputs)->directory == "checkpoints/8");
    Run run(options);
    CHECK(sent<wire::CommandT>(run.learner_forms()) == nullptr);
    CHECK(sent<wire::CommandT>(run.step(DriverCore::Evaluated{8, 1, ""}))->until == 9);
    options.training_iteration = 9;
    DriverCore later(options);
    outputs.clear();
    later.step(DriverCore::Start{}, Time{}, outputs);
    CHECK(find<DriverCore::Evaluate>(outputs) == nullptr);
  }

  TEST_CASE("DriverCore: the best checkpoint and the one that is evaluated are named when another one is committed") {
    DriverCore::Options options = every(1, true);
    options.checkpoint_frequency = 1;
    Run run(options);
    run.learner_forms();
    run.report(1);
    run.complete_save(1);
    run.step(DriverCore::Evaluated{1, 7, ""});
    run.report(2);
    run.complete_save(2);  // and is evaluated
    run.report(3);
    run.step(DriverCore::Saved{CheckpointWriter::Prepared{"checkpoints/.partial"}});
    wire::CheckpointDoneT done;
    done.sequence = 3;
    done.training_iteration = 3;
    const Outputs outputs = run.receive(std::move(done));
    REQUIRE(find<DriverCore::Save>(outputs) != nullptr);
    const auto* commit = std::get_if<CheckpointWriter::Commit>(&find<DriverCore::Save>(outputs)->input);
    REQUIRE(commit != nullptr);
    CHECK(commit->keep == std::set<uint64_t>{1, 2});
  }
}

}  // namespace myriad
