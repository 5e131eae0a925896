// Environment: the contract a simulator fills, and the registry that finds it by name.
//
// An environment is owned by one VectorEnv and used by one thread. It writes observations into the caller's row, in the
// layout of its observation space; it needs no time limit and never resets itself: VectorEnv does both. Its whole
// state, if it can give it, is a list of doubles, so that a run resumes bit for bit and `myriad play --state` can start
// anywhere.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "rl/frame.hpp"
#include "rl/random.hpp"
#include "rl/space.hpp"

namespace myriad {

struct EnvContext;  // rl/env_context.hpp

/// A row of a space: bytes with typed doors. The caller guarantees size and alignment; each door names the leaf's type.
class Row {
 public:
  explicit Row(std::span<std::byte> bytes) : bytes_(bytes) {}
  std::span<float> f32() const { return as<float>(); }
  std::span<double> f64() const { return as<double>(); }
  std::span<uint8_t> u8() const { return as<uint8_t>(); }
  std::span<int32_t> i32() const { return as<int32_t>(); }
  std::span<std::byte> bytes() const { return bytes_; }
  /// One leaf of a Dict or Tuple.
  Row leaf(const Leaf& leaf) const { return Row(bytes_.subspan(leaf.offset, leaf.count * size_of(leaf.dtype))); }

 private:
  template <class T>
  std::span<T> as() const {
    return {reinterpret_cast<T*>(bytes_.data()), bytes_.size() / sizeof(T)};
  }
  std::span<std::byte> bytes_;
};

/// A read-only row: the action handed to step().
class ConstRow {
 public:
  explicit ConstRow(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const float> f32() const { return as<const float>(); }
  std::span<const double> f64() const { return as<const double>(); }
  std::span<const int32_t> i32() const { return as<const int32_t>(); }
  std::span<const std::byte> bytes() const { return bytes_; }
  /// One leaf of a Dict or Tuple.
  ConstRow leaf(const Leaf& leaf) const {
    return ConstRow(bytes_.subspan(leaf.offset, leaf.count * size_of(leaf.dtype)));
  }

 private:
  template <class T>
  std::span<T> as() const {
    return {reinterpret_cast<T*>(bytes_.data()), bytes_.size() / sizeof(T)};
  }
  std::span<const std::byte> bytes_;
};

/// What an environment did in place of the action it was told: a client that acts itself.
struct OwnAction {
  std::span<const std::byte> action;  ///< a row of the action space, as the policy draws it: before the ActionConnector
  std::span<const float> dist_inputs;    ///< what it was drawn from; empty: not known
  std::optional<uint64_t> version = {};  ///< of the weights it was drawn with, where that is known
};

/// R_{t+1} and whether S_{t+1} is terminal. Time limits are not terminations: VectorEnv adds its own; a
/// simulator that ends an episode for another reason than S_{t+1} sets `truncated` itself.
struct StepResult {
  double reward = 0.0;
  bool terminated = false;
  bool truncated = false;
  bool abandoned = false;          ///< its rest is unknown, or it is an agent's wait: its return counts as no episode's
  bool alone = false;              ///< an agent's end while its world goes on
  const OwnAction* own = nullptr;  ///< valid until the next step()
};

/// What an environment says of an episode beside its return.
struct EpisodeNumber {
  std::string_view name;
  double mean;  ///< over the steps of the episode that had it
  double last;  ///< of the last of these
};

/// Keyword options of an environment, e.g. {"ctrl_cost_weight": 0.1}; unknown ones are errors.
using EnvOptions = std::map<std::string, double>;

class Environment {
 public:
  virtual ~Environment() = default;

  /// Starts an episode: draws the initial state from `random` and writes S_0.
  virtual void reset(RandomStream& random, Row observation) = 0;

  /// Applies A_t and writes S_{t+1}. `random` is the environment's own stream (for stochastic dynamics).
  virtual StepResult step(ConstRow action, RandomStream& random, Row observation) = 0;

  /// Says which action and stream step() will bring, to a simulator that steps many at once or runs elsewhere
  /// (EnvSpec::submits): called for every environment of a vector before the first step(). Both stay until then.
  virtual void submit(ConstRow, RandomStream&) {}

  /// Changes keyword options between two episodes; the next call is reset(), or set_state(). Every option is given.
  /// False: it cannot, and is made anew.
  virtual bool set_options(const EnvOptions&) { return false; }

  /// It has failed, or gave what cannot be: it begins anew, as if just made, for the reason `why`; the next call is
  /// reset(). False: it cannot, and its owner makes another.
  virtual bool renew(std::string_view) { return false; }

  /// Of the episode that the last step() belongs to, for the results of the run; asked where the episode ends. Valid
  /// until the next call.
  virtual std::span<const EpisodeNumber> numbers() { return {}; }

  /// What went wrong in that episode without ending it, in words; "": nothing.
  virtual std::string_view warning() { return {}; }

  /// The whole simulator state, from which set_state continues bit for bit; nullopt where it cannot be given.
  virtual std::optional<std::vector<double>> state() const { return std::nullopt; }

  /// Restores `state` and writes its observation. Throws Error when the length is wrong.
  virtual void set_state(std::span<const double> state, Row observation);

  /// A picture of the current state; nullopt where none can be drawn. Called by play and
  /// evaluation, never while a runner samples. Throws Error("no-rendering") where this machine lacks what it takes.
  virtual std::optional<Frame> render(int, int) { return std::nullopt; }  // width, height [pixels]

  /// Frames a second at which one frame a step shows the simulation's own time.
  virtual double render_fps() const { return 30.0; }
};

/// A function R(Argument, const EnvContext&), or R(Argument) where the context is of no use: most environments.
template <class R, class Argument>
class WithContext {
 public:
  WithContext(std::nullptr_t = nullptr) {}
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, WithContext>) WithContext(F f) {
    if constexpr (std::is_invocable_v<F&, Argument, const EnvContext&>)
      call_ = std::move(f);
    else
      call_ = [f = std::move(f)](Argument argument, const EnvContext&) -> R { return f(argument); };
  }
  explicit operator bool() const { return static_cast<bool>(call_); }
  R operator()(Argument argument, const EnvContext& context) const { return call_(argument, context); }

 private:
  std::function<R(Argument, const EnvContext&)> call_;
};

/// An environment's facts, known without making one.
struct EnvSpec {
  std::string id;  ///< Gymnasium's id where one exists
  Space observation_space;
  Space action_space;
  int max_episode_steps = 0;                    ///< the time limit in env steps; 0 = none
  std::optional<double> reward_threshold = {};  ///< the mean return called solved
  std::string source;                           ///< what it is aligned with
  EnvOptions options = {};                      ///< options with their defaults
  std::vector<std::string> state_names = {};    ///< names of the values set_state takes, in order; may be empty
  bool submits = false;                         ///< it wants to hear actions early: Environment::submit
  bool isolated = false;                        ///< foreign code: only processes that step it make it
  bool needs_network = false;                   ///< it opens sockets itself: its runners' sandbox lets it
  int agents = 1;  ///< so many environments, made one after the other, are agents of one world: they are reset and
                   ///< stepped together, and only a multiple of them can be
  /// What the environment takes, where `action_space` has choices in place of it: rl/wrappers.hpp, IntegerActions.
  std::optional<Space> given_actions = {};
  WithContext<std::unique_ptr<Environment>, const EnvOptions&> make = {};  ///< receives every option
  WithContext<void, EnvSpec&> configure = {};  ///< sets the spaces to those of spec.options, where options change them
};

/// Environments named "PREFIX:REST", of which there are as many as there are RESTs: files, ids of another library.
struct EnvPrefix {
  std::string prefix;                                    ///< "plugin"
  bool names_file = false;                               ///< REST is a path
  WithContext<EnvSpec, const std::string&> make_spec{};  ///< the registry sets its id; throws Error
};

class EnvRegistry {
 public:
  static EnvRegistry& instance();

  void add(EnvSpec spec);
  void add(EnvPrefix prefix);

  /// Of a registered environment, or one of a registered prefix. Throws Error("unknown-env") naming the closest ids.
  /// Loads the sims modules beside the program on the first miss. `context`: of what a prefix starts to answer.
  const EnvSpec& find(const std::string& id, const EnvContext& context);
  const EnvSpec& find(const std::string& id);

  /// `id` with the path in it absolute, where its prefix names files, as a run's config keeps it.
  std::string absolute(const std::string& id);

  std::vector<const EnvSpec*> all();  ///< every environment of every module, sorted by id

 private:
  void load_modules();
  const EnvPrefix* prefix_of(const std::string& id);  ///< nullptr where `id` has none
  std::map<std::string, EnvSpec> specs_;
  std::map<std::string, EnvPrefix> prefixes_;
  bool modules_loaded_ = false;
};

/// `static const RegisterEnv cart_pole{{.id = "CartPole-v1", ...}};` in the environment's own file.
struct RegisterEnv {
  explicit RegisterEnv(EnvSpec spec) { EnvRegistry::instance().add(std::move(spec)); }
  explicit RegisterEnv(EnvPrefix prefix) { EnvRegistry::instance().add(std::move(prefix)); }
};

/// Makes an environment; `options` must be among the spec's. Without a context: EnvContext{}. Throws
/// Error("unknown-env-option").
std::unique_ptr<Environment> make_environment(const EnvSpec& spec, const EnvOptions& options,
                                              const EnvContext& context);
std::unique_ptr<Environment> make_environment(const EnvSpec& spec, const EnvOptions& options);

/// For set_state: throws Error("env-state-length") unless `got` == `want`.
void check_state_length(std::string_view id, size_t got, size_t want);

/// The spec with `options` over its defaults and the spaces which follow from them. Throws Error("unknown-env-option").
EnvSpec configured_spec(const EnvSpec& spec, const EnvOptions& options, const EnvContext& context);
EnvSpec configured_spec(const EnvSpec& spec, const EnvOptions& options);

}  // namespace myriad
