// The verbs that look without training: envs, algorithms, config, play, evaluate. Each prints a table, or JSON lines.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "rl/config.hpp"
#include "rl/environment.hpp"

namespace myriad {

int print_envs(bool json);
int print_algorithms(bool json);

/// Every setting with default, unit and meaning, those of the algorithm that `overrides` name among them; with
/// `resolved`, the whole config of that file as TOML.
int print_config(const std::string& resolved, const std::vector<std::string>& overrides, bool json);

/// Of "key=value" pairs. Throws Error("bad-option").
EnvOptions parse_options(const std::vector<std::string>& pairs);

/// The config of an environment with options ("key=value") in wrappers ("frame_stack=4": settings of [environment]; or
/// "plugin:PATH[:NAME]"), and with `settings` ("env_runners.sandbox=off").
Config chosen_config(const std::string& env, const std::vector<std::string>& options,
                     const std::vector<std::string>& wrappers, std::vector<std::string> settings = {});
/// Its environment.
EnvSpec chosen_environment(const std::string& env, const std::vector<std::string>& options,
                           const std::vector<std::string>& wrappers);

struct PlayOptions {
  std::string env;                    ///< or a run or checkpoint, whose policy acts
  std::vector<std::string> settings;  ///< of the run, in place of its own: "environment.env_config={gravity=5}"
  std::string state;                  ///< JSON: [numbers] or {"state": [...]}; "" = reset from the seed
  std::string actions;                ///< file with one JSON action a line (a number or a list); "" = random ones
  std::string render;  ///< a frame of every state: FILE.webm, FILE.png (the last one), a folder, "ansi"; "" = none
  std::string size;    ///< of a frame, "640x480"; "" = that, or what fits a terminal
  uint64_t seed = 0;
  int64_t steps = 0;                     ///< 0: to the end of the episode, or of the file
  std::vector<std::string> env_options;  ///< "key=value"
  std::vector<std::string> wrappers;     ///< "frame_stack=4"
  bool json = false;
};
/// Random actions, those of a file, or a policy's; prints every step.
int play(const PlayOptions& options);

struct EvaluateOptions {
  std::string checkpoint;
  std::vector<std::string> settings;  ///< in place of the run's
  int64_t episodes = 0;               ///< 0: evaluation.evaluation_duration
  uint64_t seed = 0;
  bool best = false;  ///< `checkpoint` is a run, whose best one is meant
  bool explore = false, json = false;
  std::string video;  ///< a frame of every state of all episodes, as PlayOptions::render; "" = none
  std::string size;   ///< of a frame
};
int evaluate_command(const EvaluateOptions& options);

}  // namespace myriad
