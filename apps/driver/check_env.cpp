#include "apps/driver/check_env.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "apps/driver/inspect.hpp"
#include "env_runners/vector_env.hpp"
#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace {

constexpr uint64_t kPatienceS = 10, kLoadS = 90;  // for one step; for the facts and the first one
constexpr int64_t kRoundSteps = 1'000;            // of a comparison
constexpr double kGrowthBytes = 1 << 20;          // over the longest check: more is a leak

/// What the child is doing, for the error when it dies.
struct Progress {
  std::atomic<uint64_t> steps{0};
  std::array<char, 64> check{};
  std::atomic<bool> done{false};  ///< else an exit was the environment's
};

enum class Verdict : uint8_t { ok, note, wrong };

/// One environment with its row and its actions.
class Player {
 public:
  Player(const EnvSpec& spec, uint64_t seed, Progress& progress)
      : spec_(spec),
        progress_(progress),
        mask_(ActionMask::of(spec.observation_space, spec.action_space)),
        observation_words_(spec.observation_space.row_bytes() / 8 + 1),
        action_words_(spec.action_space.row_bytes() / 8 + 1),
        actions(seed, StreamPurpose::action, 0),
        stepper(std::make_shared<const EnvRules>(spec, spec.options, spec.max_episode_steps), seed,
                StreamPurpose::environment, 0) {}

  void reset() {
    ++progress_.steps;
    result = {};
    stepper.reset(Row(observation()));
  }
  /// With a random action; a reset where the episode has ended.
  void step() {
    if (begin_step()) end_step();
  }
  void apply() {
    submit();
    end_step();
  }
  /// The two halves of step(), between which others begin theirs; false: it was a reset.
  bool begin_step() {
    if (ended()) return reset(), false;
    choose();
    submit();
    return true;
  }
  /// Draws an action.
  void choose() {
    if (mask_)
      mask_->sample(actions, observation(), action());
    else
      spec_.action_space.sample(actions, action());
  }
  void end_step() {
    ++progress_.steps;
    result = stepper.step(ConstRow(action()), Row(observation()));
  }
  bool ended() const { return result.terminated || result.truncated; }

  std::span<std::byte> observation() {
    return std::as_writable_bytes(std::span(observation_words_)).first(spec_.observation_space.row_bytes());
  }
  std::span<std::byte> action() {
    return std::as_writable_bytes(std::span(action_words_)).first(spec_.action_space.row_bytes());
  }
  void submit() {
    if (spec_.submits) stepper.submit(ConstRow(action()));
  }
  std::string outside() {
    const std::string fact = spec_.observation_space.violation(observation(), "observation");
    return fact.empty() && mask_ && !ended() && !mask_->allows_any(observation())
               ? "observation.action_mask allows no action"
               : fact;
  }

 private:
  const EnvSpec& spec_;
  Progress& progress_;
  std::optional<ActionMask> mask_;
  std::vector<double> observation_words_, action_words_;

 public:
  RandomStream actions;
  EnvStepper stepper;
  StepResult result;
};

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  double all = 0, resident = 0;
  file >> all >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

class Checks {
 public:
  Checks(const CheckEnvOptions& options, Progress& progress) : options_(options), progress_(progress) {}

  /// Whether nothing is wrong.
  bool run() {
    begin("facts");
    spec_ = chosen_environment(options_.env, options_.env_options, options_.wrappers);
    say(Verdict::ok, fmt::format("{}: observations {}, actions {}", spec_->source.empty() ? spec_->id : spec_->source,
                                 spec_->observation_space.to_string(), spec_->action_space.to_string()));
    one("reset", &Checks::resets);
    one("spaces", &Checks::spaces);
    one("bounds", &Checks::bounds);
    one("episodes", &Checks::episodes);
    one("determinism", &Checks::determinism);
    one("instances", &Checks::instances);
    one("together", &Checks::together);
    one("state", &Checks::state);
    one("memory", &Checks::memory);
    one("speed", &Checks::speed);
    return !wrong_;
  }

 private:
  Player player(uint64_t more = 0) { return {*spec_, options_.seed + more, progress_}; }

  void one(const char* name, void (Checks::*check)()) {
    begin(name);
    try {
      (this->*check)();
    } catch (const EnvError& error) {
      say(Verdict::wrong, fmt::format("it fails {}: {}", error.where, error.fact),
          error.code() == "env-exception" ? "what it threw is the environment's own text" : "");
    } catch (const std::exception& error) { say(Verdict::wrong, fmt::format("it fails: {}", error.what())); }
  }
  void begin(const char* name) {
    name_ = name;
    std::snprintf(progress_.check.data(), progress_.check.size(), "%s", name);
  }
  void say(Verdict verdict, const std::string& found, const std::string& mend = "") {
    constexpr std::array<const char*, 3> kWords{"ok", "note", "wrong"};
    const char* word = kWords[static_cast<size_t>(verdict)];
    wrong_ |= verdict == Verdict::wrong;
    if (options_.json)
      fmt::print("{}\n", boost::json::serialize(boost::json::object{
                             {"check", name_}, {"verdict", word}, {"found", found}, {"mend", mend}}));
    else
      fmt::print("{:<6} {:<12} {}{}\n", word, name_, found, mend.empty() ? "" : ": " + mend);
    std::fflush(stdout);
  }

  void resets() {
    Player p = player();
    p.reset();
    const std::vector<std::byte> first(p.observation().begin(), p.observation().end());
    bool differs = false;
    for (int i = 0; i < 20; ++i) {
      if (const std::string fact = p.outside(); !fact.empty())
        return say(Verdict::wrong, fmt::format("after reset() {}", fact),
                   "write all of S_0, inside the observation space");
      p.reset();
      differs |= !std::ranges::equal(first, p.observation());
    }
    if (differs) return say(Verdict::ok, "20 in a row; initial states differ");
    say(Verdict::note, "20 in a row give the same state",
        "draw the initial state from the random numbers handed in, unless it is fixed");
  }

  void spaces() {
    Player p = player();
    p.reset();
    for (int64_t i = 0; i < options_.steps / 10; ++i) {
      p.step();
      if (const std::string fact = p.outside(); !fact.empty())
        return say(Verdict::wrong, fmt::format("after {} steps {}", i + 1, fact),
                   "clip it, or widen the observation space");
      if (!std::isfinite(p.result.reward))
        return say(Verdict::wrong, fmt::format("after {} steps the reward is {}", i + 1, p.result.reward),
                   "a reward is a finite number");
    }
    say(Verdict::ok, fmt::format("{} random steps stay inside", options_.steps / 10));
  }

  void bounds() {
    const auto leaves = spec_->action_space.leaves();
    if (std::ranges::none_of(leaves, [](const Leaf& leaf) { return leaf.space->get_if<Box>(); }))
      return say(Verdict::ok, "actions are a choice: nothing to exceed");
    if (std::ranges::all_of(leaves, [](const Leaf& leaf) {
          return leaf.dtype == DType::f32 || leaf.dtype == DType::f64 || !leaf.space->get_if<Box>();
        }))
      return at_bounds();
    say(Verdict::note, "not tried with actions of whole numbers");
  }

  template <class T>
  static void put_at_bounds(const Leaf& leaf, int64_t i, std::span<std::byte> row) {
    const Box& box = *leaf.space->get_if<Box>();
    for (size_t j = 0; j < leaf.count; ++j) {
      const double bound = bound_at((i / 10 + static_cast<int64_t>(j)) % 2 == 0 ? box.low : box.high, j);
      const T value = static_cast<T>(std::isfinite(bound) ? bound : std::copysign(10.0, bound));
      std::memcpy(row.data() + leaf.offset + j * sizeof value, &value, sizeof value);
    }
  }

  void at_bounds() {
    Player p = player();
    p.reset();
    for (int64_t i = 0; i < kRoundSteps; ++i) {
      if (p.ended()) p.reset();
      p.choose();
      for (const Leaf& leaf : spec_->action_space.leaves()) {
        if (leaf.space->get_if<Box>() == nullptr) continue;
        if (leaf.dtype == DType::f32)
          put_at_bounds<float>(leaf, i, p.action());
        else
          put_at_bounds<double>(leaf, i, p.action());
      }
      p.apply();
      if (const std::string fact = p.outside(); !fact.empty() || !std::isfinite(p.result.reward))
        return say(Verdict::wrong,
                   fmt::format("with actions at their bounds {} after {} steps",
                               fact.empty() ? "the reward is no number" : fact, i + 1),
                   "the simulation must survive every action of its space");
    }
    say(Verdict::ok, fmt::format("{} steps with actions at their bounds", kRoundSteps));
  }

  void episodes() {
    Player p = player();
    p.reset();
    int64_t terminated = 0, truncated = 0;
    std::string warning;
    for (int64_t i = 0; i < options_.steps / 10; ++i) {
      if (p.ended()) ++(p.result.terminated ? terminated : truncated);
      p.step();
      if (warning.empty()) warning = p.stepper.env().warning();
    }
    if (!warning.empty()) say(Verdict::wrong, warning);
    const std::string limit = spec_->max_episode_steps > 0
                                  ? fmt::format("{} at the limit of {} steps", truncated, spec_->max_episode_steps)
                                  : "";
    if (terminated + truncated == 0)
      return say(
          spec_->max_episode_steps > 0 ? Verdict::ok : Verdict::note,
          fmt::format("none of {} random steps ends one", options_.steps / 10),
          spec_->max_episode_steps > 0 ? "" : "give it max_episode_steps: returns are counted when episodes end");
    say(Verdict::ok, fmt::format("{} terminated{}{}", terminated, limit.empty() ? "" : ", ", limit));
  }

  /// Steps both; what differs, "" where nothing does.
  std::string difference(Player& one, Player& other) {
    if (!std::ranges::equal(one.observation(), other.observation()))
      return fmt::format("observations differ: {} and {}", numbers(one), numbers(other));
    if (one.result.reward != other.result.reward)
      return fmt::format("rewards differ: {} and {}", one.result.reward, other.result.reward);
    return one.result.terminated != other.result.terminated ? "one terminates, the other does not" : "";
  }
  std::string numbers(Player& p) {
    const Box* box = spec_->observation_space.get_if<Box>();
    if (box == nullptr || box->dtype != DType::f32) return "other bytes";
    const auto values = Row(p.observation()).f32();
    return fmt::format("[{}{}]", fmt::join(values.first(std::min<size_t>(values.size(), 6)), ", "),
                       values.size() > 6 ? ", ..." : "");
  }

  /// Plays twice from one seed, the second time with `other` stepped in between. The first step that differs; 0: none.
  size_t first_difference(Player* other) {
    struct Taken {
      std::vector<std::byte> observation;
      double reward;
    };
    std::vector<Taken> taken;
    Player first = player();
    first.reset();
    for (int64_t i = 0; i < kRoundSteps; ++i) {
      first.step();
      taken.push_back({{first.observation().begin(), first.observation().end()}, first.result.reward});
    }
    Player second = player();
    second.reset();
    for (size_t i = 0; i < taken.size(); ++i) {
      second.step();
      if (other != nullptr) other->step();
      if (!std::ranges::equal(taken[i].observation, second.observation()) || taken[i].reward != second.result.reward)
        return i + 1;
    }
    return 0;
  }

  void determinism() {
    if (const size_t step = first_difference(nullptr))
      return say(Verdict::wrong, fmt::format("the same seed and actions give another step {}", step),
                 "draw random numbers only from the stream handed in; start from nothing that is left over or "
                 "uninitialised");
    say(Verdict::ok, fmt::format("{} steps again from the same seed are the same to the bit", kRoundSteps));
  }

  void instances() {
    Player other = player(1);
    other.reset();
    if (const size_t step = first_difference(&other))
      return say(Verdict::wrong, fmt::format("a second instance changes the first one's step {}", step),
                 "keep state in the environment, not in globals");
    say(Verdict::ok, "two in one process do not disturb each other");
  }

  /// For environments which hear their actions early: several that step at once are as each would be alone.
  void together() {
    if (!spec_->submits) return;
    constexpr size_t kEnvs = 8;
    std::vector<Player> group, alone;
    for (std::vector<Player>* players : {&group, &alone}) {
      players->reserve(kEnvs);
      for (size_t i = 0; i < kEnvs; ++i) players->push_back(player(i)), players->back().reset();
    }
    for (int64_t step = 1; step <= kRoundSteps; ++step) {
      std::array<bool, kEnvs> begun;
      for (size_t i = 0; i < kEnvs; ++i) begun[i] = group[i].begin_step();
      for (size_t i = 0; i < kEnvs; ++i)
        if (begun[i]) group[i].end_step();
      for (size_t i = 0; i < kEnvs; ++i) {
        alone[i].step();
        if (const std::string what = difference(group[i], alone[i]); !what.empty())
          return say(Verdict::wrong,
                     fmt::format("at step {} {} of {} together is not as alone: {}", step, i, kEnvs, what),
                     "element i of each array of step_batch() belongs to environment i alone");
      }
    }
    say(Verdict::ok, fmt::format("{} that step at once are as each alone", kEnvs));
  }

  void state() {
    Player p = player();
    p.reset();
    for (int i = 0; i < 25; ++i) p.step();
    if (p.ended()) p.reset();
    const auto state = p.stepper.env().state();
    if (!state)
      return say(Verdict::note, "it cannot be given",
                 "without it a resumed run begins new episodes; write save and load");
    Player copy = player();
    copy.stepper.resume(p.stepper.random(), p.stepper.episode_return(), p.stepper.episode_length(), *state,
                        Row(copy.observation()));
    copy.actions = p.actions;
    if (!std::ranges::equal(p.observation(), copy.observation()))
      return say(Verdict::wrong, fmt::format("load() gives {}, saved was {}", numbers(copy), numbers(p)),
                 "save everything that an observation is made of");
    for (int i = 0; i < 100 && !p.ended(); ++i) {
      p.step();
      copy.step();
      if (const std::string fact = difference(p, copy); !fact.empty())
        return say(Verdict::wrong, fmt::format("{} steps after load() {}", i + 1, fact),
                   "part of the state is not saved");
    }
    say(Verdict::ok, fmt::format("{} numbers; what follows them is the same to the bit", state->size()));
  }

  void memory() {
    Player p = player();
    p.reset();
    for (int64_t i = 0; i < options_.steps / 10; ++i) p.step();
    const double before = resident_bytes();
    for (int64_t i = 0; i < options_.steps; ++i) p.step();
    const double grown = resident_bytes() - before;
    const std::string found = fmt::format("{:+.2f} MiB over {} steps", grown / (1 << 20), options_.steps);
    if (grown > kGrowthBytes) return say(Verdict::wrong, found, "free in step() and reset() what they allocate");
    say(Verdict::ok, found);
  }

  void speed() {
    const auto clock = make_system_clock();
    Player p = player();
    p.reset();
    const auto time_of = [&](const std::function<void()>& f, int64_t steps) {
      int64_t done = 0;
      const Time start = clock->now();
      for (; clock->now() < start + std::chrono::milliseconds(300); done += steps) f();
      return to_seconds(clock->now() - start) / static_cast<double>(done);
    };
    const double bare = time_of(
        [&] {
          for (int i = 0; i < 64; ++i) p.step();
        },
        64);
    constexpr int kEnvironments = 8;
    VectorEnv envs(*spec_, {.num_envs = kEnvironments,
                            .seed = options_.seed,
                            .env_config = spec_->options,
                            .max_episode_steps = spec_->max_episode_steps});
    const size_t row = envs.row_bytes(), action_row = spec_->action_space.row_bytes();
    std::vector<double> obs(kEnvironments * row / 8 + 1), final_obs(obs.size()),
        actions(kEnvironments * action_row / 8 + 1);
    std::array<float, kEnvironments> rewards{};
    std::array<uint8_t, kEnvironments> terminateds{}, truncateds{};
    std::vector<EpisodeStats> finished;
    const auto bytes = [](std::vector<double>& words) { return reinterpret_cast<std::byte*>(words.data()); };
    const auto mask = ActionMask::of(spec_->observation_space, spec_->action_space);
    const auto sample = [&](std::span<const std::byte> seen, std::span<std::byte> action) {
      if (mask)
        mask->sample(p.actions, seen, action);
      else
        spec_->action_space.sample(p.actions, action);
    };
    envs.reset(bytes(obs));
    const double framed = time_of(
        [&] {
          for (int i = 0; i < kEnvironments; ++i)
            sample({bytes(obs) + static_cast<size_t>(i) * row, row},
                   {bytes(actions) + static_cast<size_t>(i) * action_row, action_row});
          finished.clear();
          envs.step(bytes(actions),
                    {bytes(obs), rewards.data(), terminateds.data(), truncateds.data(), bytes(final_obs), &finished});
          progress_.steps += kEnvironments;
        },
        kEnvironments);
    const double overhead = framed / bare - 1.0;
    say(Verdict::ok,
        fmt::format("{:.0f} steps/s a core with random actions; in Myriad's vector of 8 {:.0f} ({:+.1f} %)", 1 / bare,
                    1 / framed, -100 * overhead / (1 + overhead)));
  }

  const CheckEnvOptions& options_;
  Progress& progress_;
  std::optional<EnvSpec> spec_;
  const char* name_ = "";
  bool wrong_ = false;
};

}  // namespace

int check_env(const CheckEnvOptions& options) {
  void* memory = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check(memory != MAP_FAILED, "mmap: {}", std::strerror(errno));
  auto& progress = *new (memory) Progress;
  std::fflush(stdout);
  const pid_t parent = ::getpid(), child = ::fork();
  check(child >= 0, "fork: {}", std::strerror(errno));
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    int status = static_cast<int>(Exit::interrupted);
    if (::getppid() == parent) try {
        status = static_cast<int>(Checks(options, progress).run() ? Exit::ok : Exit::environment);
      } catch (const Error& error) {
        std::fprintf(stderr, "%s\n", error.line().c_str());
        status = static_cast<int>(error.exit_status());
      } catch (const std::exception& error) {
        std::fprintf(stderr, "error[internal] %s\n", error.what());
        status = static_cast<int>(Exit::internal);
      } catch (...) {
        std::fprintf(stderr, "error[env-exception] the environment threw what is no std::exception\n");
        status = static_cast<int>(Exit::environment);
      }
    std::fflush(stdout);
    progress.done = true;
    ::_exit(status);
  }
  int status = 0;
  bool hung = false;
  for (uint64_t seen = 0, silent_ms = 0; ::waitpid(child, &status, WNOHANG) == 0; ::usleep(10'000), silent_ms += 10) {
    if (std::exchange(seen, progress.steps.load()) != progress.steps) silent_ms = 0;
    const uint64_t patience_s = seen == 0 ? kLoadS : kPatienceS;
    if (silent_ms < patience_s * 1000 || std::exchange(hung, true)) continue;
    ::kill(child, SIGKILL);
  }
  if (WIFEXITED(status) && progress.done) return WEXITSTATUS(status);
  const std::string found = hung                ? "no step or reset for too long"
                            : WIFEXITED(status) ? fmt::format("it called exit({})", WEXITSTATUS(status))
                                                : fmt::format("it ended with {}", ::strsignal(WTERMSIG(status)));
  const std::string where =
      fmt::format("in check '{}', at step or reset {} of all", progress.check.data(), progress.steps.load());
  if (options.json)
    fmt::print("{}\n", boost::json::serialize(boost::json::object{
                           {"check", progress.check.data()}, {"verdict", "wrong"}, {"found", found}, {"mend", where}}));
  else
    fmt::print("{:<6} {:<12} {}, {}\n", "wrong", progress.check.data(), found, where);
  return static_cast<int>(Exit::environment);
}

}  // namespace myriad
