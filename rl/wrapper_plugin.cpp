#include "rl/wrapper_plugin.hpp"

#include <boost/json.hpp>
#include <cstring>
#include <exception>
#include <functional>

#include "rl/check.hpp"
#include "rl/child_call.hpp"
#include "rl/simulator/messages.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

constexpr const char* kDocs = "docs/howto-environment.md";

const NamedWrapper& find_wrapper(const std::string& path, const std::string& name) {
  const auto& plugin = *static_cast<const WrapperPlugin*>(plugin_table(path, "myriad_wrapper_plugin", kDocs));
  check_build(path, plugin.build, MYRIAD_PLUGIN_BUILD(""));
  std::vector<std::string> known;
  for (size_t i = 0; i < plugin.count; ++i) known.emplace_back(plugin.wrappers[i].name);
  const std::string setting = fmt::format("environment.wrappers = [\"plugin:{}:NAME\"]", path);
  return plugin.wrappers[find_entry(path, name, known, "wrapper", setting)];
}

// ---- what a wrapper says of itself: a Hello in hexadecimal digits, which is verified as a simulator's is ----

std::string text_of(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto digit = [](char c) { return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10); };
  std::vector<std::byte> bytes(text.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
  return bytes;
}

/// `env` as the wrapper describes it, with its own options' defaults.
simulator::HelloT described(const NamedWrapper& wrapper, EnvSpec env, const EnvOptions& options) {
  simulator::HelloT hello;
  const EnvOptions own = wrapper.options();
  for (const auto& [name, value] : own) {
    if (env.options.contains(name))
      throw std::runtime_error(fmt::format("its option {} is an option of {}, too", name, env.id));
    hello.options.push_back(std::make_unique<simulator::OptionT>());
    hello.options.back()->name = name;
    hello.options.back()->value = value;
  }
  env.options.insert(own.begin(), own.end());
  env.options = known_options(env, options);
  wrapper.describe(env);
  if (env.max_episode_steps < 0) throw std::runtime_error("its max_episode_steps is negative");
  hello.observation = simulator::to_wire(env.observation_space);
  hello.action = simulator::to_wire(env.action_space);
  hello.max_episode_steps = static_cast<uint32_t>(env.max_episode_steps);
  return hello;
}

simulator::HelloT ask(const std::string& path, const std::string& name, const EnvSpec& env, const EnvOptions& options,
                      const EnvContext& context) {
  const json::object answer = call_in_child(path, context.sandbox, [&] {
    return json::object{{"hello", text_of(simulator::frame_of(described(find_wrapper(path, name), env, options)))}};
  });
  const json::value* text = answer.if_contains("hello");
  std::vector<std::byte> frame;
  if (text != nullptr && text->is_string()) frame = bytes_of(std::string_view(text->as_string()));
  auto message = simulator::decode(std::span(frame).subspan(std::min<size_t>(frame.size(), sizeof(uint32_t))));
  auto* hello = message ? simulator::as<simulator::HelloT>(*message) : nullptr;
  if (hello == nullptr) fail(Exit::environment, "plugin-broken", "{} does not say what its wrapper does", path);
  return std::move(*hello);
}

// ---- whose exception it is ----

struct FromInside {
  std::exception_ptr error;
};

template <class F>
auto marked(F&& f) {
  try {
    return f();
  } catch (...) { throw FromInside{std::current_exception()}; }
}

/// The environment inside, as the wrapper sees it: its exceptions pass the wrapper as they are.
class Inside final : public Environment {
 public:
  Inside(std::unique_ptr<Environment> env, EnvSpec spec) : env_(std::move(env)), spec_(std::move(spec)) {}
  void reset(RandomStream& random, Row observation) override {
    marked([&] { env_->reset(random, observation); });
  }
  void submit(ConstRow action, RandomStream& random) override {
    marked([&] { env_->submit(action, random); });
  }
  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    return marked([&] { return env_->step(action, random, observation); });
  }
  bool set_options(const EnvOptions& options) override {
    return marked([&] { return env_->set_options(known_options(spec_, options)); });
  }
  std::span<const EpisodeNumber> numbers() override {
    return marked([&] { return env_->numbers(); });
  }
  std::optional<std::vector<double>> state() const override {
    return marked([&] { return env_->state(); });
  }
  void set_state(std::span<const double> state, Row observation) override {
    marked([&] { env_->set_state(state, observation); });
  }
  std::optional<Frame> render(int width, int height) override {
    return marked([&] { return env_->render(width, height); });
  }
  double render_fps() const override { return env_->render_fps(); }

 private:
  std::unique_ptr<Environment> env_;
  EnvSpec spec_;
};

/// What `f` gives; an exception of the wrapper says which wrapper it is.
template <class F>
auto named(const std::string& who, F&& f) {
  try {
    return f();
  } catch (const FromInside& inside) { std::rethrow_exception(inside.error); } catch (const std::exception& error) {
    fail(Exit::environment, "env-exception", "{}: {}", who, error.what());
  } catch (...) { fail(Exit::environment, "env-exception", "{}: it threw what is no std::exception", who); }
}

/// The wrapper, as Myriad sees it.
class Outside final : public Environment {
 public:
  Outside(std::unique_ptr<Environment> wrapper, std::string who, bool has_options)
      : wrapper_(std::move(wrapper)), who_(std::move(who)), has_options_(has_options) {}
  void reset(RandomStream& random, Row observation) override {
    named(who_, [&] { wrapper_->reset(random, observation); });
  }
  void submit(ConstRow action, RandomStream& random) override {
    named(who_, [&] { wrapper_->submit(action, random); });
  }
  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    return named(who_, [&] { return wrapper_->step(action, random, observation); });
  }
  bool set_options(const EnvOptions& options) override {
    return !has_options_ && named(who_, [&] { return wrapper_->set_options(options); });
  }
  std::span<const EpisodeNumber> numbers() override {
    return named(who_, [&] { return wrapper_->numbers(); });
  }
  std::optional<std::vector<double>> state() const override {
    return named(who_, [&] { return wrapper_->state(); });
  }
  void set_state(std::span<const double> state, Row observation) override {
    named(who_, [&] { wrapper_->set_state(state, observation); });
  }
  std::optional<Frame> render(int width, int height) override {
    return named(who_, [&] { return wrapper_->render(width, height); });
  }
  double render_fps() const override { return wrapper_->render_fps(); }

 private:
  std::unique_ptr<Environment> wrapper_;
  std::string who_;
  bool has_options_;
};

size_t words(size_t bytes) { return (bytes + sizeof(double) - 1) / sizeof(double); }

}  // namespace

// ---- EnvWrapper ----

EnvWrapper::EnvWrapper(std::unique_ptr<Environment> env, const EnvSpec& inside)
    : env_(std::move(env)),
      observation_bytes_(inside.observation_space.row_bytes()),
      action_bytes_(inside.action_space.row_bytes()),
      observation_(words(observation_bytes_)),
      action_(words(action_bytes_)) {}

void EnvWrapper::reset(RandomStream& random, Row observation) {
  const Row inside = row(observation_, observation_bytes_);
  env_->reset(random, inside);
  begin(ConstRow(inside.bytes()));
  see(ConstRow(inside.bytes()), observation);
}

ConstRow EnvWrapper::mapped(ConstRow action) {
  const Row inside = row(action_, action_bytes_);
  act(action, inside);
  return ConstRow(inside.bytes());
}

void EnvWrapper::submit(ConstRow action, RandomStream& random) { env_->submit(mapped(action), random); }

StepResult EnvWrapper::step(ConstRow action, RandomStream& random, Row observation) {
  const Row inside = row(observation_, observation_bytes_);
  const ConstRow taken = mapped(action);
  StepResult result = env_->step(taken, random, inside);
  adjust(result, taken, ConstRow(inside.bytes()));
  see(ConstRow(inside.bytes()), observation);
  return result;
}

std::optional<std::vector<double>> EnvWrapper::state() const {
  std::optional<std::vector<double>> state = env_->state();
  if (state) save(*state);
  return state;
}

void EnvWrapper::set_state(std::span<const double> state, Row observation) {
  std::vector<double> own;
  save(own);
  if (state.size() < own.size())
    fail(Exit::usage, "env-state-length", "a state has {} values, and its wrapper's part alone is {}", state.size(),
         own.size());
  const Row inside = row(observation_, observation_bytes_);
  env_->set_state(state.first(state.size() - own.size()), inside);
  load(state.last(own.size()));
  see(ConstRow(inside.bytes()), observation);
}

void EnvWrapper::see(ConstRow inside, Row seen) {
  if (inside.bytes().size() != seen.bytes().size())
    throw std::logic_error("describe() changes the observation space: override see()");
  std::memcpy(seen.bytes().data(), inside.bytes().data(), inside.bytes().size());
}

void EnvWrapper::act(ConstRow chosen, Row inside) const {
  if (chosen.bytes().size() != inside.bytes().size())
    throw std::logic_error("describe() changes the action space: override act()");
  std::memcpy(inside.bytes().data(), chosen.bytes().data(), inside.bytes().size());
}

// ---- the seam ----

EnvOptions known_options(const EnvSpec& env, const EnvOptions& options) {
  EnvOptions known = env.options;
  for (auto& [name, value] : known)
    if (const auto given = options.find(name); given != options.end()) value = given->second;
  return known;
}

EnvSpec wrapped_by(const EnvSpec& env, const std::string& wrapper, const EnvOptions& options,
                   const EnvContext& context) {
  const auto [path, name] = plugin_parts(wrapper);
  if (path.empty())
    fail(Exit::usage, "out-of-range", "environment.wrappers has '{}'; want plugin:PATH or plugin:PATH:NAME", wrapper);
  simulator::HelloT hello = ask(path, name, env, options, context);
  EnvSpec wrapped = env;
  wrapped.observation_space = simulator::to_space(hello.observation.get(), "observation");
  wrapped.action_space = simulator::to_space(hello.action.get(), "action");
  wrapped.max_episode_steps = static_cast<int>(std::min<uint32_t>(hello.max_episode_steps, INT32_MAX));
  for (const auto& option : hello.options)
    if (option) wrapped.options[option->name] = option->value;
  const bool has_options = wrapped.options.size() > env.options.size();
  wrapped.options = known_options(wrapped, options);
  wrapped.state_names.clear();
  wrapped.isolated = true;
  const std::string who = fmt::format("the wrapper {}{}of {}", name, name.empty() ? "" : " ", path);
  wrapped.make = [env, path = path, name = name, who, has_options](
                     const EnvOptions& all, const EnvContext& made_in) -> std::unique_ptr<Environment> {
    EnvSpec inside = env;
    inside.options = known_options(env, all);
    const NamedWrapper& found = find_wrapper(path, name);
    auto inner = std::make_unique<Inside>(make_environment(inside, inside.options, made_in), inside);
    return std::make_unique<Outside>(named(who, [&] { return found.wrap(std::move(inner), inside, all); }), who,
                                     has_options);
  };
  wrapped.configure = [env, wrapper](EnvSpec& changed, const EnvContext& configures) {
    changed = wrapped_by(configured_spec(env, known_options(env, changed.options), configures), wrapper,
                         changed.options, configures);
  };
  return wrapped;
}

}  // namespace myriad
