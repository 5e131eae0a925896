#include "rl/algorithm_facts.hpp"

#include <doctest/doctest.h>

#include "rl/check.hpp"
#include "rl/config.hpp"
#include "rl/module_json.hpp"
#include "rl/module_plugin.hpp"
#include "rl/plugin_build.hpp"
#include "rl/run_layout.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

/// A setting for each door of SettingVisitor.
struct EveryKind final : AlgorithmConfig {
  bool flag = true;
  int64_t count = 7;
  double rate = 0.1;
  std::string word = "b";
  std::vector<int> sizes{1, 2};
  std::vector<std::vector<int>> filters{{3, 4}};
  Schedule schedule{std::vector<std::pair<double, double>>{{0, 1}, {100, 0.5}}};
  std::optional<double> limit = 2.5;
  EnvOptions options{{"force", 10.0}};
  OptionSchedules schedules{{"force", Schedule(3.0)}};
  OptionRanges ranges{{"force", {1.0, 2.0}}};
  std::vector<OptionRanges> levels{{{"force", {1.0, 1.0}}}};

  void settings(SettingVisitor& v) override {
    v.visit({"flag", "", "a flag"}, flag);
    v.visit({"count", "env steps", "a count", 0, 10}, count);
    v.visit({"rate", "", "a rate", 0.0}, rate);
    SettingInfo word_info{"word", "", "a word"};
    word_info.choices = {"a", "b"};
    v.visit(word_info, word);
    v.visit({"sizes", "", "sizes", 1, 100}, sizes);
    v.visit({"filters", "", "filters", 1, 100}, filters);
    v.visit({"schedule", "", "a schedule"}, schedule);
    v.visit({"limit", "", "a limit"}, limit);
    v.visit({"options", "", "options"}, options);
    v.visit({"schedules", "", "schedules of options"}, schedules);
    v.visit({"ranges", "", "ranges of options"}, ranges);
    v.visit({"levels", "", "levels"}, levels);
  }
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<EveryKind>(*this); }
};

AlgorithmInfo every_kind() {
  return {.name = "Every",
          .summary = "every kind of setting",
          .make_config = make_settings<EveryKind>,
          .set_defaults = [](Config& config) { config.training.num_epochs = 3, config.training.grad_clip = 0.25; },
          .sampling = {"lag1", "sync"},
          .columns = {kLogp},
          .module = policy_and_value,
          .library = "/a/every.so"};
}

std::string row_texts(Config& config) {
  std::string text;
  for (const SettingRow& row : setting_rows(config))
    text += fmt::format("{}.{} {} = {} [{}] {}\n", row.group, row.key, row.type, row.value, row.unit, row.meaning);
  return text;
}

TEST_SUITE("rl/algorithm_facts") {
  TEST_CASE("facts_of: a process that reads them has the settings, their defaults, modes and columns") {
    const AlgorithmInfo info = info_of(facts_of(every_kind()), "/a/every.so");
    CHECK(info.name == "Every");
    CHECK(info.id() == "plugin:/a/every.so");
    CHECK(info.summary == "every kind of setting");
    CHECK(info.sampling == std::vector<std::string>{"lag1", "sync"});
    CHECK(info.columns == std::vector<std::string>{kLogp});

    register_plugin_info(every_kind());
    Config real = load_config("algorithm = 'plugin:/a/every.so'", "test", {"training.count=9"});
    CHECK(dynamic_cast<EveryKind&>(*real.algorithm_config).count == 9);
    register_plugin_info(info);  // in place of it
    Config listed = load_config("algorithm = 'plugin:/a/every.so'", "test", {"training.count=9"});
    CHECK(dynamic_cast<EveryKind*>(listed.algorithm_config.get()) == nullptr);
    CHECK(row_texts(listed) == row_texts(real));
    CHECK(to_toml(listed) == to_toml(real));
    CHECK(listed.training.num_epochs == 3);
    CHECK(listed.training.sampling == "lag1");
  }

  TEST_CASE("load_config: settings that are known by their facts are refused as others are") {
    register_plugin_info(info_of(facts_of(every_kind()), "/a/every.so"));
    const auto refused = [](const std::string& override, const char* code, const char* text) {
      const std::string line =
          error_of([&] { (void)load_config("algorithm = 'plugin:/a/every.so'", "test", {override}); });
      CHECK_MESSAGE(line.starts_with(fmt::format("error[{}]", code)), line);
      CHECK_MESSAGE(line.find(text) != std::string::npos, line);
    };
    refused("training.coumt=1", "unknown-key", "did you mean count?");
    refused("training.count=11", "out-of-range", "want 0 to 10 env steps");
    refused("training.word=c", "out-of-range", "training.word is \"c\"; did you mean a?");
    refused("training.flag=1", "wrong-type", "want true or false");
    refused("training.sampling=async", "impossible", "samples lag1 or sync");
  }

  TEST_CASE("load_config: [plugins] of a run's config stands for the library; nothing is opened") {
    register_plugin_info(every_kind());
    Config config = load_config("algorithm = 'plugin:/a/every.so'", "test");
    config.algorithm = "plugin:/b/never_opened.so";
    config.plugins.algorithm = facts_of(every_kind());
    const std::string text = to_toml(config);
    Config again = load_config(text, "again");
    CHECK(to_toml(again) == text);
    CHECK(find_algorithm("plugin:/b/never_opened.so").columns == std::vector<std::string>{kLogp});
    CHECK(algorithm_of(text, "again") == "plugin:/b/never_opened.so");
    const EnvSpec env{.id = "a",
                      .observation_space = Space::box(-1, 1, {3}),
                      .action_space = Space::discrete(2),
                      .source = "",
                      .make = nullptr};
    // The network was not asked for.
    CHECK(error_of([&] { (void)module_of(again, env); }) ==
          "error[internal] the network of /b/never_opened.so was not asked");

    ModelConfig model;
    model.fcnet_hiddens = {5};
    const ModuleSpec spec = make_mlp_spec(env.observation_space, env.action_space, model);
    config.plugins.module = to_json(spec);
    CHECK(module_of(load_config(to_toml(config), "again"), env) == spec);
    config.plugins.module = to_json(make_mlp_spec(Space::box(-1, 1, {4}), env.action_space, model));
    CHECK(
        error_of([&] { (void)module_of(config, env); }).starts_with("error[bad-module] the network takes 4 features"));
  }

  TEST_CASE("load_config: [plugins] is not printed where there is none") {
    register_plugin_info(every_kind());
    Config config = load_config("algorithm = 'plugin:/a/every.so'", "test");
    CHECK(to_toml(config).find("[plugins]") == std::string::npos);
  }

  TEST_CASE("info_of: what facts_of does not write is refused") {
    const std::string facts = facts_of(every_kind());
    const auto with = [&](const std::string& from, const std::string& to) {
      std::string text = facts;
      REQUIRE(text.find(from) != std::string::npos);
      return text.replace(text.find(from), from.size(), to);
    };
    for (const std::string& text : {std::string("{"), std::string("[]"), std::string("{}"),
                                    with("\"boolean\"", "\"bit\""), with("\"settings\":[", "\"settings\":[1,"),
                                    with("[\"lag1\",\"sync\"]", "[]"), with("[\"lag1\",", "[\"often\","),
                                    with("[\"logp\"]", "[\"state_in\"]"), with("\"key\":\"rate\"", "\"key\":\"lr\""),
                                    with("\"key\":\"rate\"", "\"key\":\"count\""), with("\"Every\"", "5")}) {
      CAPTURE(text);
      CHECK(error_of([&] { (void)info_of(text, "/a/every.so"); }).starts_with("error[plugin-broken]"));
    }
  }

  TEST_CASE("plugin_path: absolute, and empty for a name") {
    CHECK(plugin_path("plugin:/a/../b/x.so") == "/b/x.so");
    CHECK(plugin_path("plugin:x.so").ends_with("/x.so"));
    CHECK(plugin_path("PPO").empty());
    CHECK(error_of([] { (void)plugin_path("plugin:"); }) ==
          "error[no-plugin] plugin: names no file: want plugin:./libmine.so");
  }

  TEST_CASE("absolute_plugin: the path of a plugin becomes absolute, its name stays") {
    CHECK(absolute_plugin("auto") == "auto");
    CHECK(absolute_plugin("plugin:/a/../b/x.so") == "plugin:/b/x.so");
    CHECK(absolute_plugin("plugin:/a/x.so:wide") == "plugin:/a/x.so:wide");
    CHECK(absolute_plugin("plugin:/a:b/x.so") == "plugin:/a:b/x.so");
    CHECK(absolute_plugin("plugin:x.so:wide").ends_with("/x.so:wide"));
    CHECK(error_of([] { (void)absolute_plugin("plugin:"); }).starts_with("error[no-plugin]"));
  }
}

}  // namespace
}  // namespace myriad
