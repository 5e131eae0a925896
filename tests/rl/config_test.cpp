#include "rl/config.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/config/unknown_keys.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

/// An algorithm of the test's own: rl/ is tested without algorithms/.
struct ToyConfig final : AlgorithmConfig {
  double lambda_ = 1.0;
  bool use_kl_loss = true;
  double vf_clip_param = 10.0;
  Schedule entropy_coeff = 0.0;
  void settings(SettingVisitor& v) override {
    v.visit({"lambda", "", "of the return", 0, 1}, lambda_);
    v.visit({"use_kl_loss", "", "penalize the KL divergence"}, use_kl_loss);
    v.visit({"vf_clip_param", "", "bound of the squared value error", 0}, vf_clip_param);
    v.visit({"entropy_coeff", "", "weight of the entropy", 0, 10}, entropy_coeff);
  }
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<ToyConfig>(*this); }
};

const ToyConfig& toy(const Config& config) { return dynamic_cast<const ToyConfig&>(*config.algorithm_config); }

/// The line main() would print for this config, or "" when it is accepted.
std::string complaint(std::string_view text, const std::vector<std::string>& overrides = {}) {
  try {
    load_config(text, "cartpole.toml", overrides);
  } catch (const Error& error) {
    CHECK(error.exit_status() == Exit::usage);
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.line();
  }
  return "";
}

bool starts_with(const std::string& text, std::string_view start) {
  const bool holds = text.starts_with(start);
  if (!holds) MESSAGE(text);
  return holds;
}

const RegisterAlgorithmInfo ppo{{.name = "PPO",
                                 .summary = "a toy",
                                 .make_config = make_settings<ToyConfig>,
                                 .sampling = {"sync", "lag1"},
                                 .module = policy_and_value}};
const RegisterAlgorithmInfo replay{{.name = "Replay",
                                    .summary = "a toy that keeps its data",
                                    .make_config = make_settings<ToyConfig>,
                                    .set_defaults =
                                        [](Config& config) {
                                          config.training.grad_clip = 40.0;
                                          config.rl_module.fcnet_activation = "relu";
                                        },
                                    .module = policy_and_value}};

}  // namespace

TEST_SUITE("rl/config") {
  TEST_CASE("load_config: an empty file gives the defaults") {
    const Config config = load_config("", "empty.toml");
    CHECK(config.algorithm == "PPO");
    CHECK(config.training.gamma == 0.99);
    CHECK(config.training.lr == Schedule(5e-5));
    CHECK_FALSE(config.training.grad_clip.has_value());
    CHECK(config.rl_module.fcnet_hiddens == std::vector<int>{256, 256});
    CHECK(toy(config).lambda_ == 1.0);
  }

  TEST_CASE("load_config: every kind of setting is read") {
    const Config config = load_config(R"(
algorithm = "PPO"
seed = 7
[environment]
env = "HalfCheetah-v5"
env_config = { ctrl_cost_weight = 0.2, frame_skip = 5, terminate = true }
[env_runners]
rollout_fragment_length = "auto"
num_envs_per_env_runner = 4
[training]
gamma = 1            # an integer where a number is wanted
lr = [[0, 5e-4], [1_000_000, 0]]
grad_clip = 0.5
lambda = 0.95
use_kl_loss = false
[rl_module]
fcnet_hiddens = [64, 32]
[stop]
episode_return_mean = 475
)",
                                      "cheetah.toml");
    CHECK(config.seed == 7);
    CHECK(config.environment.env == "HalfCheetah-v5");
    CHECK(config.environment.env_config ==
          EnvOptions{{"ctrl_cost_weight", 0.2}, {"frame_skip", 5.0}, {"terminate", 1.0}});
    CHECK(config.env_runners.rollout_fragment_length == 0);
    CHECK(config.training.gamma == 1.0);
    CHECK(config.training.lr == Schedule({{0.0, 5e-4}, {1e6, 0.0}}));
    CHECK(config.training.grad_clip == 0.5);
    CHECK(toy(config).lambda_ == 0.95);
    CHECK_FALSE(toy(config).use_kl_loss);
    CHECK(config.rl_module.fcnet_hiddens == std::vector<int>{64, 32});
    CHECK(config.stop.episode_return_mean == 475.0);
  }

  TEST_CASE("load_config: filters of convolutions are read, and printed as they are read") {
    Config config =
        load_config("[rl_module]\nconv_filters = [[32, 8, 4], [64, 4, 2, 1]]\nencoder = \"mlp\"\n", "c.toml");
    CHECK(config.rl_module.conv_filters == std::vector<std::vector<int>>{{32, 8, 4}, {64, 4, 2, 1}});
    CHECK(config.rl_module.encoder == "mlp");
    CHECK(config.rl_module.conv_activation == "relu");
    CHECK(config.rl_module.channels == "auto");
    const std::string text = to_toml(config);
    CHECK(text.find("conv_filters = [[32, 8, 4], [64, 4, 2, 1]]\n") != std::string::npos);
    CHECK(load_config(text, "again.toml").rl_module.conv_filters == config.rl_module.conv_filters);
    CHECK(load_config("", "c.toml", {"rl_module.conv_filters=[[1,2,3]]"}).rl_module.conv_filters ==
          std::vector<std::vector<int>>{{1, 2, 3}});
    CHECK(complaint("[rl_module]\nconv_filters = [32, 8, 4]\n").ends_with("is 32 (integer), want a list of integers"));
    CHECK(complaint("[rl_module]\nconv_filters = 3\n").ends_with("is 3 (integer), want a list of lists of integers"));
    CHECK(complaint("[rl_module]\nconv_filters = [[1, 2, -3]]\n").ends_with("is -3 (integer), want 0 to 65536"));
    CHECK(complaint("[rl_module]\nencoder = \"natur_cnn\"\n").ends_with("did you mean nature_cnn?"));
  }

  TEST_CASE("load_config: curricula are read, and printed as they are read") {
    Config config = load_config(R"(
[curriculum]
randomize = { mass = [0.5, 2], "odd name" = 3 }
advance_at = 195
[curriculum.schedules]
gravity = [[0, 5.0], [1_000_000, 9.81]]
drag = 0.1
[[curriculum.levels]]
length = 0.3
[[curriculum.levels]]
length = [0.3, 1.0]
)",
                                "c.toml", {"curriculum.schedules.drag=0.2"});
    CHECK(config.curriculum.schedules ==
          OptionSchedules{{"drag", Schedule(0.2)}, {"gravity", Schedule({{0, 5.0}, {1e6, 9.81}})}});
    CHECK(config.curriculum.randomize == OptionRanges{{"mass", {0.5, 2}}, {"odd name", {3, 3}}});
    CHECK(config.curriculum.levels == std::vector<OptionRanges>{{{"length", {0.3, 0.3}}}, {{"length", {0.3, 1.0}}}});
    CHECK(config.curriculum.advance_at == 195.0);
    const std::string text = to_toml(config);
    CHECK(text.find("[curriculum]\n"
                    "schedules = { drag = 0.2, gravity = [[0, 5.0], [1000000, 9.81]] }\n"
                    "randomize = { mass = [0.5, 2.0], \"odd name\" = 3.0 }\n"
                    "levels = [{ length = 0.3 }, { length = [0.3, 1.0] }]\n"
                    "advance_at = 195.0\n") != std::string::npos);
    Config again = load_config(text, "again.toml");
    CHECK(to_toml(again) == text);
  }

  TEST_CASE("load_config: a curriculum that cannot be is refused") {
    const auto of = [](const std::string& text) { return complaint("[curriculum]\n" + text + "\n"); };
    CHECK(of("schedules = 3")
              .ends_with("curriculum.schedules is 3 (integer), want a table of schedules: "
                         "{ name = [[env steps, value], ...] }"));
    CHECK(of("schedules = { g = \"up\" }").find("\"up\" (string), want a number or [[env steps, value]") !=
          std::string::npos);
    CHECK(of("schedules = { g = inf }").starts_with("error[out-of-range]"));
    CHECK(of("schedules = { g = [[5, 1], [5, 2]] }").starts_with("error[out-of-range]"));
    CHECK(of("randomize = { g = [2, 1] }").ends_with("want low at most high"));
    CHECK(of("randomize = { g = [1, 2, 3] }").ends_with("an array of 3, want a number or [low, high]"));
    CHECK(of("randomize = { g = [1, nan] }").starts_with("error[out-of-range]"));
    CHECK(of("levels = { g = 1 }").ends_with("want a list of tables: [{ name = 1.0 }, ...]"));
    CHECK(of("levels = [3]\nadvance_at = 1").starts_with("error[wrong-type]"));
    CHECK(of("levels = [{ g = 1 }]").ends_with("curriculum.levels and curriculum.advance_at want each other"));
    CHECK(of("advance_at = 1").starts_with("error[impossible]"));
    CHECK(of("schedules = { g = 1 }\nrandomize = { g = [1, 2] }")
              .ends_with("g is set by more than one of curriculum.schedules, randomize and levels"));
    CHECK(complaint("[environment]\nreward_sign = true\nreward_clip = 1\n").starts_with("error[impossible]"));
    CHECK(complaint("[environment]\nrepeat_action_probability = 0.2\n").ends_with("did you mean sticky_actions?"));
  }

  TEST_CASE("load_config: overrides come after the file, in order") {
    const Config config = load_config(
        "[training]\nlr = 1e-3\ngrad_clip = 0.5\n", "c.toml",
        {"training.lr=2e-3", "training.lr=[[0, 3e-3], [100, 1e-3]]", "environment.env=CartPole-v1",
         "learners.executor=torch", "environment.env_config.gravity=9.8", "seed=3", "training.grad_clip=off",
         "env_runners.rollout_fragment_length=auto", "environment.env=\"Ant-v5\""});
    CHECK(config.training.lr == Schedule({{0.0, 3e-3}, {100.0, 1e-3}}));
    CHECK(config.environment.env == "Ant-v5");
    CHECK(config.learners.executor == "torch");
    CHECK(config.environment.env_config == EnvOptions{{"gravity", 9.8}});
    CHECK(config.seed == 3);
    CHECK_FALSE(config.training.grad_clip.has_value());
  }

  TEST_CASE("load_config: an algorithm's defaults lie below the file and the overrides") {
    CHECK(load_config("algorithm = \"Replay\"", "c.toml").training.grad_clip == 40.0);
    CHECK(load_config("", "c.toml", {"algorithm=Replay"}).rl_module.fcnet_activation == "relu");
    CHECK(load_config("algorithm = \"Replay\"\n[training]\ngrad_clip = 1\n", "c.toml").training.grad_clip == 1.0);
  }

  TEST_CASE("load_config: an unknown key is refused with its place and the one that was meant") {
    CHECK(complaint("[training]\ngamma = 0.9\nlearning_rte = 1e-3\n") ==
          "error[unknown-key] cartpole.toml:3:1: [training] has no learning_rte; did you mean lr?");
    CHECK(complaint("[training]\ngama = 0.9\n") ==
          "error[unknown-key] cartpole.toml:2:1: [training] has no gama; did you mean gamma?");
    CHECK(complaint("[training]\nnum_env_runners = 2\n") ==
          "error[unknown-key] cartpole.toml:2:1: [training] has no num_env_runners; it belongs in [env_runners]");
    CHECK(complaint("lr = 1e-3\n") ==
          "error[unknown-key] cartpole.toml:1:1: no top-level setting lr; it belongs in [training]");
    CHECK(complaint("[training]\nseed = 1\n") ==
          "error[unknown-key] cartpole.toml:2:1: [training] has no seed; it belongs at the top, before any [group]");
    CHECK(complaint("[stop]\nn_envs = 1\n") ==
          "error[unknown-key] cartpole.toml:2:1: [stop] has no n_envs; did you mean num_envs_per_env_runner in "
          "[env_runners]?");
    CHECK(starts_with(complaint("[trainin]\nlr = 1\n"), "error[unknown-key] cartpole.toml:1:"));
    CHECK(complaint("[trainin]\nlr = 1\n").ends_with("no group trainin; did you mean training?"));
    CHECK(
        complaint("[stop]\nxyzzy = 1\n")
            .ends_with("known: training_iteration, num_env_steps_sampled_lifetime, episode_return_mean, time_total_s, "
                       "evaluations_without_improvement, iterations_without_improvement"));
    CHECK(complaint("", {"training.learning_rate=1e-3"}) ==
          "error[unknown-key] override training.learning_rate=1e-3: [training] has no learning_rate; did you mean lr?");
  }

  TEST_CASE("load_config: a wrong type is refused with what was got and what is wanted") {
    CHECK(complaint("[training]\n\n\n  lr = \"fast\"\n") ==
          "error[wrong-type] cartpole.toml:4:8: training.lr is \"fast\" (string), want a number or [[env steps, "
          "value], ...]");
    CHECK(complaint("[training]\ngamma = true\n") ==
          "error[wrong-type] cartpole.toml:2:9: training.gamma is true (boolean), want a number");
    CHECK(complaint("[training]\nnum_epochs = 1.5\n") ==
          "error[wrong-type] cartpole.toml:2:14: training.num_epochs is 1.5 (number), want an integer");
    CHECK(
        complaint("[training]\ntrain_batch_size = 1e4\n") ==
        "error[wrong-type] cartpole.toml:2:20: training.train_batch_size is 10000.0 (number), want an integer: 10000");
    CHECK(complaint("[training]\nuse_kl_loss = 1\n").ends_with("is 1 (integer), want true or false"));
    CHECK(complaint("[environment]\nenv = 3\n").ends_with("environment.env is 3 (integer), want a string"));
    CHECK(complaint("[rl_module]\nfcnet_hiddens = 64\n").ends_with("is 64 (integer), want a list of integers"));
    CHECK(complaint("[rl_module]\nfcnet_hiddens = [64, \"a\"]\n")
              .ends_with("is \"a\" (string), want integers in the list"));
    CHECK(complaint("[training]\nlr = [[0]]\n")
              .ends_with("is an array of 1, want a number or [[env steps, value], ...]"));
    CHECK(complaint("[training]\nlr = []\n").ends_with("is an array of 0, want a number or [[env steps, value], ...]"));
    CHECK(complaint("[training]\ngrad_clip = false\n").ends_with("want a number or \"off\""));
    CHECK(complaint("[environment]\nenv_config = { a = \"b\" }\n")
              .ends_with("environment.env_config.a is \"b\" (string), want a number or true or false"));
    CHECK(
        complaint("", {"training.lr_multipliers={pi.0=0.5}"})
            .ends_with("training.lr_multipliers.pi is a table, want a number or true or false; a name with dots wants "
                       "quotes: { \"pi.0\" = 1.0 }"));
    CHECK(complaint("", {"training.lr_multipliers.encoder.conv.1=0.5"})
              .ends_with("a name with dots wants quotes: { \"encoder.conv.1\" = 1.0 }"));
    CHECK(complaint("", {"training.lr_multipliers={\"pi.0\"=0.5}"}).empty());
    CHECK(complaint("[training]\nlr_multipliers = { pi = {} }\n").ends_with("want a number or true or false"));
    CHECK(complaint("training = 3\n").ends_with("training is 3 (integer), want a group: [training]"));
    CHECK(complaint("[training]\ngamma = 1979-05-27\n").ends_with("is a date or time, want a number"));
    CHECK(
        complaint("", {"training.lr=fast"}) ==
        "error[wrong-type] override training.lr=fast: training.lr is \"fast\" (string), want a number or [[env steps, "
        "value], ...]");
  }

  TEST_CASE("load_config: a value outside its range is refused with the range") {
    CHECK(complaint("[training]\ngamma = 1.5\n") ==
          "error[out-of-range] cartpole.toml:2:9: training.gamma is 1.5 (number), want 0 to 1");
    CHECK(complaint("[training]\ngamma = nan\n").ends_with("is nan (number), want 0 to 1"));
    CHECK(complaint("[env_runners]\nnum_env_runners = -1\n").ends_with("is -1 (integer), want 1 to 100000 processes"));
    CHECK(complaint("[stop]\ntraining_iteration = -1\n").ends_with("is -1 (integer), want 0 or more iterations"));
    CHECK(complaint("seed = -1\n").ends_with("seed is -1 (integer), want 0 or more"));
    CHECK(complaint("[rl_module]\nfcnet_hiddens = [64, 0]\n").ends_with("is 0 (integer), want 1 to 65536"));
    CHECK(complaint("[training]\nlr = [[0, 1e-3], [0, 1e-4]]\n")
              .ends_with("want env steps that start at 0 or more and ascend"));
    CHECK(complaint("[training]\nlr = [[0, -1e-3]]\n").find("out-of-range") != std::string::npos);
    CHECK(complaint("[environment]\nenv_config = { a = inf }\n").ends_with("is inf (number), want a finite number"));
    CHECK(complaint("[rl_module]\nfcnet_activation = \"tahn\"\n") ==
          "error[out-of-range] cartpole.toml:2:20: rl_module.fcnet_activation is \"tahn\"; did you mean tanh?");
    CHECK(complaint("[environment]\nobservation_filter = \"none\"\n").ends_with("; known: NoFilter, MeanStdFilter"));
    CHECK(complaint("algorithm = \"PPPO\"\n") ==
          "error[unknown-algorithm] cartpole.toml:1:13: algorithm is \"PPPO\"; did you mean PPO?");
  }

  TEST_CASE("load_config: what is not TOML is refused on one line") {
    CHECK(starts_with(complaint("[training\nlr = 1\n"), "error[bad-toml] cartpole.toml:1:"));
    CHECK(starts_with(complaint("[training]\nlr = 1\nlr = 2\n"), "error[bad-toml] cartpole.toml:3:"));
    CHECK(starts_with(complaint("\xff\xfe"), "error[bad-toml] cartpole.toml:1:"));
    CHECK(complaint("", {"training.lr"}) ==
          "error[bad-toml] override training.lr: want group.key=value, as in training.lr=1e-3");
    CHECK(starts_with(complaint("", {"training.lr=[1,"}),
                      "error[bad-toml] override training.lr=[1,: not a TOML value: "));
    CHECK(starts_with(complaint("", {"training.lr="}), "error[bad-toml] override training.lr=: not a TOML value: "));
    CHECK(starts_with(complaint("", {"training.lr=1\nseed = 2"}),
                      "error[bad-toml] override training.lr=1 seed = 2: not a"));
    CHECK(starts_with(complaint("", {"=1"}), "error[bad-toml] override =1: want group.key=value"));
    CHECK(starts_with(complaint("", {"..=1"}), "error[unknown-key] override ..=1"));
  }

  TEST_CASE("load_config: settings that cannot go together are refused with the nearest that can") {
    const std::string runners = "[env_runners]\nnum_env_runners = 2\nnum_envs_per_env_runner = 16\n";
    CHECK(complaint(runners + "[training]\ntrain_batch_size = 100\nminibatch_size = 300\n") ==
          "error[impossible] cartpole.toml:6:18: training.minibatch_size 300 is more than train_batch_size 100; at "
          "most 100");
    CHECK(complaint(runners + "[training]\ntrain_batch_size = 4000\n").empty());  // 4000 = 125 x 32
    CHECK(complaint(runners + "[training]\ntrain_batch_size = 4010\n") ==
          "error[impossible] cartpole.toml:5:20: training.train_batch_size 4010 is not a multiple of 32 (runners 2 x "
          "envs 16); "
          "nearest: 4000 or 4032");
    CHECK(complaint(runners + "rollout_fragment_length = 128\n[training]\ntrain_batch_size = 4000\n") ==
          "error[impossible] cartpole.toml:6:20: training.train_batch_size 4000 is not a multiple of 2048 (a fragment: "
          "envs 16 "
          "x steps 128); nearest: 2048 or 4096");
    CHECK(complaint(runners + "rollout_fragment_length = 1000\n").ends_with("nearest: 16000"));
    CHECK(complaint("", {"env_runners.num_env_runners=3"}) ==
          "error[impossible] override env_runners.num_env_runners=3: training.train_batch_size 4000 is not a multiple "
          "of 24 "
          "(runners 3 x envs 8); nearest: 3984 or 4008");
    CHECK(complaint("[training]\nsampling = \"async\"\n") ==
          "error[impossible] cartpole.toml:2:12: training.sampling is 'async'; PPO samples sync or lag1");
    CHECK(complaint("[training]\nmax_policy_lag = 2.0\nbroadcast_interval = 8\n").find("at least 7") !=
          std::string::npos);
    CHECK(complaint("[hosts]\nnum_hosts = 3\n").find("hosts.num_hosts 3 is more than env_runners.num_env_runners 2") !=
          std::string::npos);
    CHECK(
        complaint("[hosts]\nnum_hosts = 1\n[learners]\nnum_learners = 2\n")
            .ends_with("learners.num_learners 2 is more than hosts.num_hosts 1: each learner has its own host agents"));
    CHECK(complaint("[learners]\nnum_learners = 2\n[training]\ntrain_batch_size = 400\n"
                    "[env_runners]\nrollout_fragment_length = 50\n")
              .ends_with("learners.num_learners 2 is more than the 1 fragments of a batch; make train_batch_size at "
                         "least 800"));
    CHECK(complaint("[learners]\nnum_learners = 2\n").empty());  // two env runners, one agent each
    CHECK(complaint("[learners]\nnum_learners = 3\n[env_runners]\nrollout_fragment_length = 50\n")
              .find("hosts.num_hosts 3 is more than env_runners.num_env_runners 2") != std::string::npos);
    const std::string raw = "[environment]\nnormalize_actions = false\n[rl_module]\naction_distribution = ";
    CHECK(complaint(raw + "\"beta\"\n") ==
          "error[impossible] cartpole.toml:2:21: environment.normalize_actions is false, but actions of a beta are "
          "within "
          "[-1, 1] and want to be stretched to their bounds");
    CHECK(complaint(raw + "\"squashed_gaussian\"\n").starts_with("error[impossible]"));
    CHECK(complaint(raw + "\"diag_gaussian\"\n").empty());
    CHECK(complaint(raw + "\"gaussian\"\n").starts_with("error[out-of-range]"));
    CHECK(complaint("[fault_tolerance]\nrestart_backoff_s = 60.0\n").find("restart_backoff_max_s 30 is less") !=
          std::string::npos);
  }

  TEST_CASE("load_config: learners.device is cpu, cuda or cuda:N, and what only one kind can do needs it") {
    for (const char* device : {"cpu", "cuda", "cuda:0", "cuda:17"}) {
      CAPTURE(device);
      CHECK(complaint("", {std::string("learners.device=") + device}).empty());
    }
    for (const char* device : {"gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:0 ", "CUDA", "cuda:1000", ""}) {
      CAPTURE(device);
      CHECK(starts_with(complaint("[learners]\ndevice = \"" + std::string(device) + "\"\n"),
                        "error[out-of-range] cartpole.toml:2:10: learners.device is \"" + std::string(device) +
                            "\", want cpu, cuda or cuda:N"));
    }
    CHECK(complaint("[learners]\nexecutor = \"native\"\nshard = \"gradients\"\n") ==
          "error[impossible] cartpole.toml:2:12: learners.shard 'gradients' goes layer by layer; executor 'native' "
          "cannot, 'torch' can");
    CHECK(complaint("", {"learners.autocast=bfloat16"}) ==
          "error[impossible] override learners.autocast=bfloat16: learners.autocast is \"bfloat16\", which needs a "
          "CUDA device");
    CHECK(complaint("", {"learners.device=cuda", "learners.autocast=bfloat16", "learners.cuda_graph=false"}).empty());
    CHECK(complaint("", {"learners.device=cuda", "learners.collective=nccl"}).empty());
    CHECK(complaint("", {"learners.device=cuda:0", "learners.collective=nccl"}).find("wants a GPU for each learner") !=
          std::string::npos);
    CHECK(complaint("", {"learners.device=cuda", "learners.executor=native"}).find("computes on a CPU") !=
          std::string::npos);
    CHECK(complaint("", {"learners.device=cuda", "learners.shard=optimizer"}).empty());
    CHECK(complaint("", {"learners.shard=optimizer"}).empty());
  }

  TEST_CASE("Config: a batch is fragments_per_batch fragments of fragment_length steps") {
    Config config = load_config("", "c.toml");  // 4000 = 2 runners x 8 envs x 250 steps
    CHECK(config.fragment_length() == 250);
    CHECK(config.fragments_per_batch() == 2);
    config.env_runners.rollout_fragment_length = 50;  // 4000 = 10 fragments x 8 envs x 50 steps
    CHECK(config.fragment_length() == 50);
    CHECK(config.fragments_per_batch() == 10);
  }

  TEST_CASE("Config: host agents that are not counted are as many as learners") {
    Config config = load_config("", "c.toml");
    CHECK(config.hosts.num_hosts == 0);
    CHECK(config.num_hosts() == 1);
    config.learners.num_learners = 3;
    CHECK(config.num_hosts() == 3);
    config.hosts.num_hosts = 5;
    CHECK(config.num_hosts() == 5);
  }

  TEST_CASE("Schedule: piecewise linear, constant beyond its ends") {
    const Schedule s({{100.0, 1.0}, {200.0, 0.0}, {300.0, 0.5}});
    CHECK(s.at(0) == 1.0);
    CHECK(s.at(100) == 1.0);
    CHECK(s.at(150) == 0.5);
    CHECK(s.at(200) == 0.0);
    CHECK(s.at(250) == 0.25);
    CHECK(s.at(1e9) == 0.5);
    CHECK(Schedule(3.0).at(12345) == 3.0);
  }

  TEST_CASE("to_toml: what it writes reads back as the same config") {
    Config config = load_config("", "c.toml");
    config.seed = 9007199254740993;  // beyond 2^53
    config.environment.env = "weird \"id\"\n\\";
    config.environment.env_config = {{"gravity", 0.1}, {"two words", -3.0}};
    config.training.lr = Schedule({{0.0, 5e-4}, {1e6, 0.0}});
    config.training.gamma = 0.1 + 0.2;
    config.training.adam_epsilon = 1e-8;
    config.stop.episode_return_mean = -0.0;
    config.stop.time_total_s = std::numeric_limits<double>::infinity();
    for (const bool described : {false, true}) {
      const std::string text = to_toml(config, described);
      Config again = load_config(text, "again.toml");
      CHECK(to_toml(again, described) == text);
      CHECK(again.seed == config.seed);
      CHECK(again.environment.env == config.environment.env);
      CHECK(again.environment.env_config == config.environment.env_config);
      CHECK(again.training.gamma == config.training.gamma);
      CHECK(again.training.lr == config.training.lr);
      CHECK_FALSE(again.training.grad_clip.has_value());
      CHECK(std::signbit(*again.stop.episode_return_mean));
    }
    // Off stays off where the algorithm has the setting on by default.
    Config replay = load_config("algorithm = \"Replay\"\n[training]\ngrad_clip = \"off\"\n", "c.toml");
    CHECK_FALSE(load_config(to_toml(replay), "again.toml").training.grad_clip.has_value());
  }

  TEST_CASE("without_retired: what an earlier version wrote is read, without the settings that are gone") {
    Config config = load_config("", "none");
    const std::string now = to_toml(config);
    std::string before = now;
    const std::string group = "[fault_tolerance]\n", line = "max_crashes_per_minute = 5\n";
    before.insert(before.find(group) + group.size(), line);
    CHECK(error_of([&] {
            (void)load_config(before, "file");
          }).find("[fault_tolerance] has no max_crashes_per_minute") != std::string::npos);
    CHECK(without_retired(before) == now);
    CHECK(without_retired("max_crashes_per_minute = 5\n[stop]\n" + line) ==
          "max_crashes_per_minute = 5\n[stop]\n" + line);  // of another group: not the setting
    CHECK(without_retired("") == "");
  }

  TEST_CASE("to_toml: numbers are spelled as TOML wants them") {
    Config config = load_config("[training]\nlr = [[0, 5e-4], [1000000, 0]]\nlambda = 1\n", "c.toml");
    const std::string text = to_toml(config);
    CHECK(text.find("\nlr = [[0, 0.0005], [1000000, 0.0]]\n") != std::string::npos);
    CHECK(text.find("\nlambda = 1.0\n") != std::string::npos);
    CHECK(text.find("\nrollout_fragment_length = \"auto\"\n") != std::string::npos);
    CHECK(text.find("\ngrad_clip = \"off\"\n") != std::string::npos);
    CHECK(text.find("\nadam_epsilon = 1e-08\n") != std::string::npos);
    CHECK(text.find("\nfcnet_hiddens = [256, 256]\n") != std::string::npos);
    CHECK(text.starts_with("algorithm = \"PPO\"\nseed = 0\n"));
  }

  TEST_CASE("setting_rows: one row a setting, the algorithm's in [training]") {
    Config config = load_config("", "c.toml");
    const std::vector<SettingRow> rows = setting_rows(config);
    const auto row = [&](std::string_view group, std::string_view key) {
      const auto found =
          std::ranges::find_if(rows, [&](const SettingRow& r) { return r.group == group && r.key == key; });
      REQUIRE(found != rows.end());
      return *found;
    };
    CHECK(row("training", "lambda").value == "1.0");
    CHECK(row("training", "lr").type == "number or [[env steps, value], ...]");
    CHECK(row("learners", "executor").type == "auto | torch | native");
    CHECK(row("learners", "gradient_accumulation").unit == "parts");
    CHECK(row("env_runners", "step_timeout_s").unit == "s");
    CHECK(row("", "seed").type == "integer");
    for (const SettingRow& r : rows) CHECK_MESSAGE(!r.meaning.empty(), r.key);
  }
}

}  // namespace myriad
