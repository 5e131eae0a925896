// What a loss asks of the module while it trains: online, frozen and target passes, whole and by networks' names.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>

#include "learners/networks.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "tests/error_of.hpp"
#include "tests/learners/group_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/loss_networks");

namespace {

constexpr std::array<std::string_view, 1> kMetrics{"mean_loss"};
constexpr double kGamma = 0.9;

struct DdpgConfig final : AlgorithmConfig {
  bool has_target = true, sums = false, passes_whole = false;
  double interval = 1e9;
  void settings(SettingVisitor& v) override {
    v.visit({"has_target", "", "its plan has a target network"}, has_target);
    v.visit({"sums", "", "its loss is the sum over a minibatch"}, sums);
    v.visit({"passes_whole", "", "its loss is of two whole passes, online"}, passes_whole);
    v.visit({"interval", "env steps", "of the target network", 0.0}, interval);
  }
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<DdpgConfig>(*this); }
};

/// A policy of one action, and a critic of observation and action.
ModuleSpec actor_and_critic(const Space& observations, const Space& actions, const Config&) {
  ModuleSpec spec;
  spec.obs_size = observations.flat_size();
  spec.distribution = distribution_for(actions, true);
  spec.networks = {{"encoder", {"obs"}, {Linear{3, 4}, Activate{Activation::tanh, 4}}, true},
                   {"pi", {"encoder"}, {Linear{4, 1}}, true},
                   {"qf", {"obs", "actions"}, {Linear{4, 5}, Activate{Activation::elu, 5}, Linear{5, 1}}}};
  check_module(spec);
  return spec;
}

/// Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", on rows whose next observation is -s:
///   mean( (Q(s, a) - r - gamma Q_target(s', mu_target(s')))^2 ) - mean Q_frozen(s, mu(s)),   mu: the policy's mean
at::Tensor ddpg_loss(Networks& networks, const at::Tensor& obs, const at::Tensor& actions, const at::Tensor& rewards) {
  const at::Tensor next = -obs, next_mu = networks.target(next).action_dist_inputs.narrow(1, 0, 1),
                   mu = networks.online(obs).action_dist_inputs.narrow(1, 0, 1);
  const at::Tensor q = networks.online({"qf"}, {obs, actions})[0].squeeze(1),
                   q_next = networks.target({"qf"}, {next, next_mu})[0].squeeze(1),
                   q_mu = networks.frozen({"qf"}, {obs, mu})[0].squeeze(1),
                   unused = networks.frozen(obs).action_dist_inputs;  // the whole pass is frozen, too
  return (q - rewards - kGamma * q_next).square().mean() - q_mu.mean() + 0.0 * unused.mean();
}

class Ddpg final : public Algorithm {
 public:
  explicit Ddpg(const Config& config) : config_(own_settings<DdpgConfig>(config)) {}
  UpdatePlan plan() const override {
    RowPlan plan{.loss_is_sum = config_.sums};
    if (config_.has_target) plan.target = TargetNetwork{.interval = config_.interval};
    return plan;
  }
  std::vector<std::string> loss_columns() const override { return {"obs", "actions", "rewards"}; }
  std::span<const std::string_view> loss_metrics() const override { return kMetrics; }
  Loss loss(Networks& networks, const Columns& minibatch) const override {
    const at::Tensor &obs = minibatch.at("obs"), &rewards = minibatch.at("rewards");
    const at::Tensor total =
        config_.passes_whole
            ? (networks.online(obs).action_dist_inputs + networks.online(-obs).action_dist_inputs).square().mean()
            : ddpg_loss(networks, obs, minibatch.at("actions"), rewards);
    const double scale = config_.sums ? static_cast<double>(rewards.numel()) : 1.0;
    return {.total = total * scale, .metrics = total.detach().reshape({1})};
  }

 private:
  DdpgConfig config_;
};

const RegisterAlgorithm registered{"DdpgOnRows", make_as<Ddpg>};
const RegisterAlgorithmInfo registered_info{{.name = "DdpgOnRows",
                                             .summary = "a loss of every kind of pass",
                                             .make_config = make_settings<DdpgConfig>,
                                             .module = actor_and_critic}};

/// Passes in double precision, each kind with parameters of its own.
struct DoublePasses final : Networks {
  DoublePasses(const ModuleSpec& spec, std::vector<float> parameters, std::vector<float> others) : Networks(spec) {
    for (const std::vector<float>& values : {parameters, parameters, others})
      flat.push_back(at::tensor(values).to(at::kDouble));
  }
  ModuleOutput forward(Parameters with, const at::Tensor& obs) override {
    return torch_forward(spec(), parameter_views(spec(), flat[static_cast<size_t>(with)]), obs);
  }
  std::vector<at::Tensor> outputs(Parameters with, const Names& names, const NetworkInputs& inputs) override {
    const auto doubles = [](const at::Tensor& x) { return x.to(at::kDouble); };
    return outputs_of(spec(), parameter_views(spec(), flat[static_cast<size_t>(with)]), names,
                      {doubles(inputs.obs), doubles(inputs.actions)});
  }
  std::vector<at::Tensor> flat;  // online, frozen, target
};

const Space kBox = Space::box(-1, 1, {1});

Config ddpg(std::vector<std::string> settings = {}) {
  settings.insert(settings.begin(), {"training.num_epochs=1", "training.minibatch_size=0", "training.lr=1e-3"});
  Config config = load_config("algorithm = 'DdpgOnRows'", "test", settings);
  config.seed = 3;
  return config;
}

std::vector<float> parameters_of(const Learner& learner) {
  return flat_parameters(learner.spec(), learner.state().module, "test");
}

/// Adam's first step leaves a tenth of the gradient.
std::vector<float> gradient_of(const LearnerState& state) {
  std::vector<float> gradient = state.optimizer.at("exp_avg").f32();
  for (float& g : gradient) g *= 10;
  return gradient;
}

}  // namespace

TEST_CASE("Loss networks: online, frozen and target pass on the gradients of finite differences") {
  Learner learner(ddpg(), kObs, kBox);
  LearnerState state = learner.state();
  const std::vector<float> parameters = parameters_of(learner);
  std::vector<float> target = parameters;
  for (size_t i = 0; i < target.size(); ++i) target[i] += 0.2f * std::sin(static_cast<float>(i));
  state.scalars.at("target_parameters") = Tensor::of(std::span<const float>(target), {target.size()});
  learner.set_state(state);
  Fragment batch = batch_of(kBox);
  const auto column = [&](const char* name, int64_t width) {  // without the bootstrap row
    const auto values = batch.values<float>(batch.layout().column(name));
    return at::from_blob(values.data(), {kSteps * kEnvironments, width}).to(at::kDouble);
  };
  const at::Tensor obs = column("obs", 3), actions = column("actions", 1), rewards = column("rewards", 1).squeeze(1);
  const double want = learner.update(&batch).metrics.at("total_loss");

  DoublePasses passes(learner.spec(), parameters, target);
  const auto total = [&] { return ddpg_loss(passes, obs, actions, rewards).item<double>(); };
  CHECK(total() == doctest::Approx(want).epsilon(1e-5));
  const std::vector<float> gradient = gradient_of(learner.state());
  constexpr double kStep = 0x1p-10;
  std::map<bool, double> largest;
  for (const Parameter& p : learner.spec().parameters())
    for (size_t i = p.offset; i < p.offset + p.count; ++i) {
      CAPTURE(p.name);
      double& parameter = passes.flat[0].mutable_data_ptr<double>()[i];
      const double before = parameter;
      parameter = before + kStep;
      const double above = total();
      parameter = before - kStep;
      const double difference = (above - total()) / (2 * kStep);
      parameter = before;
      CHECK(std::abs(difference - double{gradient[i]}) <= 2e-3 * (1 + std::abs(difference)));
      double& most = largest[p.name.starts_with("qf")];
      most = std::max(most, std::abs(difference));
    }
  CHECK(largest[true] > 0.5);    // the critic's, of its own loss alone
  CHECK(largest[false] > 0.05);  // the actor's, all of which comes through the frozen critic's input
}

TEST_CASE(
    "Loss networks: over a group, and summed while backward works, one learner's gradient; of a mean and of a sum") {
  const auto gradient = [](uint32_t size, size_t overlap_floats, const char* sums) {
    Learners shards;
    for (uint32_t r = 0; r < size; ++r)
      shards.push_back(std::make_unique<Learner>(ddpg({fmt::format("training.sums={}", sums)}), kObs, kBox));
    join_all(shards, members_of(size, nullptr, std::nullopt, overlap_floats));
    Fragment batch = batch_of(kBox);
    auto slices = slices_of(batch, size == 1 ? std::vector<int>{8} : std::vector<int>{5, 3});
    in_threads(size, [&](uint32_t r) { shards[r]->update(&*slices[r]); });
    check_equal(shards);
    return gradient_of(shards[0]->state());
  };
  std::map<std::string, std::vector<float>> gradients;
  for (const char* sums : {"false", "true"}) {
    CAPTURE(sums);
    const std::vector<float> alone = gradient(1, 0, sums), together = gradient(2, 0, sums);
    CHECK(gradient(2, 1, sums) == together);
    const float scale = sums == std::string("true") ? kSteps * kEnvironments : 1;
    for (size_t i = 0; i < alone.size(); ++i) CHECK(std::abs(alone[i] - together[i]) <= 1e-5f * scale);
    gradients[sums] = alone;
  }
  for (size_t i = 0; i < gradients["true"].size(); ++i)
    CHECK(std::abs(gradients["true"][i] / (kSteps * kEnvironments) - gradients["false"][i]) <= 1e-5f);
}

TEST_CASE("Loss networks: the target of a plan of rows follows the parameters") {
  Learner learner(ddpg({"training.interval=256", "training.num_epochs=2"}), kObs, kBox);
  const auto target = [&] { return learner.state().scalars.at("target_parameters").f32(); };
  const std::vector<float> initial = parameters_of(learner);
  CHECK(target() == initial);
  Fragment batch = batch_of(kBox);
  CHECK(learner.update(&batch).metrics.at("num_target_updates_lifetime") == 1);  // 2 x 128 rows
  CHECK(target() == parameters_of(learner));
  CHECK(target() != initial);
}

TEST_CASE("Loss networks: what a plan or a shard does not have is refused by name") {
  Fragment batch = batch_of(kBox);
  Learner without(ddpg({"training.has_target=false"}), kObs, kBox);
  CHECK(error_of([&] { without.update(&batch); }) ==
        "error[impossible] the loss asks for a target network, and the algorithm's plan() has none");
  for (const char* kind : {"gradients", "parameters"})
    for (const char* whole : {"false", "true"}) {
      CAPTURE(kind);
      CAPTURE(whole);
      const std::vector<std::string> settings{fmt::format("learners.shard={}", kind),
                                              fmt::format("training.passes_whole={}", whole)};
      Learners shards;
      for (int r = 0; r < 2; ++r) shards.push_back(std::make_unique<Learner>(ddpg(settings), kObs, kBox));
      join_all(shards, members_of(2, nullptr));
      auto slices = slices_of(batch, {4, 4});
      std::array<std::string, 2> errors;
      in_threads(2, [&](uint32_t r) { errors[r] = error_of([&] { shards[r]->update(&*slices[r]); }); });
      for (const std::string& error : errors)
        CHECK(error.find("train losses of one forward pass") != std::string::npos);
    }
}

TEST_SUITE_END();
