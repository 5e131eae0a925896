#include "rl/wrappers.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/simulator/clients.hpp"
#include "rl/wrapper_plugin.hpp"

namespace myriad {
namespace {

// ---- bytes as numbers, for a state: 48 bits each, which a double holds exactly and JSON can print ----

constexpr size_t kPacked = 6;  // bytes

size_t packed_size(size_t bytes) { return (bytes + kPacked - 1) / kPacked; }

void pack(std::span<const std::byte> bytes, std::vector<double>& to) {
  for (size_t i = 0; i < bytes.size(); i += kPacked) {
    uint64_t number = 0;
    std::memcpy(&number, bytes.data() + i, std::min(kPacked, bytes.size() - i));
    to.push_back(static_cast<double>(number));
  }
}

void unpack(std::span<const double> numbers, std::span<std::byte> bytes) {
  for (const double number : numbers)
    if (!(number >= 0 && number < 0x1p48 && number == std::trunc(number)))
      fail(Exit::usage, "env-state", "a wrapper's state has the number {}, want whole ones below 2^48", number);
  for (size_t i = 0; i < bytes.size(); i += kPacked) {
    const auto number = static_cast<uint64_t>(numbers[i / kPacked]);
    std::memcpy(bytes.data() + i, &number, std::min(kPacked, bytes.size() - i));
  }
}

// ---- the wrappers ----

/// An environment around another. Its state is the inner one's, then `own` numbers.
class Wrapper : public Environment {
 public:
  Wrapper(std::unique_ptr<Environment> env, size_t own) : env_(std::move(env)), own_(own) {}

  void submit(ConstRow action, RandomStream& random) override { env_->submit(action, random); }
  bool set_options(const EnvOptions& options) final { return env_->set_options(options); }
  bool renew(std::string_view why) final { return env_->renew(why); }
  std::span<const EpisodeNumber> numbers() final { return env_->numbers(); }
  std::string_view warning() final { return env_->warning(); }
  std::optional<Frame> render(int width, int height) final { return env_->render(width, height); }
  double render_fps() const override { return env_->render_fps(); }

  std::optional<std::vector<double>> state() const final {
    std::optional<std::vector<double>> state = env_->state();
    if (state) save(*state);
    return state;
  }

  void set_state(std::span<const double> state, Row observation) final {
    if (state.size() < own_)
      fail(Exit::usage, "env-state-length", "a state has {} values, and its wrapper's part alone is {}", state.size(),
           own_);
    load(state.last(own_));
    set_inner_state(state.first(state.size() - own_), observation);
  }

 protected:
  virtual void save(std::vector<double>& state) const = 0;  ///< appends `own` numbers
  virtual void load(std::span<const double> own) = 0;
  virtual void set_inner_state(std::span<const double> state, Row observation) { env_->set_state(state, observation); }

  std::unique_ptr<Environment> env_;

 private:
  size_t own_;
};

/// Machado et al. 2018, "Revisiting the Arcade Learning Environment": with some probability the action before is
/// applied again. An episode's first action is always the agent's. Whether the next action sticks is drawn ahead,
/// since submit() has to know it.
class StickyActions final : public Wrapper {
 public:
  StickyActions(std::unique_ptr<Environment> env, double probability, const Space& action_space)
      : Wrapper(std::move(env), own_size(action_space)),
        probability_(probability),
        action_space_(action_space),
        applied_(action_space.row_bytes()) {}

  static size_t own_size(const Space& action_space) { return 1 + packed_size(action_space.row_bytes()); }

  void reset(RandomStream& random, Row observation) override {
    sticks_ = false;
    env_->reset(random, observation);
  }

  void submit(ConstRow action, RandomStream& random) override {
    env_->submit(sticks_ ? ConstRow(applied_) : action, random);
  }

  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    if (!sticks_) std::ranges::copy(action.bytes(), applied_.begin());
    const StepResult result = env_->step(ConstRow(applied_), random, observation);
    sticks_ = random.uniform() < probability_;
    return result;
  }

 private:
  void save(std::vector<double>& state) const override {
    state.push_back(sticks_);
    pack(applied_, state);
  }
  void load(std::span<const double> own) override {
    unpack(own.subspan(1), applied_);
    sticks_ = own[0] != 0;
    if (const std::string wrong = sticks_ ? action_space_.violation(applied_, "the action that sticks") : "";
        !wrong.empty())
      fail(Exit::usage, "env-state", "a state of sticky actions: {}", wrong);
  }

  double probability_;
  Space action_space_;
  std::vector<std::byte> applied_;  ///< the last action
  bool sticks_ = false;             ///< it comes again
};

/// Applies each action `skip` times, or to the end of the episode; rewards are summed. `limit`: the environment's own
/// time limit, in its own steps; 0: none.
class FrameSkip final : public Wrapper {
 public:
  static constexpr size_t kOwn = 1;
  FrameSkip(std::unique_ptr<Environment> env, int64_t skip, int64_t limit, bool submits)
      : Wrapper(std::move(env), kOwn), skip_(skip), limit_(limit), submits_(submits) {}

  void reset(RandomStream& random, Row observation) override {
    steps_ = 0;
    env_->reset(random, observation);
  }

  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    StepResult all;
    for (int64_t i = 0; i < skip_ && !all.terminated && !all.truncated; ++i) {
      if (submits_ && i > 0) env_->submit(action, random);
      const StepResult one = env_->step(action, random, observation);
      all.reward += one.reward;
      all.terminated = one.terminated;
      all.truncated = one.truncated || ++steps_ == limit_;
      all.abandoned = one.abandoned;
      all.own = one.own;
    }
    return all;
  }

  double render_fps() const override { return env_->render_fps() / static_cast<double>(skip_); }

 private:
  void save(std::vector<double>& state) const override { state.push_back(static_cast<double>(steps_)); }
  void load(std::span<const double> own) override {
    if (!(own[0] >= 0 && own[0] < 0x1p53))
      fail(Exit::usage, "env-state", "a state of a frame skip has {} steps", own[0]);
    steps_ = static_cast<int64_t>(own[0]);
  }

  int64_t skip_, limit_, steps_ = 0;
  bool submits_;
};

/// The last `k` observations, the oldest first; the first of an episode fills the stack.
class FrameStack final : public Wrapper {
 public:
  FrameStack(std::unique_ptr<Environment> env, int64_t k, const Space& one, const Space& stacked)
      : Wrapper(std::move(env), own_size(k, one)), frame_bytes_(one.row_bytes()), frames_(size_t(k) * frame_bytes_) {
    // Where the frames' leaves go. A Box's frames lie side by side in the one leaf of the stack.
    size_t to = 0;
    for (int64_t i = 0; i < k; ++i)
      for (const Leaf& leaf : one.leaves()) {
        const size_t bytes = leaf.count * size_of(leaf.dtype);
        const size_t at = stacked.is_leaf() ? static_cast<size_t>(i) * bytes : stacked.leaves()[to++].offset;
        leaves_.push_back({static_cast<size_t>(i) * frame_bytes_ + leaf.offset, at, bytes});
      }
  }

  /// The space of the stack: a Box has one dimension more, as Gymnasium's FrameStackObservation; others become a Tuple.
  static Space space(int64_t k, const Space& one) {
    const Box* box = one.get_if<Box>();
    if (box == nullptr) return Tuple{std::vector<Space>(static_cast<size_t>(k), one)};
    Box stacked = *box;
    stacked.shape.insert(stacked.shape.begin(), static_cast<int>(k));
    for (auto [bounds, single] : {std::pair{&stacked.low, &box->low}, std::pair{&stacked.high, &box->high}})
      for (int64_t i = 1; i < k && single->size() > 1; ++i)
        bounds->insert(bounds->end(), single->begin(), single->end());
    return stacked;
  }

  static size_t own_size(int64_t k, const Space& one) {
    return packed_size(static_cast<size_t>(k - 1) * one.row_bytes());
  }

  void reset(RandomStream& random, Row observation) override {
    env_->reset(random, newest());
    for (size_t at = 0; at < older(); at += frame_bytes_)
      std::memcpy(frames_.data() + at, newest().bytes().data(), frame_bytes_);
    write(observation);
  }

  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    std::memmove(frames_.data(), frames_.data() + frame_bytes_, older());
    const StepResult result = env_->step(action, random, newest());
    write(observation);
    return result;
  }

 private:
  struct Copied {
    size_t from, to, bytes;
  };
  size_t older() const { return frames_.size() - frame_bytes_; }  // bytes
  Row newest() { return Row(std::span(frames_).last(frame_bytes_)); }
  void write(Row observation) const {
    for (const Copied& leaf : leaves_)
      std::memcpy(observation.bytes().data() + leaf.to, frames_.data() + leaf.from, leaf.bytes);
  }

  void save(std::vector<double>& state) const override { pack(std::span(frames_).first(older()), state); }
  void load(std::span<const double> own) override { unpack(own, std::span(frames_).first(older())); }
  void set_inner_state(std::span<const double> state, Row observation) override {
    env_->set_state(state, newest());
    write(observation);
  }

  size_t frame_bytes_;
  std::vector<std::byte> frames_;  // [k, frame_bytes]
  std::vector<Copied> leaves_;
};

/// Chooses for each element of a Box of whole numbers one of those between its bounds, and for each of a MultiDiscrete
/// that does not start at 0 one of its values: MultiDiscrete, from the least on. The Box is all of the actions, or a
/// part of a Dict or Tuple.
class IntegerActions final : public Wrapper {
 public:
  IntegerActions(std::unique_ptr<Environment> env, const Space& action_space, const Space& chosen)
      : Wrapper(std::move(env), 0),
        outer_(chosen),
        inner_(action_space),
        row_(inner_.row_bytes()),
        own_row_(outer_.row_bytes()) {}

  /// `action_space` with the choices in place of such parts; nothing where there are none. A Box that has an element
  /// without a bound stays. Throws Error for too many choices.
  static std::optional<Space> space(const Space& action_space, const std::string& id) {
    if (std::ranges::none_of(action_space.leaves(), is_chosen)) return std::nullopt;
    Space space = choosing(action_space, fmt::format("the actions of {}", id));
    if (std::ranges::all_of(space.leaves(), is_chosen)) return std::nullopt;
    return space;
  }

  void reset(RandomStream& random, Row observation) override { env_->reset(random, observation); }
  void submit(ConstRow action, RandomStream& random) override { env_->submit(numbers(action), random); }
  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    StepResult result = env_->step(numbers(action), random, observation);
    if (result.own != nullptr) [[unlikely]] {
      own_ = *result.own;
      own_.action = choices(own_.action);
      result.own = &own_;
    }
    return result;
  }

 private:
  static constexpr int kMostChoices = 1 << 16;

  static bool is_integer(const Box& box) { return box.dtype != DType::f32 && box.dtype != DType::f64; }
  static bool is_chosen(const Leaf& leaf) {
    const Box* box = leaf.space->get_if<Box>();
    const MultiDiscrete* multi = leaf.space->get_if<MultiDiscrete>();
    return box != nullptr ? is_integer(*box) : multi != nullptr && !multi->start.empty();
  }

  /// `named`: what an error calls the space.
  static Space choosing(const Space& space, const std::string& named) {
    const auto part_of = [&](const auto& part) { return fmt::format("'{}' of {}", part, named); };
    if (const Dict* dict = space.get_if<Dict>()) {
      Dict chosen;
      for (const auto& [name, part] : dict->spaces) chosen.spaces.emplace_back(name, choosing(part, part_of(name)));
      return chosen;
    }
    if (const Tuple* tuple = space.get_if<Tuple>()) {
      Tuple chosen;
      for (size_t i = 0; i < tuple->spaces.size(); ++i) chosen.spaces.push_back(choosing(tuple->spaces[i], part_of(i)));
      return chosen;
    }
    if (const MultiDiscrete* multi = space.get_if<MultiDiscrete>())
      return MultiDiscrete{.nvec = multi->nvec, .shape = multi->shape};
    const Box* box = space.get_if<Box>();
    if (box == nullptr || !is_integer(*box)) return space;
    MultiDiscrete choices;
    for (size_t i = 0; i < space.leaves()[0].count; ++i) {
      const double n = bound_at(box->high, i) - bound_at(box->low, i) + 1;
      if (!std::isfinite(n)) return space;
      if (n > kMostChoices)
        fail(Exit::usage, "unsupported-space",
             "{} are {}: {} choices for element {}, want at most {}; make it a Box of float32 that the environment "
             "rounds, or several elements",
             named, space.to_string(), n, i, kMostChoices);
      choices.nvec.push_back(static_cast<int>(n));
    }
    return choices;
  }

  /// Calls f(part of the inner row, part of the outer row, element's type, least value of element i) for what is
  /// chosen, and `copy` for what is as it is.
  template <class F, class Copy>
  void each_part(F f, Copy copy) const {
    for (size_t part = 0; part < inner_.leaves().size(); ++part) {
      const Leaf &leaf = inner_.leaves()[part], &chosen = outer_.leaves()[part];
      const Box* box = leaf.space->get_if<Box>();
      const MultiDiscrete* multi = leaf.space->get_if<MultiDiscrete>();
      if (multi != nullptr) {
        f(leaf, chosen, int32_t{}, [multi](size_t i) { return int64_t{multi->start_at(i)}; });
      } else if (box == nullptr || chosen.space->get_if<Box>() != nullptr) {
        copy(leaf, chosen);
      } else {
        const auto low = [box](size_t i) { return static_cast<int64_t>(bound_at(box->low, i)); };
        if (box->dtype == DType::u8)
          f(leaf, chosen, uint8_t{}, low);
        else if (box->dtype == DType::i32)
          f(leaf, chosen, int32_t{}, low);
        else
          f(leaf, chosen, int64_t{}, low);
      }
    }
  }

  /// What the environment takes for the choices of the agent.
  ConstRow numbers(ConstRow action) {
    each_part(
        [&]<class T>(const Leaf& leaf, const Leaf& chosen, T, auto low) {
          const std::span<const int32_t> from = action.leaf(chosen).i32();
          for (size_t i = 0; i < from.size(); ++i) {
            const T number = static_cast<T>(low(i) + from[i]);
            std::memcpy(row_.data() + leaf.offset + i * sizeof number, &number, sizeof number);
          }
        },
        [&](const Leaf& leaf, const Leaf& chosen) {
          std::ranges::copy(action.leaf(chosen).bytes(), row_.data() + leaf.offset);
        });
    return ConstRow(row_);
  }
  /// The other way round.
  std::span<const std::byte> choices(std::span<const std::byte> action) {
    each_part(
        [&]<class T>(const Leaf& leaf, const Leaf& chosen, T number, auto low) {
          for (size_t i = 0; i < leaf.count; ++i) {
            std::memcpy(&number, action.data() + leaf.offset + i * sizeof number, sizeof number);
            const auto choice = static_cast<int32_t>(number - low(i));
            std::memcpy(own_row_.data() + chosen.offset + i * sizeof choice, &choice, sizeof choice);
          }
        },
        [&](const Leaf& leaf, const Leaf& chosen) {
          std::ranges::copy(ConstRow(action).leaf(leaf).bytes(), own_row_.data() + chosen.offset);
        });
    return own_row_;
  }
  void save(std::vector<double>&) const override {}
  void load(std::span<const double>) override {}

  Space outer_, inner_;
  std::vector<std::byte> row_, own_row_;
  OwnAction own_;
};

void name_states(EnvSpec& spec, std::string_view name, size_t count) {
  for (size_t i = 0; i < count && !spec.state_names.empty(); ++i)
    spec.state_names.push_back(fmt::format("{}[{}]", name, i));
}

EnvSpec choosing(EnvSpec spec, const Space& choices) {
  spec.make = [make = spec.make, given = spec.action_space, choices](const EnvOptions& options,
                                                                     const EnvContext& context) {
    return std::make_unique<IntegerActions>(make(options, context), given, choices);
  };
  spec.given_actions = spec.action_space;
  spec.action_space = choices;
  return spec;
}

EnvSpec sticky(EnvSpec spec, double probability) {
  name_states(spec, "sticky_actions", StickyActions::own_size(spec.action_space));
  spec.make = [make = spec.make, probability, space = spec.action_space](const EnvOptions& options,
                                                                         const EnvContext& context) {
    return std::make_unique<StickyActions>(make(options, context), probability, space);
  };
  return spec;
}

EnvSpec skipping(EnvSpec spec, int64_t skip, int64_t max_episode_steps) {
  name_states(spec, "frame_skip", FrameSkip::kOwn);
  const int64_t limit = max_episode_steps > 0 ? 0 : spec.max_episode_steps;
  spec.make = [make = spec.make, skip, limit, submits = spec.submits](const EnvOptions& options,
                                                                      const EnvContext& context) {
    return std::make_unique<FrameSkip>(make(options, context), skip, limit, submits);
  };
  spec.max_episode_steps = static_cast<int>((limit + skip - 1) / skip);
  return spec;
}

EnvSpec stacking(EnvSpec spec, int64_t k) {
  const Space one = spec.observation_space;
  name_states(spec, "frame_stack", FrameStack::own_size(k, one));
  spec.observation_space = FrameStack::space(k, one);
  spec.make = [make = spec.make, k, one, stacked = spec.observation_space](const EnvOptions& options,
                                                                           const EnvContext& context) {
    return std::make_unique<FrameStack>(make(options, context), k, one, stacked);
  };
  return spec;
}

/// An action mask holds for one step, and for the action that the agent takes there.
void refuse_mask(const EnvSpec& spec, const EnvironmentConfig& config) {
  if (!ActionMask::of(spec.observation_space, spec.action_space)) return;
  const auto refuse = [&](std::string_view setting, auto value, std::string_view why, int want) {
    fail(Exit::usage, "impossible", "environment.{} is {}, but {} has an action_mask, and {}; want {}", setting, value,
         spec.id, why, want);
  };
  if (config.sticky_actions > 0)
    refuse("sticky_actions", config.sticky_actions, "the action before may be masked now", 0);
  if (config.frame_skip > 1)
    refuse("frame_skip", config.frame_skip, "an action may be masked before it is repeated", 1);
  if (config.frame_stack > 1) refuse("frame_stack", config.frame_stack, "the masks would be stacked, too", 1);
}

}  // namespace

EnvSpec wrapped_spec(const EnvSpec& spec, const EnvironmentConfig& config) {
  EnvSpec wrapped = spec;
  if (spec.agents > 1 && config.frame_skip > 1)
    fail(Exit::usage, "impossible", "environment.frame_skip is {}, but {} agents of {} take each step together; want 1",
         config.frame_skip, spec.agents, spec.id);
  if (const auto choices = IntegerActions::space(spec.action_space, spec.id)) wrapped = choosing(wrapped, *choices);
  refuse_mask(wrapped, config);
  if (config.sticky_actions > 0) wrapped = sticky(std::move(wrapped), config.sticky_actions);
  if (config.frame_skip > 1) wrapped = skipping(std::move(wrapped), config.frame_skip, config.max_episode_steps);
  if (config.frame_stack > 1) wrapped = stacking(std::move(wrapped), config.frame_stack);
  if (config.max_episode_steps > 0) wrapped.max_episode_steps = static_cast<int>(config.max_episode_steps);
  if (spec.configure)  // other options, perhaps of other spaces: the same wrappers
    wrapped.configure = [spec, config](EnvSpec& changed, const EnvContext& context) {
      changed = wrapped_spec(configured_spec(spec, changed.options, context), config);
    };
  return wrapped;
}

EnvSpec environment_spec(const EnvironmentConfig& config, const EnvContext& context) {
  const EnvSpec& found = EnvRegistry::instance().find(config.env, context);
  if (config.wrappers.empty()) return wrapped_spec(configured_spec(found, config.env_config, context), config);
  if (!simulator::clients_file_of(config.env).empty())
    fail(
        Exit::usage, "impossible",
        "environment.wrappers: the clients of {} are told actions and, where they act themselves, the policy, and know "
        "nothing of wrappers; want wrappers = []",
        config.env);
  EnvSpec env = configured_spec(found, known_options(found, config.env_config), context);
  for (const std::string& wrapper : config.wrappers) env = wrapped_by(env, wrapper, config.env_config, context);
  return wrapped_spec(configured_spec(env, config.env_config, context), config);  // with no option unknown to all
}

EnvContext EnvContext::of(const Config& config) {
  const EnvRunnersConfig& runners = config.env_runners;
  return {.sandbox = sandbox_options(config),
          .answer_timeout = seconds(runners.step_timeout_s),
          .start_timeout = seconds(runners.start_timeout_s),
          .first_env = static_cast<uint64_t>(runners.num_env_runners * runners.num_envs_per_env_runner),
          .facts = config.plugins.environment};
}

EnvSpec environment_spec(const Config& config) { return environment_spec(config.environment, EnvContext::of(config)); }

}  // namespace myriad
