// myriad: the command line. Parses, calls one function of apps/driver, prints one line where something cannot be.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "apps/driver/check_env.hpp"
#include "apps/driver/evaluation_process.hpp"
#include "apps/driver/inspect.hpp"
#include "apps/driver/join.hpp"
#include "apps/driver/new_project.hpp"
#include "apps/driver/scale.hpp"
#include "apps/driver/train.hpp"
#include "rl/check.hpp"
#include "rl/machine.hpp"
#include "rl/signals.hpp"
#include "rl/system.hpp"
#include "rl/wire/keys.hpp"

namespace {

using namespace myriad;

/// The first word is a run's folder, environment or checkpoint, whatever its letters; those after it are overrides.
void split_first(const std::vector<std::string>& words, std::string& first, std::vector<std::string>& overrides) {
  first = words.at(0);
  overrides.assign(words.begin() + 1, words.end());
  for (const std::string& word : overrides)
    if (word.find('=') == std::string::npos)
      fail(Exit::usage, "extra-argument", "got {} after {}; want key=value", word, first);
}

/// `train cartpole-ppo training.lr=1e-3`: what holds a '=' is an override, the other one the config.
void split_positionals(const std::vector<std::string>& words, std::string& config,
                       std::vector<std::string>& overrides) {
  for (const std::string& word : words) {
    if (word.find('=') != std::string::npos && !std::filesystem::exists(word))
      overrides.push_back(word);
    else if (config.empty())
      config = word;
    else
      fail(Exit::usage, "extra-argument", "got {} and {}: one config, then key=value", config, word);
  }
}

int run(int argc, char** argv) {
  CLI::App app{"Myriad: reinforcement learning from thousands of env-runner processes"};
  app.set_version_flag("--version", std::string("myriad ") + MYRIAD_VERSION);
  app.require_subcommand(1);
  app.name("myriad");
  if (std::getenv("MYRIAD_COMMAND") != nullptr)  // the script of a clone
    app.footer(
        "In a clone, ./myriad has more verbs:\n"
        "  test [PATTERN]              build and run the tests\n"
        "  plugin ale                  fetch and build the Arcade Learning Environment: ale:Pong, ale:Breakout, ...\n"
        "  bench NAME                  run a benchmark of bench/\n"
        "  install-sdk PREFIX          install what environments, algorithms and networks out of tree need\n");
  bool json = false;
  std::vector<std::string> words;
  std::function<int()> verb;

  TrainOptions train_options;
  CLI::App* train_verb = app.add_subcommand("train", "train a config: myriad train CONFIG [key=value ...]");
  train_verb->add_option("config", words,
                         "a TOML file or a shipped config's name, then overrides such as training.lr=1e-3");
  train_verb->add_option("--out", train_options.out, "the run's directory (default: the next one under runs/)");
  train_verb->add_option("--resume", train_options.resume, "go on with a run's directory or one checkpoint");
  train_verb->add_option(
      "--from", train_options.from,
      "begin a new run with a run's or checkpoint's parameters; without CONFIG with its config, too");
  train_verb->add_flag("--json", train_options.json, "one JSON object a report");
  train_verb->callback([&] {
    verb = [&] {
      split_positionals(words, train_options.config, train_options.overrides);
      if ((train_options.config.empty() && train_options.from.empty()) == train_options.resume.empty())
        fail(Exit::usage, "missing-argument", "train wants a CONFIG, --from DIR or both, or --resume DIR alone");
      train_options.command.assign(argv, argv + argc);
      return train(train_options);
    };
  });

  EvaluateOptions evaluate_options;
  CLI::App* evaluate_verb = app.add_subcommand("evaluate", "run episodes with a saved policy");
  evaluate_verb
      ->add_option("checkpoint", words,
                   "a checkpoint's or a run's directory, then overrides such as environment.env_config={gravity=5}")
      ->required();
  evaluate_verb->add_flag("--best", evaluate_options.best, "of a run: its best checkpoint, not the newest");
  evaluate_verb
      ->add_option("--episodes", evaluate_options.episodes, "how many (default: evaluation.evaluation_duration)")
      ->check(CLI::PositiveNumber);
  evaluate_verb->add_option("--seed", evaluate_options.seed, "of environments and actions");
  evaluate_verb->add_flag("--explore", evaluate_options.explore, "sample actions instead of taking the most likely");
  evaluate_verb->add_option(
      "--video", evaluate_options.video,
      "draw every state: FILE.webm, FILE.png (the last one), a folder for one PNG a step, or ansi");
  evaluate_verb->add_option("--size", evaluate_options.size, "of a frame: WIDTHxHEIGHT (640x480; ansi: 80x48)");
  evaluate_verb->add_flag("--json", evaluate_options.json, "one object an episode");
  evaluate_verb->callback([&] {
    verb = [&] {
      split_first(words, evaluate_options.checkpoint, evaluate_options.settings);
      return evaluate_command(evaluate_options);
    };
  });

  PlayOptions play_options;
  CLI::App* play_verb = app.add_subcommand("play", "step an environment, print or draw every step");
  play_verb
      ->add_option("env", words,
                   "an id of `myriad envs`, plugin:PATH, ale:GAME or mjcf:PATH.toml; or a run, whose policy acts, then "
                   "overrides of its settings")
      ->required();
  play_verb->add_option("--state", play_options.state, "simulator state to start from, a JSON list");
  play_verb->add_option("--actions", play_options.actions,
                        "file with one JSON action a line (default: random actions)");
  play_verb->add_option("--seed", play_options.seed, "of the reset and of random actions");
  play_verb->add_option("--steps", play_options.steps, "how many random steps at most")->check(CLI::PositiveNumber);
  play_verb->add_option("--option", play_options.env_options, "key=value of the environment");
  play_verb->add_option("--wrapper", play_options.wrappers,
                        "key=value of [environment], such as frame_stack=4; or plugin:PATH");
  play_verb->add_option("--render", play_options.render,
                        "draw every state: FILE.webm, FILE.png (the last one), a folder for one PNG a step, or ansi");
  play_verb->add_option("--size", play_options.size, "of a frame: WIDTHxHEIGHT (640x480; ansi: 80x48)");
  play_verb->add_flag("--json", play_options.json, "one object a step, full precision");
  play_verb->callback([&] {
    verb = [&] {
      split_first(words, play_options.env, play_options.settings);
      return play(play_options);
    };
  });

  CheckEnvOptions check_options;
  CLI::App* check_verb =
      app.add_subcommand("check-env", "does an environment keep its contract? For its author, and CI");
  check_verb
      ->add_option(
          "env", check_options.env,
          "an id of `myriad envs`, plugin:PATH, mjcf:PATH.toml, process:COMMAND, gymnasium:ID, pettingzoo:MODULE")
      ->required();
  check_verb->add_option("settings", check_options.settings,
                         "of the run that is meant, such as env_runners.sandbox_network=true");
  check_verb->add_option("--option", check_options.env_options, "key=value of the environment")
      ->allow_extra_args(false);
  check_verb
      ->add_option("--wrapper", check_options.wrappers,
                   "key=value of [environment], such as frame_stack=4; or plugin:PATH")
      ->allow_extra_args(false);
  check_verb->add_option("--seed", check_options.seed, "of resets and random actions");
  check_verb->add_option("--steps", check_options.steps, "of the longest check")
      ->check(CLI::Range(10'000, 100'000'000));
  check_verb->add_option("--time-budget", check_options.time_budget_s, "seconds in which the checks step it (120)")
      ->check(CLI::PositiveNumber);
  check_verb->add_flag_callback(
      "--quick", [&] { check_options.steps = 10'000, check_options.time_budget_s = 10; },
      "--steps 10000 --time-budget 10");
  check_verb->add_flag("--json", check_options.json, "one object a check");
  check_verb->callback([&] { verb = [&] { return check_env(check_options); }; });

  app.add_subcommand("envs", "list the environments")->callback([&] { verb = [&] { return print_envs(json); }; });
  app.add_subcommand("algorithms", "list the algorithms")->callback([&] {
    verb = [&] { return print_algorithms(json); };
  });
  app.get_subcommand("envs")->add_flag("--json", json, "one object a line");
  app.get_subcommand("algorithms")->add_flag("--json", json, "one object a line");

  std::string keys_directory;
  int num_agents = 1;
  bool replace_keys = false;
  CLI::App* keys_verb = app.add_subcommand("keys", "make the keys of a run that goes beyond this machine");
  keys_verb->add_option("dir", keys_directory, "where to write them; made with mode 700")->required();
  keys_verb->add_option("--agents", num_agents, "how many hosts will run an agent")->check(CLI::Range(1, 4096));
  keys_verb->add_flag("--force", replace_keys, "replace the keys that are there");
  keys_verb->callback([&] {
    verb = [&] {
      std::fputs(make_keys(keys_directory, num_agents, replace_keys).c_str(), stdout);
      return 0;
    };
  });

  JoinOptions join_options;
  CLI::App* agent_verb =
      app.add_subcommand("agent", "take part in a run on another host: its run.json has the command");
  agent_verb->add_option("--connect", join_options.endpoint, "the run's endpoint: tcp://ADDRESS:PORT")->required();
  agent_verb->add_option("--run", join_options.run, "the run's number")->required();
  agent_verb->add_option("--keys", join_options.keys, "directory with server.pub and this host's agent-K.key");
  agent_verb->add_option("--key", join_options.key_name, "agent-K, where the directory holds several");
  agent_verb->callback([&] { verb = [&]() -> int { join(join_options); }; });

  std::string scaled;
  CLI::App* scale_verb = app.add_subcommand("scale", "change a run while it trains: myriad scale RUN learners=N");
  scale_verb->add_option("run", scaled, "its directory")->required();
  scale_verb->add_option("settings", words, "learners=N")->required();
  scale_verb->callback([&] { verb = [&] { return scale(scaled, words); }; });

  std::string new_name, language = "cpp";
  CLI::App* new_env_verb = app.add_subcommand("new-env", "write an environment of your own to start from");
  new_env_verb->add_option("name", new_name, "its folder, in lower case: my_robot")->required();
  new_env_verb->add_option("--lang", language, "cpp or c")->check(CLI::IsMember({"c", "cpp"}));
  new_env_verb->callback([&] { verb = [&] { return new_env(new_name, language); }; });

  CLI::App* new_algorithm_verb =
      app.add_subcommand("new-algorithm", "write an algorithm of your own to start from, built out of tree");
  new_algorithm_verb->add_option("name", new_name, "its folder, in lower case: my_a2c")->required();
  new_algorithm_verb->callback([&] { verb = [&] { return new_algorithm(new_name); }; });

  CLI::App* new_module_verb =
      app.add_subcommand("new-module", "write a network of your own to start from, built out of tree");
  new_module_verb->add_option("name", new_name, "its folder, in lower case: my_net")->required();
  new_module_verb->callback([&] { verb = [&] { return new_module(new_name); }; });

  CLI::App* new_wrapper_verb = app.add_subcommand(
      "new-wrapper",
      "write a wrapper of observations, actions and rewards of your own to start from, built out of tree");
  new_wrapper_verb->add_option("name", new_name, "its folder, in lower case: my_wrapper")->required();
  new_wrapper_verb->callback([&] { verb = [&] { return new_wrapper(new_name); }; });

  std::string resolved;
  CLI::App* config_verb = app.add_subcommand("config", "print every setting with default, unit and meaning");
  config_verb->add_option("--resolved", resolved, "print the whole config that FILE stands for");
  config_verb->add_option("overrides", words, "key=value");
  config_verb->add_flag("--json", json, "one object a setting");
  config_verb->callback([&] { verb = [&] { return print_config(resolved, words, json); }; });

  CLI::App* evaluation_verb = app.add_subcommand("run-evaluation")->group("");  // for train; --help does not show it
  evaluation_verb->add_option("words", words)->required()->expected(2);
  evaluation_verb->callback([&] { verb = [&] { return run_evaluation(words[0], words[1]); }; });

  // CLI11 would only say that a subcommand is required.
  if (argc > 1 && argv[1][0] != '-') {
    std::vector<std::string> known;
    for (const CLI::App* sub : app.get_subcommands({})) known.push_back(sub->get_name());
    if (std::find(known.begin(), known.end(), argv[1]) == known.end())
      fail(Exit::usage, "unknown-verb", "myriad has no verb {}{}", argv[1], suggestion(argv[1], known));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fail(Exit::usage, "usage", "{}; see myriad {}--help", error.what(),
         argc > 1 && argv[1][0] != '-' ? fmt::format("{} ", argv[1]) : "");
  }
  return verb();
}

}  // namespace

int main(int argc, char** argv) {
  myriad::open_standard_descriptors();
  try {
    return run(argc, argv);
  } catch (const std::exception& thrown) {
    const myriad::Error error = myriad::as_error(thrown);
    std::fprintf(stderr, "%s\n", error.line().c_str());
    return static_cast<int>(error.exit_status());
  } catch (const myriad::FileError& error) {
    std::fprintf(stderr, "error[file-system] %s: %s\n", error.path.c_str(), std::strerror(error.error));
    return static_cast<int>(myriad::Exit::resource);
  }
}
