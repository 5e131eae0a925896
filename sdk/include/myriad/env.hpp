// An environment of Myriad as a class, over the C ABI of env.h. C++17, no library behind it.
//
//   struct Mine {
//     static constexpr const char* id = "Mine-v0";
//     static constexpr int max_episode_steps = 200;                    // or none
//     static myriad::Space observation_space(const myriad::Options&);  // and action_space
//     explicit Mine(const myriad::Options&);
//     void reset(myriad::Random&, float* observation);                 // S_0
//     myriad::Step step(const float* action, myriad::Random&, float* observation);
//   };
//   MYRIAD_ENVIRONMENT(Mine)
//
// Optional: `static constexpr double reward_threshold`, `static std::vector<myriad::Option> options()`, and, to resume
// bit for bit, `static constexpr size_t num_state`, `void save(double*) const`, `void load(const double*, float*)`.
// To be seen: `void render(int width, int height, uint8_t* rgb)`, `static constexpr double render_fps`. Where many
// steps at once are faster: `static void step_batch(myriad::Batch<Mine, float, float>&)`, of actions and observations.
// For the results of a run: `static constexpr const char* number_names[] = {"is_success"}`, `void numbers(double*)
// const`. Where not every action is possible in every state: `static constexpr bool masks_actions = true`; an
// observation is then followed by a 1 for each discrete action (each choice of a multi-discrete one) that is, and a 0
// for one that is not. Pointers to an observation or action are of its space's type: float, double, uint8_t, int32_t.
// What a member throws ends the episode: the environment is destroyed and another made in its place.
#pragma once

#include <cmath>
#include <cstdio>
#include <deque>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <myriad/env.h>

namespace myriad {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Owns what a myriad_space points to.
struct Space {
  static Space box(std::vector<double> low, std::vector<double> high, std::vector<int32_t> shape,
                   uint32_t dtype = MYRIAD_F32) {
    if (low.empty() || low.size() != high.size()) throw std::runtime_error("a box wants as many lows as highs");
    Space space;
    space.kind = MYRIAD_BOX;
    space.dtype = dtype;
    space.low = std::move(low);
    space.high = std::move(high);
    space.shape = std::move(shape);
    return space;
  }
  static Space box(double low, double high, std::vector<int32_t> shape, uint32_t dtype = MYRIAD_F32) {
    return box(std::vector{low}, std::vector{high}, std::move(shape), dtype);
  }
  static Space discrete(int32_t n, int32_t start = 0) {
    Space space;
    space.kind = MYRIAD_DISCRETE;
    space.n = n;
    space.start = start;
    return space;
  }
  static Space multi_discrete(std::vector<int32_t> nvec) {
    Space space;
    space.kind = MYRIAD_MULTI_DISCRETE;
    space.n = static_cast<int32_t>(nvec.size());
    space.nvec = std::move(nvec);
    return space;
  }
  static Space multi_binary(int32_t n) {
    Space space = discrete(n);
    space.kind = MYRIAD_MULTI_BINARY;
    return space;
  }

  uint32_t kind = MYRIAD_BOX, dtype = MYRIAD_F32;
  std::vector<double> low, high;
  std::vector<int32_t> shape, nvec;
  int32_t n = 0, start = 0;
};

struct Option {
  const char* name;
  double value;  ///< the default
};

/// The values of an environment's options: there while the function that gets them runs.
class Options {
 public:
  Options(const std::vector<Option>& known, const double* values) : known_(known), values_(values) {}
  double operator[](const std::string& name) const {
    for (size_t i = 0; i < known_.size(); ++i)
      if (name == known_[i].name) return values_[i];
    throw std::runtime_error("this environment has no option " + name);
  }

 private:
  const std::vector<Option>& known_;
  const double* values_;
};

/// Myriad's random numbers: seeded, saved and restored with the run. Use no others.
class Random {
 public:
  explicit Random(const myriad_random* random) : random_(random) {}
  double uniform(double low, double high) { return random_->uniform(random_, low, high); }  ///< [low, high)
  double normal() { return random_->normal(random_); }
  uint64_t bits() { return random_->bits(random_); }

 private:
  const myriad_random* random_;
};

struct Step {
  double reward = 0.0;
  bool terminated = false;  ///< the new state has no future; never for the episode's length
  bool truncated = false;   ///< the episode ends for another reason of the simulator's; its time limit is Myriad's
};

/// Environments that step at once. Element i of each is of environment i.
template <class E, class Action, class Observation>
struct Batch {
  std::vector<E*> envs;
  std::vector<const Action*> actions;
  std::vector<Random> randoms;
  std::vector<Observation*> observations;
  std::vector<Step> steps;  ///< to be filled

  /// Environment i alone failed; an exception is all of theirs.
  void fail(size_t i, std::string reason) {
    failed.at(i) = true;
    why = std::move(reason);
  }
  std::vector<bool> failed;
  std::string why;
};

namespace detail {

template <class Call>
int guarded(myriad_error* error, Call call) {
  try {
    call();
    return 0;
  } catch (const std::exception& e) { std::snprintf(error->text, sizeof error->text, "%s", e.what()); } catch (...) {
    std::snprintf(error->text, sizeof error->text, "an exception of no known type");
  }
  return 1;
}

/// What a pointer parameter points to, of a member function.
template <class T>
struct Parameters;
template <class C, class R, class O>
struct Parameters<R (C::*)(Random&, O*)> {
  using Observation = O;
};
template <class C, class R, class A, class O>
struct Parameters<R (C::*)(const A*, Random&, O*)> {
  using Action = A;
};

template <class E, class = void>
struct Threshold {
  static constexpr double value = std::numeric_limits<double>::quiet_NaN();
};
template <class E>
struct Threshold<E, std::void_t<decltype(E::reward_threshold)>> {
  static constexpr double value = E::reward_threshold;
};
template <class E, class = void>
struct Limit {
  static constexpr int value = 0;
};
template <class E>
struct Limit<E, std::void_t<decltype(E::max_episode_steps)>> {
  static constexpr int value = E::max_episode_steps;
};
template <class E, class = void>
struct HasOptions : std::false_type {};
template <class E>
struct HasOptions<E, std::void_t<decltype(E::options())>> : std::true_type {};
template <class E, class = void>
struct HasState : std::false_type {};
template <class E>
struct HasState<E, std::void_t<decltype(E::num_state)>> : std::true_type {};
template <class E, class = void>
struct HasRender : std::false_type {};
template <class E>
struct HasRender<E, std::void_t<decltype(&E::render)>> : std::true_type {};
template <class E, class = void>
struct FramesPerSecond {
  static constexpr double value = 0;
};
template <class E>
struct FramesPerSecond<E, std::void_t<decltype(E::render_fps)>> {
  static constexpr double value = E::render_fps;
};
template <class E, class = void>
struct MasksActions : std::false_type {};
template <class E>
struct MasksActions<E, std::enable_if_t<E::masks_actions>> : std::true_type {};
template <class E, class = void>
struct HasNumbers : std::false_type {};
template <class E>
struct HasNumbers<E, std::void_t<decltype(E::number_names)>> : std::true_type {};
template <class E, class = void>
struct HasBatch : std::false_type {};
template <class E>
struct HasBatch<E, std::void_t<decltype(&E::step_batch)>> : std::true_type {};

/// As C sees it, while `space` lives.
inline void write_space(const Space& space, myriad_space& to) {
  to = {space.kind,
        space.dtype,
        static_cast<uint32_t>(space.shape.size()),
        static_cast<uint32_t>(space.low.size()),
        space.shape.data(),
        space.low.data(),
        space.high.data(),
        space.n,
        space.start,
        space.nvec.data()};
}

template <class E>
struct Plugin {
  using Observation = typename Parameters<decltype(&E::reset)>::Observation;
  using Action = typename Parameters<decltype(&E::step)>::Action;

  static const std::vector<Option>& options() {
    static const std::vector<Option> all = [] {
      if constexpr (HasOptions<E>::value)
        return E::options();
      else
        return std::vector<Option>{};
    }();
    return all;
  }
  static E& of(myriad_env* env) { return *reinterpret_cast<E*>(env); }
  static Observation* row(void* observation) { return static_cast<Observation*>(observation); }

  /// Whether a pointer to T can be to a row of this space.
  template <class T>
  static bool fits(const Space& space) {
    if (!std::is_same<T, float>::value && !std::is_same<T, double>::value && !std::is_same<T, uint8_t>::value &&
        !std::is_same<T, int32_t>::value)
      throw std::runtime_error("observations and actions are rows of float, double, uint8_t or int32_t");
    const uint32_t type = std::is_same<T, float>::value     ? MYRIAD_F32
                          : std::is_same<T, double>::value  ? MYRIAD_F64
                          : std::is_same<T, uint8_t>::value ? MYRIAD_U8
                                                            : MYRIAD_I32;
    return type == (space.kind == MYRIAD_BOX ? space.dtype : static_cast<uint32_t>(MYRIAD_I32));
  }

  static int spaces(const double* values, myriad_space* observation, myriad_space* action, myriad_error* error) {
    return guarded(error, [&] {
      static std::deque<std::pair<Space, Space>> kept;  // each answer lives as long as the plugin
      const Options given(options(), values);
      kept.emplace_back(E::observation_space(given), E::action_space(given));
      if (!fits<Observation>(kept.back().first))
        throw std::runtime_error("reset() and step() write an observation of another type than its space's");
      if (!fits<Action>(kept.back().second))
        throw std::runtime_error("step() reads an action of another type than its space's");
      write_space(kept.back().first, *observation);
      write_space(kept.back().second, *action);
    });
  }
  static myriad_env* create(const double* values, myriad_error* error) {
    E* made = nullptr;
    guarded(error, [&] { made = new E(Options(options(), values)); });
    return reinterpret_cast<myriad_env*>(made);
  }
  static void destroy(myriad_env* env) { delete &of(env); }
  static int reset(myriad_env* env, const myriad_random* random, void* observation, myriad_error* error) {
    return guarded(error, [&] {
      Random numbers(random);
      of(env).reset(numbers, row(observation));
    });
  }
  static uint8_t flags(const Step& step) {
    return static_cast<uint8_t>((step.terminated ? MYRIAD_TERMINATED : 0) | (step.truncated ? MYRIAD_TRUNCATED : 0));
  }
  static int step(myriad_env* env, const void* action, const myriad_random* random, void* observation, double* reward,
                  uint8_t* ended, myriad_error* error) {
    return guarded(error, [&] {
      Random numbers(random);
      const Step step = of(env).step(static_cast<const Action*>(action), numbers, row(observation));
      *reward = step.reward;
      *ended = flags(step);
    });
  }
  static int step_batch(size_t count, myriad_env* const* envs, const void* const* actions,
                        const myriad_random* const* randoms, void* const* observations, double* rewards, uint8_t* ended,
                        myriad_error* error) {
    return guarded(error, [&] {
      thread_local Batch<E, Action, Observation> batch;  // kept, so that no step allocates
      batch.envs.clear(), batch.actions.clear(), batch.randoms.clear(), batch.observations.clear();
      for (size_t i = 0; i < count; ++i) {
        batch.envs.push_back(&of(envs[i]));
        batch.actions.push_back(static_cast<const Action*>(actions[i]));
        batch.randoms.emplace_back(randoms[i]);
        batch.observations.push_back(row(observations[i]));
      }
      batch.steps.assign(count, Step{});
      batch.failed.assign(count, false);
      E::step_batch(batch);
      for (size_t i = 0; i < count; ++i) {
        rewards[i] = batch.steps[i].reward;
        ended[i] = batch.failed[i] ? static_cast<uint8_t>(MYRIAD_ENV_FAILED) : flags(batch.steps[i]);
        if (batch.failed[i]) std::snprintf(error->text, sizeof error->text, "%s", batch.why.c_str());
      }
    });
  }
  static int render(myriad_env* env, int32_t width, int32_t height, uint8_t* rgb, myriad_error* error) {
    return guarded(error, [&] { of(env).render(width, height, rgb); });
  }
  static int numbers(const myriad_env* env, double* values, myriad_error* error) {
    return guarded(error, [&] {
      if constexpr (HasNumbers<E>::value) reinterpret_cast<const E*>(env)->numbers(values);
    });
  }
  static int save(const myriad_env* env, double* state, myriad_error* error) {
    return guarded(error, [&] {
      if constexpr (HasState<E>::value) reinterpret_cast<const E*>(env)->save(state);
    });
  }
  static int load(myriad_env* env, const double* state, void* observation, myriad_error* error) {
    return guarded(error, [&] {
      if constexpr (HasState<E>::value) of(env).load(state, row(observation));
    });
  }

  static const myriad_plugin* table() {
    static const std::vector<myriad_option> given = [] {
      std::vector<myriad_option> all;
      for (const Option& option : options()) all.push_back({option.name, option.value});
      return all;
    }();
    static const myriad_plugin plugin = [] {
      myriad_plugin p{};
      p.abi = MYRIAD_ENV_ABI;
      p.size = sizeof p;
      p.id = E::id;
      p.max_episode_steps = Limit<E>::value;
      p.reward_threshold = Threshold<E>::value;
      p.options = given.data();
      p.num_options = given.size();
      p.spaces = spaces, p.create = create, p.destroy = destroy, p.reset = reset, p.step = step;
      if constexpr (HasState<E>::value) {
        p.num_state = E::num_state;
        p.save = save, p.load = load;
      }
      if constexpr (HasRender<E>::value) p.render = render;
      p.render_fps = FramesPerSecond<E>::value;
      if constexpr (HasBatch<E>::value) p.step_batch = step_batch;
      p.masks_actions = MasksActions<E>::value ? 1 : 0;
      if constexpr (HasNumbers<E>::value) {
        p.num_numbers = sizeof E::number_names / sizeof E::number_names[0];
        p.number_names = E::number_names;
        p.numbers = numbers;
      }
      return p;
    }();
    return &plugin;
  }
};

/// The table of number `index` of these environments; nullptr past the last.
template <class... E>
const myriad_plugin* plugin_at(size_t index) {
  using Table = const myriad_plugin* (*)();
  static constexpr Table tables[] = {Plugin<E>::table...};
  return index < sizeof...(E) ? tables[index]() : nullptr;
}

}  // namespace detail
}  // namespace myriad

#define MYRIAD_ENVIRONMENT(Class)                                         \
  extern "C" MYRIAD_EXPORT const myriad_plugin* myriad_env_plugin(void) { \
    return myriad::detail::Plugin<Class>::table();                        \
  }

/// Several in one library: `env = "plugin:./mine.so#ID"` names one of them.
#define MYRIAD_ENVIRONMENTS(...)                                                     \
  extern "C" MYRIAD_EXPORT const myriad_plugin* myriad_env_plugin_at(size_t index) { \
    return myriad::detail::plugin_at<__VA_ARGS__>(index);                            \
  }                                                                                  \
  extern "C" MYRIAD_EXPORT const myriad_plugin* myriad_env_plugin(void) { return myriad_env_plugin_at(0); }
