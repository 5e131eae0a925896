#include "rl/module_plugin.hpp"

#include <dlfcn.h>

#include <regex>
#include <string_view>
#include <utility>

#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/child_call.hpp"
#include "rl/module_json.hpp"

namespace myriad {
namespace {

constexpr const char* kDocs = "docs/howto-module.md";

/// Runners have no torch: a network that computes with it cannot be data.
[[noreturn]] void refuse_torch(const std::string& path) {
  fail(
      Exit::usage, "impossible",
      "{} computes with libtorch. A network out of torch's operators needs the inference server, which Myriad does not "
      "have: runners compute without torch. Describe it by layers: a ModuleSpec, {}",
      path, kDocs);
}

bool has_torch() { return ::dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD) != nullptr; }

const ModulePlugin& open_modules(const std::string& path) {
  const void* table = nullptr;
  const bool had_torch = has_torch();
  try {
    table = plugin_table(path, "myriad_module_plugin", kDocs);
  } catch (const Error& error) {
    // A symbol of at::, c10:: or torch:: that nothing defines here, or a library of torch's that is not found.
    static const std::regex torch(R"(undefined symbol: _Z\S*(2at|3c10|5torch)|lib(torch(_\w+)?|c10)\.so: cannot)");
    if ((has_torch() && !had_torch) || std::regex_search(error.what(), torch)) refuse_torch(path);
    throw;
  }
  const auto& plugin = *static_cast<const ModulePlugin*>(table);
  check_build(path, plugin.build, MYRIAD_PLUGIN_BUILD(""));
  return plugin;
}

const NamedModule& find_module(const ModulePlugin& plugin, const std::string& path, const std::string& name) {
  std::vector<std::string> known;
  for (size_t i = 0; i < plugin.count; ++i) known.emplace_back(plugin.modules[i].name);
  const std::string setting = fmt::format("rl_module.encoder = \"plugin:{}:NAME\"", path);
  return plugin.modules[find_entry(path, name, known, "network", setting)];
}

std::string_view kind_of(const ActionDistribution& distribution) {
  return std::visit([]<class D>(const D&) { return D::kKind; }, distribution);
}

void check_actions(const ModuleSpec& spec, const Space& action_space, const ModelConfig& config) {
  const ActionDistribution want = distribution_for(action_space, config.free_log_std);
  const auto alike = [](const ActionPart& a, const ActionPart& b) {
    return a.distribution.index() == b.distribution.index() && a.num_inputs == b.num_inputs;
  };
  if (spec.distribution.index() == want.index() &&
      std::ranges::equal(action_parts(spec.distribution), action_parts(want), alike))
    return;
  fail(Exit::usage, "bad-module", "the network gives a {} of {} inputs; actions {} want a {} of {}",
       kind_of(spec.distribution), inputs_size(spec.distribution), action_space.to_string(), kind_of(want),
       inputs_size(want));
}

}  // namespace

void check_observations(const ModuleSpec& spec, const Space& observation_space) {
  if (spec.obs_size != observation_space.flat_size())
    fail(Exit::usage, "bad-module", "the network takes {} features; observations {} have {}", spec.obs_size,
         observation_space.to_string(), observation_space.flat_size());
}

ModuleSpec plugin_module(const std::string& encoder, const Space& observation_space, const Space& action_space,
                         const ModelConfig& config, const Sandbox::Options& sandbox) {
  const auto [path, name] = plugin_parts(encoder);
  const boost::json::object answer = call_in_child(path, sandbox, [&, &path = path, &name = name] {
    const ModulePlugin& plugin = open_modules(path);
    return boost::json::object{
        {"module", to_json(find_module(plugin, path, name).make(observation_space, action_space, config))}};
  });
  const auto* text = answer.if_contains("module");
  if (text == nullptr || !text->is_string()) fail(Exit::environment, "plugin-broken", "{} gave no network", path);
  ModuleSpec spec = module_from_json(std::string_view(text->as_string()));
  check_observations(spec, observation_space);
  check_actions(spec, action_space, config);
  return spec;
}

}  // namespace myriad
