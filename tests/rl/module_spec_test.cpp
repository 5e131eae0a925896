#include "rl/module_spec.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "rl/check.hpp"
#include "tests/error_of.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("rl/module_spec");

namespace {
ModelConfig model(std::vector<int> hiddens) {
  ModelConfig config;
  config.fcnet_hiddens = std::move(hiddens);
  return config;
}
const Space kFour = Space::box(-1, 1, {4});

std::vector<Layer> layers_of(ModuleSpec&& spec) { return spec.network("encoder").layers; }
const std::vector<Layer>& layers_of(const ModuleSpec& spec, const char* name = "encoder") {
  return spec.network(name).layers;
}
std::vector<Layer>& layers_of(ModuleSpec& spec) { return spec.network("encoder").layers; }
Linear head_of(const ModuleSpec& spec, const char* name = "pi") {
  return std::get<Linear>(layers_of(spec, name).at(0));
}
Linear& head_of(ModuleSpec& spec, const char* name = "pi") { return std::get<Linear>(spec.network(name).layers.at(0)); }

Space bytes(std::vector<int> shape) { return Space::box(0, 255, std::move(shape), DType::u8); }

/// What the module of a picture is, with a shared encoder.
ModuleSpec picture(const Space& space, ModelConfig config = {}) {
  config.vf_share_layers = true;
  return make_module_spec(space, Space::discrete(2), config);
}
ModelConfig with_encoder(const char* name) {
  ModelConfig config;
  config.encoder = name;
  return config;
}
/// The preset that auto takes: by residual blocks, or the first convolution.
std::string chosen(const Space& space, ModelConfig config = {}) {
  config.fcnet_hiddens = {3};
  const std::vector<Layer> layers = layers_of(picture(space, config));
  for (const Layer& layer : layers)
    if (std::holds_alternative<ResidualBegin>(layer)) return "impala_resnet";
  for (const Layer& layer : layers)
    if (const auto* conv = std::get_if<Conv2d>(&layer)) return conv->kernel == 8 ? "nature_cnn" : "minatar_cnn";
  return "mlp";
}
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
  CHECK(head_of(make_mlp_spec(kFour, Space::box(-1, 1, {2}), config)).outputs == 4);
}

TEST_CASE("ModuleSpec: the hash follows the structure and not the beginning") {
  const ModuleSpec spec = make_mlp_spec(kFour, Space::discrete(2), model({8}));
  ModuleSpec other = spec;
  CHECK(other.hash() == spec.hash());
  head_of(other).gain = 3.0f;
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

TEST_CASE("ModuleSpec: a Q-network is one encoder and one head, whose greatest output is the value") {
  ModelConfig config = model({8, 3});
  config.fcnet_use_layernorm = true;
  const ModuleSpec spec = make_q_spec(kFour, Space::discrete(2), config);
  CHECK(spec.is_q_network());
  CHECK(!make_mlp_spec(kFour, Space::discrete(2), config).is_q_network());
  CHECK(inputs_size(spec.distribution) == 2);
  std::vector<std::string> names;
  for (const Parameter& p : spec.parameters()) names.push_back(p.name);
  CHECK(names == std::vector<std::string>{"encoder.0.weight", "encoder.0.bias", "encoder.1.gain", "encoder.1.bias",
                                          "encoder.3.weight", "encoder.3.bias", "encoder.4.gain", "encoder.4.bias",
                                          "pi.weight", "pi.bias"});
  CHECK(spec.num_parameters() == 40 + 16 + 27 + 6 + 8);
  CHECK(spec.num_inference_parameters() == spec.num_parameters());
  CHECK(spec.to_string() == "4 -> 8 layernorm tanh -> 3 layernorm tanh -> epsilon-greedy 2; value: the greatest");
  CHECK(make_q_spec(kFour, Space::discrete(3), config).hash() != spec.hash());
  ModelConfig beta;
  beta.action_distribution = "beta";
  CHECK(error_of([&] { make_q_spec(kFour, Space::discrete(3), beta); }).ends_with("is epsilon-greedy; want auto"));
  CHECK(make_mlp_spec(kFour, Space::discrete(2), config).hash() != spec.hash());
  ModuleSpec wrong = spec;
  wrong.networks.push_back({"vf", {"encoder"}, {Linear{3, 1}}});
  CHECK_THROWS_WITH_AS(check_module(wrong), "a Q-network has its value from its Q-values, and no network vf", Error);
}

TEST_CASE("ModuleSpec: fcnet_use_layernorm is before each activation, also of a picture's layers") {
  ModelConfig config = with_encoder("minatar_cnn");
  config.fcnet_use_layernorm = true;
  const Space space = Space::box(0, 1, {10, 10, 4}, DType::u8);
  CHECK(make_q_spec(space, Space::discrete(3), config).to_string() ==
        "400 -> conv 16 3x3 layernorm relu -> 128 layernorm relu -> epsilon-greedy 3; value: the greatest");
  config.conv_filters = {{2, 3, 1}};
  config.fcnet_hiddens = {7};
  CHECK(make_q_spec(space, Space::discrete(3), config).to_string() ==
        "400 -> conv 2 3x3 layernorm relu -> 7 layernorm tanh -> epsilon-greedy 3; value: the greatest");
}

TEST_CASE("ModuleSpec: fcnet_use_batchnorm is where LayerNorm would be, and its statistics are no parameters") {
  ModelConfig config = with_encoder("minatar_cnn");
  config.fcnet_use_batchnorm = true;
  const Space space = Space::box(0, 1, {10, 10, 4}, DType::u8);
  const ModuleSpec spec = make_q_spec(space, Space::discrete(3), config);
  CHECK(spec.to_string() ==
        "400 -> conv 16 3x3 batchnorm relu -> 128 batchnorm relu -> epsilon-greedy 3; value: the greatest");
  CHECK(make_mlp_spec(kFour, Space::discrete(2), config).to_string().starts_with("4 -> 256 batchnorm tanh ->"));
  const std::vector<float> values = initial_parameters(spec, 1);
  int statistics = 0;
  for (const Parameter& p : spec.parameters()) {
    const bool is_statistic = p.name.ends_with(".running_mean") || p.name.ends_with(".running_var");
    CHECK(p.momentum == (is_statistic ? 0.01f : 0.0f));
    if (!is_statistic) continue;
    ++statistics;
    CHECK(p.count == (p.name.starts_with("encoder.1") ? 16 : 128));  // of each channel; of each feature
    for (size_t i = 0; i < p.count; ++i) CHECK(values[p.offset + i] == (p.name.ends_with("var") ? 1.0f : 0.0f));
  }
  CHECK(statistics == 4);
  ModuleSpec other = spec;
  for (Layer& layer : other.network("encoder").layers)
    if (auto* norm = std::get_if<BatchNorm>(&layer)) norm->momentum = 0.5f;
  CHECK(other.hash() == spec.hash());  // runners do not need it
  config.fcnet_use_layernorm = true;
  CHECK(error_of([&] { make_q_spec(space, Space::discrete(3), config); }) ==
        "error[impossible] rl_module has fcnet_use_layernorm and fcnet_use_batchnorm, want one of them");
}

TEST_CASE("ModuleSpec: random_shift is before the first convolution, once for all frames of a stack") {
  ModelConfig config = with_encoder("minatar_cnn");
  config.random_shift = 2;
  CHECK(picture(bytes({2, 12, 11, 3}), config)
            .to_string()
            .starts_with("792 -> x 0.003922 -> 12x11x6 -> shift 2 -> conv 16 3x3 relu"));
  config.encoder = "mlp";
  CHECK(error_of([&] {
          picture(bytes({2, 12, 11, 3}), config);
        }) == "error[impossible] rl_module.random_shift is 2, but no part of the observations " +
                  bytes({2, 12, 11, 3}).to_string() + " goes through convolutions; want 0");
}

TEST_CASE("ModuleSpec: each action space has its distribution") {
  CHECK(inputs_size(distribution_for(Space::discrete(3), true)) == 3);
  CHECK(inputs_size(distribution_for(Space(MultiDiscrete{{2, 3}}), true)) == 5);
  CHECK(inputs_size(distribution_for(Space(MultiBinary{4}), true)) == 8);
  CHECK(inputs_size(distribution_for(Space::box(-1, 1, {2, 3}), false)) == 12);
  CHECK_THROWS_AS(distribution_for(Space::box(0, 255, {2}, DType::u8), true), Error);
  CHECK_THROWS_WITH_AS(activation_from("tanhh"), "unknown activation 'tanhh'; did you mean tanh?", Error);
}

TEST_CASE("ModuleSpec: action_distribution says a Box's; what it does not cover is refused") {
  const auto spec_of = [&](const Space& action, const char* name, bool free = true) {
    ModelConfig config = model({8});
    config.action_distribution = name;
    config.free_log_std = free;
    return make_module_spec(kFour, action, config);
  };
  const Space box = Space::box(-2, 1, {3});
  CHECK(spec_of(box, "auto") == spec_of(box, "diag_gaussian"));
  const ModuleSpec squashed = spec_of(box, "squashed_gaussian"), beta = spec_of(box, "beta");
  CHECK(squashed.to_string() == "4 -> 8 tanh -> squashed gaussian 3; value 8 tanh -> 1");
  CHECK(squashed.parameters().size() == spec_of(box, "auto").parameters().size());
  CHECK(squashed.hash() != spec_of(box, "auto").hash());
  CHECK(inputs_size(squashed.distribution) == 6);
  CHECK(head_of(squashed).outputs == 3);
  CHECK(head_of(spec_of(box, "squashed_gaussian", false)).outputs == 6);
  CHECK(beta.to_string() == "4 -> 8 tanh -> beta 3; value 8 tanh -> 1");
  CHECK(head_of(beta).outputs == 6);
  CHECK(error_of([&] { (void)spec_of(Space::discrete(3), "beta"); }) ==
        "error[impossible] rl_module.action_distribution is beta, which is for a Box of floats, not for Discrete(3); "
        "want "
        "auto");
  CHECK(error_of([&] {
          (void)spec_of(Box{.low = {-1, -INFINITY}, .high = {1}, .shape = {2}}, "squashed_gaussian");
        }).ends_with("has no bounds at element 1; want diag_gaussian"));
  CHECK(error_of([&] {
          (void)spec_of(Space::box(0, 3, {2}, DType::i64), "auto");
        }).starts_with("error[unsupported-space]"));
}

TEST_CASE("ModuleSpec: a Dict of actions has a part for each leaf") {
  const Space pad = Dict{{{"aim", Space::box(-1, 1, {2})},
                          {"keys", MultiBinary{3}},
                          {"more", Tuple{{MultiDiscrete{{4, 2}}, Space::box(-1, 1, {1}, DType::f64)}}},
                          {"move", Space::discrete(5, 10)}}};
  ModelConfig config = model({8});
  const ModuleSpec spec = make_module_spec(kFour, pad, config);
  CHECK(
      spec.to_string() ==
      "4 -> 8 tanh -> (gaussian 2, categorical 2+2+2, categorical 4+2, gaussian 1, categorical 5); value 8 tanh -> 1");
  const std::vector<ActionPart> parts = action_parts(spec.distribution);
  REQUIRE(parts.size() == 5);
  const auto column = [&](int ActionPart::*first, int ActionPart::*count) {
    std::vector<std::pair<int, int>> all;
    for (const ActionPart& part : parts) all.emplace_back(part.*first, part.*count);
    return all;
  };
  using Pairs = std::vector<std::pair<int, int>>;
  CHECK(column(&ActionPart::input, &ActionPart::num_inputs) == Pairs{{0, 4}, {4, 6}, {10, 6}, {16, 2}, {18, 5}});
  CHECK(column(&ActionPart::output, &ActionPart::num_outputs) == Pairs{{0, 2}, {2, 6}, {8, 6}, {14, 1}, {15, 5}});
  CHECK(column(&ActionPart::element, &ActionPart::num_elements) == Pairs{{0, 2}, {2, 3}, {5, 2}, {7, 1}, {8, 1}});
  CHECK(column(&ActionPart::log_std, &ActionPart::num_log_std) == Pairs{{0, 2}, {2, 0}, {2, 0}, {2, 1}, {3, 0}});
  CHECK(column(&ActionPart::choice, &ActionPart::num_choices) == Pairs{{0, 0}, {0, 6}, {6, 6}, {12, 0}, {12, 5}});
  CHECK(inputs_size(spec.distribution) == 23);
  CHECK(outputs_size(spec.distribution) == 20);
  CHECK(outputs_of(spec.network("pi").layers.back()) == 20);
  CHECK(actions_size(spec.distribution) == 20);  // 3 real numbers, and 17 options one-hot
  CHECK(spec.parameters()[4].name == "log_std");
  CHECK(spec.parameters()[4].shape == std::vector{3});
  CHECK(num_choices(spec.distribution) == 17);
  CHECK(stored_dtype(spec.distribution) == DType::f32);
  CHECK(stored_dtype(Categorical{2}) == DType::i32);
  CHECK(stored_dtype(DiagGaussian{2, true}) == DType::f32);
  config.free_log_std = false;
  const ModuleSpec dependent = make_module_spec(kFour, pad, config);
  CHECK(outputs_of(dependent.network("pi").layers.back()) == 23);
  CHECK(dependent.hash() != spec.hash());
  // A setting for Boxes is for each Box.
  config.action_distribution = "beta";
  CHECK(
      make_module_spec(kFour, pad, config).to_string().find("(beta 2, categorical 2+2+2, categorical 4+2, beta 1, ") !=
      std::string::npos);
  CHECK(make_module_spec(kFour, Tuple{{Space::discrete(2)}}, model({8})).to_string().find("(categorical 2)") !=
        std::string::npos);
}

TEST_CASE("ModuleSpec: a part of the actions that nothing covers is named with its path") {
  const auto error = [](const Space& space, const char* name = "auto") {
    return error_of([&] { (void)distribution_for(space, true, name); });
  };
  const Space far = Space::box(0, INFINITY, {1}, DType::i64);
  CHECK(error(Dict{{{"move", Space::discrete(2)}, {"more", Tuple{{far}}}}}) ==
        "error[unsupported-space] no action distribution covers 'more/0' " + far.to_string() + " of the actions " +
            "Dict('move': Discrete(2), 'more': Tuple(" + far.to_string() +
            ")): whole numbers want bounds on both sides; make it so, or a Box of floats, Discrete, MultiDiscrete or "
            "MultiBinary");
  CHECK(error(Tuple{{Space::discrete(2), Space::box(-INFINITY, 1, {1})}}, "beta")
            .starts_with(
                "error[impossible] rl_module.action_distribution is beta, but '1' Box(-inf, 1.0, (1,), float32)"));
  CHECK(error(Tuple{{Space::discrete(2)}}, "beta") ==
        "error[impossible] rl_module.action_distribution is beta, which is for a Box of floats, not for "
        "Tuple(Discrete(2)); want auto");
  CHECK(error(Dict{}).starts_with("error[unsupported-space] the actions Dict() have no part"));
  ModuleSpec spec = make_mlp_spec(kFour, Tuple{{Space::discrete(2), Space::box(-1, 1, {1})}}, model({8}));
  spec.distribution = Composite{};
  CHECK(error_of([&] { check_module(spec); }) == "error[bad-module] the distribution has 0 parts, want 1 to 16384");
  spec.distribution = Composite{{Categorical{2}, Beta{0}}};
  CHECK(error_of([&] { check_module(spec); }) ==
        "error[bad-module] the distribution has a size of 0, want 1 to 16777216");
  spec.distribution = Composite{{Categorical{1 << 24}, Categorical{1 << 24}}};
  CHECK(error_of([&] { check_module(spec); }).find("want 1 to 16777216") != std::string::npos);
  spec.distribution = Composite{{Beta{1}}};
  spec.mask_offset = 0;
  CHECK(error_of([&] { check_module(spec); }) == "error[bad-module] a distribution of real numbers has no action mask");
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

TEST_CASE("ModuleSpec: an MLP's hash is the same on every machine") {
  ModelConfig config;
  CHECK(make_mlp_spec(kFour, Space::discrete(2), config).hash() == 0x45ad6a3c330bbf31);
  CHECK(make_module_spec(kFour, Space::discrete(2), config).hash() == 0x45ad6a3c330bbf31);
  config.fcnet_hiddens = {8, 5};
  config.fcnet_activation = "silu";
  config.fcnet_use_layernorm = config.vf_share_layers = true;
  CHECK(make_mlp_spec(kFour, Space::box(-1, 1, {2}), config).hash() == 0x4b9ee42fd6bed498);
  config.free_log_std = config.vf_share_layers = false;
  config.log_std_clip_param = 2.5;
  CHECK(make_mlp_spec(Space::box(-1, 1, {3}), Space::box(-1, 1, {2}), config).hash() == 0x76b02d60f4c102fa);
  CHECK(make_mlp_spec(bytes({2, 3}), Space(MultiDiscrete{{2, 3}}), model({})).hash() == 0x878dcb05baf5958a);
}

TEST_CASE("ModuleSpec: the presets are those of their papers") {
  const ModuleSpec nature = picture(bytes({84, 84, 4}), with_encoder("nature_cnn"));
  CHECK(
      nature.to_string() ==
      "28224 -> x 0.003922 -> conv 32 8x8/4 relu -> conv 64 4x4/2 relu -> conv 64 3x3 relu -> 512 relu -> categorical "
      "2; value shares the encoder -> 1");
  // 8*8*4*32 + 32, 4*4*32*64 + 64, 3*3*64*64 + 64, 7*7*64*512 + 512, 512*2 + 2, 512 + 1
  CHECK(nature.num_parameters() == 8224 + 32832 + 36928 + 1606144 + 1026 + 513);
  CHECK(nature.parameters()[0].name == "encoder.1.weight");
  CHECK(nature.parameters()[0].shape == std::vector<int>{32, 8, 8, 4});

  const ModuleSpec minatar = picture(Space::box(0, 1, {10, 10, 4}, DType::u8), with_encoder("minatar_cnn"));
  CHECK(minatar.to_string() == "400 -> conv 16 3x3 relu -> 128 relu -> categorical 2; value shares the encoder -> 1");
  CHECK(minatar.num_parameters() == 592 + 131200 + 258 + 129);  // 3*3*4*16 + 16, 8*8*16*128 + 128, ...

  const ModuleSpec impala = picture(bytes({84, 84, 4}), with_encoder("impala_resnet"));
  std::string text = "28224 -> x 0.003922";
  for (const int filters : {16, 32, 32}) {
    const std::string conv = fmt::format("conv {} 3x3 pad 1", filters);
    const std::string block = fmt::format(" -> +(relu -> {} relu -> {})", conv, conv);
    text += fmt::format(" -> {} -> maxpool 3x3/2 pad 1{}{}", conv, block, block);
  }
  CHECK(impala.to_string() == text + " relu -> 256 relu -> categorical 2; value shares the encoder -> 1");
  // 84 -> 42 -> 21 -> 11; conv 4 -> 16: 592, 16 -> 16: 2320, 16 -> 32: 4640, 32 -> 32: 9248; 11*11*32*256 + 256
  CHECK(impala.num_parameters() == 592 + 4 * 2320 + 4640 + 4 * 9248 + 9248 + 4 * 9248 + 991488 + 514 + 257);

  const ModuleSpec impoola = picture(bytes({84, 60, 4}), with_encoder("impoola_cnn"));
  text.replace(0, 5, "20160");
  CHECK(impoola.to_string() ==
        text + " relu -> avgpool 11x8 -> 256 relu -> categorical 2; value shares the encoder -> 1");
  CHECK(impala.num_parameters() - impoola.num_parameters() == (11 * 11 - 1) * 32 * 256);
}

TEST_CASE("ModuleSpec: an action mask is beside what the encoder sees, whatever that is") {
  const Space mask = MultiBinary{3}, actions = Space::discrete(3), view = Space::box(-1, 1, {4});
  ModelConfig config;
  config.fcnet_hiddens = {8};
  const auto spec_of = [&](const Space& space) { return make_module_spec(space, actions, config); };
  const ModuleSpec plain = spec_of(view), first = spec_of(Dict{{{"action_mask", mask}, {"view", view}}}),
                   last = spec_of(Dict{{{"view", view}, {"action_mask", mask}}});
  CHECK(plain.mask_offset == -1);
  CHECK(plain.mask_size() == 0);
  CHECK(first.to_string() == "7 -> [3:7] -> 8 tanh -> masked categorical 3; value [3:7] -> 8 tanh -> 1");
  CHECK(first.mask_offset == 0);
  CHECK(first.mask_size() == 3);
  CHECK(last.to_string() == "7 -> [0:4] -> 8 tanh -> masked categorical 3; value [0:4] -> 8 tanh -> 1");
  CHECK(last.mask_offset == 4);
  // The layers after the first are those without a mask, and begin alike.
  CHECK(std::equal(layers_of(plain).begin(), layers_of(plain).end(), layers_of(first).begin() + 1,
                   layers_of(first).end()));
  CHECK(first.num_parameters() == plain.num_parameters());
  CHECK(first.hash() != last.hash());
  ModuleSpec elsewhere = last;
  elsewhere.mask_offset = 3;
  CHECK(elsewhere.hash() != last.hash());
  // A picture beside it is a picture; of several parts all are seen; a mask alone is what there is to see.
  const Space picture = Space::box(0, 1, {10, 10, 4}, DType::u8);
  CHECK(spec_of(Dict{{{"action_mask", mask}, {"picture", picture}}})
            .to_string()
            .starts_with("403 -> [3:403] -> conv 16 3x3 relu -> 128 relu -> masked categorical 3"));
  CHECK(spec_of(Dict{{{"a", view}, {"b", Space::discrete(2)}, {"action_mask", mask}}})
            .to_string()
            .starts_with("9 -> [0:6] -> 8 tanh"));
  CHECK(spec_of(Dict{{{"action_mask", mask}}}).to_string().starts_with("3 -> 8 tanh -> masked"));
  CHECK(spec_of(Dict{{{"a", view}, {"action_mask", mask}, {"b", view}}})
            .to_string()
            .starts_with("11 -> {[0:4]} {[7:11]} -> 8 tanh -> masked categorical 3;"));
  const ModuleSpec q = make_q_spec(Dict{{{"action_mask", mask}, {"view", view}}}, actions, config);
  CHECK(q.to_string() == "7 -> [3:7] -> 8 tanh -> masked epsilon-greedy 3; value: the greatest");
  CHECK(q.mask_offset == 0);
}

TEST_CASE("ModuleSpec: conv_filters go before encoder, and fcnet_hiddens behind them") {
  ModelConfig config = with_encoder("mlp");
  config.conv_filters = {{6, 3, 1}, {5, 4, 2, 1}};
  config.conv_activation = "elu";
  config.fcnet_hiddens = {7};
  CHECK(picture(Space::box(0, 1, {9, 8, 2}), config).to_string() ==
        "144 -> conv 6 3x3 elu -> conv 5 4x4/2 pad 1 elu -> 7 tanh -> categorical 2; value shares the encoder -> 1");
  config.vf_share_layers = false;
  const ModuleSpec apart = make_module_spec(Space::box(0, 1, {9, 8, 2}), Space::discrete(2), config);
  CHECK(layers_of(apart, "vf_encoder") == layers_of(apart));
  for (const std::vector<int>& wrong : std::vector<std::vector<int>>{
           {6, 3}, {6, 3, 1, 1, 1}, {0, 3, 1}, {6, 0, 1}, {6, 3, 0}, {6, 3, 1, -1}, {6, 3, 1, 2}}) {
    config.conv_filters = {wrong};
    CHECK(error_of([&] { picture(Space::box(0, 1, {9, 8, 2}), config); }).starts_with("error[out-of-range]"));
  }
  config.conv_filters = {{6, 3, 4}, {6, 3, 1}};  // 9 x 8 -> 2 x 2
  CHECK(error_of([&] {
          picture(Space::box(0, 1, {9, 8, 2}), config);
        }) ==
        "error[impossible] a convolution of 3x3 does not fit into 2x2 pixels; take another rl_module.encoder or "
        "conv_filters");
  config.conv_filters = {{65536, 1, 1}};  // 65,536 * 210 * 160 floats
  CHECK(error_of([&] { picture(Space::box(0, 1, {210, 160, 3}), config); }).starts_with("error[bad-module]"));
}

TEST_CASE("ModuleSpec: auto takes a picture's size, and an MLP for everything else") {
  CHECK(chosen(bytes({10, 10, 4})) == "minatar_cnn");
  CHECK(chosen(bytes({16, 16, 3})) == "minatar_cnn");
  CHECK(chosen(bytes({8, 9, 4})) == "minatar_cnn");
  CHECK(chosen(bytes({17, 16, 3})) == "impala_resnet");
  CHECK(chosen(bytes({35, 84, 3})) == "impala_resnet");
  CHECK(chosen(Space::box(0, 1, {35, 84, 3})) == "mlp");
  CHECK(chosen(Space::box(0, 9, {32, 32, 3}, DType::u8)) == "mlp");  // codes
  CHECK(chosen(bytes({36, 84, 3})) == "nature_cnn");
  CHECK(chosen(Space::box(0, 1, {3, 84, 84})) == "nature_cnn");
  CHECK(chosen(bytes({4, 84, 84, 3})) == "nature_cnn");  // four stacked pictures
  CHECK(chosen(bytes({7, 9, 3})) == "mlp");
  CHECK(chosen(bytes({84, 84, 16})) == "nature_cnn");
  CHECK(chosen(bytes({84, 84, 17})) == "mlp");
  CHECK(chosen(bytes({84, 84})) == "nature_cnn");  // grey
  CHECK(chosen(bytes({10, 10})) == "minatar_cnn");
  CHECK(chosen(bytes({7, 84})) == "mlp");
  CHECK(chosen(Space::box(0, 1, {84, 84}, DType::u8)) == "mlp");
  CHECK(chosen(Space::box(0, 255, {84, 84})) == "mlp");
  CHECK(chosen(Space::box(0, 9, {84, 84, 3}, DType::i32)) == "mlp");
  CHECK(chosen(Space::discrete(300)) == "mlp");
  CHECK(chosen(Space(Tuple{{bytes({84, 84, 3})}})) == "nature_cnn");
  CHECK(chosen(bytes({5, 5, 5})) == "mlp");
  CHECK(error_of([] {
          chosen(bytes({10, 10, 10}));
        }) ==
        "error[impossible] Box(0, 255, (10, 10, 10), uint8): which axis has the channels? rl_module.channels \"first\" "
        "or "
        "\"last\" says it");
  ModelConfig last;
  last.channels = "last";
  CHECK(chosen(bytes({10, 10, 10}), last) == "minatar_cnn");
  CHECK(chosen(bytes({4, 84, 84}), last) == "mlp");  // 84 channels
}

TEST_CASE("ModuleSpec: channels are the smallest axis, first or last, and stacked pictures' are joined") {
  CHECK(picture_of(bytes({5, 6, 4}), "auto") == Picture{1, 5, 6, 4, false});
  CHECK(picture_of(bytes({4, 5, 6}), "auto") == Picture{1, 5, 6, 4, true});
  CHECK(picture_of(bytes({4, 5, 6}), "last") == Picture{1, 4, 5, 6, false});
  CHECK(picture_of(bytes({5, 6, 4}), "first") == Picture{1, 6, 4, 5, true});
  CHECK(picture_of(bytes({2, 4, 5, 6}), "auto") == Picture{2, 5, 6, 4, true});
  CHECK_THROWS_AS(picture_of(bytes({5, 4, 6}), "auto"), Error);
  CHECK_THROWS_AS(picture_of(bytes({4, 4, 6}), "auto"), Error);
  CHECK_THROWS_AS(picture_of(kFour, "auto"), Error);
  const auto first_two = [](const ModuleSpec& spec) { return std::pair(layers_of(spec)[0], layers_of(spec)[1]); };
  const ModelConfig config = with_encoder("minatar_cnn");
  using Layers = std::pair<Layer, Layer>;
  CHECK(first_two(picture(bytes({3, 10, 11}), config)) == Layers{Scale{330, 1.0f / 255.0f}, ChannelsLast{3, 10, 11}});
  CHECK(first_two(picture(bytes({2, 10, 11, 3}), config)) ==
        Layers{Scale{660, 1.0f / 255.0f}, ChannelsLast{2, 10, 11, 3}});
  CHECK(first_two(picture(bytes({2, 3, 10, 11}), config)) ==
        Layers{Scale{660, 1.0f / 255.0f}, ChannelsLast{6, 10, 11}});
  CHECK(std::get<Conv2d>(first_two(picture(bytes({10, 11, 3}), config)).second).inputs == 3);
  CHECK(std::get<Conv2d>(first_two(picture(bytes({1, 10, 11}), config)).second).inputs == 1);
}

TEST_CASE("ModuleSpec: bytes are scaled, what is 0 or 1 and floats are not") {
  const auto scaled = [](const Space& space, bool scale = true) {
    ModelConfig config = with_encoder("minatar_cnn");
    config.scale_uint8 = scale;
    return std::holds_alternative<Scale>(layers_of(picture(space, config))[0]);
  };
  CHECK(scaled(bytes({10, 10, 3})));
  CHECK(!scaled(bytes({10, 10, 3}), false));
  CHECK(!scaled(Space::box(0, 1, {10, 10, 3}, DType::u8)));
  CHECK(!scaled(Space::box(0, 255, {10, 10, 3})));
}

TEST_CASE("ModuleSpec: a preset refuses what is no picture, and an unknown one is named") {
  ModelConfig narrow = with_encoder("mlp");
  narrow.fcnet_hiddens = {32};
  CHECK(error_of([&] { picture(Space::discrete(20'000'000), narrow); })
            .starts_with("error[impossible] a network of 640 M parameters to act with, 640 M in all: 20000000 features "
                         "of the observations Discrete(20000000), 2 outputs for the actions Discrete(2); runners are "
                         "sent 67 M at most."));
  CHECK(error_of([&] {
          (void)make_module_spec(kFour, Space::discrete(3'000'000), narrow);
        }).find("3000000 outputs for the actions Discrete(3000000)") != std::string::npos);
  CHECK(error_of([] { picture(kFour, with_encoder("nature_cnn")); }) ==
        "error[impossible] convolutions want a Box of height, width and channels, got Box(-1.0, 1.0, (4,), float32); "
        "rl_module.encoder \"mlp\" takes any");
  CHECK(error_of([] {
          picture(bytes({35, 35, 3}), with_encoder("nature_cnn"));
        }) ==
        "error[impossible] a convolution of 3x3 does not fit into 2x2 pixels; take another rl_module.encoder or "
        "conv_filters");
  CHECK(head_of(picture(bytes({36, 36, 3}), with_encoder("nature_cnn"))).inputs == 512);
  CHECK(error_of([] { picture(kFour, with_encoder("natur_cnn")); }) ==
        "error[out-of-range] unknown rl_module.encoder 'natur_cnn'; did you mean nature_cnn?");
}

TEST_CASE("ModuleSpec: parts of an observation have streams where they are pictures or embedded") {
  const Space space(Dict{{{"arm", Space::box(-1, 1, {3})},
                          {"eye", bytes({10, 10, 4})},
                          {"mission", Space(MultiDiscrete{{7, 2}})},
                          {"room", Space::discrete(5)}}});
  ModelConfig config;
  config.fcnet_hiddens = {32};
  const auto policy = [&](const Space& observations) {
    const std::string text = picture(observations, config).to_string();
    return text.substr(0, text.find(" -> categorical"));
  };
  const std::string eye = "{[3:403] -> x 0.003922 -> conv 16 3x3 relu -> 128 relu}";
  CHECK(policy(space) == "417 -> {[0:3]} " + eye + " {[403:417]} -> 32 tanh");
  CHECK(layers_of(picture(space, config))[11] == Layer(Concat{3 + 128 + 14}));
  config.embedding_size = 6;
  CHECK(policy(space) == "417 -> {[0:3]} " + eye + " {[403:410] -> 6} {[410:412] -> 6} {[412:417] -> 6} -> 32 tanh");
  CHECK(policy(Space::discrete(5)) == "5 -> 6 -> 32 tanh");
  config.embedding_size = 0;
  config.encoder = "mlp";
  CHECK(policy(space) == "417 -> 32 tanh");
  config.encoder = "nature_cnn";
  CHECK(error_of([&] { policy(space); }).ends_with("take another rl_module.encoder or conv_filters"));
  CHECK(error_of([&] { policy(Space(Tuple{{kFour, kFour}})); }).ends_with("is a picture for rl_module.encoder"));
  config.encoder = "auto";
  config.conv_filters = {{2, 3, 3}};
  CHECK(policy(space) == "417 -> {[0:3]} {[3:403] -> x 0.003922 -> conv 2 3x3/3 relu} {[403:417]} -> 32 tanh");
}

TEST_CASE("ModuleSpec: parts left out, by name") {
  const Space camera(Dict{{{"depth", bytes({10, 10, 1})}, {"rgb", bytes({10, 10, 3})}}});
  const Space space(Dict{{{"arm", Space::box(-1, 1, {3})}, {"camera", camera}, {"state", Space::box(-1, 1, {2})}}});
  ModelConfig config;
  config.fcnet_hiddens = {8};
  const auto spec = [&] { return make_module_spec(space, Space::discrete(2), config); };
  const auto text = [&] { return spec().to_string(); };
  config.ignored_parts = {"camera", "state"};
  CHECK(text() == "405 -> [0:3] -> 8 tanh -> categorical 2; value [0:3] -> 8 tanh -> 1");
  config.ignored_parts = {"camera"};
  CHECK(text() == "405 -> {[0:3]} {[403:405]} -> 8 tanh -> categorical 2; value {[0:3]} {[403:405]} -> 8 tanh -> 1");
  config.critic_only_parts = {"state"};
  CHECK(text() == "405 -> [0:3] -> 8 tanh -> categorical 2; value {[0:3]} {[403:405]} -> 8 tanh -> 1");
  CHECK(head_of(spec(), "vf").inputs == 8);
  config.ignored_parts = {"arm", "camera/depth", "state"};
  config.critic_only_parts = {};
  // The only part is a picture: its preset alone, as without a Dict.
  CHECK(text().starts_with("405 -> [103:403] -> x 0.003922 -> conv 16 3x3 relu -> 128 relu -> categorical 2;"));
  config.ignored_parts = {"camera/dept"};
  CHECK(error_of(text) ==
        "error[out-of-range] rl_module.ignored_parts has 'camera/dept', which is no part of the observations " +
            space.to_string() + "; did you mean camera/depth?");
  config.ignored_parts = {"arm", "camera", "state"};
  CHECK(error_of(text).starts_with("error[impossible] rl_module leaves nothing of the observations"));
  config.ignored_parts = {};
  config.critic_only_parts = {"state"};
  config.vf_share_layers = true;
  CHECK(error_of(text).starts_with("error[impossible] rl_module.critic_only_parts wants an encoder"));
}

TEST_CASE("ModuleSpec: the hash follows every number of a picture's layers") {
  ModuleSpec spec = picture(bytes({2, 12, 12}), with_encoder("impala_resnet"));
  std::set<uint64_t> hashes{spec.hash()};
  const auto changed = [&](auto change) {
    ModuleSpec other = spec;
    change(other);
    CHECK(hashes.insert(other.hash()).second);
  };
  const auto layer = []<class L>(ModuleSpec& s, L) -> L& {
    for (Layer& l : layers_of(s))
      if (std::holds_alternative<L>(l)) return std::get<L>(l);
    throw 0;
  };
  changed([&](ModuleSpec& s) { layer(s, Scale{}).factor *= 2; });
  changed([&](ModuleSpec& s) { layer(s, ChannelsLast{}).depth = 2; });
  changed([&](ModuleSpec& s) { layer(s, Conv2d{}).stride = 2; });
  changed([&](ModuleSpec& s) { layer(s, Conv2d{}).padding = 0; });
  changed([&](ModuleSpec& s) { layer(s, Conv2d{}).kernel = 5; });
  changed([&](ModuleSpec& s) { layer(s, MaxPool2d{}).padding = 0; });
  changed([&](ModuleSpec& s) { layer(s, MaxPool2d{}).stride = 1; });
  changed([&](ModuleSpec& s) { layer(s, ResidualBegin{}).size = 7; });
  spec = picture(bytes({2, 12, 12}), with_encoder("impoola_cnn"));
  CHECK(hashes.insert(spec.hash()).second);
  changed([&](ModuleSpec& s) { layer(s, AvgPool2d{}).kernel_height = 1; });
  changed([&](ModuleSpec& s) { layer(s, AvgPool2d{}).kernel_width = 1; });
  changed([&](ModuleSpec& s) { layer(s, AvgPool2d{}).stride = 2; });
  changed([&](ModuleSpec& s) { layer(s, AvgPool2d{}).padding = 1; });
  changed(
      [&](ModuleSpec& s) { std::erase_if(layers_of(s), [](const Layer& l) { return kind_of(l) == "residual_end"; }); });
  ModuleSpec other = spec;
  layer(other, Conv2d{}).gain = 3;
  layer(other, Conv2d{}).initializer = Initializer::xavier_uniform;
  CHECK(other.hash() == spec.hash());
}

TEST_CASE("ModuleSpec: networks have names, and those that act lie first") {
  ModelConfig config = model({8});
  config.action_distribution = "squashed_gaussian";
  ModuleSpec spec = make_mlp_spec(kFour, Space::box(-1, 1, {2}), config);
  const uint64_t hash = spec.hash();
  const size_t acting = spec.num_inference_parameters(), all = spec.num_parameters();
  for (const char* name : {"qf1", "qf2"})
    spec.networks.push_back({name, {"obs", "actions"}, {Linear{6, 3}, Activate{Activation::relu, 3}, Linear{3, 1}}});
  spec.networks.push_back({"critic", {"qf1", "encoder"}, {Linear{9, 1}}});
  check_module(spec);
  CHECK(spec.hash() != hash);
  CHECK(spec.num_inference_parameters() == acting);
  CHECK(spec.num_parameters() == all + 2 * (21 + 4) + 10);
  CHECK(spec.inference_part().num_parameters() == acting);
  CHECK(spec.find("qf2") == &spec.networks[5]);
  CHECK(spec.find("qf") == nullptr);
  CHECK(error_of([&] { spec.network("qf"); }) == "error[bad-module] a module has no network qf; did you mean vf?");
  std::vector<std::string> names;
  for (const Parameter& p : spec.parameters())
    if (p.offset >= all) names.push_back(p.name);
  CHECK(names == std::vector<std::string>{"qf1.0.weight", "qf1.0.bias", "qf1.2.weight", "qf1.2.bias", "qf2.0.weight",
                                          "qf2.0.bias", "qf2.2.weight", "qf2.2.bias", "critic.weight", "critic.bias"});
  CHECK(spec.to_string() ==
        "4 -> 8 tanh -> squashed gaussian 2; value 8 tanh -> 1; qf1 obs + actions -> 3 relu -> 1; "
        "qf2 obs + actions -> 3 relu -> 1; critic qf1 + encoder -> 1");
  // Other names, inputs and places are other modules; what is new begins as anything else does.
  const auto changed = [&](auto change) {
    ModuleSpec other = spec;
    change(other.networks[5]);
    return other.hash();
  };
  CHECK(changed([](Network& n) { n.name = "qf3"; }) != spec.hash());
  CHECK(changed([](Network& n) { n.inputs = {"actions", "obs"}; }) != spec.hash());
  CHECK(changed([](Network& n) { n.acts = true; }) != spec.hash());
  const std::vector<double> multipliers = lr_multipliers(spec, {{"qf1", 0.5}, {"critic", 0}});
  CHECK(std::ranges::count(multipliers, 0.5) == 4);
  CHECK(std::ranges::count(multipliers, 0.0) == 2);
  const std::vector<float> values = initial_parameters(spec, 1),
                           before = initial_parameters(make_mlp_spec(kFour, Space::box(-1, 1, {2}), config), 1);
  CHECK(std::equal(before.begin(), before.end(), values.begin()));
  CHECK(values[all] != values[all + 25]);  // qf1's and qf2's first weight
}

TEST_CASE("ModuleSpec: what networks share, in one line") {
  ModuleSpec spec;
  spec.obs_size = 5;
  spec.distribution = Categorical{3};
  spec.networks = {{"eye", {"obs"}, {Select{5, 0, 2}}, true},
                   {"arm", {"obs"}, {Linear{5, 4}}, true},
                   {"pi", {"eye", "arm"}, {Linear{6, 7}, Activate{Activation::relu, 7}, Linear{7, 3}}, true},
                   {"critic", {"obs", "actions"}, {Linear{8, 2}}},
                   {"qf1", {"critic"}, {Linear{2, 1}}},
                   {"qf2", {"critic"}, {Linear{2, 1}}}};
  check_module(spec);
  CHECK(spec.to_string() ==
        "eye 5 -> [0:2]; arm 4; pi eye + arm -> 7 relu -> categorical 3; qf1 obs + actions -> 2 -> 1; "
        "qf2 shares the critic -> 1");
}

TEST_CASE("check_module: networks that cannot be are named") {
  ModelConfig config = model({8});
  const ModuleSpec good = make_mlp_spec(kFour, Space::discrete(2), config);
  const auto complaint = [&](auto change) {
    ModuleSpec spec = good;
    change(spec.networks);
    return error_of([&] { check_module(spec); });
  };
  using Networks = std::vector<Network>;
  const auto with = [&](const Network& network, ptrdiff_t at = 4) {
    return complaint([&](Networks& n) { n.insert(n.begin() + at, network); });
  };
  CHECK(with({"qf", {"obs", "actions"}, {Linear{6, 1}}}).empty());
  CHECK(with({"", {"obs"}, {}}) == "error[bad-module] a network is called '', want letters, digits and _");
  CHECK(with({"q.f", {"obs"}, {}}) == "error[bad-module] a network is called 'q.f', want letters, digits and _");
  for (const char* name : {"obs", "actions", "log_std"})
    CHECK(with({name, {"obs"}, {}}) ==
          fmt::format("error[bad-module] a network is called {}, which stands for something else", name));
  CHECK(with({"vf", {"obs"}, {}}) == "error[bad-module] two networks are called vf");
  CHECK(with({"qf", {}, {}}) == "error[bad-module] qf reads nothing, want obs, actions or networks before it");
  CHECK(with({"qf", {"obs", "vf"}, {}}, 2) ==
        "error[bad-module] qf reads 'vf', want obs, actions or networks before it");
  CHECK(with({"qf", {"qf"}, {}}) == "error[bad-module] qf reads 'qf', want obs, actions or networks before it");
  CHECK(with({"qf", {"pi"}, {}}) == "error[bad-module] qf reads pi, whose outputs are the distribution's alone");
  CHECK(with({"qf", {"obs", "actions"}, {Linear{5, 1}}}) ==
        "error[bad-module] qf.0 (linear) takes 5 floats and gets 6");
  CHECK(with({"side", {"obs"}, {}, true}, 2) == "error[bad-module] side acts, and no network that acts reads it");
  CHECK(with({"side", {"actions"}, {}, true}, 0) ==
        "error[bad-module] side acts and reads actions, which runners get from pi");
  CHECK(complaint([](Networks& n) { n[0].acts = false; }) ==
        "error[bad-module] pi acts and reads encoder, which does not act");
  CHECK(complaint([](Networks& n) { std::swap(n[0], n[2]); }).starts_with("error[bad-module] pi reads 'encoder'"));
  CHECK(complaint([](Networks& n) { std::swap(n[1], n[2]); }) ==
        "error[bad-module] pi acts and lies behind vf_encoder, which does not; want those that act first");
  CHECK(complaint([](Networks& n) { n[0].acts = n[1].acts = false; }) ==
        "error[bad-module] a module has no network pi that acts");
  CHECK(complaint([](Networks& n) { n.clear(); }) == "error[bad-module] a module has no network pi that acts");
  CHECK(complaint([](Networks& n) {
          n[1].layers = {Conv2d{2, 4, 1, 1, 2}, Linear{3, 2}};
        }) == "error[bad-module] pi.0 (conv2d) acts on what pi reads, want obs alone: runners know no other pictures");
  CHECK(complaint([](Networks& n) {
          for (int i = 0; i < 256; ++i) n.push_back({fmt::format("n{}", i), {"obs"}, {}});
        }) == "error[bad-module] a module has 260 networks, want at most 256");
  // 4 floats doubled 25 times.
  CHECK(complaint([](Networks& n) {
          n.push_back({"n0", {"obs"}, {}});
          for (int i = 1; i < 30; ++i) n.push_back({fmt::format("n{}", i), {n.back().name, n.back().name}, {}});
        }) == "error[bad-module] n25 reads rows of 134217728 floats, want at most 67108864");
}

TEST_CASE("lr_multipliers: the longest name of a tensor counts, and names of none are errors") {
  const ModuleSpec spec = make_mlp_spec(kFour, Space::box(-1, 1, {2}), model({8, 3}));
  const auto of = [&](const char* name, const std::map<std::string, double>& multipliers) {
    const std::vector<Parameter> parameters = spec.parameters();
    const auto found = std::ranges::find(parameters, name, &Parameter::name);
    REQUIRE(found != parameters.end());
    return lr_multipliers(spec, multipliers)[static_cast<size_t>(found - parameters.begin())];
  };
  const std::map<std::string, double> some{{"encoder", 0.5}, {"encoder.2", 2}, {"encoder.2.bias", 0}, {"log_std", 3}};
  CHECK(of("encoder.0.weight", some) == 0.5);
  CHECK(of("encoder.2.weight", some) == 2);
  CHECK(of("encoder.2.bias", some) == 0);
  CHECK(of("log_std", some) == 3);
  CHECK(of("pi.weight", some) == 1);
  CHECK(of("vf_encoder.0.weight", some) == 1);
  CHECK(of("vf.bias", {{"vf", 4}}) == 4);
  CHECK(error_of([&] {
          lr_multipliers(spec, {{"encode", 0.5}});
        }) ==
        "error[out-of-range] training.lr_multipliers has 'encode', which is no part of the network; did you mean "
        "encoder?");
  CHECK(error_of([&] {
          lr_multipliers(spec, {{"encoder", -0.5}});
        }) == "error[out-of-range] training.lr_multipliers has -0.5 for encoder, want 0 or more");
  CHECK(error_of([&] { lr_multipliers(spec, {{"encoder.1", 0.5}}); }).starts_with("error[out-of-range]"));  // the tanh
}

TEST_CASE("initial_parameters: a convolution is an orthonormal matrix of its patches times sqrt 2") {
  const ModuleSpec spec = picture(Space::box(0, 1, {8, 8, 3}), with_encoder("minatar_cnn"));
  const auto values = initial_parameters(spec, 7);
  for (int i = 0; i < 16; ++i)  // [16, 3*3*3]
    for (int j = 0; j <= i; ++j) {
      double dot = 0;
      for (int k = 0; k < 27; ++k)
        dot += double{values[static_cast<size_t>(i * 27 + k)]} * double{values[static_cast<size_t>(j * 27 + k)]};
      CHECK(dot == doctest::Approx(i == j ? 2.0 : 0.0).epsilon(1e-5));
    }
  for (size_t i = 16 * 27; i < 16 * 27 + 16; ++i) CHECK(values[i] == 0.0f);
  // Xavier by what one output sees and one input reaches: sqrt(6 / (9 * 3 + 9 * 16)); Kaiming 1 / sqrt(27).
  for (const auto& [initializer, bound] : {std::pair{Initializer::xavier_uniform, std::sqrt(6.0 / 171)},
                                           {Initializer::kaiming_uniform, 1 / std::sqrt(27.0)}}) {
    ModuleSpec other = spec;
    std::get<Conv2d>(layers_of(other)[0]).initializer = initializer;
    std::get<Conv2d>(layers_of(other)[0]).gain = 1.0f;
    const auto uniform = initial_parameters(other, 7);
    double largest = 0;
    for (size_t i = 0; i < 16 * 27; ++i) largest = std::max(largest, std::abs(double{uniform[i]}));
    CHECK(largest <= bound);
    CHECK(largest > 0.95 * bound);  // of 432 numbers
  }
}

TEST_CASE("check_module: sizes that cannot be, or do not fit, are named") {
  const ModuleSpec good = picture(bytes({2, 12, 12}), with_encoder("impala_resnet"));
  check_module(good);
  const auto complaint = [&](auto change) {
    ModuleSpec spec = good;
    change(spec);
    return error_of([&] { check_module(spec); });
  };
  const auto at = [](size_t i, auto layer) { return [i, layer](ModuleSpec& s) { layers_of(s).at(i) = layer; }; };
  REQUIRE(std::get<Conv2d>(layers_of(good)[2]) ==
          Conv2d{12, 12, 2, 16, 3, 1, 1, Initializer::orthogonal, std::sqrt(2.0f)});
  CHECK(complaint(at(0, Scale{288, NAN})) ==
        "error[bad-module] encoder.0 (scale) has factor nan, want a finite number");
  CHECK(complaint(at(0, BatchNorm{288, 7})) ==
        "error[bad-module] encoder.0 (batchnorm) has size 288, want a multiple of its 7 channels");
  CHECK(complaint(at(0, BatchNorm{288, 2, 0.0f})) ==
        "error[bad-module] encoder.0 (batchnorm) has momentum 0, want above 0 and at most 1");
  CHECK(complaint(at(1, Select{288, 280, 9})) ==
        "error[bad-module] encoder.1 (select) takes features [280, 289) of 288");
  CHECK(complaint(at(1, Select{288, -1, 9})) ==
        "error[bad-module] encoder.1 (select) has offset -1, want 0 to 16777216");
  CHECK(complaint([](ModuleSpec& s) { s.mask_offset = 287; }) ==
        "error[bad-module] mask_offset is 287, want -1, or 0 to 286");
  CHECK(complaint([](ModuleSpec& s) { s.mask_offset = -2; }) ==
        "error[bad-module] mask_offset is -2, want -1, or 0 to 286");
  CHECK(complaint(at(1, ChannelsLast{2, 12, 11})) ==
        "error[bad-module] encoder.1 (channels_last) takes 264 floats and gets 288");
  CHECK(complaint(at(2, Conv2d{12, 12, 2, 16, 15, 1, 1})) ==
        "error[bad-module] encoder.2 (conv2d) has kernel 15, want at most 14");
  CHECK(complaint(at(2, Conv2d{12, 12, 2, 16, 3, 1, 2})) ==
        "error[bad-module] encoder.2 (conv2d) has padding 2, want at most half of kernel 3");
  CHECK(complaint(at(2, Conv2d{12, 12, 2, 16, 3, 0, 1})) ==
        "error[bad-module] encoder.2 (conv2d) has stride 0, want 1 to 32768");
  CHECK(complaint(at(2, Conv2d{12, 12, 2, 16, 3, 1, -1})) ==
        "error[bad-module] encoder.2 (conv2d) has padding -1, want 0 to 32768");
  CHECK(complaint(at(2, Conv2d{12, 12, 2, 32768, 3, 1, 1})).find("takes") != std::string::npos);  // what follows
  CHECK(complaint(at(2, Conv2d{32768, 32768, 2, 16, 3, 1, 1})).find("has rows of") != std::string::npos);
  CHECK(complaint(at(2, Conv2d{32768, 1, 32768, 32768, 1, 1, 0})).find("has rows of") != std::string::npos);
  CHECK(complaint(at(2, MaxPool2d{12, 12, 2, 13, 1})) ==
        "error[bad-module] encoder.2 (max_pool2d) has kernel 13, want at most 12");
  CHECK(complaint(at(2, AvgPool2d{12, 10, 2, 11, 11})) ==
        "error[bad-module] encoder.2 (avg_pool2d) has kernel_width 11, want at most 10");
  CHECK(complaint(at(2, AvgPool2d{12, 10, 2, 13, 10})) ==
        "error[bad-module] encoder.2 (avg_pool2d) has kernel_height 13, want at most 12");
  CHECK(complaint(at(2, AvgPool2d{12, 12, 2, 1, 2, 1, 1})) ==
        "error[bad-module] encoder.2 (avg_pool2d) has padding 1, want at most half of kernel_height 1");
  CHECK(complaint([](ModuleSpec& s) { layers_of(s).push_back(ResidualEnd{256}); }) ==
        "error[bad-module] encoder.47 (residual_end) ends no residual block");
  CHECK(complaint([](ModuleSpec& s) { layers_of(s).push_back(ResidualBegin{256}); }) ==
        "error[bad-module] encoder has 1 residual blocks without an end");
  CHECK(complaint([](ModuleSpec& s) {
          layers_of(s).insert(layers_of(s).end(), {ResidualBegin{256}, Linear{256, 5}, ResidualEnd{5}});
        }) == "error[bad-module] encoder.49 (residual_end) adds 256 floats to 5");
  CHECK(complaint([](ModuleSpec& s) { head_of(s).inputs = 5; }) ==
        "error[bad-module] pi (linear) takes 5 floats and gets 256");
  CHECK(complaint([](ModuleSpec& s) { head_of(s).outputs = 3; }) == "error[bad-module] pi gives 3 floats, want 2");
  CHECK(complaint([](ModuleSpec& s) { head_of(s, "vf").outputs = 2; }) ==
        "error[bad-module] vf gives 2 floats, want 1");
  CHECK(complaint([](ModuleSpec& s) { s.distribution = MultiCategorical{}; }).find("0 choices") != std::string::npos);
  CHECK(complaint([](ModuleSpec& s) { s.distribution = Categorical{0}; }).find("size of 0") != std::string::npos);
  CHECK(complaint([](ModuleSpec& s) { s.log_std_clip = -1; }).find("log_std_clip -1") != std::string::npos);
  CHECK(complaint([](ModuleSpec& s) { s.obs_size = 0; }).find("obs_size is 0") != std::string::npos);
}

TEST_SUITE_END();
