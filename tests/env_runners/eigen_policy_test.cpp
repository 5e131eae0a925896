#include "env_runners/eigen_policy.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "env_runners/policy_kernels.hpp"
#include "rl/check.hpp"
#include "rl/overloaded.hpp"
#include "rl/random.hpp"

using namespace myriad;

namespace {

double naive(Activation f, double x) {
  switch (f) {
    case Activation::linear:
      return x;
    case Activation::tanh:
      return std::tanh(x);
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::elu:
      return x > 0 ? x : std::expm1(x);
  }
  return 0;
}

/// The module's inference part for one sample in double precision, as its formulas read.
std::vector<double> naive_forward(const ModuleSpec& spec, const std::vector<float>& weights, const float* obs) {
  std::vector<double> x(obs, obs + spec.obs_size);
  const float* w = weights.data();
  const auto linear = [&](const Linear& l) {
    std::vector<double> y(static_cast<size_t>(l.outputs));
    const float* bias = w + l.outputs * l.inputs;
    for (int o = 0; o < l.outputs; ++o) {
      double sum = static_cast<double>(bias[o]);
      for (int i = 0; i < l.inputs; ++i) sum += static_cast<double>(w[o * l.inputs + i]) * x[static_cast<size_t>(i)];
      y[static_cast<size_t>(o)] = sum;
    }
    w = bias + l.outputs;
    x = y;
  };
  for (const Layer& layer : spec.encoder)
    std::visit(Overloaded{linear,
                          [&](const Activate& l) {
                            for (double& v : x) v = naive(l.activation, v);
                          },
                          [&](const LayerNorm& l) {
                            double mean = 0, var = 0;
                            for (double v : x) mean += v / l.size;
                            for (double v : x) var += (v - mean) * (v - mean) / l.size;
                            for (size_t i = 0; i < x.size(); ++i)
                              x[i] = (x[i] - mean) / std::sqrt(var + 1e-5) * static_cast<double>(w[i]) +
                                     static_cast<double>(w[x.size() + i]);
                            w += 2 * l.size;
                          }},
               layer);
  linear(spec.action_head);
  if (const auto* gaussian = std::get_if<DiagGaussian>(&spec.distribution)) {
    if (gaussian->free_log_std) x.insert(x.end(), w, w + gaussian->n);
    for (size_t i = x.size() / 2; i < x.size(); ++i)
      x[i] = std::clamp(x[i], -static_cast<double>(spec.log_std_clip), static_cast<double>(spec.log_std_clip));
  }
  return x;
}

std::vector<float> normals(size_t n, uint64_t seed, float scale = 1.0f) {
  RandomStream random(seed, StreamPurpose::initial_weights, 99);
  std::vector<float> values(n);
  for (float& v : values) v = scale * static_cast<float>(random.normal());
  return values;
}

std::vector<const PolicyKernels*> supported_kernels() {
  std::vector<const PolicyKernels*> list{&policy_kernels_v2()};
  if (policy_kernels().isa != policy_kernels_v2().isa) list.push_back(&policy_kernels_v3());
  if (policy_kernels().isa == policy_kernels_v4().isa) list.push_back(&policy_kernels_v4());
  return list;
}

ModuleSpec mlp(int inputs, const Space& actions, std::vector<int> hiddens, const char* activation,
               bool layer_norm = false, bool free_log_std = true) {
  ModelConfig config;
  config.fcnet_hiddens = std::move(hiddens);
  config.fcnet_activation = activation;
  config.fcnet_use_layernorm = layer_norm;
  config.free_log_std = free_log_std;
  config.log_std_clip_param = 0.5;
  return make_mlp_spec(Space::box(-INFINITY, INFINITY, {inputs}), actions, config);
}

}  // namespace

TEST_SUITE("env_runners/eigen_policy") {
  TEST_CASE("EigenPolicy: every layer, activation and distribution agrees with double precision to 1e-5") {
    const Space box = Space::box(-1, 1, {3});
    std::vector<ModuleSpec> specs;
    for (const char* activation : {"linear", "tanh", "relu", "silu", "gelu", "elu"})
      for (const bool norm : {false, true}) specs.push_back(mlp(5, box, {19, 7}, activation, norm));
    specs.push_back(mlp(17, box, {64, 64}, "tanh", false, false));
    specs.push_back(mlp(1, Space::discrete(4), {}, "tanh"));
    specs.push_back(mlp(3, Space(MultiDiscrete{{2, 3, 4}}), {33}, "relu"));
    for (const PolicyKernels* kernels : supported_kernels())
      for (const ModuleSpec& spec : specs) {
        const std::string subject = std::string(kernels->isa) + ": " + spec.to_string();
        CAPTURE(subject);
        EigenPolicy policy(spec, kernels);
        std::vector<float> weights = normals(spec.num_parameters(), 4, 0.4f);
        policy.load(weights);
        const size_t n = 37;
        const std::vector<float> obs = normals(n * static_cast<size_t>(spec.obs_size), 5, 2.0f);
        std::vector<float> out(n * static_cast<size_t>(policy.num_outputs()));
        policy.forward(obs.data(), n, out.data());
        double worst = 0.0;
        for (size_t i = 0; i < n; ++i) {
          const std::vector<double> want =
              naive_forward(spec, weights, obs.data() + i * static_cast<size_t>(spec.obs_size));
          REQUIRE(want.size() == static_cast<size_t>(policy.num_outputs()));
          for (size_t o = 0; o < want.size(); ++o)
            worst = std::max(worst, std::abs(static_cast<double>(out[i * want.size() + o]) - want[o]) /
                                        std::max(1.0, std::abs(want[o])));
        }
        CHECK(worst <= 1e-5);
      }
  }

  TEST_CASE("EigenPolicy: activations agree with double precision over their whole range") {
    alignas(64) static float x[4096];
    for (const PolicyKernels* kernels : supported_kernels())
      for (const Activation f :
           {Activation::tanh, Activation::relu, Activation::silu, Activation::gelu, Activation::elu}) {
        for (int i = 0; i < 4096; ++i) x[i] = (static_cast<float>(i) - 2048.0f) / 40.0f;  // +/- 51
        kernels->activate(static_cast<PolicyActivation>(f), x, 4096);
        double worst = 0.0;
        for (int i = 0; i < 4096; ++i) {
          const double want = naive(f, (i - 2048.0) / 40.0);
          worst = std::max(worst, std::abs(static_cast<double>(x[i]) - want) / std::max(1.0, std::abs(want)));
        }
        CAPTURE(name_of(f));
        CHECK(worst <= 1e-6);
      }
  }

  TEST_CASE("EigenPolicy: a sample's result is the same bits in any batch") {
    for (const PolicyKernels* kernels : supported_kernels())
      for (const char* activation : {"tanh", "silu", "gelu", "elu"}) {
        const ModuleSpec spec = mlp(17, Space::box(-1, 1, {6}), {64, 31}, activation, true);
        EigenPolicy policy(spec, kernels);
        const std::vector<float> weights = normals(spec.num_parameters(), 6, 0.3f), obs = normals(40 * 17, 7);
        policy.load(weights);
        std::vector<float> all(40 * 12), part(40 * 12);
        policy.forward(obs.data(), 40, all.data());
        for (const size_t batch : {size_t{1}, size_t{2}, size_t{5}, size_t{8}, size_t{11}, size_t{16}, size_t{40}}) {
          for (size_t i = 0; i < 40; i += batch)
            policy.forward(obs.data() + i * 17, std::min(batch, 40 - i), part.data() + i * 12);
          CAPTURE(batch);
          CHECK(std::memcmp(all.data(), part.data(), all.size() * sizeof(float)) == 0);
        }
      }
  }

  TEST_CASE("EigenPolicy: weights are read in place, and too few are refused") {
    const ModuleSpec spec = mlp(2, Space::discrete(2), {4}, "tanh");
    EigenPolicy policy(spec);
    std::vector<float> weights(spec.num_inference_parameters(), 0.0f), out(2);
    const std::vector<float> obs{1.0f, 2.0f};
    CHECK_THROWS_AS(policy.forward(obs.data(), 1, out.data()), Error);
    policy.load(weights);
    weights.back() = 3.0f;  // the bias of the last logit
    policy.forward(obs.data(), 1, out.data());
    CHECK(out == std::vector<float>{0.0f, 3.0f});
    CHECK_THROWS_AS(policy.load(std::span<const float>(weights).first(weights.size() - 1)), Error);
  }
}
