#include "apps/driver/resume.hpp"

#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <iostream>

#include "apps/driver/observers/progress_file.hpp"
#include "apps/driver/observers/results_file.hpp"
#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
#include "roles/checkpoint.hpp"

namespace myriad {
namespace fs = std::filesystem;

namespace {

/// As text: Boost.JSON reads some numbers back one unit in the last place off.
boost::json::array exact(const std::deque<double>& values) {
  boost::json::array array;
  for (const double value : values) array.push_back(boost::json::string(fmt::format("{}", value)));
  return array;
}

/// Of an array of exact(), or of the numbers that older checkpoints have.
std::deque<double> numbers(const boost::json::value& array) {
  std::deque<double> numbers;
  for (const auto& item : array.as_array()) {
    double& number = numbers.emplace_back();
    if (!item.is_string()) {
      number = item.to_number<double>();
      continue;
    }
    const boost::json::string& text = item.as_string();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    check(error == std::errc() && end == text.data() + text.size(), "{} is no number", std::string_view(text));
  }
  return numbers;
}

boost::json::object improvement_json(const Improvement& improvement) {
  return {{"best", improvement.best ? exact({*improvement.best}) : boost::json::array{}}, {"since", improvement.since}};
}

Improvement improvement_of(const boost::json::value& json) {
  const std::deque<double> best = numbers(json.at("best"));
  return {best.empty() ? std::nullopt : std::optional(best.front()), json.at("since").to_number<uint64_t>()};
}

/// What is gone is not the best any more: the next one that is scored is.
std::optional<Evaluations::Best> best_of(const boost::json::object& driver, const fs::path& checkpoints) {
  const boost::json::value* best = driver.if_contains("best_checkpoint");
  if (best == nullptr) return std::nullopt;
  const auto iteration = best->at("training_iteration").to_number<uint64_t>();
  if (!fs::exists(checkpoints / fmt::format("{:09}", iteration) / "MANIFEST.json")) return std::nullopt;
  return Evaluations::Best{iteration, numbers(best->at("score")).at(0), best->at("of_training").as_bool()};
}

}  // namespace

std::string driver_json(const DriverCore& core, double time_total_s) {
  boost::json::object object{{"training_iteration", core.training_iteration()},
                             {"num_env_steps_sampled_lifetime", core.env_steps()},
                             {"num_episodes_lifetime", core.episodes_lifetime()},
                             {"time_total_s", time_total_s},
                             {"recent_episode_returns", exact(core.recent_returns())},
                             {"recent_episode_lengths", exact(core.recent_lengths())},
                             {"curriculum_level", core.levels().level()},
                             {"curriculum_level_returns", exact(core.levels().returns())},
                             {"evaluation_returns", improvement_json(core.evaluations().returns())},
                             {"training_return", improvement_json(core.training_return())}};
  if (const auto& best = core.evaluations().best())
    object["best_checkpoint"] = {{"training_iteration", best->training_iteration},
                                 {"score", exact({best->score})},
                                 {"of_training", best->of_training}};
  return boost::json::serialize(object) + "\n";
}

SavedRun load_saved_run(Files& files, const std::string& checkpoint, int64_t num_slots) {
  SavedRun saved;
  saved.directory = checkpoint;
  try {
    const std::string text = read_file(checkpoint + "/driver.json");
    const auto object = boost::json::parse(text).as_object();
    saved.iteration = object.at("training_iteration").to_number<uint64_t>();
    saved.env_steps = object.at("num_env_steps_sampled_lifetime").to_number<uint64_t>();
    saved.episodes = object.at("num_episodes_lifetime").to_number<uint64_t>();
    saved.time_total_s = object.at("time_total_s").to_number<double>();
    saved.returns = numbers(object.at("recent_episode_returns"));
    saved.lengths = numbers(object.at("recent_episode_lengths"));
    if (object.contains("curriculum_level")) {  // older checkpoints have none
      saved.level = object.at("curriculum_level").to_number<uint32_t>();
      saved.level_returns = numbers(object.at("curriculum_level_returns"));
    }
    if (object.contains("evaluation_returns")) {  // as above
      saved.evaluations = improvement_of(object.at("evaluation_returns"));
      saved.training_return = improvement_of(object.at("training_return"));
      saved.best = best_of(object, fs::path(checkpoint).parent_path());
    }
  } catch (const std::exception& error) {
    fail(Exit::usage, "corrupt-checkpoint", "{}/driver.json: {}", checkpoint, error.what());
  }
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    const std::string name = fmt::format("{}/env_runners/slot-{:04}.safetensors", checkpoint, slot);
    saved.runner_states.push_back(fs::exists(name) ? SharedBytes::of(files.read(name)) : SharedBytes{});
  }
  return saved;
}

fs::path run_of(const fs::path& given) {
  const bool is_checkpoint = fs::exists(given / "MANIFEST.json") || fs::exists(given / "driver.json");
  if (!is_checkpoint) return given;
  // `best` of a run is a link.
  return (fs::is_symlink(given) ? fs::canonical(given) : given).parent_path().parent_path();
}

namespace {

/// Why a run has no checkpoint at all.
std::string why_unsaved(const fs::path& run) {
  if (!fs::exists(run / "run.json")) return "it holds no run and no checkpoint";
  const RunRecord record = read_run(run);
  if (const auto driver = running_pid(run); driver && *driver != ::getpid())
    return "it is running and has saved nothing yet";
  return fmt::format("it ended before anything was saved{}{}", record.exit_reason.empty() ? "" : ": ",
                     record.exit_reason);
}

}  // namespace

std::string checkpoint_of(Files& files, const fs::path& given) {
  if (!fs::is_directory(given))
    fail(Exit::usage, "no-checkpoint", "{} is no directory: give a checkpoint or a run", as_typed(given));
  std::string checkpoint = given.string();
  if (fs::is_symlink(given)) checkpoint = fs::canonical(given).string();  // `best`, which moves on
  // Without its manifest a checkpoint is damaged; what has neither manifest nor driver.json is none.
  if (!fs::exists(given / "MANIFEST.json") && !fs::exists(given / "driver.json")) {
    std::vector<std::string> broken;
    const auto valid = valid_checkpoints(files, (given / "checkpoints").string(), &broken);
    for (const std::string& line : broken) std::cerr << "warning[corrupt-checkpoint] left out: " << line << "\n";
    if (valid.empty())
      fail(Exit::usage, "no-checkpoint", "{} has no checkpoint{}", as_typed(given),
           broken.empty() ? ": " + why_unsaved(given) : " that verifies");
    checkpoint = valid.back();
  }
  // Before anything is read from it: a flipped bit is no mistake in the config.
  const std::string violation = checkpoint_violation(files, checkpoint);
  if (!violation.empty()) fail(Exit::usage, "corrupt-checkpoint", "{}: {}", checkpoint, violation);
  return checkpoint;
}

void set_newer_aside(const fs::path& run, uint64_t iteration) {
  std::vector<std::string> newer;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    if (const std::string name = entry.path().filename().string();
        !name.starts_with('.') && name > fmt::format("{:09}", iteration))
      newer.push_back(name);
  std::sort(newer.begin(), newer.end());
  for (const std::string& name : newer) {
    fs::create_directories(run / "checkpoints-replaced");
    fs::remove_all(run / "checkpoints-replaced" / name);
    fs::rename(run / "checkpoints" / name, run / "checkpoints-replaced" / name);
    std::cerr << fmt::format("note: newer checkpoint {} moved to {}\n", name, (run / "checkpoints-replaced").string());
  }
}

void check_results(const fs::path& run, int64_t iteration) {
  (void)results_up_to(run, iteration);
  (void)progress_up_to(run, iteration);
  (void)evaluations_up_to(run, iteration);
}

void truncate_results(const fs::path& run, int64_t iteration) {
  truncate_lines(results_up_to(run, iteration));
  truncate_lines(progress_up_to(run, iteration));
  truncate_lines(evaluations_up_to(run, iteration));
}

}  // namespace myriad
