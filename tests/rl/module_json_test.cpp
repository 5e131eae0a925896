#include "rl/module_json.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "tests/error_of.hpp"
#include "tests/layer_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("rl/module_json");

namespace {

/// Every kind of layer and of input.
ModuleSpec full() {
  ModuleSpec spec;
  spec.obs_size = 50;
  const std::vector<Layer> encoder{Scale{50, 0.1f},
                                   ChannelsLast{1, 5, 5, 2},
                                   Conv2d{5, 5, 2, 3, 3, 2, 1, Initializer::xavier_uniform, 1.1f},
                                   MaxPool2d{3, 3, 3, 2, 1, 1},
                                   ResidualBegin{48},
                                   Activate{Activation::gelu, 48},
                                   ResidualEnd{48},
                                   Linear{48, 4, Initializer::kaiming_uniform, 0.3f},
                                   LayerNorm{4}};
  spec.networks = {
      {"encoder", {"obs"}, encoder, true},
      {"pi", {"encoder"}, {Linear{4, 2, Initializer::orthogonal, 0.01f}}, true},
      {"vf_encoder", {"obs"}, {Stream{50}, Select{50, 3, 4}, Stream{50}, Linear{50, 3}, Concat{7}}},
      {"vf", {"vf_encoder"}, {Linear{7, 1}}},
      {"qf", {"encoder", "actions"}, {}},
  };
  spec.distribution = DiagGaussian{2, true};
  spec.log_std_init = -0.7f;
  spec.log_std_clip = std::numeric_limits<float>::max();
  return spec;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string complaint(const std::string& text) {
  return error_of([&] { (void)module_from_json(text); });
}

}  // namespace

TEST_CASE("module_json: back and forth it is the same spec, to the bit") {
  std::vector<ModuleSpec> specs{full()};
  ModelConfig config;
  config.vf_share_layers = true;
  for (const Space& actions : {Space::discrete(3), Space(MultiDiscrete{{2, 3, 4}}), Space::box(-1, 1, {2})}) {
    specs.push_back(make_module_spec(Space::box(-1, 1, {4}), actions, config));
    config.free_log_std = !config.free_log_std;
    config.encoder = "impala_resnet";
    specs.push_back(make_module_spec(Space::box(0, 255, {3, 20, 21}, DType::u8), actions, config));
    config.encoder = "auto";
  }
  specs.push_back(make_q_spec(Space::box(-1, 1, {4}), Space::discrete(3), ModelConfig()));
  for (const char* distribution : {"squashed_gaussian", "beta"}) {
    config.action_distribution = distribution;
    specs.push_back(make_module_spec(Space::box(-1, 1, {4}), Space::box(-1, 1, {2}), config));
    CHECK(to_json(specs.back()).find(fmt::format(R"("kind":"{}")", distribution)) != std::string::npos);
  }
  config.action_distribution = "auto";
  specs.push_back(make_module_spec(Dict{{{"action_mask", MultiBinary{3}}, {"view", Space::box(-1, 1, {4})}}},
                                   Space::discrete(3), config));
  CHECK(specs.back().mask_offset == 0);
  for (const LayerExample& example : layer_examples()) specs.push_back(example.spec);
  const Space pad = Dict{{{"aim", Space::box(-1, 1, {2})}, {"keys", MultiBinary{2}}, {"move", Space::discrete(3)}}};
  specs.push_back(make_module_spec(Space::box(-1, 1, {4}), pad, config));
  const std::string json = to_json(specs.back());
  CHECK(json.find(fmt::format(
            R"("distribution":{{"kind":"composite","parts":[{{"kind":"diag_gaussian","n":2,"free_log_std":{}}},)"
            R"({{"kind":"multi_categorical","nvec":[2,2]}},{{"kind":"categorical","n":3}}]}})",
            config.free_log_std)) != std::string::npos);
  CHECK(complaint(replaced(json, R"("kind":"categorical")", R"("kind":"epsilon_greedy")"))
            .starts_with("error[bad-module] unknown kind of distribution 'epsilon_greedy'"));
  CHECK(complaint(replaced(json, R"("nvec":[2,2])", R"("nvec":2)")) ==
        "error[bad-module] distribution.parts.1 has nvec 2, want a list");
  for (const ModuleSpec& spec : specs) {
    const ModuleSpec again = module_from_json(to_json(spec));
    CHECK(again == spec);
    CHECK(again.hash() == spec.hash());
    CHECK(again.to_string() == spec.to_string());
    CHECK(to_json(again) == to_json(spec));
  }
}

TEST_CASE("module_json: the keys are those of the header") {
  ModuleSpec spec;
  spec.obs_size = 9;
  spec.networks = {{"encoder", {"obs"}, {Conv2d{3, 3, 1, 2, 2, 1, 1}}, true},
                   {"pi", {"encoder"}, {Linear{32, 2, Initializer::orthogonal, 0.5f}}, true},
                   {"vf", {"encoder"}, {Linear{32, 1}}}};
  spec.distribution = Categorical{2};
  const std::string conv =
      R"([{"kind":"conv2d","height":3,"width":3,"inputs":1,"outputs":2,"kernel":2,"stride":1,"padding":1,)"
      R"("initializer":"orthogonal","gain":1E0}])";
  const std::string pi = R"({"kind":"linear","inputs":32,"outputs":2,"initializer":"orthogonal","gain":5E-1})";
  const std::string vf = R"({"kind":"linear","inputs":32,"outputs":1,"initializer":"orthogonal","gain":1E0})";
  const std::string rest = R"("distribution":{"kind":"categorical","n":2},"log_std_init":0E0,"log_std_clip":2E1)";
  CHECK(to_json(spec) == R"({"obs_size":9,"networks":[{"name":"encoder","inputs":["obs"],"acts":true,"layers":)" +
                             conv + R"(},{"name":"pi","inputs":["encoder"],"acts":true,"layers":[)" + pi +
                             R"(]},{"name":"vf","inputs":["encoder"],"acts":false,"layers":[)" + vf + "]}]," + rest +
                             "}");
  // As it was before networks had names.
  CHECK(module_from_json(R"({"obs_size":9,"encoder":)" + conv + R"(,"action_head":)" + pi + "," + rest +
                         R"(,"shares_encoder":true,"value_encoder":[],"value_head":)" + vf + "}") == spec);
  spec.networks = {spec.networks[0],
                   spec.networks[1],
                   {"vf_encoder", {"obs"}, spec.networks[0].layers},
                   {"vf", {"vf_encoder"}, spec.networks[2].layers}};
  const std::string separate = R"({"obs_size":9,"encoder":)" + conv + R"(,"action_head":)" + pi + "," + rest +
                               R"(,"shares_encoder":false,"value_encoder":)" + conv + R"(,"value_head":)" + vf + "}";
  CHECK(module_from_json(separate) == spec);
  CHECK(complaint(replaced(separate, "false", "true")) ==
        "error[bad-module] the value shares the encoder and has 1 layers of its own");
  CHECK(complaint(replaced(separate, "false", "0")) ==
        "error[bad-module] a module has shares_encoder 0, want true or false");
  CHECK(complaint(replaced(separate, R"("action_head":)", R"("pi":)")) ==
        "error[bad-module] a module has no action_head");
  CHECK(complaint(replaced(separate, R"("action_head":{"kind":"linear")", R"("action_head":{"kind":"stream")"))
            .starts_with("error[bad-module] action_head has no size"));
}

TEST_CASE("module_json: a Q-network has no value of its own") {
  ModelConfig config;
  config.fcnet_hiddens = {};
  const ModuleSpec spec = make_q_spec(Space::box(-1, 1, {4}), Space::discrete(3), config);
  const std::string json =
      R"({"obs_size":4,"encoder":[],"action_head":{"kind":"linear","inputs":4,"outputs":3,"initializer":"orthogonal",)"
      R"("gain":1E0},"distribution":{"kind":"epsilon_greedy","n":3},"log_std_init":0E0,"log_std_clip":2E1})";
  CHECK(module_from_json(json) == spec);
  CHECK(complaint(replaced(json, "2E1", R"(2E1,"value_encoder":[])"))
            .starts_with("error[bad-module] a module has value_encoder"));
  ModuleSpec with_value = spec;
  with_value.networks.push_back({"vf", {"encoder"}, {Linear{4, 1}}});
  CHECK(error_of([&] { (void)to_json(with_value); }) ==
        "error[bad-module] a Q-network has its value from its Q-values, and no network vf");
}

TEST_CASE("module_json: what is wrong is named, with what was wanted") {
  const std::string good = to_json(full());
  const auto with = [&](const char* from, const char* to) { return complaint(replaced(good, from, to)); };
  CHECK(complaint(good).empty());
  CHECK(complaint("").starts_with("error[bad-module] a module is no JSON: "));
  CHECK(complaint(good + "x").starts_with("error[bad-module] a module is no JSON: "));
  CHECK(complaint("[]") == "error[bad-module] a module is [], want an object");
  CHECK(with(R"("obs_size":50)", R"("obs_sise":50)") == "error[bad-module] a module has no obs_size");
  CHECK(with(R"("obs_size":50)", R"("obs_size":50,"log_std_inits":1)") ==
        "error[bad-module] a module has log_std_inits; did you mean log_std_init?");
  CHECK(with(R"("obs_size":50)", R"("obs_size":50.0)") ==
        "error[bad-module] a module has obs_size 5E1, want an integer of 32 bits");
  CHECK(with(R"("obs_size":50)", R"("obs_size":4294967346)").ends_with("want an integer of 32 bits"));
  CHECK(with(R"("obs_size":50)", R"("obs_size":-50)") == "error[bad-module] obs_size is -50, want 1 to 67108864");
  CHECK(with(R"("networks":[)", R"("networks":7,"x":[)") == "error[bad-module] a module has networks 7, want a list");
  CHECK(with(R"("networks":[)", R"("x":[)") == "error[bad-module] a module has no networks");
  CHECK(with(R"("networks":[)", R"("networks":[5,)") == "error[bad-module] networks.0 is 5, want an object");
  CHECK(with(R"("inputs":["obs"])", R"("inputs":["obs",2])") ==
        "error[bad-module] networks.0 has inputs 2, want strings");
  CHECK(with(R"("acts":true)", R"("acts":1)") == "error[bad-module] networks.0 has acts 1, want true or false");
  CHECK(with(R"("acts":true)", R"("acts":true,"trains":1)").starts_with("error[bad-module] networks.0 has trains"));
  CHECK(with(R"("actions"])", R"("action"])") ==
        "error[bad-module] qf reads 'action', want obs, actions or networks before it");
  CHECK(with(R"("kind":"conv2d")", R"("kind":"conv3d")") ==
        "error[bad-module] unknown kind of layer 'conv3d'; did you mean conv2d?");
  CHECK(with(R"("kind":"conv2d")", R"("kind":2)") == "error[bad-module] encoder.2 has kind 2, want a string");
  CHECK(with(R"("kernel":3)", R"("kernel":3,"dilation":2)").starts_with("error[bad-module] encoder.2 has dilation"));
  CHECK(with(R"("kernel":3,)", "") == "error[bad-module] encoder.2 has no kernel");
  CHECK(with(R"("kernel":3)", R"("kernel":-3)") ==
        "error[bad-module] encoder.2 (conv2d) has kernel -3, want 1 to 32768");
  CHECK(with(R"("kernel":3)", R"("kernel":"3")") ==
        "error[bad-module] encoder.2 has kernel \"3\", want an integer of 32 bits");
  CHECK(with(R"("initializer":"xavier_uniform")", R"("initializer":"xavier")")
            .starts_with("error[bad-module] encoder.2 has initializer 'xavier'"));
  CHECK(with(R"("activation":"gelu")", R"("activation":"gelv")") ==
        "error[bad-module] encoder.5: unknown activation 'gelv'; did you mean gelu?");
  CHECK(with(R"("log_std_init":)", R"("log_std_init":"a","x":)").ends_with("has log_std_init \"a\", want a number"));
  CHECK(with(R"("log_std_init":)", R"("log_std_init":1e999,"x":)").starts_with("error[bad-module]"));
  CHECK(with(R"("kind":"diag_gaussian")", R"("kind":"gaussian")")
            .starts_with("error[bad-module] unknown kind of distribution"));
  CHECK(with(R"("free_log_std":true)", R"("free_log_std":false)") == "error[bad-module] pi gives 2 floats, want 4");
  CHECK(with(R"("layers":[)", R"("layers":[5,)") == "error[bad-module] encoder.0 is 5, want an object");
  CHECK(with(R"("kind":"residual_end","size":48)", R"("kind":"residual_end","size":47)") ==
        "error[bad-module] encoder.6 (residual_end) takes 47 floats and gets 48");
  CHECK(with(R"("offset":3)", R"("offset":47)") ==
        "error[bad-module] vf_encoder.1 (select) takes features [47, 51) of 50");
  CHECK(with(R"("offset":3)", R"("offset":-1)").starts_with("error[bad-module] vf_encoder.1 (select) has offset -1"));
  CHECK(with(R"("kind":"concat","size":7)", R"("kind":"concat","size":6)") ==
        "error[bad-module] vf_encoder.4 (concat) takes 6 floats and gets 7");
  CHECK(with(R"({"kind":"stream","size":50},)", "") ==
        "error[bad-module] vf_encoder.1 (stream) lies behind other layers; a network begins with its streams");
  CHECK(with(R"(,{"kind":"concat","size":7})", "") == "error[bad-module] vf_encoder has streams without a concat");
}

TEST_SUITE_END();
