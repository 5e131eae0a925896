// Pictures in both executors, and in the learner.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>

#include "env_runners/eigen_policy.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "tests/error_of.hpp"
#include "tests/layer_examples.hpp"
#include "tests/learners/group_examples.hpp"
#include "tests/learners/same_gradient.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/convolution");

namespace {

at::Tensor tensor_of(std::span<const float> values, std::vector<int64_t> shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  std::ranges::copy(values, tensor.mutable_data_ptr<float>());
  return tensor;
}

std::vector<float> normals(size_t n, uint64_t seed) {
  RandomStream random(seed, StreamPurpose::simulation, 9);
  std::vector<float> values(n);
  for (float& v : values) v = static_cast<float>(random.normal());
  return values;
}

/// Two logits and a value of its own encoder, which is the same.
ModuleSpec with_encoder(int obs_size, const std::vector<Layer>& encoder) {
  ModuleSpec spec;
  spec.obs_size = obs_size;
  const int features = outputs_of(encoder.back());
  spec.networks = {{"encoder", {"obs"}, encoder, true},
                   {"pi", {"encoder"}, {Linear{features, 2}}, true},
                   {"vf_encoder", {"obs"}, encoder},
                   {"vf", {"vf_encoder"}, {Linear{features, 1}}}};
  spec.distribution = Categorical{2};
  return spec;
}

ModuleSpec preset(const std::vector<int>& shape, const char* encoder) {
  ModelConfig config;
  config.encoder = encoder;
  config.vf_share_layers = true;
  return make_module_spec(Space::box(0, 255, shape, DType::u8), Space::box(-1, 1, {3}), config);
}

/// A picture, two numbers that the value alone sees, and an integer that is embedded.
ModuleSpec in_streams() {
  ModelConfig config;
  config.embedding_size = 3;
  config.critic_only_parts = {"hidden"};
  const Space observations(Dict{{{"hidden", Space::box(-1, 1, {2})},
                                 {"eye", Space::box(0, 255, {10, 10, 4}, DType::u8)},
                                 {"room", Space::discrete(5)}}});
  return make_module_spec(observations, Space::box(-1, 1, {3}), config);
}

ModuleSpec q_network(const std::vector<int>& shape) {
  ModelConfig config;
  config.fcnet_use_layernorm = true;
  return make_q_spec(Space::box(0, 255, shape, DType::u8), Space::discrete(3), config);
}

/// The module of one convolution on the three features that the examples have.
const Space kRow = Space::box(-10, 10, {1, 3, 1});
const RegisterAlgorithmInfo info{{.name = "PPO on pictures",
                                  .summary = "",
                                  .make_config = make_settings<PpoConfig>,
                                  .columns = {kLogp, kActionDistInputs},
                                  .module = [](const Space&, const Space& actions, const Config& config) {
                                    return make_module_spec(kRow, actions, config.rl_module);
                                  }}};
const RegisterAlgorithm algorithm{"PPO on pictures", [](const Config&) { return make_algorithm(config_of()); }};

Config config_of_pictures(const std::string& executor) {
  Config config = config_of(executor);
  config.algorithm = "PPO on pictures";
  config.rl_module.conv_filters = {{4, 1, 1}};
  config.rl_module.channels = "last";
  return config;
}

}  // namespace

TEST_CASE("Convolution: torch and EigenPolicy agree on every kind of layer and every preset") {
  const auto relu = [](int size) { return Activate{Activation::relu, size}; };
  std::vector<ModuleSpec> specs{
      with_encoder(60, {Scale{60, 0.5f}}),
      with_encoder(60, {ChannelsLast{3, 5, 4}}),
      with_encoder(60, {ChannelsLast{3, 5, 2, 2}}),
      with_encoder(60, {Conv2d{5, 4, 3, 7, 3, 1, 1}, relu(140), Conv2d{5, 4, 7, 18, 2, 2}}),
      with_encoder(60, {MaxPool2d{5, 4, 3, 3, 2, 1}}),
      with_encoder(60, {MaxPool2d{5, 4, 3, 2, 1}, LayerNorm{36}}),
      with_encoder(60, {ResidualBegin{60}, Conv2d{5, 4, 3, 3, 3, 1, 1}, ResidualBegin{60}, Linear{60, 60},
                        ResidualEnd{60}, ResidualEnd{60}}),
      with_encoder(6, {ResidualBegin{6}, Linear{6, 6}, ResidualEnd{6}}),
      with_encoder(70, {Select{70, 9, 60}, Conv2d{5, 4, 3, 7, 3, 1, 1}, relu(140), Linear{140, 5}}),
      with_encoder(
          70, {Stream{70}, Select{70, 3, 5}, Stream{70}, Select{70, 10, 60}, Conv2d{5, 4, 3, 7, 3, 1, 1}, relu(140),
               Linear{140, 11}, Stream{70}, Linear{70, 3}, LayerNorm{3}, Select{3, 1, 2}, Concat{18}, Linear{18, 6}}),
      in_streams(),
      preset({10, 10, 4}, "minatar_cnn"),
      preset({4, 84, 84}, "nature_cnn"),
      preset({2, 30, 28, 3}, "impala_resnet"),
      preset({2, 30, 28, 3}, "impoola_cnn"),
      q_network({10, 10, 4}),
  };
  for (const LayerExample& example : layer_examples()) specs.push_back(example.spec);
  for (const ModuleSpec& spec : specs) {
    CAPTURE(spec.to_string());
    const std::vector<float> values = initial_parameters(spec, 5);
    const auto parameters = parameter_views(spec, tensor_of(values, {static_cast<int64_t>(values.size())}));
    EigenPolicy policy(spec);
    policy.load(values);
    for (const int64_t n : {1, 8, 64}) {
      const std::vector<float> obs = normals(static_cast<size_t>(n * spec.obs_size), 6);
      const ModuleOutput torch = torch_forward(spec, parameters, tensor_of(obs, {n, spec.obs_size}));
      at::Tensor eigen = at::empty({n, policy.num_outputs()}, at::kFloat);
      policy.forward(obs.data(), static_cast<size_t>(n), eigen.mutable_data_ptr<float>());
      CHECK((torch.action_dist_inputs - eigen).abs().max().item<float>() <= 1e-5f);
      CHECK(torch.values.sizes() == at::IntArrayRef{n});
      if (spec.is_q_network()) CHECK(at::equal(torch.values, torch.action_dist_inputs.amax(1)));
    }
  }
}

TEST_CASE("Convolution: torch's every kind of layer by hand") {
  for (const LayerExample& example : layer_examples()) {
    CAPTURE(example.about);
    const auto count = [](size_t n) { return static_cast<int64_t>(n); };
    const auto parameters =
        parameter_views(example.spec, tensor_of(example.parameters, {count(example.parameters.size())}));
    const ModuleOutput out =
        torch_forward(example.spec, parameters, tensor_of(example.x, {1, count(example.x.size())}));
    const at::Tensor wanted = tensor_of(example.y, {1, count(example.y.size())});
    CHECK(at::allclose(out.action_dist_inputs, wanted, 1e-5, 1e-5));
  }
}

TEST_CASE("Convolution: torch's by hand") {
  // As EigenPolicy's: 1 2 3 / 4 5 6 / 7 8 9 and the weight 1 0 / 0 2.
  const ModuleSpec spec = with_encoder(9, {Conv2d{3, 3, 1, 1, 2}, MaxPool2d{2, 2, 1, 2, 1}});
  std::vector<float> values(spec.num_parameters(), 0.0f);
  const auto put = [&](const std::string& name, std::vector<float> numbers) {
    for (const Parameter& p : spec.parameters())
      if (p.name == name) std::ranges::copy(numbers, values.begin() + static_cast<std::ptrdiff_t>(p.offset));
  };
  put("encoder.0.weight", {1, 0, 0, 2}), put("encoder.0.bias", {0.5});
  put("pi.weight", {1, 2}), put("vf_encoder.0.bias", {3}), put("vf.weight", {10});
  const auto parameters = parameter_views(spec, tensor_of(values, {static_cast<int64_t>(values.size())}));
  const ModuleOutput out = torch_forward(spec, parameters, at::arange(1, 10, at::kFloat).view({1, 9}));
  CHECK(out.action_dist_inputs[0][0].item<float>() == 23.5f);  // the largest of 11.5, 14.5, 20.5, 23.5
  CHECK(out.action_dist_inputs[0][1].item<float>() == 47.0f);
  CHECK(out.values[0].item<float>() == 30.0f);
}

TEST_CASE("Convolution: torch's gradient is that of finite differences") {
  const std::vector<ModuleSpec> specs{
      with_encoder(50, {Stream{50}, Select{50, 7, 9}, Conv2d{3, 3, 1, 2, 2}, Activate{Activation::tanh, 8}, Stream{50},
                        Select{50, 1, 4}, Stream{50}, Linear{50, 2}, Concat{14}, Linear{14, 4}}),
      with_encoder(50,
                   {ChannelsLast{2, 5, 5}, Scale{50, 0.5f}, Conv2d{5, 5, 2, 3, 3, 2, 1}, Activate{Activation::tanh, 27},
                    ResidualBegin{27}, Conv2d{3, 3, 3, 3, 3, 1, 1}, Activate{Activation::tanh, 27}, ResidualEnd{27},
                    MaxPool2d{3, 3, 3, 2, 1}, AvgPool2d{2, 2, 3, 2, 1, 1}, Linear{6, 4}})};
  for (const ModuleSpec& spec : specs) {
    CAPTURE(spec.to_string());
    const std::vector<float> values = initial_parameters(spec, 2);
    const at::Tensor obs = tensor_of(normals(3 * 50, 1), {3, 50}), weight = tensor_of(normals(3 * 2, 2), {3, 2});
    const auto loss = [&](const ModuleOutput& out) {
      return (out.action_dist_inputs * weight).to(at::kDouble).sum() + out.values.to(at::kDouble).square().sum();
    };
    const ModuleOutput out =
        torch_forward(spec, parameter_views(spec, tensor_of(values, {static_cast<int64_t>(values.size())})), obs);
    const std::vector<float> gradient = pass_of(spec, values, Executor::torch, obs, weight, 2 * out.values).gradient;
    // The layers in double precision, of which the outputs are rounded to float: 1e-7 / 2^-11 is below 1e-4.
    const at::Tensor flat = tensor_of(values, {static_cast<int64_t>(values.size())}).to(at::kDouble);
    const auto parameters = parameter_views(spec, flat);
    const auto loss_with = [&](double& parameter, double value) {
      const double before = std::exchange(parameter, value);
      const double result = loss(torch_forward(spec, parameters, obs.to(at::kDouble))).item<double>();
      parameter = before;
      return result;
    };
    constexpr double kStep = 0x1p-12;
    double worst = 0, largest = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      double& parameter = flat.mutable_data_ptr<double>()[i];
      const double difference =
          (loss_with(parameter, parameter + kStep) - loss_with(parameter, parameter - kStep)) / (2 * kStep);
      worst = std::max(worst, std::abs(difference - double{gradient[i]}));
      largest = std::max(largest, std::abs(difference));
    }
    CHECK(largest > 0.5);
    CHECK(worst <= 2e-3);
  }
}

TEST_CASE("Streams: what the value alone sees moves the value and not the policy") {
  const ModuleSpec spec = in_streams();
  REQUIRE(spec.obs_size == 407);
  const std::vector<float> values = initial_parameters(spec, 5);
  const auto parameters = parameter_views(spec, tensor_of(values, {static_cast<int64_t>(values.size())}));
  at::Tensor obs = tensor_of(normals(407, 6), {1, 407});
  const ModuleOutput before = torch_forward(spec, parameters, obs);
  obs[0][1] += 1.0;  // of "hidden"
  const ModuleOutput hidden = torch_forward(spec, parameters, obs);
  CHECK(at::equal(hidden.action_dist_inputs, before.action_dist_inputs));
  CHECK(!at::equal(hidden.values, before.values));
  obs[0][2] += 1.0;  // of "eye"
  CHECK(!at::equal(torch_forward(spec, parameters, obs).action_dist_inputs, before.action_dist_inputs));
}

TEST_CASE("Convolution: the native executor equals torch, forward and backward") {
  const auto relu = [](int size) { return Activate{Activation::relu, size}; };
  const std::vector<ModuleSpec> specs{
      with_encoder(60, {ChannelsLast{3, 5, 2, 2}, Scale{60, 0.5f}, Linear{60, 5}}),
      with_encoder(60, {Linear{60, 60}, relu(60), Scale{60, 0.5f}, Conv2d{5, 4, 3, 7, 3, 1, 1}, relu(140),
                        ChannelsLast{7, 5, 4}, Conv2d{5, 4, 7, 70, 2, 2}, LayerNorm{280}}),
      with_encoder(60, {Conv2d{5, 4, 3, 3, 3, 1, 1}, relu(60), MaxPool2d{5, 4, 3, 3, 2, 1}, relu(18), Linear{18, 4}}),
      with_encoder(60, {Conv2d{5, 4, 3, 3, 3, 1, 1}, ResidualBegin{60}, relu(60), Conv2d{5, 4, 3, 3, 3, 1, 1},
                        ResidualBegin{60}, Activate{Activation::gelu, 60}, Linear{60, 60}, ResidualEnd{60},
                        ResidualEnd{60}, relu(60), ResidualBegin{60}, ResidualEnd{60}}),
      preset({10, 10, 4}, "minatar_cnn"),
      preset({4, 84, 84}, "nature_cnn"),
      preset({2, 30, 28, 3}, "impala_resnet"),
      q_network({10, 10, 4}),
  };
  for (const ModuleSpec& spec : specs) {
    CAPTURE(spec.to_string());
    REQUIRE(NativeModule::obstacle(spec) == "");
    std::vector<float> parameters = initial_parameters(spec, 5);
    const std::vector<float> moves = normals(parameters.size(), 4);
    for (size_t i = 0; i < moves.size(); ++i) parameters[i] += 0.01f * moves[i];  // no bias stays 0
    for (const int64_t n : {1, 70}) {
      const at::Tensor obs = tensor_of(normals(static_cast<size_t>(n * spec.obs_size), 6), {n, spec.obs_size});
      const int64_t width = inputs_size(spec.distribution);
      const at::Tensor d_inputs = tensor_of(normals(static_cast<size_t>(n * width), 7), {n, width}) / n,
                       d_values = tensor_of(normals(static_cast<size_t>(n), 8), {n}) / n;
      const ModulePass torch = pass_of(spec, parameters, Executor::torch, obs, d_inputs, d_values),
                       native = pass_of(spec, parameters, Executor::native, obs, d_inputs, d_values);
      CHECK(at::allclose(torch.inputs, native.inputs, 1e-5, 1e-5));
      CHECK(at::allclose(torch.values, native.values, 1e-5, 1e-5));
      float size = 0, worst = 0;
      for (size_t i = 0; i < moves.size(); ++i) {
        size = std::max(size, std::abs(torch.gradient[i]));
        worst = std::max(worst, std::abs(torch.gradient[i] - native.gradient[i]));
      }
      CHECK(size > 0.1f);
      CHECK(worst <= 1e-5f * std::max(1.0f, size));
    }
  }
}

TEST_CASE("Convolution: the native executor makes the same bits of bytes as of floats, with any number of threads") {
  ModelConfig config;
  config.vf_share_layers = true;
  const Space masked(
      Dict{{{"action_mask", Space::box(0, 1, {3}, DType::u8)}, {"board", Space::box(0, 255, {10, 10, 4}, DType::u8)}}});
  const std::vector<ModuleSpec> specs{preset({10, 10, 4}, "minatar_cnn"),
                                      preset({4, 84, 84}, "nature_cnn"),
                                      preset({2, 30, 28, 3}, "impala_resnet"),
                                      q_network({10, 10, 4}),
                                      make_module_spec(masked, Space::discrete(3), config),
                                      make_q_spec(masked, Space::discrete(3), config)};
  const int64_t n = 150;  // three panels
  for (const ModuleSpec& spec : specs) {
    CAPTURE(spec.to_string());
    const int64_t width = inputs_size(spec.distribution);
    const at::Tensor bytes = (tensor_of(normals(static_cast<size_t>(n * spec.obs_size), 6), {n, spec.obs_size}) * 40)
                                 .abs()
                                 .clamp_max(255)
                                 .to(at::kByte),
                     d_inputs = tensor_of(normals(static_cast<size_t>(n * width), 7), {n, width}),
                     d_values = tensor_of(normals(static_cast<size_t>(n), 8), {n});
    if (spec.mask_offset >= 0) {
      bytes.narrow(1, spec.mask_offset, 3).fmod_(2);
      bytes.select(0, 0).narrow(0, spec.mask_offset, 3).fill_(0);
    }
    const auto pass = [&](const at::Tensor& obs, int threads) {
      return pass_of(spec, initial_parameters(spec, 5), Executor::native, obs, d_inputs, d_values, threads);
    };
    const ModulePass want = pass(bytes.to(at::kFloat), 1);
    for (const int threads : {1, 3}) {
      const ModulePass got = pass(bytes, threads);
      CHECK(at::equal(got.inputs, want.inputs));
      CHECK(at::equal(got.values, want.values));
      CHECK(got.gradient == want.gradient);
    }
  }
}

TEST_CASE("Convolution: the native executor refuses what it does not know and names the layer") {
  const ModuleSpec spec = preset({2, 30, 28, 3}, "impoola_cnn");
  CHECK(NativeModule::obstacle(spec) == "a layer of kind avg_pool2d");
  CHECK(!NativeModule::supports(spec));
  CHECK(NativeModule::obstacle(in_streams()) == "a layer of kind stream");
  CHECK(NativeModule::supports(with_encoder(3, {Linear{3, 3}, Activate{Activation::elu, 3}, LayerNorm{3}})));
  ModuleSpec value = with_encoder(4, {Linear{4, 4}});
  value.network("vf_encoder").layers = {BatchNorm{4, 4}};
  CHECK(NativeModule::obstacle(value) == "a layer of kind batchnorm");
  CHECK(error_of([&] { NativeModule(spec, 1); }) ==
        "error[impossible] learners.executor 'native' cannot train a layer of kind avg_pool2d; 'torch' and 'auto' can");
}

TEST_CASE("Convolution: the native executor trains by itself what is no larger than the caches") {
  CHECK(NativeModule::pays(preset({84, 84, 4}, "nature_cnn")));
  CHECK(NativeModule::pays(preset({40, 40, 3}, "impala_resnet")));
  CHECK(!NativeModule::pays(preset({84, 84, 4}, "impala_resnet")));
  CHECK(NativeModule::pays(with_encoder(40000, {Linear{40000, 2}})));
}

TEST_CASE("Convolution: a learner trains it by either executor alike, and by itself with the native one") {
  const Space actions = Space::discrete(2);
  std::vector<std::vector<float>> after;
  for (const char* executor : {"auto", "native", "torch"}) {
    Learner learner(config_of_pictures(executor), kObs, actions);
    REQUIRE(learner.spec().to_string().starts_with("3 -> conv 4 1x1 relu -> 16 tanh"));
    const std::vector<float> before = learner.weights().values;
    Fragment batch = batch_of(actions);
    CHECK(learner.update(&batch).metrics.at("num_grad_updates") == 16);
    after.push_back(learner.weights().values);
    for (size_t i = 0; i < 8; ++i) CHECK(after.back()[i] != before[i]);  // the convolution's weight and bias
  }
  CHECK(after[0] == after[1]);
  float worst = 0;
  for (size_t i = 0; i < after[0].size(); ++i) worst = std::max(worst, std::abs(after[0][i] - after[2][i]));
  CHECK(worst <= 2e-5f);
}

TEST_CASE("Convolution: whole and in parts over learners, on a CPU and on a device, alike") {
  std::vector<std::vector<float>> weights;
  for (const bool on_device : {false, true})
    for (const char* kind : {"none", "gradients", "parameters"}) {
      const auto config = [&] {
        Config c = config_of_pictures("torch");
        c.training.num_epochs = 1;
        c.training.minibatch_size = 0;
        c.learners.shard = kind;
        return c;
      };
      Learners shards = make_learners(2, config, on_device);
      join_all(shards, members_of(2, nullptr));
      update_all(shards, 1, {5, 3});
      std::array<Weights, 2> published;
      in_threads(2, [&](uint32_t r) { published[r] = shards[r]->weights(); });
      CHECK(published[0].values == published[1].values);
      weights.push_back(published[0].values);
      CAPTURE(kind);
      CAPTURE(on_device);
      float worst = 0;
      for (size_t i = 0; i < weights[0].size(); ++i)
        worst = std::max(worst, std::abs(weights[0][i] - weights.back()[i]));
      CHECK(worst <= 2e-6f);
    }
}

TEST_CASE("Learner: a frozen part stays to the bit, whole and in parts over learners, on a CPU and on a device") {
  std::vector<std::vector<float>> weights;
  for (const bool on_device : {false, true})
    for (const char* kind : {"none", "optimizer", "gradients", "parameters"}) {
      const auto config = [&] {
        Config c = config_of("torch");
        c.training.num_epochs = 2;
        c.training.minibatch_size = 0;
        c.training.grad_clip = 0.5;
        c.training.lr_multipliers = {{"encoder", 0.0}, {"pi", 0.5}};
        c.learners.shard = kind;
        return c;
      };
      Learners shards = make_learners(2, config, on_device);
      const std::vector<float> before = shards[0]->weights().values;
      join_all(shards, members_of(2, nullptr));
      update_all(shards, 1, {5, 3});
      std::array<Weights, 2> published;
      in_threads(2, [&](uint32_t r) { published[r] = shards[r]->weights(); });
      CAPTURE(kind);
      CAPTURE(on_device);
      for (const Parameter& p : shards[0]->spec().parameters()) {
        if (p.offset + p.count > before.size()) break;  // the value's
        const auto part = [&](const std::vector<float>& all) { return std::span(all).subspan(p.offset, p.count); };
        CAPTURE(p.name);
        CHECK(std::ranges::equal(part(before), part(published[0].values)) == p.name.starts_with("encoder"));
      }
      weights.push_back(published[0].values);
      float worst = 0;  // clipped by one norm
      for (size_t i = 0; i < weights[0].size(); ++i)
        worst = std::max(worst, std::abs(weights[0][i] - weights.back()[i]));
      CHECK(worst <= 2e-6f);
    }
  const auto norm = [](bool on_device, double multiplier) {
    Learners one = make_learners(
        1,
        [&] {
          Config c = config_of();
          c.training.lr_multipliers = {{"vf", multiplier}, {"vf_encoder", multiplier}};
          return c;
        },
        on_device);
    Fragment batch = batch_of(kActions);
    return one[0]->update(&batch).metrics.at("gradients_default_optimizer_global_norm");
  };
  for (const bool on_device : {false, true}) CHECK(norm(on_device, 0) < 0.99 * norm(on_device, 1));
  CHECK(norm(true, 0) == doctest::Approx(norm(false, 0)).epsilon(1e-4));
}

TEST_SUITE_END();
