#include "env_runners/eigen_policy.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "env_runners/policy_kernels.hpp"
#include "rl/check.hpp"
#include "rl/module_json.hpp"
#include "rl/overloaded.hpp"
#include "rl/random.hpp"
#include "tests/layer_examples.hpp"

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

/// x [height, width, channels], which has no pixel outside.
struct NaivePicture {
  const std::vector<double>& x;
  int height, width, channels;
  bool has(int row, int column) const { return row >= 0 && row < height && column >= 0 && column < width; }
  double at(int row, int column, int channel) const {
    return x[static_cast<size_t>((row * width + column) * channels + channel)];
  }
};

/// What a network's layers give for one row in double precision, as their formulas read; `w` goes past its weights.
std::vector<double> naive_network(const std::vector<Layer>& layers, const std::vector<double>& row, const float*& w) {
  std::vector<double> x = row;
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
  const auto value = [](float f) { return static_cast<double>(f); };
  std::vector<std::vector<double>> open;
  std::vector<double> joined;
  const auto join = [&] { joined.insert(joined.end(), x.begin(), x.end()); };
  for (const Layer& layer : layers)
    std::visit(
        Overloaded{
            linear,
            [&](const Select& l) { x = std::vector<double>(x.begin() + l.offset, x.begin() + l.offset + l.size); },
            [&](const Stream&) {
              if (&layer != &layers.front()) join();
              x = row;
            },
            [&](const Concat&) {
              join();
              x = joined;
            },
            [&](const Scale& l) {
              for (double& v : x) v *= value(l.factor);
            },
            [&](const ChannelsLast& l) {
              const std::vector<double> planes = x;
              size_t to = 0;
              for (int pixel = 0; pixel < l.height * l.width; ++pixel)
                for (int c = 0; c < l.channels; ++c)
                  for (int d = 0; d < l.depth; ++d)
                    x[to++] = planes[static_cast<size_t>((c * l.height * l.width + pixel) * l.depth + d)];
            },
            [&](const Conv2d& l) {
              const std::vector<double> before = x;
              const NaivePicture from{before, l.height, l.width, l.inputs};
              const float* bias = w + l.outputs * l.patch_size();
              x.clear();
              for (int row = 0; row < l.output_height(); ++row)
                for (int column = 0; column < l.output_width(); ++column)
                  for (int o = 0; o < l.outputs; ++o) {
                    double sum = value(bias[o]);
                    const float* weight = w + o * l.patch_size();
                    for (int i = 0; i < l.kernel; ++i)
                      for (int j = 0; j < l.kernel; ++j)
                        for (int c = 0; c < l.inputs; ++c, ++weight)
                          if (const int r = row * l.stride - l.padding + i, k = column * l.stride - l.padding + j;
                              from.has(r, k))
                            sum += value(*weight) * from.at(r, k, c);
                    x.push_back(sum);
                  }
              w = bias + l.outputs;
            },
            [&](const MaxPool2d& l) {
              const std::vector<double> before = x;
              const NaivePicture from{before, l.height, l.width, l.channels};
              x.clear();
              for (int row = 0; row < l.output_height(); ++row)
                for (int column = 0; column < l.output_width(); ++column)
                  for (int c = 0; c < l.channels; ++c) {
                    double most = -INFINITY;
                    for (int i = 0; i < l.kernel; ++i)
                      for (int j = 0; j < l.kernel; ++j)
                        if (const int r = row * l.stride - l.padding + i, k = column * l.stride - l.padding + j;
                            from.has(r, k))
                          most = std::max(most, from.at(r, k, c));
                    x.push_back(most);
                  }
            },
            [&](const ResidualBegin&) { open.push_back(x); },
            [&](const ResidualEnd&) {
              for (size_t i = 0; i < x.size(); ++i) x[i] += open.back()[i];
              open.pop_back();
            },
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
            },
            []<class L>(const L&) {
              FAIL(L::kKind << " has no formula here; its numbers are in layer_examples.json");
            }},
        layer);
  return x;
}

/// The module's inference part for one sample in double precision.
std::vector<double> naive_forward(const ModuleSpec& spec, const std::vector<float>& weights, const float* obs) {
  std::map<std::string, std::vector<double>> rows{{"obs", {obs, obs + spec.obs_size}}};
  const float* w = weights.data();
  for (const Network& network : spec.networks) {
    if (!network.acts) continue;
    std::vector<double> row;
    for (const std::string& input : network.inputs) row.insert(row.end(), rows[input].begin(), rows[input].end());
    rows[network.name] = naive_network(network.layers, row, w);
  }
  std::vector<double> x = rows["pi"];
  std::vector<double> all;
  auto output = x.begin();
  const float* mask = obs + std::max(spec.mask_offset, 0);
  for (const ActionPart& part : action_parts(spec.distribution)) {
    std::vector<double> own(output, output + part.num_outputs);
    output += part.num_outputs;
    for (int i = 0; i < part.num_choices && spec.mask_offset >= 0; ++i)
      if (*mask++ == 0.0f) own[static_cast<size_t>(i)] = static_cast<double>(kMaskedLogit);
    if (const DiagGaussian* gaussian = gaussian_of(part.distribution)) {
      if (gaussian->free_log_std) own.insert(own.end(), w, w + gaussian->n), w += gaussian->n;
      for (size_t i = own.size() / 2; i < own.size(); ++i)
        own[i] = std::clamp(own[i], -static_cast<double>(spec.log_std_clip), static_cast<double>(spec.log_std_clip));
    }
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
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

/// A module with this encoder, two logits and `shared` value.
ModuleSpec with_encoder(int obs_size, std::vector<Layer> encoder) {
  ModuleSpec spec;
  spec.obs_size = obs_size;
  const int features = encoder.empty() ? obs_size : outputs_of(encoder.back());
  spec.networks = {{"encoder", {"obs"}, std::move(encoder), true},
                   {"pi", {"encoder"}, {Linear{features, 2}}, true},
                   {"vf", {"encoder"}, {Linear{features, 1}}}};
  spec.distribution = Categorical{2};
  return spec;
}

/// Two logits of 70 features by these networks.
ModuleSpec networks_spec(std::vector<Network> networks) {
  ModuleSpec spec;
  spec.obs_size = 70;
  spec.networks = std::move(networks);
  spec.distribution = Categorical{2};
  return spec;
}

/// What pi reads for `obs`: it passes its features through.
std::vector<float> features(const ModuleSpec& spec, std::vector<float> weights, const std::vector<float>& obs) {
  ModuleSpec two = spec;
  auto& head = std::get<Linear>(two.network("pi").layers[0]);
  const int size = head.outputs = head.inputs;
  two.distribution = Categorical{size};
  for (int o = 0; o < size; ++o)
    for (int i = 0; i < size; ++i) weights.push_back(o == i ? 1.0f : 0.0f);
  weights.resize(weights.size() + static_cast<size_t>(size), 0.0f);  // biases
  EigenPolicy policy(two);
  policy.load(weights);
  std::vector<float> out(static_cast<size_t>(size));
  policy.forward(obs.data(), 1, out.data());
  return out;
}

ModuleSpec picture_spec(const std::vector<int>& shape, const char* encoder) {
  ModelConfig config;
  config.encoder = encoder;
  config.vf_share_layers = true;
  return make_module_spec(Space::box(0, 255, shape, DType::u8), Space::discrete(6), config);
}

/// Stacks in which each picture layer meets the others, odd sizes, and features inside a picture's residual block.
std::vector<ModuleSpec> picture_specs() {
  const auto relu = [](int size) { return Activate{Activation::relu, size}; };
  return {
      with_encoder(60, {Conv2d{5, 4, 3, 7, 3, 1, 1}, relu(140), Conv2d{5, 4, 7, 33, 2, 2}, MaxPool2d{2, 2, 33, 2, 1}}),
      with_encoder(726, {ChannelsLast{6, 11, 11}, Scale{726, 0.25f}, Conv2d{11, 11, 6, 24, 5, 3, 2}, relu(384)}),
      with_encoder(54, {ChannelsLast{3, 3, 3, 2}, ResidualBegin{54}, Conv2d{3, 3, 6, 6, 3, 1, 1}, LayerNorm{54},
                        ResidualBegin{54}, Linear{54, 54}, ResidualEnd{54}, ResidualEnd{54}, relu(54), Linear{54, 9},
                        ResidualBegin{9}, Activate{Activation::tanh, 9}, Linear{9, 9}, ResidualEnd{9}, LayerNorm{9}}),
      with_encoder(90, {Linear{90, 75}, MaxPool2d{5, 5, 3, 3, 2, 1}, Activate{Activation::tanh, 27}, Scale{27, 3.0f}}),
      with_encoder(17 * 19, {Conv2d{17, 19, 1, 16, 3}, Conv2d{15, 17, 16, 32, 3, 2}, MaxPool2d{7, 8, 32, 3, 2, 1}}),
      with_encoder(3, {ResidualBegin{3}, Linear{3, 3}, ResidualEnd{3}, Scale{3, -2.0f}}),
      with_encoder(11,
                   {Select{11, 4, 6}, Linear{6, 5}, ResidualBegin{5}, Linear{5, 8}, Select{8, 3, 5}, ResidualEnd{5}}),
      with_encoder(70, {Select{70, 7, 60}, Conv2d{5, 4, 3, 7, 3, 1, 1}, Select{140, 1, 36}, MaxPool2d{3, 4, 3, 2, 1}}),
      picture_spec({10, 10, 4}, "minatar_cnn"),
      picture_spec({36, 37, 3}, "nature_cnn"),
      picture_spec({3, 21, 20}, "impala_resnet"),
      with_encoder(70, {Select{70, 9, 60}, Conv2d{5, 4, 3, 7, 3, 1, 1}, relu(140), Linear{140, 5}}),
      with_encoder(70, {Stream{70}, Select{70, 3, 5}, Stream{70}, Select{70, 10, 60}, Conv2d{5, 4, 3, 7, 3, 1, 1},
                        relu(140), Linear{140, 11}, relu(11), Stream{70}, Linear{70, 3}, LayerNorm{3}, Select{3, 1, 2},
                        Concat{18}, Linear{18, 6}, ResidualBegin{6}, Linear{6, 6}, ResidualEnd{6}}),
      with_encoder(21, {Stream{21}, Select{21, 0, 9}, MaxPool2d{3, 3, 1, 2, 1}, Stream{21}, Select{21, 9, 12},
                        Conv2d{2, 2, 3, 17, 2}, Concat{21}}),
      networks_spec({{"eye", {"obs"}, {Select{70, 7, 60}, Conv2d{5, 4, 3, 7, 3, 1, 1}, relu(140)}, true},
                     {"arm", {"obs"}, {Select{70, 0, 7}, Linear{7, 9}, relu(9)}, true},
                     {"trunk", {"arm", "eye"}, {Linear{149, 12}, LayerNorm{12}}, true},
                     {"side", {"trunk"}, {Stream{12}, Select{12, 3, 5}, Stream{12}, Linear{12, 4}, Concat{9}}, true},
                     {"pi", {"side", "obs", "trunk"}, {Linear{91, 5}, relu(5), Linear{5, 2}}, true},
                     {"qf", {"trunk", "actions"}, {}}}),
      networks_spec({{"pi", {"obs"}, {ResidualBegin{70}, Linear{70, 70}, ResidualEnd{70}, Linear{70, 2}}, true}}),
      networks_spec({{"left", {"obs"}, {}, true},
                     {"right", {"left"}, {Select{70, 69, 1}}, true},
                     {"again", {"right"}, {}, true},
                     {"pi", {"again", "left"}, {Linear{71, 2}}, true}}),
  };
}

}  // namespace

TEST_SUITE("env_runners/eigen_policy") {
  TEST_CASE("EigenPolicy: every layer, activation and distribution agrees with double precision to 1e-5") {
    const Space box = Space::box(-1, 1, {3});
    std::vector<ModuleSpec> specs;
    for (const char* activation : {"linear", "tanh", "relu", "silu", "gelu", "elu"})
      for (const bool norm : {false, true}) specs.push_back(mlp(5, box, {19, 7}, activation, norm));
    specs.push_back(mlp(17, box, {64, 64}, "tanh", false, false));
    for (const char* distribution : {"squashed_gaussian", "beta"})
      for (const bool free : {false, true}) {
        ModelConfig config;
        config.fcnet_hiddens = {9};
        config.action_distribution = distribution;
        config.free_log_std = free;
        specs.push_back(make_mlp_spec(Space::box(-1, 1, {5}), box, config));
      }
    specs.push_back(mlp(1, Space::discrete(4), {}, "tanh"));
    specs.push_back(mlp(3, Space(MultiDiscrete{{2, 3, 4}}), {33}, "relu"));
    for (const ModuleSpec& spec : picture_specs()) specs.push_back(spec);
    ModuleSpec masked = mlp(9, Space(MultiDiscrete{{2, 3}}), {12}, "tanh");
    masked.mask_offset = 3;
    specs.push_back(masked);
    const Space pad = Dict{{{"aim", box}, {"keys", MultiBinary{2}}, {"more", Tuple{{box, Space::discrete(3)}}}}};
    for (const bool free : {true, false}) specs.push_back(mlp(5, pad, {19}, "tanh", false, free));
    masked = mlp(9, pad, {12}, "tanh");
    masked.mask_offset = 1;
    specs.push_back(masked);
    for (const PolicyKernels* kernels : supported_kernels())
      for (const ModuleSpec& spec : specs) {
        const std::string subject = std::string(kernels->isa) + ": " + spec.to_string();
        CAPTURE(subject);
        EigenPolicy policy(spec, kernels);
        std::vector<float> weights = initial_parameters(spec, 4);
        const std::vector<float> noise = normals(weights.size(), 4, spec.obs_size < 18 ? 0.4f : 0.02f);
        for (size_t i = 0; i < weights.size(); ++i) weights[i] += noise[i];
        policy.load(weights);
        const size_t n = 37;
        std::vector<float> obs = normals(n * static_cast<size_t>(spec.obs_size), 5, 2.0f);
        for (size_t i = 0; i < n && spec.mask_offset >= 0; ++i)
          for (int j = 0; j < spec.mask_size(); ++j)
            if (float& mask = obs[i * static_cast<size_t>(spec.obs_size) + static_cast<size_t>(spec.mask_offset + j)];
                mask < 0.0f)
              mask = 0.0f;
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

  TEST_CASE("EigenPolicy: every kind of layer by hand") {
    for (const PolicyKernels* kernels : supported_kernels())
      for (const LayerExample& example : layer_examples()) {
        CAPTURE(kernels->isa);
        CAPTURE(example.about);
        EigenPolicy policy(example.spec, kernels);
        policy.load(example.parameters);
        // Alone, and in a panel of several: lanes that are someone else's must not show.
        for (const size_t n : {size_t{1}, size_t{3}}) {
          std::vector<float> obs(n * example.x.size(), 7.0f), out(n * example.y.size());
          std::ranges::copy(example.x, obs.begin());
          policy.forward(obs.data(), n, out.data());
          for (size_t i = 0; i < example.y.size(); ++i) CHECK(out[i] == doctest::Approx(example.y[i]).epsilon(1e-5));
        }
      }
  }

  TEST_CASE("EigenPolicy: a convolution by hand") {
    // x = 1 2 3    w = 1 0    w x at its four places: 1 + 2*5 = 11, 2 + 2*6 = 14, 4 + 2*8 = 20, 5 + 2*9 = 23; + 0.5
    //     4 5 6        0 2
    //     7 8 9
    const std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8, 9};
    CHECK(features(with_encoder(9, {Conv2d{3, 3, 1, 1, 2}}), {1, 0, 0, 2, 0.5}, x) ==
          std::vector<float>{11.5, 14.5, 20.5, 23.5});
    // Padding 1, stride 2: the corners of the picture in zeros, 2*1, 0 + 0, 0 + 0 ... : places (-1,-1): 2*x[0][0] = 2,
    // (-1,1): 2*x[0][2] = 6, (1,-1): 2*x[2][0] = 14, (1,1): x[1][1] + 2*x[2][2] = 23.
    CHECK(features(with_encoder(9, {Conv2d{3, 3, 1, 1, 2, 2, 1}}), {1, 0, 0, 2, 0}, x) ==
          std::vector<float>{2, 6, 14, 23});
    // Two channels in, two out, 1 x 2 pixels: pixel (3, 4) -> 3 - 4 + 1 = 0 and 10*3 + 4 = 34, (5, 7) -> -1 and 57.
    CHECK(features(with_encoder(4, {Conv2d{1, 2, 2, 2, 1}}), {1, -1, 10, 1, 1, 0}, {3, 4, 5, 7}) ==
          std::vector<float>{0, 34, -1, 57});
  }

  TEST_CASE("EigenPolicy: pooling, residual blocks, planes and factors by hand") {
    // The largest of each 2 x 2 of {1 2; 3 -4} with a border that is never it: -1 alone in its corner stays -1.
    const std::vector<float> x{-1, 2, -3, -4};
    CHECK(features(with_encoder(4, {MaxPool2d{2, 2, 1, 2, 2, 1}}), {}, x) == x);
    CHECK(features(with_encoder(4, {MaxPool2d{2, 2, 1, 2, 1}}), {}, x) == std::vector<float>{2});
    // Channels apart: pixels (1, -5), (2, -6).
    CHECK(features(with_encoder(4, {MaxPool2d{2, 1, 2, 1, 1}}), {}, {1, -5, 2, -6}) ==
          std::vector<float>{1, -5, 2, -6});
    CHECK(features(with_encoder(8, {MaxPool2d{2, 2, 2, 2, 2}}), {}, {1, -5, 2, -6, 0, -7, 0, -4}) ==
          std::vector<float>{2, -4});
    // x + (2 x + 1) within x + 10 (...): x = 1: inner 1 + 3 = 4, outer 1 + 40 = 41; x = -2: -2 - 3 = -5, -2 - 50 = -52.
    CHECK(features(with_encoder(2, {ResidualBegin{2}, ResidualBegin{2}, Linear{2, 2}, ResidualEnd{2}, Scale{2, 10},
                                    ResidualEnd{2}}),
                   {2, 0, 0, 2, 1, 1}, {1, -2}) == std::vector<float>{41, -52});
    // Planes 1 2 and 3 4 -> pixels (1, 3), (2, 4); with a depth of 2 pixels are pairs.
    CHECK(features(with_encoder(4, {ChannelsLast{2, 1, 2}}), {}, {1, 2, 3, 4}) == std::vector<float>{1, 3, 2, 4});
    CHECK(features(with_encoder(8, {ChannelsLast{2, 1, 2, 2}}), {}, {1, 2, 3, 4, 5, 6, 7, 8}) ==
          std::vector<float>{1, 2, 5, 6, 3, 4, 7, 8});
  }

  TEST_CASE("EigenPolicy: what myriad_client computes") {
    // ByHand.test_every_kind_of_layer_of_a_module_json (tests/simulators/python_sdk_test.py) has the same.
    const ModuleSpec spec = module_from_json(R"({"obs_size":50,"encoder":[
        {"kind":"channels_last","channels":2,"height":5,"width":5,"depth":1},{"kind":"scale","size":50,"factor":0.5},
        {"kind":"conv2d","height":5,"width":5,"inputs":2,"outputs":3,"kernel":3,"stride":2,"padding":1,
         "initializer":"orthogonal","gain":1.0},
        {"kind":"activate","activation":"tanh","size":27},{"kind":"residual_begin","size":27},
        {"kind":"conv2d","height":3,"width":3,"inputs":3,"outputs":3,"kernel":3,"stride":1,"padding":1,
         "initializer":"orthogonal","gain":1.0},
        {"kind":"layernorm","size":27},{"kind":"residual_end","size":27},
        {"kind":"max_pool2d","height":3,"width":3,"channels":3,"kernel":2,"stride":1,"padding":1},
        {"kind":"linear","inputs":48,"outputs":4,"initializer":"orthogonal","gain":1.0}],
        "action_head":{"kind":"linear","inputs":4,"outputs":2,"initializer":"orthogonal","gain":1.0},
        "distribution":{"kind":"categorical","n":2},"log_std_init":0,"log_std_clip":20,"shares_encoder":true,
        "value_encoder":[],"value_head":{"kind":"linear","inputs":4,"outputs":1,"initializer":"orthogonal","gain":1.0}})");
    std::vector<float> weights(spec.num_inference_parameters()), obs(50), out(2);
    for (size_t i = 0; i < weights.size(); ++i)
      weights[i] = static_cast<float>(std::sin(static_cast<double>(i + 1)) / 2);
    for (size_t i = 0; i < obs.size(); ++i) obs[i] = static_cast<float>(std::cos(static_cast<double>(i)));
    EigenPolicy policy(spec);
    policy.load(weights);
    policy.forward(obs.data(), 1, out.data());
    CHECK(std::abs(out[0] + 0.750344f) <= 1e-5f);
    CHECK(std::abs(out[1] + 0.566048f) <= 1e-5f);
  }

  TEST_CASE("EigenPolicy: a picture's result is the same bits in any batch") {
    std::vector<ModuleSpec> specs = picture_specs();
    specs.push_back(picture_spec({3, 21, 20}, "impoola_cnn"));
    for (const PolicyKernels* kernels : supported_kernels())
      for (const ModuleSpec& spec : specs) {
        CAPTURE(spec.to_string());
        EigenPolicy policy(spec, kernels);
        const auto size = static_cast<size_t>(spec.obs_size), outputs = static_cast<size_t>(policy.num_outputs());
        const std::vector<float> weights = initial_parameters(spec, 6), obs = normals(21 * size, 7);
        policy.load(weights);
        std::vector<float> all(21 * outputs), part(21 * outputs);
        policy.forward(obs.data(), 21, all.data());
        for (const size_t batch : {size_t{1}, size_t{3}, size_t{8}, size_t{21}}) {
          for (size_t i = 0; i < 21; i += batch)
            policy.forward(obs.data() + i * size, std::min(batch, 21 - i), part.data() + i * outputs);
          CAPTURE(batch);
          CHECK(std::memcmp(all.data(), part.data(), all.size() * sizeof(float)) == 0);
        }
      }
  }

  TEST_CASE("EigenPolicy: streams by hand") {
    // Of (1, 2, 3, 4): (3, 4), twice the first two, and what is behind them.
    CHECK(features(with_encoder(4, {Select{4, 2, 2}}), {}, {1, 2, 3, 4}) == std::vector<float>{3, 4});
    CHECK(features(with_encoder(4, {Stream{4}, Select{4, 2, 2}, Stream{4}, Select{4, 0, 2}, Scale{2, 2}, Stream{4},
                                    Linear{4, 1}, Concat{5}, Scale{5, 10}}),
                   {1, 10, 100, 1000, 5}, {1, 2, 3, 4}) == std::vector<float>{30, 40, 20, 40, 43260});
  }

  TEST_CASE("EigenPolicy: networks by hand") {
    // ByHand.test_networks_by_hand (tests/simulators/python_sdk_test.py) has the same.
    ModuleSpec spec;
    spec.obs_size = 2;
    spec.networks = {{"left", {"obs"}, {Select{2, 0, 1}, Linear{1, 2}}, true},
                     {"right", {"obs"}, {Scale{2, 10}}, true},
                     {"pi", {"right", "left", "obs"}, {Linear{6, 2}}, true},
                     {"qf", {"obs", "actions"}, {}}};
    spec.distribution = Categorical{2};
    // left: 2 * 4 + 0.5 and 3 * 4 - 1.
    const std::vector<float> weights{2, 3, 0.5, -1}, obs{4, 5};
    CHECK(features(spec, weights, obs) == std::vector<float>{40, 50, 8.5, 11, 4, 5});
    const Network side{
        "side", {"right", "left"}, {Stream{4}, Select{4, 1, 2}, Stream{4}, Scale{4, 2}, Concat{6}}, true};
    spec.networks.insert(spec.networks.begin() + 2, side);
    spec.networks[3] = {"pi", {"side", "right"}, {Linear{8, 2}}, true};
    CHECK(features(spec, weights, obs) == std::vector<float>{50, 8.5, 80, 100, 17, 22, 40, 50});
  }

  TEST_CASE("EigenPolicy: new weights of a convolution count from the next load on") {
    const ModuleSpec spec = with_encoder(2, {Conv2d{1, 2, 1, 1, 1}});
    std::vector<float> weights{1, 0, 1, 0, 0, 1, 0, 0}, out(2);  // x -> x, the head the identity
    const std::vector<float> obs{3, 4};
    EigenPolicy policy(spec);
    policy.load(weights);
    policy.forward(obs.data(), 1, out.data());
    CHECK(out == obs);
    weights[0] = 2;
    policy.load(weights);
    policy.forward(obs.data(), 1, out.data());
    CHECK(out == std::vector<float>{6, 8});
  }

  TEST_CASE("EigenPolicy: a module whose layers do not fit is refused") {
    CHECK_THROWS_AS(EigenPolicy(with_encoder(4, {Linear{4, 3}, Conv2d{2, 2, 1, 1, 1}})), Error);
    CHECK_THROWS_AS(EigenPolicy(with_encoder(4, {ResidualBegin{4}})), Error);
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
