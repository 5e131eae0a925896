// Wrappers of a user's own, out of tree: transforms of observations, rewards and actions between any environment and
// the policy, in a shared library. [environment] wrappers = ["plugin:PATH", "plugin:PATH:NAME"], the innermost first.
// What an author includes as <myriad/wrapper.hpp>; docs/howto-environment.md#wrappers-of-your-own
//
//   policy --A_t--> FrameStack, FrameSkip, StickyActions --> act() --> the environment
//   policy <--S_t-- FrameStack <-- see() <-- the environment
//   learner <--R_t-- FrameSkip's sum <-- adjust() <-- the environment
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "rl/env_context.hpp"
#include "rl/environment.hpp"
#include "rl/plugin_build.hpp"

namespace myriad {

/// An environment around another. A hook that is not overridden leaves everything as it is.
class EnvWrapper : public Environment {
 public:
  /// `inside`: the spec of `env`.
  EnvWrapper(std::unique_ptr<Environment> env, const EnvSpec& inside);

  void reset(RandomStream& random, Row observation) final;
  void submit(ConstRow action, RandomStream& random) final;
  StepResult step(ConstRow action, RandomStream& random, Row observation) final;
  bool set_options(const EnvOptions& options) override { return env_->set_options(options); }
  std::span<const EpisodeNumber> numbers() override { return env_->numbers(); }
  std::string_view warning() override { return env_->warning(); }
  std::optional<std::vector<double>> state() const final;  ///< the environment's, then what save() appends
  void set_state(std::span<const double> state, Row observation) final;
  std::optional<Frame> render(int width, int height) override { return env_->render(width, height); }
  double render_fps() const override { return env_->render_fps(); }

 protected:
  /// An episode begins with the environment's S_0; before see().
  virtual void begin(ConstRow) {}
  /// Writes what the policy sees of the environment's S_t, a row of the wrapped observation space.
  virtual void see(ConstRow inside, Row seen);
  /// Writes the environment's action for the policy's A_t. Called twice a step where EnvSpec::submits: changes nothing.
  virtual void act(ConstRow chosen, Row inside) const;
  /// Changes R_{t+1} and whether the episode ends. `action`: the environment's; `inside`: its S_{t+1}. Before see().
  virtual void adjust(StepResult&, ConstRow, ConstRow) {}  // result, action, inside

  /// What the hooks remember from step to step, so that a run resumes bit for bit: save() always appends as many
  /// numbers; see() is called again after load(), and has to write the same row.
  virtual void save(std::vector<double>&) const {}
  virtual void load(std::span<const double>) {}

 private:
  Row row(std::vector<double>& words, size_t bytes) const {
    return Row(std::as_writable_bytes(std::span(words)).first(bytes));
  }
  ConstRow mapped(ConstRow action);

  std::unique_ptr<Environment> env_;
  size_t observation_bytes_, action_bytes_;
  std::vector<double> observation_, action_;  ///< the environment's; doubles for their alignment
};

struct NamedWrapper {
  const char* name;
  /// The wrapper's own options with their defaults, beside the environment's: keys of env_config.
  EnvOptions (*options)();
  /// Turns the environment's spec into what the policy sees: spaces and time limit. `env.options` has every option.
  void (*describe)(EnvSpec& env);
  /// `inside`: the spec of `env`; `options`: all, the environment's and its own.
  std::unique_ptr<Environment> (*wrap)(std::unique_ptr<Environment> env, const EnvSpec& inside,
                                       const EnvOptions& options);
};

/// What myriad_wrapper_plugin() of a library returns.
struct WrapperPlugin {
  PluginBuild build;
  const NamedWrapper* wrappers;
  size_t count;
};

/// A class with a constructor W(env, inside) or W(env, inside, options) and, where it wants them,
/// `static EnvOptions options()` and `static void describe(EnvSpec& env)`.
template <class W>
NamedWrapper wrapper(const char* name) {
  return {.name = name,
          .options = []() -> EnvOptions {
            if constexpr (requires { W::options(); }) return W::options();
            return {};
          },
          .describe =
              [](EnvSpec& env) {
                if constexpr (requires { W::describe(env); }) W::describe(env);
              },
          .wrap = [](std::unique_ptr<Environment> env, const EnvSpec& inside,
                     const EnvOptions& options) -> std::unique_ptr<Environment> {
            if constexpr (std::is_constructible_v<W, std::unique_ptr<Environment>, const EnvSpec&, const EnvOptions&>)
              return std::make_unique<W>(std::move(env), inside, options);
            else
              return std::make_unique<W>(std::move(env), inside);
          }};
}

/// `env` in the wrapper "plugin:PATH[:NAME]". `options`: over the defaults of env's and its own; others are not looked
/// at. The library is asked in a child process inside the context's sandbox; only processes that make the environment
/// open it. Throws Error("no-plugin" | "plugin-abi" | "plugin-broken"), Error("out-of-range") for no such wrapper,
/// Error("bad-space").
EnvSpec wrapped_by(const EnvSpec& env, const std::string& wrapper, const EnvOptions& options,
                   const EnvContext& context);

/// Those of `options` that `env` has.
EnvOptions known_options(const EnvSpec& env, const EnvOptions& options);

}  // namespace myriad

/// The wrappers of a library, once, at global scope: MYRIAD_WRAPPERS(myriad::wrapper<Crop>("crop"))
#define MYRIAD_WRAPPERS(...)                                                                               \
  extern "C" __attribute__((visibility("default"))) const myriad::WrapperPlugin* myriad_wrapper_plugin() { \
    static const myriad::NamedWrapper wrappers[] = {__VA_ARGS__};                                          \
    static const myriad::WrapperPlugin plugin{MYRIAD_PLUGIN_BUILD(""), wrappers,                           \
                                              sizeof wrappers / sizeof wrappers[0]};                       \
    return &plugin;                                                                                        \
  }
