#include "rl/plugin_environment.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <map>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kFirstSize = offsetof(myriad_plugin, render);  // of minor version 0's table

class PluginEnvironment final : public Environment {
 public:
  PluginEnvironment(const std::string& name, const EnvOptions& options)
      : plugin_(open_plugin(name)), batch_(batch_of(plugin_)) {
    std::vector<double> values;
    for (size_t i = 0; i < plugin_.num_options; ++i) values.push_back(options.at(plugin_.options[i].name));
    try {
      call_plugin([&](myriad_error* error) { return (env_ = plugin_.create(values.data(), error)) == nullptr; });
    } catch (const std::exception& error) {
      fail(Exit::environment, "env-exception", "{} of {} cannot be made: {}", plugin_.id, plugin_library(name),
           error.what());
    }
  }
  ~PluginEnvironment() override {
    withdraw();
    plugin_.destroy(env_);
  }

  void reset(RandomStream& random, Row observation) override {
    withdraw();
    const PluginRandom numbers(&random);
    call_plugin([&](myriad_error* error) { return plugin_.reset(env_, &numbers, observation.bytes().data(), error); });
    keep_row(observation);
  }

  void submit(ConstRow action, RandomStream& random) override {
    withdraw();
    action_ = action.bytes().data();
    numbers_.stream = &random;
    turn_ = Turn::submitted;
    batch_.members.push_back(this);
  }

  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    if (turn_ == Turn::submitted) step_batch();
    if (turn_ == Turn::stepped) {
      turn_ = Turn::none;
      if ((ended_ & MYRIAD_ENV_FAILED) != 0) throw std::runtime_error(batch_.why);
      std::memcpy(observation.bytes().data(), row_.data(), observation.bytes().size());
      return result(reward_, ended_);
    }
    const PluginRandom numbers(&random);
    double reward = 0;
    uint8_t ended = 0;
    call_plugin([&](myriad_error* error) {
      return plugin_.step(env_, action.bytes().data(), &numbers, observation.bytes().data(), &reward, &ended, error);
    });
    return result(reward, ended);
  }

  std::span<const EpisodeNumber> numbers() override {
    if (plugin_.num_numbers == 0 || plugin_.numbers == nullptr) return {};
    std::vector<double> values(plugin_.num_numbers);
    call_plugin([&](myriad_error* error) { return plugin_.numbers(env_, values.data(), error); });
    given_.clear();
    for (size_t i = 0; i < values.size(); ++i) given_.push_back({plugin_.number_names[i], values[i], values[i]});
    return given_;
  }

  std::optional<std::vector<double>> state() const override {
    if (!has_state()) return std::nullopt;
    std::vector<double> state(plugin_.num_state);
    call_plugin([&](myriad_error* error) { return plugin_.save(env_, state.data(), error); });
    return state;
  }
  void set_state(std::span<const double> state, Row observation) override {
    if (!has_state()) return Environment::set_state(state, observation);
    check_state_length(plugin_.id, state.size(), plugin_.num_state);
    withdraw();
    call_plugin(
        [&](myriad_error* error) { return plugin_.load(env_, state.data(), observation.bytes().data(), error); });
    keep_row(observation);
  }

  std::optional<Frame> render(int width, int height) override {
    if (plugin_.render == nullptr) return std::nullopt;
    Frame frame(width, height);
    call_plugin([&](myriad_error* error) { return plugin_.render(env_, width, height, frame.rgb.data(), error); });
    return frame;
  }
  double render_fps() const override { return plugin_.render_fps > 0 ? plugin_.render_fps : 30.0; }

 private:
  /// Environments of one library and thread that have their action; the first step() steps them all.
  struct Batch {
    std::vector<PluginEnvironment*> members, running;
    std::vector<myriad_env*> envs;  // [running], as the rest
    std::vector<const void*> actions;
    std::vector<const myriad_random*> randoms;
    std::vector<void*> observations;
    std::vector<double> rewards;
    std::vector<uint8_t> ended;
    std::string why;  // those that failed did
  };
  enum class Turn : uint8_t { none, submitted, stepped };

  static Batch& batch_of(const myriad_plugin& plugin) {
    thread_local std::map<decltype(plugin.step_batch), Batch> batches;
    return batches[plugin.step_batch];
  }

  void step_batch() {
    Batch& b = batch_;
    b.envs.clear(), b.actions.clear(), b.randoms.clear(), b.observations.clear();
    for (PluginEnvironment* member : b.members) {
      b.envs.push_back(member->env_);
      b.actions.push_back(member->action_);
      b.randoms.push_back(&member->numbers_);
      b.observations.push_back(member->row_.data());
      member->turn_ = Turn::none;
    }
    b.running.swap(b.members);
    b.members.clear();
    b.rewards.assign(b.envs.size(), 0.0);
    b.ended.assign(b.envs.size(), 0);
    myriad_error error{};
    const int failed = plugin_.step_batch(b.envs.size(), b.envs.data(), b.actions.data(), b.randoms.data(),
                                          b.observations.data(), b.rewards.data(), b.ended.data(), &error);
    if (failed != 0) b.ended.assign(b.envs.size(), MYRIAD_ENV_FAILED);  // which of them were stepped is not known
    if (std::ranges::any_of(b.ended, [](uint8_t ended) { return (ended & MYRIAD_ENV_FAILED) != 0; }))
      b.why = plugin_text(error);
    for (size_t i = 0; i < b.running.size(); ++i) {
      b.running[i]->turn_ = Turn::stepped;
      b.running[i]->reward_ = b.rewards[i], b.running[i]->ended_ = b.ended[i];
    }
  }

  /// Takes back an action which was submitted and never stepped.
  void withdraw() {
    if (turn_ == Turn::submitted) std::erase(batch_.members, this);
    turn_ = Turn::none;
  }

  /// Room for the observations of a batch, whose rows come only with each step().
  void keep_row(Row observation) {
    if (plugin_.step_batch != nullptr) row_.resize(observation.bytes().size() / sizeof(double) + 1);
  }

  StepResult result(double reward, uint8_t ended) const {
    if (plugin_.size == kFirstSize) return {.reward = reward, .terminated = ended != 0};
    if (ended > (MYRIAD_TERMINATED | MYRIAD_TRUNCATED))
      throw std::runtime_error(fmt::format("`ended` is {}, want MYRIAD_TERMINATED, MYRIAD_TRUNCATED or 0", ended));
    return {reward, (ended & MYRIAD_TERMINATED) != 0, (ended & MYRIAD_TRUNCATED) != 0};
  }

  bool has_state() const { return plugin_.num_state > 0 && plugin_.save && plugin_.load; }

  const myriad_plugin plugin_;
  Batch& batch_;
  myriad_env* env_ = nullptr;
  Turn turn_ = Turn::none;
  const void* action_ = nullptr;  // while submitted
  PluginRandom numbers_{nullptr};
  std::vector<double> row_;  // S_{t+1} of a batch's step; doubles for their alignment
  std::vector<EpisodeNumber> given_;
  double reward_ = 0;
  uint8_t ended_ = 0;
};

/// The id of "PATH#ID"; empty: the library's first environment.
std::string_view id_of(std::string_view name) {
  return name.substr(std::min(plugin_library(std::string(name)).size() + 1, name.size()));
}

/// Throws Error("unknown-env").
const myriad_plugin* table_with(void* library, const myriad_plugin* first, const std::string& path,
                                std::string_view id) {
  constexpr size_t kMaxEnvironments = 100'000;  // the limit for a library whose list never ends
  const auto at = reinterpret_cast<decltype(&myriad_env_plugin_at)>(::dlsym(library, "myriad_env_plugin_at"));
  std::vector<std::string> known;
  const myriad_plugin* plugin = first;
  while (plugin != nullptr && plugin->id != nullptr && known.size() < kMaxEnvironments) {
    if (plugin->id == id) return plugin;
    known.emplace_back(plugin->id);
    plugin = at != nullptr ? at(known.size()) : nullptr;
  }
  fail(Exit::usage, "unknown-env", "{} has no environment {}{}", path, id, suggestion(id, known));
}

}  // namespace

std::string plugin_library(const std::string& name) {
  return std::filesystem::exists(name) ? name : name.substr(0, name.rfind('#'));
}

myriad_plugin open_plugin(const std::string& name) {
  const std::string path = plugin_library(name);
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail(Exit::environment, "no-plugin", "{} cannot be loaded: {}", path, ::dlerror());
  const auto entry = reinterpret_cast<decltype(&myriad_env_plugin)>(::dlsym(library, "myriad_env_plugin"));
  if (entry == nullptr)
    fail(Exit::environment, "no-plugin", "{} is no plugin: it has no myriad_env_plugin(); see docs/howto-simulator.md",
         path);
  const myriad_plugin* plugin = entry();
  if (plugin == nullptr) fail(Exit::environment, "plugin-broken", "myriad_env_plugin() of {} returned NULL", path);
  if (plugin->abi != MYRIAD_ENV_ABI)
    fail(Exit::environment, "plugin-abi",
         "{} speaks plugin ABI {}, this program ABI {}: build it with this program's SDK", path, plugin->abi,
         MYRIAD_ENV_ABI);
  if (const std::string_view id = id_of(name); !id.empty()) plugin = table_with(library, plugin, path, id);
  if (plugin->size < kFirstSize || plugin->id == nullptr || !plugin->spaces || !plugin->create || !plugin->destroy ||
      !plugin->reset || !plugin->step || (plugin->num_options > 0 && plugin->options == nullptr))
    fail(Exit::environment, "plugin-broken",
         "{}: its table has {} bytes, want at least {}, with every function but the optional ones", path, plugin->size,
         kFirstSize);
  myriad_plugin known{};  // what an older one has not is 0; what a newer one has more is not for us
  std::memcpy(&known, plugin, std::min<size_t>(plugin->size, sizeof known));
  return known;
}

std::unique_ptr<Environment> make_plugin_environment(const std::string& name, const EnvOptions& options) {
  return std::make_unique<PluginEnvironment>(name, options);
}

}  // namespace myriad
