// Layers that do something else in training: BatchNorm and RandomShift.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <doctest/doctest.h>

#include <cmath>

#include "learners/module/torch_layers.hpp"
#include "rl/algorithm_info.hpp"
#include "tests/error_of.hpp"
#include "tests/learners/device_examples.hpp"
#include "tests/learners/group_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/training_pass");

namespace {

/// Logits that are the encoder's features, and a value of 0 times them.
ModuleSpec with_encoder(int obs_size, const std::vector<Layer>& encoder) {
  ModuleSpec spec;
  spec.obs_size = obs_size;
  const int features = outputs_of(encoder.back());
  spec.networks = {{"encoder", {"obs"}, encoder, true},
                   {"pi", {"encoder"}, {Linear{features, features}}, true},
                   {"vf", {"encoder"}, {Linear{features, 1}}}};
  spec.distribution = Categorical{features};
  return spec;
}

/// A spec's parameters by name, in one flat tensor that records its gradient: initial ones, but the head the identity.
struct Parameters {
  explicit Parameters(const ModuleSpec& s, at::ScalarType type = at::kFloat) : spec(s) {
    const std::vector<float> values = initial_parameters(spec, 5);
    flat = at::tensor(at::ArrayRef<float>(values.data(), values.size())).to(type).set_requires_grad(true);
    put("pi.weight", at::eye(inputs_size(spec.distribution)));
    put("vf.weight", at::zeros({inputs_size(spec.distribution)}));
  }
  at::Tensor part(const at::Tensor& of, const std::string& name) const {
    for (const Parameter& p : spec.parameters())
      if (p.name == name) return of.narrow(0, static_cast<int64_t>(p.offset), static_cast<int64_t>(p.count));
    throw 0;
  }
  void put(const std::string& name, const at::Tensor& values) const {
    part(flat.detach(), name).copy_(values.flatten());
  }
  at::Tensor gradient(const std::string& name) const { return part(flat.grad(), name); }
  at::Tensor outputs(const at::Tensor& obs) const {
    return torch_forward(spec, parameter_views(spec, flat), obs).action_dist_inputs;
  }

  ModuleSpec spec;
  at::Tensor flat;
};

at::Tensor rows(std::vector<float> values, int64_t count) { return at::tensor(values).view({count, -1}); }

bool near(const at::Tensor& got, const at::Tensor& want, double tolerance = 1e-5) {
  return got.sizes() == want.sizes() && (got - want).abs().max().item<double>() <= tolerance;
}

/// PPO: two gradient steps an update, nothing shuffled. IMPALA: one, of whole sequences.
Config with_batchnorm(const char* algorithm) {
  Config config = algorithm == std::string("PPO") ? config_of("auto") : async_config("IMPALA", "auto");
  config.environment.observation_filter = "NoFilter";
  config.training.num_epochs = 1;
  config.training.shuffle_batch_per_epoch = false;
  if (algorithm == std::string("PPO")) config.training.minibatch_size = kSteps * kEnvironments / 2;
  config.rl_module.fcnet_hiddens = {4};
  config.rl_module.fcnet_use_batchnorm = true;
  return config;
}

at::Tensor tensor_of(const LearnerState& state, const std::string& name) {
  const std::vector<float> values = state.module.at(name).f32();
  return at::tensor(at::ArrayRef<float>(values.data(), values.size()));
}

/// The three features as a picture of one row, which RandomShift moves before a convolution.
const Space kRow = Space::box(-10, 10, {1, 3, 1});
ModuleSpec module_on_rows(const Space&, const Space& actions, const Config& config) {
  return make_module_spec(kRow, actions, config.rl_module);
}
const RegisterAlgorithmInfo ppo_info{{.name = "PPO on moved pictures",
                                      .summary = "",
                                      .make_config = make_settings<PpoConfig>,
                                      .columns = {kLogp, kActionDistInputs},
                                      .module = module_on_rows}};
const RegisterAlgorithm ppo{"PPO on moved pictures", [](const Config&) { return make_algorithm(config_of()); }};
const RegisterAlgorithmInfo impala_info{{.name = "IMPALA on moved pictures",
                                         .summary = "",
                                         .make_config = make_settings<ImpalaConfig>,
                                         .columns = {kLogp, kActionDistInputs},
                                         .module = module_on_rows}};
const RegisterAlgorithm impala{"IMPALA on moved pictures",
                               [](const Config&) { return make_algorithm(async_config("IMPALA")); }};

Config with_random_shift(const char* algorithm, int64_t pixels = 1) {
  Config config = algorithm == std::string("PPO") ? config_of("auto") : async_config("IMPALA", "auto");
  config.algorithm = fmt::format("{} on moved pictures", algorithm);
  config.training.minibatch_size = 3 * kSteps;
  config.rl_module.conv_filters = {{4, 1, 1}};
  config.rl_module.channels = "last";
  config.rl_module.random_shift = pixels;
  return config;
}

}  // namespace

TEST_CASE("BatchNorm: training and inference by hand") {
  const Parameters p(with_encoder(2, {BatchNorm{2, 2}}));
  p.put("encoder.0.gain", at::tensor({2.0f, 1.0f}));
  p.put("encoder.0.bias", at::tensor({0.5f, 0.0f}));
  const at::Tensor obs = rows({1, 0, 3, 4}, 2);
  CHECK(near(p.outputs(obs), rows({2.5, 0, 6.5, 4}, 2), 1e-4));  // mean 0, variance 1, as a fresh one has them
  {
    // Of (1, 3) mean 2, variance 1; of (0, 4) mean 2, variance 4.
    const TrainingPass pass({.share = 0.5});
    const at::Tensor y = p.outputs(obs);
    CHECK(near(y, rows({-1.5, -1, 2.5, 1}, 2), 1e-4));  // the variance plus 1e-5
    y.sum().backward();
  }
  CHECK(near(p.gradient("encoder.0.bias"), at::tensor({2.0f, 2.0f})));
  CHECK(near(p.gradient("encoder.0.gain"), at::zeros({2})));
  // Half of what 0 lacks to 2, and 1 to 1 and 4, as a gradient: against the way they go.
  CHECK(near(p.gradient("encoder.0.running_mean"), at::tensor({-1.0f, -1.0f})));
  CHECK(near(p.gradient("encoder.0.running_var"), at::tensor({0.0f, -1.5f})));
  CHECK(TrainingPass::current() == nullptr);
  p.put("encoder.0.running_mean", at::tensor({1.0f, 2.0f}));
  p.put("encoder.0.running_var", at::tensor({4.0f, 0.25f}));
  CHECK(near(p.outputs(obs), rows({0.5, -4, 2.5, 4}, 2), 1e-4));
}

TEST_CASE("BatchNorm: of pictures each channel, and of sequences the steps alone count") {
  const Parameters p(with_encoder(4, {BatchNorm{4, 2}}));  // two pixels of two channels
  const at::Tensor obs = rows({1, 10, 3, 20, 5, 30, 7, 40}, 2);
  {
    const TrainingPass pass({});
    // (1, 3, 5, 7): mean 4, variance 5. (10, 20, 30, 40): 25, 125.
    const at::Tensor y = p.outputs(obs);
    CHECK(near(y.view({-1, 2}).select(1, 0), at::tensor({-3.0, -1.0, 1.0, 3.0}) / std::sqrt(5.0)));
    CHECK(near(y.view({-1, 2}).select(1, 1), at::tensor({-15.0, -5.0, 5.0, 15.0}) / std::sqrt(125.0)));
    y.sum().backward();
    CHECK(near(p.gradient("encoder.0.running_mean"), at::tensor({-4.0f, -25.0f})));
  }
  const TrainingPass pass({.counted = 1});
  // The first row alone: (1, 3) of mean 2, variance 1; (10, 20) of mean 15, variance 25.
  CHECK(near(p.outputs(obs), rows({-1, -1, 1, 1, 3, 3, 5, 5}, 2), 1e-4));
}

TEST_CASE("BatchNorm: torch's gradient is that of finite differences") {
  const ModuleSpec spec =
      with_encoder(3, {Linear{3, 4}, BatchNorm{4, 2}, Activate{Activation::tanh, 4}, Linear{4, 3}, BatchNorm{3, 3}});
  const Parameters p(spec, at::kDouble);
  RandomStream random(3, StreamPurpose::simulation, 0);
  const at::Tensor obs = at::empty({5, 3}, at::kDouble), weight = at::empty({5, 3}, at::kDouble);
  for (const at::Tensor& tensor : {obs, weight})
    for (int64_t i = 0; i < tensor.numel(); ++i) tensor.mutable_data_ptr<double>()[i] = random.normal();
  const TrainingPass pass({});
  const auto loss = [&] { return (p.outputs(obs).to(at::kDouble) * weight).sum(); };
  loss().backward();
  const double step = 1e-3;
  double worst = 0, largest = 0;
  for (const Parameter& parameter : spec.parameters())
    for (size_t i = parameter.offset; parameter.momentum == 0 && i < parameter.offset + parameter.count; ++i) {
      double& value = p.flat.mutable_data_ptr<double>()[i];
      const double before = value;
      const auto loss_with = [&](double there) {
        const at::NoGradGuard no_grad;
        value = there;
        return loss().item<double>();
      };
      const double difference = (loss_with(before + step) - loss_with(before - step)) / (2 * step);
      value = before;
      worst = std::max(worst, std::abs(difference - p.flat.grad().const_data_ptr<double>()[i]));
      largest = std::max(largest, std::abs(difference));
    }
  CHECK(largest > 0.5);
  CHECK(worst <= 2e-3);  // outputs are rounded to float32
}

TEST_CASE("RandomShift: by hand, the channels of a picture alike") {
  const Parameters p(with_encoder(12, {RandomShift{2, 3, 2, 1}}));
  // 1 2 3 / 4 5 6, and ten times that as its second channel.
  const std::vector<float> picture{1, 10, 2, 20, 3, 30, 4, 40, 5, 50, 6, 60};
  std::vector<float> four;
  for (int i = 0; i < 4; ++i) four.insert(four.end(), picture.begin(), picture.end());
  const at::Tensor obs = rows(four, 4);
  CHECK(at::equal(p.outputs(obs), obs));
  const TrainingPass pass({.shifts = rows({0.5, 0.4, 0, 0.3, 0.7, 0.99, 1, 0}, 4)});  // 1 1, 0 0, 2 2, 2 0
  const at::Tensor y = p.outputs(obs);
  const at::Tensor first = y.view({4, 6, 2}).select(2, 0);
  CHECK(near(first, rows({1, 2, 3, 4, 5, 6,   // in the middle: as it is
                          1, 1, 2, 1, 1, 2,   // from the corner above, left: the border comes in there
                          5, 6, 6, 5, 6, 6,   // from below, right
                          4, 4, 5, 4, 4, 5},  // from below, left
                         4)));
  CHECK(at::equal(y.view({4, 6, 2}).select(2, 1), first * 10));
}

TEST_CASE("BatchNorm: running statistics over two minibatches by hand") {
  Config config = with_batchnorm("PPO");
  config.training.lr = 0.0;  // what BatchNorm gets stays the same
  const auto learner = make_learner(config);
  Fragment batch = batch_of(kActions);
  const std::span<const float> obs = batch.values<float>(batch.layout().column("obs"));
  const LearnerState before = learner->state();
  learner->update(&batch);
  const LearnerState after = learner->state();
  for (const std::string part : {"encoder", "vf_encoder"}) {
    const at::Tensor steps = at::tensor(at::ArrayRef<float>(obs.data(), kSteps * kEnvironments * 3)).view({2, -1, 3});
    const at::Tensor x = at::linear(steps, tensor_of(before, part + ".0.weight").view({4, 3}),
                                    tensor_of(before, part + ".0.bias"));  // [2, 64, 4]
    const auto [var, mean] = at::var_mean(x, at::IntArrayRef{1}, /*unbiased=*/false);
    const at::Tensor wanted_mean = (mean[0] * 0.01) * 0.99 + mean[1] * 0.01;
    const at::Tensor wanted_var = (0.99 + var[0] * 0.01) * 0.99 + var[1] * 0.01;
    CHECK(near(tensor_of(after, part + ".1.running_mean"), wanted_mean, 1e-6));
    CHECK(near(tensor_of(after, part + ".1.running_var"), wanted_var, 1e-6));
    CHECK(wanted_mean.abs().max().item<float>() > 0.01f);
  }
  for (const auto& [name, tensor] : before.module)
    if (name.find("running") == std::string::npos) CHECK(near(tensor_of(after, name), tensor_of(before, name), 0.0));
  for (const char* moments : {"exp_avg", "exp_avg_sq"}) {
    const std::vector<float> values = after.optimizer.at(moments).f32();
    for (const Parameter& p : learner->spec().parameters())
      for (size_t i = p.offset; p.momentum > 0 && i < p.offset + p.count; ++i) CHECK(values[i] == 0.0f);
  }
}

TEST_CASE("BatchNorm: what moves the statistics has no part in the gradient's norm or clipping") {
  Config config = with_batchnorm("PPO");
  const auto plain = make_learner(config);
  config.training.lr_multipliers = {{"encoder.1.running_mean", 0.0}};
  const auto frozen = make_learner(config);
  Fragment batch = batch_of(kActions);
  const char* norm = "gradients_default_optimizer_global_norm";
  CHECK(plain->update(&batch).metrics.at(norm) == frozen->update(&batch).metrics.at(norm));
  CHECK(near(tensor_of(frozen->state(), "encoder.1.running_mean"), at::zeros({4}), 0.0));
  CHECK(!near(tensor_of(plain->state(), "encoder.1.running_mean"), at::zeros({4})));
  const double parameters = plain->update(&batch).metrics.at("num_trainable_parameters");
  CHECK(parameters == static_cast<double>(plain->spec().num_parameters()) - 2 * 2 * 4);
}

TEST_CASE("BatchNorm: a minibatch that is not finite changes no statistics") {
  const auto learner = make_learner(with_batchnorm("PPO"));
  Fragment batch = batch_of(kActions);
  learner->update(&batch);
  const LearnerState before = learner->state();
  batch.values<float>(batch.layout().column("obs"))[0] = NAN;                               // in the first minibatch
  batch.values<float>(batch.layout().column("obs"))[kSteps * kEnvironments * 3 / 2] = NAN;  // in the second
  CHECK(learner->update(&batch).skipped == 2);
  CHECK(learner->state().module.at("encoder.1.running_var").f32() == before.module.at("encoder.1.running_var").f32());
}

TEST_CASE("BatchNorm: two shards are one learner that takes a minibatch in two parts") {
  Config config = with_batchnorm("IMPALA");
  const auto in_parts = [&] {
    Config both = with_batchnorm("IMPALA");
    both.learners.gradient_accumulation = 2;
    return both;
  };
  const auto one = make_learner(in_parts());
  Learners two = make_learners(2, [] { return with_batchnorm("IMPALA"); });
  join_all(two, members_of(2, nullptr));
  for (uint64_t update = 1; update <= 3; ++update) {
    update_all(two, update, {kEnvironments / 2, kEnvironments / 2});
    Fragment batch = batch_of(kActions, update);
    one->update(&batch);
  }
  check_equal(two);
  check_near(*two[0], *one, 2e-5f);
  const auto whole = make_learner(config);
  Fragment batch = batch_of(kActions, 1);
  whole->update(&batch);
  CHECK(!near(tensor_of(whole->state(), "encoder.1.running_mean"), at::zeros({4}), 1e-3));
}

TEST_CASE("BatchNorm: what lies where changes no update") {
  const auto group_of = [](const char* shard) {
    Learners learners = make_learners(2, [shard] {
      Config config = with_batchnorm("IMPALA");
      config.learners.shard = shard;
      return config;
    });
    join_all(learners, members_of(2, nullptr));
    for (uint64_t update = 1; update <= 3; ++update) update_all(learners, update, {kEnvironments - 3, 3});
    return learners;
  };
  const LearnerState want = states_of(group_of("none"))[0];
  for (const char* shard : {"optimizer", "gradients", "parameters"}) {
    CAPTURE(shard);
    const LearnerState got = states_of(group_of(shard))[0];
    for (const auto& [name, tensor] : want.module) {
      CAPTURE(name);
      CHECK(near(tensor_of(got, name), tensor_of(want, name), 2e-5));
    }
  }
}

TEST_CASE("BatchNorm and RandomShift: a checkpoint continues bit for bit, and what is recorded is the same") {
  for (const int kind : {0, 1, 2, 3}) {
    const char* algorithm = kind % 2 == 0 ? "PPO" : "IMPALA";
    const Config config = kind < 2 ? with_batchnorm(algorithm) : with_random_shift(algorithm);
    CAPTURE(kind);
    int64_t replays = 0;
    const auto a = make_learner(config), b = make_learner(config);
    Learner recorded(config, kObs, kActions, std::make_unique<RecordingSupport>(&replays));
    for (uint64_t update = 1; update <= 8; ++update) {
      Fragment batch = batch_of(kActions, update, cuts_of(update));
      a->update(&batch);
      recorded.update(&batch);
    }
    CHECK(replays > 0);
    CHECK(same(recorded.state(), a->state()));
    b->set_state(a->state());
    Fragment batch = batch_of(kActions, 9);
    CHECK(without_work(a->update(&batch).metrics) == without_work(b->update(&batch).metrics));
    CHECK(same(a->state(), b->state()));
  }
}

TEST_CASE("RandomShift: moves what is trained on, each minibatch by numbers of its own") {
  for (const char* algorithm : {"PPO", "IMPALA"}) {
    CAPTURE(algorithm);
    const auto moved = make_learner(with_random_shift(algorithm)),
               plain = make_learner(with_random_shift(algorithm, 0));
    Fragment batch = batch_of(kActions);
    moved->update(&batch);
    plain->update(&batch);
    CHECK(!near(tensor_of(moved->state(), "pi.weight"), tensor_of(plain->state(), "pi.weight"), 1e-4));
  }
}

TEST_CASE("BatchNorm and RandomShift: executor native refuses them by name") {
  for (const bool shifts : {false, true}) {
    Config config = shifts ? with_random_shift("PPO") : with_batchnorm("PPO");
    config.learners.executor = "native";
    const std::string error = error_of([&] { make_learner(config); });
    CHECK(error.starts_with("error[impossible] learners.executor 'native' cannot train a layer of kind "));
  }
}

TEST_SUITE_END();
