#include "learners/native/native_module.hpp"

#include "rl/check.hpp"
#include "tests/learners/same_gradient.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/native/native_module");

namespace {

constexpr int kObs = 5;

at::Tensor random_tensor(std::vector<int64_t> shape, uint64_t seed, double scale = 1.0) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  RandomStream random(seed, StreamPurpose::simulation, 9);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.mutable_data_ptr<float>()[i] = static_cast<float>(scale * random.normal());
  return tensor;
}

/// Parameters with nothing at a special value: biases, gains and log std moved.
std::vector<float> parameters_of(const ModuleSpec& spec, double moved = 0.1) {
  auto values = initial_parameters(spec, 3);
  RandomStream random(4, StreamPurpose::simulation, 1);
  for (float& v : values) v += static_cast<float>(moved * random.normal());
  return values;
}

struct Result : ModulePass {
  at::Tensor all_values;  ///< of a pass for the values alone
};

Result run(const ModuleSpec& spec, Executor executor, int64_t n, int threads = 1) {
  const at::Tensor obs = random_tensor({n, spec.obs_size}, 1);
  if (spec.mask_offset >= 0) {
    const at::Tensor mask = obs.narrow(1, spec.mask_offset, spec.mask_size());
    mask.copy_(mask.gt(0));
    mask.select(1, 0).fill_(1);
    mask.select(0, 0).fill_(0);  // as the last mask of an episode may be
  }
  // Weights 1/n keep the gradients' size independent of n, so that one tolerance serves.
  const double weight = 1.0 / static_cast<double>(n);
  Result result{
      pass_of(spec, parameters_of(spec), executor, obs, random_tensor({n, inputs_size(spec.distribution)}, 2, weight),
              random_tensor({n}, 5, weight), threads),
      at::empty({n})};
  if (executor == Executor::native)
    NativeModule(spec, threads)
        .values(parameters_of(spec).data(), obs.const_data_ptr<float>(), static_cast<size_t>(n),
                result.all_values.mutable_data_ptr<float>());
  return result;
}

float largest_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<float>(); }

void compare(const ModuleSpec& spec, int64_t n) {
  CAPTURE(spec.to_string());
  CAPTURE(n);
  const Result torch = run(spec, Executor::torch, n), native = run(spec, Executor::native, n);
  CHECK(largest_difference(torch.inputs, native.inputs) <= 1e-5f);
  CHECK(largest_difference(torch.values, native.values) <= 1e-5f);
  CHECK(largest_difference(torch.values, native.all_values) <= 1e-5f);
  check_same_gradient(spec, torch.gradient, native.gradient);
}

ModuleSpec spec_of(const Space& action_space, ModelConfig config) {
  return make_mlp_spec(Space::box(-1, 1, {kObs}), action_space, config);
}

}  // namespace

TEST_CASE("NativeModule: equals torch, forward and backward, for every activation") {
  for (const char* activation : {"linear", "tanh", "relu", "silu", "gelu", "elu"})
    for (const bool norm : {false, true}) {
      ModelConfig config;
      config.fcnet_hiddens = {24, 17};
      config.fcnet_activation = activation;
      config.fcnet_use_layernorm = norm;
      compare(spec_of(Space::discrete(3), config), 33);
    }
}

TEST_CASE("NativeModule: equals torch for every head, shared and separate, with and without hidden layers") {
  const std::vector<Space> actions{Space::discrete(1),
                                   Space::discrete(4),
                                   Space(MultiDiscrete{{2, 3}}),
                                   Space::box(-1, 1, {1}),
                                   Space::box(-1, 1, {3}),
                                   Dict{{{"aim", Space::box(-1, 1, {2})},
                                         {"keys", MultiBinary{2}},
                                         {"more", Tuple{{Space::box(0, 1, {1}, DType::f64), Space::discrete(3)}}}}}};
  for (const Space& action : actions)
    for (const bool shared : {false, true})
      for (const bool free : {false, true})
        for (const std::vector<int>& hiddens : {std::vector<int>{}, {16}, {16, 8, 12}}) {
          ModelConfig config;
          config.fcnet_hiddens = hiddens;
          config.vf_share_layers = shared;
          config.free_log_std = free;
          compare(spec_of(action, config), 19);
          for (const char* distribution : {"squashed_gaussian", "beta"}) {
            if (action.get_if<Box>() == nullptr && action.is_leaf()) continue;
            config.action_distribution = distribution;
            compare(spec_of(action, config), 19);
          }
        }
}

TEST_CASE("NativeModule: equals torch for Q-networks, whose value is the greatest Q-value") {
  for (const int actions : {1, 2, 5})
    for (const std::vector<int>& hiddens : {std::vector<int>{}, {16}, {16, 8, 12}}) {
      ModelConfig config;
      config.fcnet_hiddens = hiddens;
      config.fcnet_use_layernorm = true;
      const ModuleSpec spec = make_q_spec(Space::box(-1, 1, {kObs}), Space::discrete(actions), config);
      const Space masked(Dict{{{"action_mask", MultiBinary{actions}}, {"view", Space::box(-1, 1, {kObs})}}});
      for (const ModuleSpec& each : {spec, make_q_spec(masked, Space::discrete(actions), config)}) {
        for (const int64_t n : {19, 300}) compare(each, n);
        const Result native = run(each, Executor::native, 19);
        CHECK(at::equal(native.values.slice(0, 1), native.inputs.slice(0, 1).amax(1)));
        CHECK(native.values.abs().max().item<float>() < 100);
        CHECK(at::equal(native.all_values, native.values));
      }
    }
}

TEST_CASE("NativeModule: equals torch for odd stacks of layers") {
  ModelConfig config;
  config.fcnet_hiddens = {8};
  ModuleSpec spec = spec_of(Space::discrete(2), config);
  spec.network("encoder").layers = {LayerNorm{kObs}, Activate{Activation::tanh, kObs}, Activate{Activation::silu, kObs},
                                    Linear{kObs, 8}, Activate{Activation::relu, 8},    Activate{Activation::tanh, 8},
                                    LayerNorm{8},    Activate{Activation::elu, 8}};
  spec.network("vf_encoder").layers = {Activate{Activation::tanh, kObs}, Linear{kObs, 8}};
  compare(spec, 21);
}

TEST_CASE("NativeModule: equals torch across the borders of chunks and lanes") {
  ModelConfig config;
  config.fcnet_hiddens = {16};
  for (const int64_t n : {1, 2, 255, 256, 257, 2048, 2049, 2600}) compare(spec_of(Space::box(-1, 1, {2}), config), n);
}

TEST_CASE("NativeModule: nothing of one pass is left in the next, in any lane") {
  ModelConfig config;
  config.fcnet_hiddens = {16};
  const ModuleSpec spec = spec_of(Space::box(-1, 1, {2}), config);
  const std::vector<float> parameters = parameters_of(spec);
  const auto gradient = [&](NativeModule& module, int64_t n, uint64_t seed) {
    const at::Tensor obs = random_tensor({n, spec.obs_size}, seed);
    const at::Tensor inputs = at::empty({n, inputs_size(spec.distribution)}), values = at::empty({n});
    module.forward(parameters.data(), obs.const_data_ptr<float>(), static_cast<size_t>(n),
                   inputs.mutable_data_ptr<float>(), values.mutable_data_ptr<float>());
    std::vector<float> gradient(parameters.size());
    module.backward(parameters.data(), inputs.const_data_ptr<float>(), values.const_data_ptr<float>(), gradient.data());
    return gradient;
  };
  NativeModule used(spec, 1);
  for (const int64_t n : {2600, 600, 40, 2600}) {  // 8, 3, 1 and 8 lanes
    CAPTURE(n);
    NativeModule fresh(spec, 1);
    CHECK(gradient(used, n, 1) == gradient(fresh, n, 1));
    CHECK(gradient(used, n, 2) != gradient(fresh, n, 1));
  }
}

TEST_CASE("NativeModule: equals torch for layers wider than a panel and deeper than the kernels take at once") {
  ModelConfig config;
  config.fcnet_hiddens = {150, 70};
  for (const bool shared : {false, true}) {
    config.vf_share_layers = shared;
    compare(make_mlp_spec(Space::box(-1, 1, {37}), Space::box(-1, 1, {3}), config), 130);
  }
}

TEST_CASE("NativeModule: a clipped log std passes no gradient, in both executors alike") {
  const Space box = Space::box(-1, 1, {4});
  for (const Space& action : {box, Space(Tuple{{Space::discrete(3), box, Space::box(-1, 1, {1})}})})
    for (const bool free : {false, true}) {
      ModelConfig config;
      config.fcnet_hiddens = {8};
      config.free_log_std = free;
      config.log_std_clip_param = 0.05;
      const ModuleSpec spec = spec_of(action, config);
      const Result torch = run(spec, Executor::torch, 40), native = run(spec, Executor::native, 40);
      CHECK(largest_difference(torch.inputs, native.inputs) <= 1e-5f);
      for (size_t i = 0; i < torch.gradient.size(); ++i)
        CHECK(torch.gradient[i] == doctest::Approx(native.gradient[i]).epsilon(1e-4));
    }
}

TEST_CASE("NativeModule: the gradient is the same to the bit for any number of threads") {
  ModelConfig config;
  config.fcnet_hiddens = {64, 64};
  for (const bool shared : {false, true}) {
    config.vf_share_layers = shared;
    const ModuleSpec spec = spec_of(Space::discrete(3), config);
    const Result one = run(spec, Executor::native, 3000, 1);
    for (const int threads : {2, 3}) CHECK(run(spec, Executor::native, 3000, threads).gradient == one.gradient);
  }
}

TEST_CASE("NativeModule: every CPU generation's kernels agree, forward and backward") {
  std::vector<ModuleSpec> specs;
  ModelConfig config;
  config.fcnet_hiddens = {40, 32};
  for (const char* activation : {"linear", "tanh", "relu", "silu", "gelu", "elu"})
    for (const bool norm : {false, true}) {
      config.fcnet_activation = activation;
      config.fcnet_use_layernorm = norm;
      specs.push_back(make_mlp_spec(Space::box(-1, 1, {21}), Space::discrete(3), config));
    }
  config = {};
  config.vf_share_layers = true;
  for (const auto& [encoder, picture] :
       {std::pair("minatar_cnn", std::vector{10, 10, 3}), std::pair("impala_resnet", std::vector{17, 9, 3})}) {
    config.encoder = encoder;
    specs.push_back(make_module_spec(Space::box(0, 1, picture, DType::u8), Space::discrete(3), config));
  }
  for (const ModuleSpec& spec : specs) {
    CAPTURE(spec.to_string());
    const bool deep = spec.obs_size == 17 * 9 * 3;  // so that rounding turns the sign of a ReLU's input here and there
    const auto parameters = parameters_of(spec, deep ? 0.01 : 0.1);
    const at::Tensor obs = random_tensor({100, spec.obs_size}, 1), d_inputs = random_tensor({100, 3}, 2, 0.01),
                     d_values = random_tensor({100}, 5, 0.01);
    std::vector<std::vector<float>> results;  // outputs, then the gradient
    for (const NativeKernels* kernels : {&native_kernels_v2(), &native_kernels_v3(), &native_kernels_v4()}) {
      if (!((kernels == &native_kernels_v2()) ||
            (kernels == &native_kernels_v3() && __builtin_cpu_supports("x86-64-v3")) ||
            __builtin_cpu_supports("x86-64-v4")))
        continue;
      NativeModule module(spec, 1, *kernels);
      std::vector<float> out(300), values(100), gradient(spec.num_parameters());
      module.forward(parameters.data(), obs.const_data_ptr<float>(), 100, out.data(), values.data());
      module.backward(parameters.data(), d_inputs.const_data_ptr<float>(), d_values.const_data_ptr<float>(),
                      gradient.data());
      for (const std::vector<float>& more : {values, gradient}) out.insert(out.end(), more.begin(), more.end());
      results.push_back(out);
      float worst = 0;
      for (size_t i = 0; i < out.size(); ++i) worst = std::max(worst, std::abs(out[i] - results[0][i]));
      CHECK(worst <= (deep ? 3e-4f : 1e-5f));
    }
  }
}

TEST_CASE("NativeModule: backward() without forward() is an error") {
  ModelConfig config;
  config.fcnet_hiddens = {8};
  NativeModule module(spec_of(Space::discrete(2), config), 1);
  CHECK_THROWS_AS(module.backward(nullptr, nullptr, nullptr, nullptr), Error);
}

TEST_SUITE_END();
