#include <doctest/doctest.h>

#include <algorithm>

#include "algorithms/appo.hpp"
#include "algorithms/ppo.hpp"
#include "learners/algorithm.hpp"
#include "rl/check.hpp"
#include "rl/run_layout.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/infos");

TEST_CASE("algorithm_infos: every algorithm the driver knows is registered with the learner, and trains what it gets") {
  CHECK(algorithm_infos().size() >= 3);
  CHECK(std::ranges::is_sorted(algorithm_infos(), {}, &AlgorithmInfo::name));
  for (const AlgorithmInfo& info : algorithm_infos()) {
    CAPTURE(info.name);
    Config config = load_config(fmt::format("algorithm = '{}'", info.name), "test");
    CHECK(config.training.sampling == info.sampling.front());
    const EnvSpec env{.id = "a",
                      .observation_space = Space::box(-1, 1, {3}),
                      .action_space = Space::discrete(2),
                      .source = "",
                      .make = nullptr};
    const ModuleSpec module = module_of(config, env);
    CHECK(module.obs_size == 3);
    // Its loss reads what fragments carry, what the learner gives and what it makes of these.
    const FragmentLayout layout = fragment_layout(config, env, module);
    for (const std::string& column : info.columns) CHECK(layout.find(column) != nullptr);
    CHECK((layout.find(kActionDistInputs) != nullptr) == std::ranges::count(info.columns, kActionDistInputs));
    for (const std::string& column : make_algorithm(config)->loss_columns()) {
      const bool made = column == "advantages" || column == "value_targets" || column == "obs";
      CHECK((made || layout.find(column) != nullptr));
    }
  }
}

TEST_CASE("RegisterAlgorithmInfo: two algorithms of one name are refused") {
  AlgorithmInfo again = find_algorithm("PPO");
  CHECK_THROWS_WITH_AS(RegisterAlgorithmInfo(std::move(again)), "two algorithms are called PPO", Error);
}

TEST_CASE("RegisterAlgorithmInfo: a column that runners do not make is refused with those they make") {
  AlgorithmInfo wants = find_algorithm("PPO");
  wants.name = "Wants";
  wants.columns = {kLogp, "state_in"};
  CHECK_THROWS_WITH_AS(
      RegisterAlgorithmInfo(std::move(wants)),
      "Wants wants the column state_in, which runners do not make; they make logp and action_dist_inputs", Error);
}

TEST_CASE("algorithm settings: each name of the config sets the field of that name") {
  // A number of its own for each, in the order they are listed.
  const auto settings = [](const char* algorithm, const std::vector<std::string>& names) {
    std::vector<std::string> overrides;
    for (const std::string& name : names)
      overrides.push_back(fmt::format("training.{}={}", name, static_cast<double>(overrides.size() + 1) / 16));
    return load_config(fmt::format("algorithm = '{}'", algorithm), "test", overrides);
  };
  const auto check_fields = [](const std::vector<double>& fields) {
    for (size_t i = 0; i < fields.size(); ++i) {
      CAPTURE(i);
      CHECK(fields[i] == static_cast<double>(i + 1) / 16);
    }
  };
  const Config of_ppo = settings("PPO", {"lambda_", "clip_param", "kl_coeff", "kl_target", "vf_loss_coeff",
                                         "vf_clip_param", "entropy_coeff", "target_kl_stop"});
  const auto& ppo = dynamic_cast<const PpoConfig&>(*of_ppo.algorithm_config);
  check_fields({ppo.lambda_, ppo.clip_param, ppo.kl_coeff, ppo.kl_target, ppo.vf_loss_coeff, ppo.vf_clip_param,
                ppo.entropy_coeff.at(0), ppo.target_kl_stop});
  Config of_pqn = settings("PQN", {"lambda_", "epsilon"});
  CHECK(to_toml(of_pqn).find("lambda_ = 0.0625\n") != std::string::npos);
  CHECK(find_algorithm("PQN").epsilon(of_pqn).at(0) == 2.0 / 16);
  const std::vector<std::string> vtrace{"lambda_",
                                        "vtrace_clip_rho_threshold",
                                        "vtrace_clip_c_threshold",
                                        "vtrace_clip_pg_rho_threshold",
                                        "vf_loss_coeff",
                                        "entropy_coeff"};
  const auto fields_of = [](const ImpalaConfig& c) -> std::vector<double> {
    CHECK(c.vtrace().clip_rho == c.vtrace_clip_rho_threshold);
    CHECK(c.vtrace().clip_c == c.vtrace_clip_c_threshold);
    CHECK(c.vtrace().clip_pg_rho == c.vtrace_clip_pg_rho_threshold);
    CHECK(c.vtrace().lambda == c.lambda_);
    return {c.lambda_,       c.vtrace_clip_rho_threshold, c.vtrace_clip_c_threshold, c.vtrace_clip_pg_rho_threshold,
            c.vf_loss_coeff, c.entropy_coeff.at(0)};
  };
  const Config of_impala = settings("IMPALA", vtrace);
  check_fields(fields_of(dynamic_cast<const ImpalaConfig&>(*of_impala.algorithm_config)));
  std::vector<std::string> names = vtrace;
  for (const char* name : {"clip_param", "is_ratio_clip", "kl_coeff", "kl_target", "target_network_update_freq", "tau"})
    names.push_back(name);
  const Config of_appo = settings("APPO", names);
  const auto& appo = dynamic_cast<const AppoConfig&>(*of_appo.algorithm_config);
  std::vector<double> fields = fields_of(appo);
  for (const double field :
       {appo.clip_param, appo.is_ratio_clip, appo.kl_coeff, appo.kl_target, appo.target_network_update_freq, appo.tau})
    fields.push_back(field);
  check_fields(fields);
  const Config flags = load_config("algorithm = 'APPO'", "test",
                                   {"training.use_kl_loss=true", "training.circular_buffer_num_batches=5",
                                    "training.circular_buffer_iterations_per_batch=3"});
  const auto& buffer = dynamic_cast<const AppoConfig&>(*flags.algorithm_config);
  CHECK(buffer.use_kl_loss);
  CHECK(buffer.circular_buffer_num_batches == 5);
  CHECK(buffer.circular_buffer_iterations_per_batch == 3);
  const Config off =
      load_config("algorithm = 'PPO'", "test", {"training.use_kl_loss=false", "training.normalize_advantages=false"});
  CHECK_FALSE(dynamic_cast<const PpoConfig&>(*off.algorithm_config).use_kl_loss);
  CHECK_FALSE(dynamic_cast<const PpoConfig&>(*off.algorithm_config).normalize_advantages);
}

TEST_CASE("find_algorithm: an unknown name is an error that names the nearest") {
  CHECK(find_algorithm("PPO").name == "PPO");
  CHECK_THROWS_AS(find_algorithm("PP0"), Error);
  Config config;
  config.algorithm = "PP0";
  CHECK_THROWS_WITH_AS(make_algorithm(config), "unknown algorithm 'PP0'; did you mean PPO?", Error);
}

TEST_SUITE_END();
