#include "rl/module_json.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "tests/error_of.hpp"
#include "tests/layer_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("rl/module_json");

namespace {

/// Every kind of layer.
ModuleSpec full() {
  ModuleSpec spec;
  spec.obs_size = 50;
  spec.encoder = {Scale{50, 0.1f},
                  ChannelsLast{1, 5, 5, 2},
                  Conv2d{5, 5, 2, 3, 3, 2, 1, Initializer::xavier_uniform, 1.1f},
                  MaxPool2d{3, 3, 3, 2, 1, 1},
                  ResidualBegin{48},
                  Activate{Activation::gelu, 48},
                  ResidualEnd{48},
                  Linear{48, 4, Initializer::kaiming_uniform, 0.3f},
                  LayerNorm{4}};
  spec.value_encoder = {Stream{50}, Select{50, 3, 4}, Stream{50}, Linear{50, 3}, Concat{7}};
  spec.action_head = {4, 2, Initializer::orthogonal, 0.01f};
  spec.value_head = {7, 1};
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
  spec.encoder = {Conv2d{3, 3, 1, 2, 2, 1, 1}};
  spec.action_head = {32, 2, Initializer::orthogonal, 0.5f};
  spec.value_head = {32, 1};
  spec.shares_encoder = true;
  spec.distribution = Categorical{2};
  CHECK(
      to_json(spec) ==
      R"({"obs_size":9,"encoder":[{"kind":"conv2d","height":3,"width":3,"inputs":1,"outputs":2,"kernel":2,"stride":1,)"
      R"("padding":1,"initializer":"orthogonal","gain":1E0}],"action_head":{"kind":"linear","inputs":32,"outputs":2,)"
      R"("initializer":"orthogonal","gain":5E-1},"distribution":{"kind":"categorical","n":2},"log_std_init":0E0,)"
      R"("log_std_clip":2E1,"shares_encoder":true,"value_encoder":[],"value_head":{"kind":"linear","inputs":32,)"
      R"("outputs":1,"initializer":"orthogonal","gain":1E0}})");
}

TEST_CASE("module_json: a Q-network has no value of its own") {
  ModelConfig config;
  config.fcnet_hiddens = {};
  const std::string json = to_json(make_q_spec(Space::box(-1, 1, {4}), Space::discrete(3), config));
  CHECK(
      json ==
      R"({"obs_size":4,"encoder":[],"action_head":{"kind":"linear","inputs":4,"outputs":3,"initializer":"orthogonal",)"
      R"("gain":1E0},"distribution":{"kind":"epsilon_greedy","n":3},"log_std_init":0E0,"log_std_clip":2E1})");
  CHECK(complaint(replaced(json, "2E1", R"(2E1,"value_encoder":[])"))
            .starts_with("error[bad-module] a module has value_encoder"));
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
  CHECK(with(R"("shares_encoder":false)", R"("shares_encoder":0)") ==
        "error[bad-module] a module has shares_encoder 0, want true or false");
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
  CHECK(with(R"("free_log_std":true)", R"("free_log_std":false)") ==
        "error[bad-module] action_head is 4 -> 2, want 4 -> 4");
  CHECK(
      with(
          R"("action_head":{"kind":"linear","inputs":4,"outputs":2,"initializer":"orthogonal","gain":9.999999776482582E-3})",
          R"("action_head":{"kind":"layernorm","size":4})") ==
      "error[bad-module] action_head is of kind layernorm, want linear");
  CHECK(with(R"("encoder":[)", R"("encoder":[5,)") == "error[bad-module] encoder.0 is 5, want an object");
  CHECK(with(R"("kind":"residual_end","size":48)", R"("kind":"residual_end","size":47)") ==
        "error[bad-module] encoder.6 (residual_end) takes 47 floats and gets 48");
  CHECK(with(R"("offset":3)", R"("offset":47)") ==
        "error[bad-module] value_encoder.1 (select) takes features [47, 51) of 50");
  CHECK(
      with(R"("offset":3)", R"("offset":-1)").starts_with("error[bad-module] value_encoder.1 (select) has offset -1"));
  CHECK(with(R"("kind":"concat","size":7)", R"("kind":"concat","size":6)") ==
        "error[bad-module] value_encoder.4 (concat) takes 6 floats and gets 7");
  CHECK(with(R"({"kind":"stream","size":50},)", "") ==
        "error[bad-module] value_encoder.1 (stream) lies behind other layers; an encoder begins with its streams");
  CHECK(with(R"(,{"kind":"concat","size":7})", "") == "error[bad-module] value_encoder has streams without a concat");
}

TEST_SUITE_END();
