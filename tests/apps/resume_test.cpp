#include "apps/driver/resume.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>

#include "apps/driver/resume_check.hpp"
#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
#include "roles/checkpoint.hpp"
#include "tests/error_of.hpp"
#include "tests/simulation/driver_harness.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

using driver_harness::Run;

/// A run's.
struct RunFolder : TemporaryFolder {
  std::unique_ptr<Files> files = make_system_files("");
  RunFolder() { fs::create_directory(path / "checkpoints"); }
  fs::path checkpoint(uint64_t iteration) const { return path / "checkpoints" / fmt::format("{:09}", iteration); }
  /// As the driver and the learner make it.
  void save(uint64_t iteration, const std::string& driver = "{}") {
    CheckpointWriter writer(*files, (path / "checkpoints").string(), 9);
    const auto prepared = writer.step(CheckpointWriter::Prepare{iteration}, Time{});
    CheckpointWriter::Commit commit;
    commit.files.push_back(write_checkpoint_file(*files, std::get<CheckpointWriter::Prepared>(prepared).directory,
                                                 "env_runners/slot-0001.safetensors",
                                                 std::vector<std::byte>(9, static_cast<std::byte>(iteration))));
    commit.extra["driver.json"] = driver;
    REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(writer.step(commit, Time{})));
  }
  void spoil(uint64_t iteration) const { std::ofstream(checkpoint(iteration) / "driver.json", std::ios::app) << "x"; }
};

}  // namespace

TEST_SUITE("apps/resume") {
  TEST_CASE("checkpoint_of: a run means its newest checkpoint that verifies, a checkpoint itself") {
    RunFolder run;
    for (const uint64_t iteration : {5, 40, 12}) run.save(iteration);
    CHECK(checkpoint_of(*run.files, run.path) == run.checkpoint(40));
    run.spoil(40);
    CHECK(checkpoint_of(*run.files, run.path) == run.checkpoint(12));
    CHECK(checkpoint_of(*run.files, run.checkpoint(5)) == run.checkpoint(5));
    CHECK(run_of(run.path) == run.path);
    CHECK(run_of(run.checkpoint(5)) == run.path);
    fs::create_directory_symlink("checkpoints/000000005", run.path / "best");
    CHECK(checkpoint_of(*run.files, run.path / "best") == run.checkpoint(5));
    CHECK(run_of(run.path / "best") == run.path);
    const auto code = [&](const fs::path& given) -> std::string {
      try {
        checkpoint_of(*run.files, given);
      } catch (const Error& error) { return error.code(); }
      return "";
    };
    CHECK(code(run.checkpoint(40)) == "corrupt-checkpoint");
    run.spoil(12);
    run.spoil(5);
    CHECK(code(run.path) == "no-checkpoint");
  }

  TEST_CASE(
      "checkpoint_of: a run that saved nothing has no checkpoint and says why; one without its manifest is damaged") {
    RunFolder run;
    RunRecord record;
    record.state = "failed";
    record.exit_reason = "error[nan] reward = nan";
    write_atomically(run.path / "run.json", to_json(record));
    CHECK(error_of([&] {
            checkpoint_of(*run.files, run.path);
          }).ends_with("has no checkpoint: it ended before anything was saved: error[nan] reward = nan"));
    fs::remove(run.path / "checkpoints");
    CHECK(error_of([&] { checkpoint_of(*run.files, run.path); }).starts_with("error[no-checkpoint]"));
    CHECK(error_of([&] { checkpoint_of(*run.files, run.path / "none"); }).starts_with("error[no-checkpoint]"));
    run.save(3);
    fs::remove(run.checkpoint(3) / "MANIFEST.json");
    CHECK(error_of([&] { checkpoint_of(*run.files, run.checkpoint(3)); }).starts_with("error[corrupt-checkpoint]"));
    CHECK(run_of(run.checkpoint(3)) == run.path);
  }

  TEST_CASE("check_results: what cannot be cut back is told before anything is cut") {
    const TemporaryFolder folder;
    std::ofstream(folder.path / "results.jsonl") << "nonsense\n{\"training_iteration\": 1}\n";
    CHECK(error_of([&] { check_results(folder.path, 1); }).starts_with("error[corrupt-file]"));
    std::ofstream(folder.path / "results.jsonl") << "{\"training_iteration\": 1}\n{\"training_iteration\": 2}\n";
    check_results(folder.path, 1);
    CHECK(read_file(folder.path / "results.jsonl").ends_with("2}\n"));
  }

  TEST_CASE("changed_settings: by their names, but for what plugins say of themselves") {
    Config before = load_config("algorithm = 'PPO'", "test"),
           now = load_config("algorithm = 'PPO'", "test",
                             {"training.clip_param=0.1", "environment.frame_skip=2", "seed=3", "plugins.module='x'"});
    CHECK(changed_settings(before, now) ==
          std::vector<std::string>{"seed", "environment.frame_skip", "training.clip_param"});
  }

  TEST_CASE("hashes_of: a task's hash is that of all files it names, wherever they lie") {
    const TemporaryFolder folder;
    const auto hash = [&](const fs::path& task) {
      Config config;
      config.environment.env = "mjcf:" + task.string();
      return hashes_of(config).at("environment.env");
    };
    for (const char* place : {"a", "b"}) {
      fs::create_directories(folder.path / place / "meshes");
      std::ofstream(folder.path / place / "task.toml") << "model = \"model.xml\"\n";
      std::ofstream(folder.path / place / "model.xml") << R"(<compiler meshdir="meshes"/><mesh file="leg.stl"/>)";
      std::ofstream(folder.path / place / "meshes/leg.stl") << "solid";
    }
    CHECK(hash(folder.path / "a/task.toml") == hash(folder.path / "b/task.toml"));
    std::ofstream(folder.path / "b/meshes/leg.stl") << "other";
    CHECK(hash(folder.path / "a/task.toml") != hash(folder.path / "b/task.toml"));
    Config none;
    CHECK(hashes_of(none).empty());
  }

  TEST_CASE("DriverCore: a run that goes on from where its criterion is met knows it before it starts") {
    DriverCore::Options options = Run::options();
    options.training_iteration = 6;
    options.num_env_steps_sampled_lifetime = 600;
    options.time_total_s = 9;
    options.stop = {};
    CHECK(DriverCore(options).met_before_start() == "");
    options.stop.training_iteration = 7;
    CHECK(DriverCore(options).met_before_start() == "");
    options.stop.training_iteration = 6;
    CHECK(DriverCore(options).met_before_start() == "training_iteration 6");
    options.stop = {};
    options.stop.num_env_steps_sampled_lifetime = 500;
    CHECK(DriverCore(options).met_before_start() == "num_env_steps_sampled_lifetime 600");
    options.stop = {};
    options.stop.time_total_s = 8.5;
    CHECK(DriverCore(options).met_before_start() == "time_total_s 9.0");
  }

  TEST_CASE("load_saved_run: what driver_json wrote, number for number, and the state of each slot that has one") {
    DriverCore::Options options = Run::options();
    options.smoothing_episodes = 3;
    options.training_iteration = 6;
    options.num_env_steps_sampled_lifetime = 9007199254740993;  // 2^53 + 1
    options.num_episodes_lifetime = 17;
    options.recent_returns = {0.1, -1e300, 1.0 / 3};
    options.recent_lengths = {11, 12, 13};
    options.training_return = {0.3, 4};
    options.evaluations = {.best = Evaluations::Best{5, 1.0 / 3}, .returns = {1.0 / 3, 2}};
    options.levels = {.count = 4, .advance_at = 1e9, .episodes = 5, .level = 2, .returns = {0.7, -0.2}};
    RunFolder run;
    run.save(5);
    run.save(6, driver_json(DriverCore(options), 12.75));
    const SavedRun saved = load_saved_run(*run.files, run.checkpoint(6).string(), 3);
    CHECK(saved.directory == run.checkpoint(6));
    CHECK(saved.iteration == 6);
    CHECK(saved.env_steps == 9007199254740993);
    CHECK(saved.episodes == 17);
    CHECK(saved.time_total_s == 12.75);
    CHECK(saved.returns == options.recent_returns);
    CHECK(saved.lengths == options.recent_lengths);
    CHECK(saved.level == 2);
    CHECK(saved.level_returns == options.levels.returns);
    CHECK(saved.training_return == options.training_return);
    CHECK(saved.evaluations == options.evaluations.returns);
    CHECK(saved.best == options.evaluations.best);
    fs::remove_all(run.checkpoint(5));  // the best is gone: the next one that is scored is
    CHECK_FALSE(load_saved_run(*run.files, run.checkpoint(6).string(), 3).best.has_value());
    run.save(8, driver_json(DriverCore(Run::options()), 1));
    CHECK(load_saved_run(*run.files, run.checkpoint(8).string(), 3).evaluations == Improvement{});
    REQUIRE(saved.runner_states.size() == 3);
    CHECK(saved.runner_states[0].view.empty());
    CHECK(saved.runner_states[1].view.size() == 9);
    CHECK(saved.runner_states[2].view.empty());
    run.save(7, "{}");
    CHECK_THROWS_AS(load_saved_run(*run.files, run.checkpoint(7).string(), 3), Error);
  }

  TEST_CASE("set_newer_aside: newer checkpoints move, that iteration and older ones stay") {
    RunFolder run;
    for (const uint64_t iteration : {8, 9, 10, 11}) run.save(iteration);
    set_newer_aside(run.path, 9);
    for (const uint64_t iteration : {8, 9, 10, 11}) {
      CAPTURE(iteration);
      CHECK(fs::exists(run.checkpoint(iteration)) == (iteration <= 9));
      CHECK(fs::exists(run.path / "checkpoints-replaced" / run.checkpoint(iteration).filename()) == (iteration > 9));
    }
    CHECK(checkpoint_of(*run.files, run.path) == run.checkpoint(9));
  }
}

}  // namespace myriad
