#include "rl/module_spec.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("rl/module_spec");

namespace {
ModelConfig model(std::vector<int> hiddens) {
  ModelConfig config;
  config.fcnet_hiddens = std::move(hiddens);
  return config;
}
const Space kFour = Space::box(-1, 1, {4});
}  // namespace

TEST_CASE("ModuleSpec: CartPole's parameters lie where the header says, inference part first") {
  const ModuleSpec spec = make_mlp_spec(kFour, Space::discrete(2), model({8, 3}));
  const auto p = spec.parameters();
  // encoder 4x8+8 = 40, 8x3+3 = 27, pi 3x2+2 = 8 -> 75 for inference; the value net repeats 67 and ends in 3+1.
  REQUIRE(p.size() == 12);
  CHECK(p[0].name == "encoder.0.weight");
  CHECK(p[0].shape == std::vector<int>{8, 4});
  CHECK(p[1].name == "encoder.0.bias");
  CHECK(p[1].offset == 32);
  CHECK(p[2].name == "encoder.2.weight");  // layer 1 is the tanh
  CHECK(p[2].offset == 40);
  CHECK(p[4].name == "pi.weight");
  CHECK(p[4].offset == 67);
  CHECK(p[6].name == "vf_encoder.0.weight");
  CHECK(p[6].offset == 75);
  CHECK(p[10].name == "vf.weight");
  CHECK(p[11].offset == 75 + 67 + 3);
  CHECK(spec.num_inference_parameters() == 75);
  CHECK(spec.num_parameters() == 75 + 67 + 4);
  CHECK(spec.to_string() == "4 -> 8 tanh -> 3 tanh -> categorical 2; value 8 tanh -> 3 tanh -> 1");
}

TEST_CASE("ModuleSpec: a shared encoder, layer norm and a free log std have their places") {
  ModelConfig config = model({5});
  config.vf_share_layers = config.fcnet_use_layernorm = true;
  config.log_std_init = -0.5;
  const ModuleSpec spec = make_mlp_spec(kFour, Space::box(-1, 1, {2}), config);
  std::vector<std::string> names;
  for (const Parameter& p : spec.parameters()) names.push_back(p.name);
  CHECK(names == std::vector<std::string>{"encoder.0.weight", "encoder.0.bias", "encoder.1.gain", "encoder.1.bias",
                                          "pi.weight", "pi.bias", "log_std", "vf.weight", "vf.bias"});
  CHECK(spec.num_inference_parameters() == 25 + 10 + 12 + 2);
  CHECK(spec.num_parameters() == 49 + 6);
  const auto values = initial_parameters(spec, 1);
  CHECK(values[25] == 1.0f);   // gain
  CHECK(values[30] == 0.0f);   // its bias
  CHECK(values[47] == -0.5f);  // log std
  config.free_log_std = false;
  CHECK(make_mlp_spec(kFour, Space::box(-1, 1, {2}), config).action_head.outputs == 4);
}

TEST_CASE("ModuleSpec: the hash follows the structure and not the beginning") {
  const ModuleSpec spec = make_mlp_spec(kFour, Space::discrete(2), model({8}));
  ModuleSpec other = spec;
  CHECK(other.hash() == spec.hash());
  other.action_head.gain = 3.0f;
  CHECK(other.hash() == spec.hash());
  CHECK(make_mlp_spec(kFour, Space::discrete(2), model({9})).hash() != spec.hash());
  CHECK(make_mlp_spec(kFour, Space::discrete(3), model({8})).hash() != spec.hash());
  CHECK(make_mlp_spec(Space::box(-1, 1, {5}), Space::discrete(2), model({8})).hash() != spec.hash());
  ModelConfig relu = model({8});
  relu.fcnet_activation = "relu";
  CHECK(make_mlp_spec(kFour, Space::discrete(2), relu).hash() != spec.hash());
  ModelConfig shared = model({8});
  shared.vf_share_layers = true;
  CHECK(make_mlp_spec(kFour, Space::discrete(2), shared).hash() != spec.hash());
  // What changes a Gaussian's outputs, though not its parameters.
  ModelConfig gaussian = model({8});
  const auto hash = [&] { return make_mlp_spec(kFour, Space::box(-1, 1, {2}), gaussian).hash(); };
  const uint64_t before = hash();
  gaussian.log_std_clip_param = 0.5 * gaussian.log_std_clip_param;
  const uint64_t clipped = hash();
  gaussian.fcnet_use_layernorm = true;
  const uint64_t normed = hash();
  gaussian.free_log_std = !gaussian.free_log_std;
  CHECK(std::set{before, clipped, normed, hash()}.size() == 4);
}

TEST_CASE("ModuleSpec: each action space has its distribution") {
  CHECK(inputs_size(distribution_for(Space::discrete(3), true)) == 3);
  CHECK(inputs_size(distribution_for(Space(MultiDiscrete{{2, 3}}), true)) == 5);
  CHECK(inputs_size(distribution_for(Space(MultiBinary{4}), true)) == 8);
  CHECK(inputs_size(distribution_for(Space::box(-1, 1, {2, 3}), false)) == 12);
  CHECK_THROWS_AS(distribution_for(Space::box(0, 255, {2}, DType::u8), true), Error);
  CHECK_THROWS_WITH_AS(activation_from("tanhh"), "unknown activation 'tanhh'; did you mean tanh?", Error);
}

TEST_CASE("initial_parameters: the same for the same seed, orthonormal rows times the gain") {
  const ModuleSpec spec = make_mlp_spec(kFour, Space::discrete(2), model({16, 8}));
  const auto a = initial_parameters(spec, 7);
  CHECK(a == initial_parameters(spec, 7));
  CHECK(a != initial_parameters(spec, 8));
  const auto p = spec.parameters();
  const float* w = &a[p[2].offset];  // [8, 16]: rows orthogonal, of squared norm 2
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j <= i; ++j) {
      double dot = 0;
      for (int k = 0; k < 16; ++k) dot += double{w[i * 16 + k]} * double{w[j * 16 + k]};
      CHECK(dot == doctest::Approx(i == j ? 2.0 : 0.0).epsilon(1e-5));
    }
  double norm = 0;  // [2, 8] of gain 0.01
  for (size_t i = 0; i < 16; ++i) norm += std::pow(a[p[4].offset + i], 2);
  CHECK(norm == doctest::Approx(2 * 1e-4).epsilon(1e-4));
}

TEST_CASE("initial_parameters: layers of one shape begin differently, those of policy and value too") {
  const ModuleSpec spec = make_mlp_spec(kFour, Space::discrete(2), model({4, 4}));
  const auto values = initial_parameters(spec, 7);
  std::set<std::vector<float>> weights;
  for (const Parameter& p : spec.parameters()) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(p.offset);
    const std::vector<float> own(begin, begin + static_cast<std::ptrdiff_t>(p.count));
    if (p.shape == std::vector<int>{4, 4}) CHECK(weights.insert(own).second);
    if (p.shape.size() == 1) CHECK(own == std::vector<float>(p.count));  // biases
  }
  CHECK(weights.size() == 4);
}

TEST_SUITE_END();
