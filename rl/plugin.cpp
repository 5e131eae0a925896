// Plugins: environments of shared libraries made with the SDK (sdk/include/myriad/env.h).
//
// A library's initialisers run when it is opened. So its facts are asked in a child process, and only processes that
// make its environment open it themselves.
#include "rl/plugin.hpp"

#include <boost/json.hpp>
#include <cmath>
#include <filesystem>

#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/child_call.hpp"
#include "rl/env_context.hpp"
#include "rl/plugin_environment.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// --- facts, through a pipe: numbers as text, since JSON has no infinity ---

json::string text_of(double x) { return json::string(fmt::format("{}", x)); }
double number_of(const json::value& value) { return std::strtod(value.as_string().c_str(), nullptr); }

template <class T>
json::array numbers_of(const T* values, size_t count) {
  json::array all;
  for (size_t i = 0; i < count; ++i) all.push_back(text_of(static_cast<double>(values[i])));
  return all;
}

json::object to_json(const myriad_space& space, const char* name) {
  if (const std::string problem = problem_of(space); !problem.empty())
    throw std::runtime_error(fmt::format("its {} space {}", name, problem));
  json::object object{{"kind", space.kind}, {"dtype", space.dtype}, {"n", space.n}, {"start", space.start}};
  if (space.kind == MYRIAD_BOX) {
    object["shape"] = numbers_of(space.shape, space.num_dims);
    object["low"] = numbers_of(space.low, space.num_bounds);
    object["high"] = numbers_of(space.high, space.num_bounds);
  } else if (space.kind == MYRIAD_MULTI_DISCRETE) {
    object["nvec"] = numbers_of(space.nvec, static_cast<size_t>(space.n));
  }
  return object;
}

Space space_from(const json::object& object) {
  const auto integers = [&](const char* key) {
    std::vector<int> all;
    for (const json::value& value : object.at(key).as_array()) all.push_back(static_cast<int>(number_of(value)));
    return all;
  };
  const auto doubles = [&](const char* key) {
    std::vector<double> all;
    for (const json::value& value : object.at(key).as_array()) all.push_back(number_of(value));
    return all;
  };
  const int n = object.at("n").to_number<int>();
  switch (object.at("kind").to_number<uint32_t>()) {
    case MYRIAD_BOX: {
      const int dtype = object.at("dtype").to_number<int>();
      if (dtype < 0 || dtype > MYRIAD_I32) throw std::runtime_error("has a dtype that is none");
      Box box{doubles("low"), doubles("high"), integers("shape"), static_cast<DType>(dtype)};
      if (const std::string problem = problem_of(box); !problem.empty()) throw std::runtime_error(problem);
      return box;
    }
    case MYRIAD_DISCRETE:
      return Space::discrete(n, object.at("start").to_number<int>());
    case MYRIAD_MULTI_DISCRETE:
      return MultiDiscrete{integers("nvec")};
    default:
      return MultiBinary{n};
  }
}
static_assert(static_cast<int>(DType::u8) == MYRIAD_U8 && static_cast<int>(DType::i32) == MYRIAD_I32 &&
              static_cast<int>(DType::f64) == MYRIAD_F64);

/// The space `name` out of the answer of a plugin's process, which ran foreign code: all of it is checked.
Space space_of(const json::object& facts, const char* name, const std::string& path) try {
  return space_from(facts.at(name).as_object());
} catch (const std::exception& error) {
  fail(Exit::environment, "plugin-broken", "{}: its {} space {}", path, name, error.what());
}

/// The observations, and the action masks where it has them, with these actions.
Space observation_of(const json::object& facts, const Space& action, const std::string& path) {
  const Space observation = space_of(facts, "observation", path);
  return facts.at("masks_actions").as_bool() ? with_action_mask(observation, action) : observation;
}

/// A plugin's spaces, limits and options, with `options` over its defaults.
json::object describe(const std::string& name, const EnvOptions& options) {
  const myriad_plugin plugin = open_plugin(name);
  json::object facts{{"id", plugin.id},
                     {"max_episode_steps", plugin.max_episode_steps},
                     {"reward_threshold", text_of(plugin.reward_threshold)},
                     {"submits", plugin.step_batch != nullptr},
                     {"masks_actions", plugin.masks_actions != 0}};
  json::array all;
  std::vector<double> values;
  for (size_t i = 0; i < plugin.num_options; ++i) {
    const myriad_option& option = plugin.options[i];
    const auto given = options.find(option.name);
    values.push_back(given == options.end() ? option.value : given->second);
    all.push_back(json::array{option.name, text_of(option.value)});
  }
  facts["options"] = all;
  myriad_space observation{}, action{};
  call_plugin([&](myriad_error* error) { return plugin.spaces(values.data(), &observation, &action, error); });
  facts["observation"] = to_json(observation, "observation");
  facts["action"] = to_json(action, "action");
  return facts;
}

const RegisterEnv plugins{EnvPrefix{.prefix = "plugin", .names_file = true, .make_spec = plugin_spec}};

}  // namespace

EnvSpec plugin_spec(const std::string& name, const EnvContext& context) {
  const std::string path = plugin_library(name);
  if (!fs::exists(path)) fail(Exit::usage, "no-plugin", "there is no file {}", path);
  const auto ask = [name, path](const EnvOptions& options, const EnvContext& asks) {
    return call_in_child(path, asks.sandbox, [&] { return describe(name, options); });
  };
  const json::object facts = ask({}, context);
  const Space action = space_of(facts, "action", path);
  EnvSpec spec{.id = "plugin:" + name,
               .observation_space = observation_of(facts, action, path),
               .action_space = action,
               .source = fmt::format("{} of {}", std::string_view(facts.at("id").as_string()), path),
               .isolated = true,
               .make = [name](const EnvOptions& o) { return make_plugin_environment(name, o); }};
  spec.max_episode_steps = facts.at("max_episode_steps").to_number<int>();
  if (const double threshold = number_of(facts.at("reward_threshold")); !std::isnan(threshold))
    spec.reward_threshold = threshold;
  spec.submits = facts.at("submits").as_bool();
  for (const json::value& option : facts.at("options").as_array())
    spec.options[std::string(option.at(0).as_string())] = number_of(option.at(1));
  spec.configure = [path, ask](EnvSpec& configured, const EnvContext& configures) {
    const json::object other = ask(configured.options, configures);
    configured.action_space = space_of(other, "action", path);
    configured.observation_space = observation_of(other, configured.action_space, path);
  };
  return spec;
}

}  // namespace myriad
