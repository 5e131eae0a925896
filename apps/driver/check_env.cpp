#include "apps/driver/check_env.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>

#include "apps/driver/inspect.hpp"
#include "apps/driver/train.hpp"
#include "env_runners/vector_env.hpp"
#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/connector.hpp"
#include "rl/run_layout.hpp"
#include "rl/system.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

constexpr uint64_t kStartMs = 600'000;              // for the facts, and until the first reset is answered
constexpr int64_t kRoundSteps = 1'000;              // of a comparison
constexpr int kResets = 3;                          // in a row, at the beginning of a comparison
constexpr double kGrowthBytes = 1 << 20;            // over the longest check: more is a leak
constexpr double kSimulatorGrowthBytes = 16 << 20;  // the same of an interpreter, whose memory moves
constexpr double kLargeReward = 1e3;
constexpr double kMiB = 1 << 20;

/// What the child is doing, for its parent: the error when it dies, and the line of a slow check.
struct Progress {
  std::atomic<uint64_t> steps{0};
  std::array<char, 64> check{};
  std::atomic<int64_t> at{0}, of{0};  ///< rounds of the check; of no rounds: 0
  std::atomic<uint64_t> patience_ms{kStartMs};
  std::atomic<bool> done{false};  ///< else an exit was the environment's
};

enum class Verdict : uint8_t { ok, note, wrong };

/// One world of the environment's agents, each an environment, with their rows and actions.
class Players {
 public:
  Players(const std::shared_ptr<const EnvRules>& rules, uint64_t seed, Progress& progress)
      : spec_(rules->spec), progress_(progress), mask_(rules->mask), actions_(seed, StreamPurpose::action, 0) {
    for (int agent = 0; agent < spec_.agents; ++agent)
      agents_.push_back({EnvStepper(rules, seed, StreamPurpose::environment, static_cast<uint64_t>(agent)),
                         std::vector<double>(spec_.observation_space.row_bytes() / 8 + 1),
                         std::vector<double>(spec_.action_space.row_bytes() / 8 + 1),
                         {}});
  }

  void reset() {
    for (size_t i = 0; i < size(); ++i) {
      ++progress_.steps;
      agents_[i].result = {};
      agents_[i].stepper.reset(Row(observation(i)));
    }
  }
  Environment& env(size_t agent) { return agents_[agent].stepper.env(); }
  /// With random actions; a reset where the episode has ended.
  void step() {
    if (begin_step()) end_step();
  }
  /// The two halves of step(), between which others begin theirs; false: it was a reset.
  bool begin_step() {
    if (ended()) return reset(), false;
    go_on();
    choose();
    submit();
    return true;
  }
  void choose() {
    for (size_t i = 0; i < size(); ++i)
      if (mask_)
        mask_->sample(actions_, observation(i), action(i));
      else
        spec_.action_space.sample(actions_, action(i));
  }
  void submit() {
    for (size_t i = 0; i < size() && spec_.submits; ++i) agents_[i].stepper.submit(ConstRow(action(i)));
  }
  void end_step() {
    for (size_t i = 0; i < size(); ++i) {
      ++progress_.steps;
      Agent& agent = agents_[i];
      agent.result = agent.stepper.step(ConstRow(action(i)), Row(observation(i)));
    }
  }
  /// An agent that ended while its world goes on sees what comes next.
  void go_on() {
    for (size_t i = 0; i < size(); ++i)
      if (agents_[i].result.alone) agents_[i].stepper.reset(Row(observation(i)));
  }
  bool ended(size_t i) const { return agents_[i].result.terminated || agents_[i].result.truncated; }
  /// Together with its world.
  bool ended() const { return ended(0) && !agents_[0].result.alone; }

  size_t size() const { return agents_.size(); }
  std::span<std::byte> observation(size_t i = 0) {
    return std::as_writable_bytes(std::span(agents_[i].observation)).first(spec_.observation_space.row_bytes());
  }
  std::span<std::byte> action(size_t i = 0) {
    return std::as_writable_bytes(std::span(agents_[i].action)).first(spec_.action_space.row_bytes());
  }
  const StepResult& result(size_t i = 0) const { return agents_[i].result; }
  EnvStepper& stepper(size_t i = 0) { return agents_[i].stepper; }
  RandomStream& actions() { return actions_; }

  /// What lies outside the space, or is no number.
  std::string outside() {
    for (size_t i = 0; i < size(); ++i) {
      std::string fact = spec_.observation_space.violation(observation(i), "observation");
      if (fact.empty() && mask_ && !ended(i) && !mask_->allows_any(observation(i)))
        fact = "observation.action_mask allows no action";
      if (fact.empty() && !std::isfinite(result(i).reward)) fact = fmt::format("the reward is {}", result(i).reward);
      if (!fact.empty()) return size() == 1 ? fact : fmt::format("of agent {} {}", i, fact);
    }
    return "";
  }

 private:
  struct Agent {
    EnvStepper stepper;
    std::vector<double> observation, action;
    StepResult result;
  };
  const EnvSpec& spec_;
  Progress& progress_;
  const std::optional<ActionMask>& mask_;
  RandomStream actions_;
  std::vector<Agent> agents_;
};

/// Bytes that this process and those it started hold in memory.
double resident_bytes(pid_t process = ::getpid()) {
  const std::string folder = fmt::format("/proc/{}", process);
  double pages = 0;
  std::ifstream(folder + "/statm") >> pages >> pages;
  double bytes = pages * static_cast<double>(::sysconf(_SC_PAGESIZE));
  std::ifstream children(fmt::format("{0}/task/{1}/children", folder, process));
  for (pid_t child = 0; children >> child;) bytes += resident_bytes(child);
  return bytes;
}

class Checks {
 public:
  Checks(const CheckEnvOptions& options, Progress& progress) : options_(options), progress_(progress) {}

  /// Whether nothing is wrong.
  bool run() {
    begin("facts");
    config_ = chosen_config(options_.env, options_.env_options, options_.wrappers, options_.settings);
    const EnvSpec spec = environment_spec(config_);
    say(Verdict::ok, fmt::format("{}: observations {}, actions {}", spec.source.empty() ? spec.id : spec.source,
                                 spec.observation_space.to_string(), spec.action_space.to_string()));
    // As a runner of this run: what the environment starts is inside, too.
    const Sandbox sandbox(sandbox_options(config_, spec.needs_network));
    sandbox.enter();
    EnvContext context;
    context.answer_timeout = context.start_timeout = std::chrono::milliseconds(kStartMs);
    rules_ = std::make_shared<const EnvRules>(spec, spec.options, spec.max_episode_steps, context);
    deadline_ = clock_->now() + seconds(options_.time_budget_s);
    one("policy", &Checks::policy);
    one("actions", &Checks::used_actions);
    one("reset", &Checks::resets);
    one("spaces", &Checks::spaces);
    one("bounds", &Checks::bounds);
    one("episodes", &Checks::episodes);
    one("rewards", &Checks::rewards);
    one("determinism", &Checks::determinism);
    one("instances", &Checks::instances);
    one("together", &Checks::together);
    one("state", &Checks::state);
    one("memory", &Checks::memory);
    one("speed", &Checks::speed);
    if (failed_) {
      begin("skipped");
      say(Verdict::note, fmt::format("{}", fmt::join(skipped_, ", ")), "they would fail in the same way");
    }
    return !wrong_;
  }

 private:
  const EnvSpec& spec() const { return rules_->spec; }

  Players players(uint64_t more = 0) { return {rules_, options_.seed + more, progress_}; }

  /// Their first reset, for which a simulator starts: not on the time budget.
  void start(std::span<Players> all) {
    const Time begun = clock_->now();
    progress_.patience_ms = kStartMs;
    for (Players& each : all) each.reset();
    answered();
    deadline_ += clock_->now() - begun;
    until_ += clock_->now() - begun;
  }
  /// The parent's wait for a step begins here.
  void answered() {
    ++progress_.steps;
    progress_.patience_ms = patience_ms();
  }
  Players started() {
    Players p = players();
    start({&p, 1});
    return p;
  }
  /// Of two in one process, as in training, both made before one of them is reset.
  std::vector<Players> two() {
    std::vector<Players> pair;
    for (uint64_t i = 0; i < 2; ++i) pair.push_back(players(i));
    start(pair);
    return pair;
  }
  /// That most checks play.
  Players& first() {
    if (pair_.empty()) {
      const Time begun = clock_->now();
      pair_ = two();
      many_ = clock_->now() - begun < std::chrono::seconds(2) ? 8 : 2;
    }
    return pair_.front();
  }

  /// As of a runner: for one step.
  uint64_t patience_ms() const { return static_cast<uint64_t>(800 * config_.env_runners.step_timeout_s); }

  /// Whether round i of n is still in the time of this check.
  bool goes_on(int64_t i, int64_t n) {
    progress_.at = i;
    progress_.of = n;
    return i < n && (i == 0 || clock_->now() < until_);
  }
  /// "312 random steps (of 10000: the time is up)"
  std::string count(int64_t done, int64_t wanted, std::string_view what) const {
    return fmt::format("{} {}{}", done, what,
                       done < wanted ? fmt::format(" (of {}; more with --time-budget)", wanted) : "");
  }

  void one(const char* name, void (Checks::*check)()) {
    begin(name);
    progress_.patience_ms = patience_ms();
    until_ = clock_->now() + (deadline_ - clock_->now()) / std::max(left_--, 1);
    if (failed_) return skipped_.push_back(name);
    try {
      (this->*check)();
      tell_warnings();
    } catch (const EnvError& error) {
      say(Verdict::wrong, fmt::format("it fails {}: {}", error.where, error.fact),
          error.code() == "env-exception" ? "what it threw is the environment's own text" : "");
      failed_ = true;
    } catch (const std::exception& error) { say(Verdict::wrong, fmt::format("it fails: {}", error.what())); }
  }
  /// What the environments of first() were warned of, once: counts in it may grow.
  void tell_warnings() {
    for (Players& p : pair_)
      for (size_t i = 0; i < p.size(); ++i)
        for (std::string text; !(text = p.env(i).warning()).empty();) {
          std::string words = text;
          std::erase_if(words, [](unsigned char c) { return std::isdigit(c) != 0; });
          if (!told_.insert(std::move(words)).second) break;
          say(Verdict::wrong, text);
        }
  }
  void begin(const char* name) {
    name_ = name;
    progress_.of = 0;
    std::snprintf(progress_.check.data(), progress_.check.size(), "%s", name);
  }
  void say(Verdict verdict, const std::string& found, const std::string& mend = "") {
    constexpr std::array<const char*, 3> kWords{"ok", "note", "wrong"};
    const char* word = kWords[static_cast<size_t>(verdict)];
    wrong_ |= verdict == Verdict::wrong;
    if (::isatty(STDERR_FILENO) != 0) std::fputs("\r\033[K", stderr);  // over the line of progress
    if (options_.json)
      fmt::print("{}\n", boost::json::serialize(boost::json::object{
                             {"check", name_}, {"verdict", word}, {"found", found}, {"mend", mend}}));
    else
      fmt::print("{:<6} {:<12} {}{}\n", word, name_, found, mend.empty() ? "" : ": " + mend);
    std::fflush(stdout);
  }

  /// Whether a policy and a message hold what this environment sees and does.
  void policy() {
    const int64_t agents = spec().agents;
    int64_t& envs = config_.env_runners.num_envs_per_env_runner;
    envs = (envs + agents - 1) / agents * agents;
    if (config_.training.train_batch_size < envs * config_.env_runners.num_env_runners)
      config_.training.train_batch_size = envs * config_.env_runners.num_env_runners;
    const ModuleSpec module = check_environment(config_, spec());
    say(Verdict::ok,
        fmt::format("{} features, {} parameters; a fragment of {} steps x {} takes {:.2f} MiB", module.obs_size,
                    module.num_parameters(), config_.fragment_length(), envs,
                    static_cast<double>(fragment_layout(config_, spec(), module).capacity_bytes()) / kMiB));
  }

  /// What a policy that begins (a mean of 0, a deviation of 1) does within the bounds of real actions.
  void used_actions() {
    const Space& space = spec().action_space;
    const EnvironmentConfig& environment = config_.environment;
    const ActionConnector connector(space, environment.normalize_actions, environment.clip_actions);
    std::vector<double> words(space.row_bytes() / 8 + 1);
    const auto row = std::as_writable_bytes(std::span(words)).first(space.row_bytes());
    const auto taken = [&](float drawn) {  // by each element of each Box
      std::vector<double> values;
      std::vector<double> stored(stored_action(space).bytes / 8 + 1);
      const auto bytes = std::as_writable_bytes(std::span(stored)).first(stored_action(space).bytes);
      size_t element = 0;
      for (const Leaf& leaf : space.leaves())
        for (size_t i = 0; i < leaf.count; ++i, ++element) {
          if (leaf.space->get_if<Box>() == nullptr) continue;
          if (space.is_leaf() && leaf.dtype == DType::f64)
            reinterpret_cast<double*>(bytes.data())[i] = drawn;
          else
            reinterpret_cast<float*>(bytes.data())[space.is_leaf() ? i : element] = drawn;
        }
      connector(bytes, row);
      for (const Leaf& leaf : space.leaves())
        for (size_t i = 0; i < leaf.count && leaf.space->get_if<Box>() != nullptr; ++i)
          values.push_back(leaf.dtype == DType::f64 ? ConstRow(row).leaf(leaf).f64()[i]
                                                    : static_cast<double>(ConstRow(row).leaf(leaf).f32()[i]));
      return values;
    };
    const std::vector<double> lowest = taken(-2), highest = taken(2);
    size_t k = 0;
    for (const Leaf& leaf : space.leaves()) {
      const Box* box = leaf.space->get_if<Box>();
      for (size_t i = 0; box != nullptr && i < leaf.count; ++i, ++k) {
        const double low = bound_at(box->low, i), high = bound_at(box->high, i);
        if (low >= high || highest[k] - lowest[k] > 0.1 * (high - low)) continue;
        const std::string name = fmt::format("action{}{}[{}]", leaf.path.empty() ? "" : ".", leaf.path, i);
        return say(Verdict::note,
                   fmt::format("{} is within [{:g}, {:g}], of which a policy begins with [{:g}, {:g}]", name, low, high,
                               lowest[k], highest[k]),
                   std::isfinite(low) && std::isfinite(high)
                       ? "stretch the policy's [-1, 1] with environment.normalize_actions = true"
                       : "give both bounds what is of use, so that the policy's [-1, 1] is stretched to them; or scale "
                         "actions in step()");
      }
    }
    say(Verdict::ok, k == 0 ? "actions are choices" : "a policy begins with all of their range");
  }

  void resets() {
    Players& p = first();
    const std::vector<std::byte> first(p.observation().begin(), p.observation().end());
    bool differs = false;
    int64_t done = 0;
    for (; goes_on(done, 20); ++done) {
      if (const std::string fact = p.outside(); !fact.empty())
        return say(Verdict::wrong, fmt::format("after reset() {}", fact),
                   "write all of S_0, inside the observation space");
      p.reset();
      differs |= !std::ranges::equal(first, p.observation());
    }
    if (differs) return say(Verdict::ok, count(done, 20, "in a row; initial states differ"));
    say(Verdict::note, count(done, 20, "in a row give the same state"),
        "draw the initial state from the random numbers handed in, unless it is fixed");
  }

  /// A step of the environment that most checks share.
  void step(Players& p) {
    if (p.ended()) {
      largest_return_ = std::max(largest_return_, std::abs(return_));
      return_ = 0;
    }
    p.step();
    return_ += p.result().reward;
    for (size_t i = 0; i < p.size(); ++i) largest_reward_ = std::max(largest_reward_, std::abs(p.result(i).reward));
  }

  void spaces() {
    const int64_t wanted = options_.steps / 10;
    Players& p = first();
    p.reset();
    int64_t done = 0;
    for (; goes_on(done, wanted); ++done) {
      step(p);
      if (const std::string fact = p.outside(); !fact.empty())
        return say(Verdict::wrong, fmt::format("after {} steps {}", done + 1, fact),
                   fact.find("reward is") == std::string::npos ? "clip it, or widen the observation space"
                                                               : "a reward is a finite number");
    }
    say(Verdict::ok, count(done, wanted, "random steps stay inside"));
  }

  void bounds() {
    const auto leaves = spec().action_space.leaves();
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
    Players& p = first();
    p.reset();
    int64_t done = 0;
    for (; goes_on(done, kRoundSteps); ++done) {
      if (p.ended()) p.reset();
      p.go_on();
      p.choose();
      for (const Leaf& leaf : spec().action_space.leaves()) {
        if (leaf.space->get_if<Box>() == nullptr) continue;
        for (size_t i = 0; i < p.size(); ++i)
          if (leaf.dtype == DType::f32)
            put_at_bounds<float>(leaf, done, p.action(i));
          else
            put_at_bounds<double>(leaf, done, p.action(i));
      }
      p.submit();
      p.end_step();
      if (const std::string fact = p.outside(); !fact.empty())
        return say(Verdict::wrong, fmt::format("with actions at their bounds {} after {} steps", fact, done + 1),
                   "the simulation must survive every action of its space");
    }
    say(Verdict::ok, count(done, kRoundSteps, "steps with actions at their bounds"));
  }

  void episodes() {
    const int64_t wanted = options_.steps / 10;
    Players& p = first();
    p.reset();
    int64_t terminated = 0, truncated = 0, waited = 0, played = 0, done = 0;
    for (; goes_on(done, wanted); ++done) {
      const bool begins = p.ended();
      step(p);
      tell_warnings();
      if (begins) continue;
      played += static_cast<int64_t>(p.size());
      for (size_t i = 0; i < p.size(); ++i) {
        waited += p.result(i).abandoned;
        if (p.ended(i) && !p.result(i).abandoned) ++(p.result(i).terminated ? terminated : truncated);
      }
    }
    const int64_t limit = spec().max_episode_steps;
    if (terminated + truncated == 0)
      return say(limit > 0 ? Verdict::ok : Verdict::note,
                 fmt::format("none of {} ends one", count(done, wanted, "random steps")),
                 limit > 0 ? ""
                           : "give it max_episode_steps (environment.max_episode_steps): returns are counted when "
                             "episodes end");
    say(Verdict::ok,
        fmt::format("{} terminated{}{}{}", terminated,
                    limit > 0       ? fmt::format(", {} at the limit of {} steps", truncated, limit)
                    : truncated > 0 ? fmt::format(", {} truncated", truncated)
                                    : "",
                    p.size() > 1 ? fmt::format(", of {} agents", p.size()) : "",
                    waited > 0 ? fmt::format("; {:.0f} % of their steps are waits for the others",
                                             100.0 * static_cast<double>(waited) / static_cast<double>(played))
                               : ""));
  }

  void rewards() {
    if (largest_reward_ < kLargeReward) return say(Verdict::ok, fmt::format("at most {:g} a step", largest_reward_));
    say(Verdict::note,
        fmt::format("up to {:g} a step, {:g} an episode", largest_reward_, std::max(largest_return_, largest_reward_)),
        "a value function learns numbers of some size 1: environment.reward_scale or reward_filter");
  }

  /// Steps both; what differs, "" where nothing does.
  std::string difference(Players& one, Players& other) {
    for (size_t i = 0; i < one.size(); ++i) {
      if (!std::ranges::equal(one.observation(i), other.observation(i)))
        return fmt::format("observations differ: {} and {}", numbers(one.observation(i)),
                           numbers(other.observation(i)));
      const StepResult &a = one.result(i), &b = other.result(i);
      if (a.reward != b.reward) return fmt::format("rewards differ: {} and {}", a.reward, b.reward);
      if (a.terminated != b.terminated) return "one terminates, the other does not";
    }
    return "";
  }
  std::string numbers(std::span<std::byte> row) {
    const Box* box = spec().observation_space.get_if<Box>();
    if (box == nullptr || box->dtype != DType::f32) return "other bytes";
    const auto values = Row(row).f32();
    return fmt::format("[{}{}]", fmt::join(values.first(std::min<size_t>(values.size(), 6)), ", "),
                       values.size() > 6 ? ", ..." : "");
  }

  /// What `p` sees and gets: after each of some resets, then after each of at most `wanted` steps.
  std::vector<uint64_t> recorded(Players& p, Players* other, size_t wanted) {
    std::vector<uint64_t> taken;
    const auto take = [&] {
      uint64_t all = 0;
      for (size_t i = 0; i < p.size(); ++i) {
        const auto row = p.observation(i);
        const std::string_view bytes(reinterpret_cast<const char*>(row.data()), row.size());
        const double reward = p.result(i).reward;
        for (const uint64_t part : {std::hash<std::string_view>()(bytes), std::hash<double>()(reward)})
          all = (all ^ part) * 0x9E3779B97F4A7C15u + (all >> 29);
      }
      taken.push_back(all);
    };
    for (int i = 0; i < kResets; ++i) {
      if (i > 0) p.reset();
      take();
    }
    for (size_t i = 0; goes_on(static_cast<int64_t>(i), static_cast<int64_t>(wanted)); ++i) {
      p.step();
      if (other != nullptr) other->step();
      take();
    }
    return taken;
  }
  /// "step 7", or "reset() 2", where two records part; "" where they do not.
  static std::string parting(const std::vector<uint64_t>& a, const std::vector<uint64_t>& b) {
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (a[i] != b[i])
        return i < kResets ? fmt::format("step 0 (after reset {} in a row)", i + 1)
                           : fmt::format("step {}", i + 1 - kResets);
    return "";
  }

  void determinism() {
    Players first = started();
    const Time half = (until_ - clock_->now()) / 2;
    until_ -= half;
    taken_ = recorded(first, nullptr, kRoundSteps);
    until_ += half;
    Players second = started();
    const std::vector<uint64_t> again = recorded(second, nullptr, kRoundSteps);
    const std::string parts = parting(taken_, again);
    same_again_ = parts.empty();
    if (!same_again_)
      return say(Verdict::wrong, fmt::format("the same seed and actions give another {}", parts),
                 parts.starts_with("step 0")
                     ? "reset() has to seed all that it draws from, once it is given a seed (Gymnasium: "
                       "super().reset(seed=seed) and self.np_random), and go on drawing without one"
                     : "draw random numbers only from the stream handed in; start from nothing that is left over or "
                       "uninitialised");
    say(Verdict::ok, fmt::format("{} again from the same seed are the same to the bit",
                                 count(steps_of(again), kRoundSteps, "steps")));
  }
  static int64_t steps_of(const std::vector<uint64_t>& record) { return static_cast<int64_t>(record.size()) - kResets; }

  /// Where the first of two, in one process and made before either is reset, is not as it is alone.
  std::string disturbed() {
    std::vector<Players> pair = two();
    return parting(taken_, recorded(pair[0], &pair[1], static_cast<size_t>(steps_of(taken_))));
  }

  void instances() {
    if (!same_again_) return say(Verdict::note, "not tried: one alone is not the same twice");
    const Time begun = clock_->now();
    const std::string parts = disturbed();
    until_ = 2 * clock_->now() - begun + std::chrono::seconds(2);  // for as much once more
    if (parts.empty()) return say(Verdict::ok, "two in one process do not disturb each other");
    if (spec().isolated && spec().submits) {  // once more with random generators of their own: sdk/python
      ::setenv("MYRIAD_OWN_GENERATORS", "1", 1);
      const std::string own = disturbed();
      ::unsetenv("MYRIAD_OWN_GENERATORS");
      if (own.empty())
        return say(Verdict::note,
                   fmt::format("a second instance changes the first one's {}: both draw from a random generator of the "
                               "process (random, numpy.random)",
                               parts),
                   "batches will depend on the split of environments over runners; draw from a generator of the "
                   "environment's own (self.np_random, numpy.random.default_rng(seed))");
    }
    say(Verdict::wrong, fmt::format("a second instance changes the first one's {}", parts),
        "keep state, and random generators, in the environment, not in globals");
  }

  /// For environments which hear their actions early: several that step at once are as each would be alone.
  void together() {
    if (!spec().submits) return;
    if (!same_again_) return say(Verdict::note, "not tried: one alone is not the same twice");
    const size_t worlds = spec().agents > 1 ? 2 : many_;
    std::vector<Players> group, alone;
    for (std::vector<Players>* all : {&group, &alone}) {
      all->reserve(worlds);
      for (size_t i = 0; i < worlds; ++i) all->push_back(players(i));
      start(*all);
    }
    std::vector<bool> begun(worlds);
    for (int64_t step = 0; goes_on(step, kRoundSteps); ++step) {
      for (size_t i = 0; i < worlds; ++i) begun[i] = group[i].begin_step();
      for (size_t i = 0; i < worlds; ++i)
        if (begun[i]) group[i].end_step();
      for (size_t i = 0; i < worlds; ++i) {
        alone[i].step();
        if (const std::string what = difference(group[i], alone[i]); !what.empty())
          return say(Verdict::wrong,
                     fmt::format("at step {} {} of {} together is not as alone: {}", step + 1, i, worlds, what),
                     "element i of each array of step_batch() belongs to environment i alone");
      }
    }
    say(Verdict::ok, fmt::format("{} that step at once are as each alone", worlds));
  }

  void state() {
    Players& p = first();
    p.reset();
    for (int64_t i = 0; goes_on(i, 25); ++i) p.step();
    if (p.ended()) p.reset();
    const auto state = p.stepper().env().state();
    if (!state)
      return say(Verdict::note, "it cannot be given",
                 "without it a resumed run begins new episodes; write save and load");
    Players copy = started();
    copy.stepper().resume(p.stepper().random(), p.stepper().episode_return(), p.stepper().episode_length(), *state,
                          Row(copy.observation()));
    copy.actions() = p.actions();
    if (!std::ranges::equal(p.observation(), copy.observation()))
      return say(Verdict::wrong,
                 fmt::format("load() gives {}, saved was {}", numbers(copy.observation()), numbers(p.observation())),
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
    Players& p = first();
    p.reset();
    for (int64_t i = 0; i < options_.steps / 10 && clock_->now() < until_ - (until_ - clock_->now()) / 2; ++i) p.step();
    const double before = resident_bytes();
    int64_t done = 0;
    for (; goes_on(done, options_.steps); ++done) p.step();
    const double grown = resident_bytes() - before;
    const std::string found = fmt::format("{:+.2f} MiB over {}", grown / kMiB, count(done, options_.steps, "steps"));
    if (grown > (spec().isolated && spec().submits ? kSimulatorGrowthBytes : kGrowthBytes))
      return say(Verdict::wrong, found, "free in step() and reset() what they allocate");
    say(Verdict::ok, found);
  }

  void speed() {
    Players& p = first();
    p.reset();
    const auto time_of = [&](const std::function<void()>& f, int64_t steps) {
      int64_t done = 0;
      const Time begun = clock_->now();
      for (; clock_->now() < begun + std::chrono::milliseconds(300); done += steps) f();
      return to_seconds(clock_->now() - begun) / static_cast<double>(done);
    };
    const int64_t agents = spec().agents;
    const double bare = time_of([&] { p.step(); }, agents);
    const int environments = static_cast<int>((static_cast<int64_t>(many_) + agents - 1) / agents * agents);
    VectorEnv envs(spec(),
                   {.num_envs = environments,
                    .seed = options_.seed,
                    .env_config = spec().options,
                    .max_episode_steps = spec().max_episode_steps},
                   rules_->context);
    const size_t n = static_cast<size_t>(environments), row = envs.row_bytes(),
                 action_row = spec().action_space.row_bytes();
    std::vector<double> obs(n * row / 8 + 1), final_obs(obs.size()), actions(n * action_row / 8 + 1);
    std::vector<float> rewards(n);
    std::vector<uint8_t> terminateds(n), truncateds(n);
    std::vector<EpisodeStats> finished;
    const auto bytes = [](std::vector<double>& words) { return reinterpret_cast<std::byte*>(words.data()); };
    const auto sample = [&](std::span<const std::byte> seen, std::span<std::byte> action) {
      if (rules_->mask)
        rules_->mask->sample(p.actions(), seen, action);
      else
        spec().action_space.sample(p.actions(), action);
    };
    progress_.patience_ms = kStartMs;
    envs.reset(bytes(obs));
    answered();
    const double framed = time_of(
        [&] {
          for (size_t i = 0; i < n; ++i)
            sample({bytes(obs) + i * row, row}, {bytes(actions) + i * action_row, action_row});
          finished.clear();
          envs.step(bytes(actions),
                    {bytes(obs), rewards.data(), terminateds.data(), truncateds.data(), bytes(final_obs), &finished});
          progress_.steps += n;
        },
        environments);
    const double overhead = framed / bare - 1.0;
    say(Verdict::ok,
        fmt::format("{:.0f} steps/s a core with random actions; in Myriad's vector of {} {:.0f} ({:+.1f} %)", 1 / bare,
                    environments, 1 / framed, -100 * overhead / (1 + overhead)));
  }

  const CheckEnvOptions& options_;
  Progress& progress_;
  std::unique_ptr<Clock> clock_ = make_system_clock();
  Config config_;
  std::shared_ptr<const EnvRules> rules_;
  std::set<std::string> told_;   // warnings, without digits
  std::vector<Players> pair_;    // first() and its neighbour
  std::vector<uint64_t> taken_;  // of one alone
  bool same_again_ = false;
  size_t many_ = 8;  // environments together: fewer where making one takes long
  double return_ = 0, largest_return_ = 0, largest_reward_ = 0;
  Time deadline_{}, until_{};  // of all checks, of this one
  int left_ = 13;              // checks
  const char* name_ = "";
  bool wrong_ = false;
  bool failed_ = false;
  std::vector<std::string> skipped_;  // checks, after a failure
};

/// On standard error, where a check takes long: on a terminal one line, else one now and then.
void show_progress(const Progress& progress, uint64_t seconds) {
  const int64_t of = progress.of.load();
  const bool terminal = ::isatty(STDERR_FILENO) != 0;
  if (seconds < 2 || (!terminal && seconds % 10 != 0)) return;
  fmt::print(stderr, "{}{}: {}, {} s{}", terminal ? "\r\033[K" : "", progress.check.data(),
             of > 0 ? fmt::format("{} of {} rounds", progress.at.load(), of) : "waits for the simulator", seconds,
             terminal ? "" : "\n");
  std::fflush(stderr);
}

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
  std::string check;
  uint64_t seen = 0, silent_ms = 0, check_ms = 0;
  for (; ::waitpid(child, &status, WNOHANG) == 0; ::usleep(10'000), silent_ms += 10, check_ms += 10) {
    const uint64_t patience_ms = progress.patience_ms.load();  // before steps: Checks::answered() writes it after them
    if (std::exchange(seen, progress.steps.load()) != progress.steps) silent_ms = 0;
    if (std::exchange(check, std::string(progress.check.data())) != progress.check.data()) check_ms = 0;
    if (check_ms > 0 && check_ms % 1000 == 0) show_progress(progress, check_ms / 1000);
    if (silent_ms < patience_ms || std::exchange(hung, true)) continue;
    ::kill(child, SIGKILL);
  }
  if (WIFEXITED(status) && progress.done) return WEXITSTATUS(status);
  const std::string found = hung                ? fmt::format("no step or reset for {} s", silent_ms / 1000)
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
