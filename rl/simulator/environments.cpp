// Environments of simulators in other processes: those one process of Myriad makes share simulators.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "rl/check.hpp"
#include "rl/simulator/facts.hpp"
#include "rl/simulator/simulator.hpp"
#include "rl/system.hpp"

namespace myriad::simulator {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kMaxAgents = 1 << 16;

size_t agents_of(const HelloT& hello) { return std::clamp<uint32_t>(hello.agents, 1, kMaxAgents); }

/// The environments made one after the other of one source and one set of options; they come to life at the first
/// reset, in as many simulators as they need. A simulator that is lost takes the episodes of all its environments with
/// it, and comes back with the first of them that is made anew.
class Group {
 public:
  Group(Source source, EnvOptions options, EnvContext context)
      : source_(std::move(source)), options_(std::move(options)), context_(std::move(context)) {}

  ~Group() {
    for (const Host& host : hosts_)  // all at once
      if (host.simulator) host.simulator->close();
  }

  size_t join() {
    places_.emplace_back();
    return places_.size() - 1;
  }
  bool is_open() const { return hosts_.empty(); }

  void submit(size_t place, ConstRow action) {
    if (places_[place].lost) return;  // step() says so
    const auto [host, env] = at(place);
    host->simulator->submit(env, action.bytes());
    places_[place].submitted = true;
  }

  StepResult step(size_t place, ConstRow action, Row observation) {
    Place& own = places_[place];
    const auto [host, env] = at(place);
    if (!own.lost && !own.submitted) submit(place, action);
    own.submitted = false;
    if (!own.lost && host->simulator->submitted(env))  // the first of this step: all begin
      for (Host& all : hosts_) attempt(all, [&] { all.simulator->begin_step(); });
    attempt(*host, [&, simulator = host->simulator.get()] { simulator->finish_step(); });
    refuse_failed(own, *host, env);
    const Simulator& simulator = *host->simulator;
    const uint8_t flags = simulator.flags(env);
    const bool ended = (flags & (Simulator::kTerminated | Simulator::kTruncated)) != 0;
    if (!ended)
      simulator.observation(env, observation.bytes());
    else
      simulator.final_observation(env, observation.bytes());
    own.begun = ended && (flags & Simulator::kNotBegun) == 0;
    return {.reward = simulator.reward(env),
            .terminated = (flags & Simulator::kTerminated) != 0,
            .truncated = (flags & Simulator::kTruncated) != 0,
            .abandoned = (flags & Simulator::kWaits) != 0,
            .alone = (flags & Simulator::kAlone) != 0};
  }

  /// Seeds the first episode; those that follow in the same stream go on drawing, as Gymnasium's do.
  void reset(size_t place, RandomStream& random, Row observation) {
    if (is_open()) open();
    Place& own = places_[place];
    const auto [host, env] = at(place);
    if (own.lost) throw *host->loss;
    const bool goes_on = own.seeded && own.seeded->same_as(random);
    if (!goes_on || !own.begun) {
      std::optional<uint64_t> seed;
      if (!goes_on) {
        seed = random.next_u64() >> 33;
        own.seeded = random;
      }
      attempt(*host, [&, simulator = host->simulator.get()] {
        simulator->finish_step();
        simulator->reset(env, seed, own.anew);
      });
      refuse_failed(own, *host, env);
    }
    own.begun = own.anew = false;
    host->simulator->observation(env, observation.bytes());
  }

  void renew(size_t place) {
    if (is_open()) return;
    const auto [host, env] = at(place);
    if (!host->simulator) {
      auto simulator = start(host->first);
      simulator->welcome(host->size, options_);
      host->simulator = std::move(simulator);
    }
    places_[place] = Place{.anew = !places_[place].lost};  // a simulator that is lost comes back with new ones
  }

  std::span<const EpisodeNumber> numbers(size_t place) {
    numbers_.clear();
    const auto [host, env] = at(place);
    if (!host->simulator) return {};
    for (size_t i = 0; i < host->simulator->number_names().size(); ++i)
      numbers_.push_back(host->simulator->number(env, i));
    return numbers_;
  }

  std::string warning(size_t place) {
    const auto [host, env] = at(place);
    return host->simulator ? host->simulator->take_warning() : "";
  }

 private:
  struct Place {
    bool submitted = false;  // its action is known, its answer not read
    bool begun = false;      // S_0 of its next episode is here
    bool lost = false;       // its episode went with its simulator
    bool anew = false;       // to be made anew by its next reset
    std::optional<RandomStream> seeded = {};
  };
  struct Host {
    std::unique_ptr<Simulator> simulator;  // none: it was lost
    size_t first, size;                    // its places
    std::optional<Error> loss = {};        // the last one
  };

  /// A simulator may announce other spaces here than to the process that asked it first.
  void check_spaces(const HelloT& hello) const {
    const HelloT* known = known_hello(source_.name(), options_);
    if (known == nullptr) return;
    const auto check_space = [&](const SpaceT* now, const SpaceT* before, const char* name) {
      const myriad::Space got = to_space(now, name), want = to_space(before, name);
      if (got.to_string() != want.to_string())
        fail(Exit::environment, "simulator-changed", "{} has {}s {}, and had {} when the run began", source_.name(),
             name, got.to_string(), want.to_string());
    };
    check_space(hello.observation.get(), known->observation.get(), "observation");
    check_space(hello.action.get(), known->action.get(), "action");
  }

  /// That of the places from `first` on, which waits for its Welcome.
  std::unique_ptr<Simulator> start(size_t first) const {
    auto simulator = std::make_unique<Simulator>(source_, options_, context_, context_.first_env + first);
    check_spaces(simulator->hello());
    return simulator;
  }

  void open() {
    std::vector<Host> hosts;
    const size_t places = places_.size();
    for (size_t first = 0; first < places;) {
      auto simulator = start(first);
      if (const size_t agents = agents_of(simulator->hello()); places % agents != 0)
        fail(
            Exit::usage, "impossible",
            "{} has {} agents that act together, an environment each, and cannot have {} environments: want a multiple "
            "of {} (`myriad play` makes one)",
            source_.name(), agents, places, agents);
      const size_t most = simulator->hello().max_envs == 0 ? places : simulator->hello().max_envs;
      each_ = std::min(most, places);
      const size_t size = std::min(each_, places - first);
      simulator->welcome(size, options_);
      hosts.push_back({std::move(simulator), first, size});
      first += size;
    }
    hosts_ = std::move(hosts);
  }

  std::pair<Host*, size_t> at(size_t place) {
    check(!is_open(), "an environment is stepped before it was reset");
    return {&hosts_[place / each_], place % each_};
  }

  /// Speaks with a simulator; one with which that is not possible is lost, which each of its places tells.
  template <class F>
  void attempt(Host& host, F&& f) {
    if (!host.simulator) return;
    try {
      f();
    } catch (const Error& error) {
      host.loss = error;
      host.simulator.reset();
      for (size_t i = 0; i < host.size; ++i) places_[host.first + i].lost = true;
    }
  }

  void refuse_failed(const Place& place, Host& host, size_t env) const {
    if (place.lost) throw *host.loss;
    if (const auto why = host.simulator->take_failure(env))
      fail(Exit::environment, "simulator-failed", "{} says: {}", host.simulator->name(), *why);
  }

  Source source_;
  EnvOptions options_;
  EnvContext context_;
  std::vector<Place> places_;
  std::vector<Host> hosts_;
  size_t each_ = 1;
  std::vector<EpisodeNumber> numbers_;  // of the last call
};

class SimulatedEnvironment final : public Environment {
 public:
  explicit SimulatedEnvironment(std::shared_ptr<Group> group) : group_(std::move(group)), place_(group_->join()) {}
  void reset(RandomStream& random, Row observation) override { group_->reset(place_, random, observation); }
  void submit(ConstRow action, RandomStream&) override { group_->submit(place_, action); }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    return group_->step(place_, action, observation);
  }
  bool renew(std::string_view) override {
    group_->renew(place_);
    return true;
  }
  std::span<const EpisodeNumber> numbers() override { return group_->numbers(place_); }
  std::string_view warning() override { return warning_ = group_->warning(place_); }

 private:
  std::shared_ptr<Group> group_;
  size_t place_;
  std::string warning_;
};

/// The Python that runs Gymnasium: MYRIAD_PYTHON, the clone's own, or the first on PATH.
std::string python() {
  if (const char* chosen = std::getenv("MYRIAD_PYTHON")) return chosen;
  const fs::path here = program_directory();
  for (const char* up : {"../../.venv/bin/python", "../../../.venv/bin/python"})
    if (fs::exists(here / up)) return (here / up).lexically_normal().string();
  return "python3";
}

/// Where the Python package lies: in the clone, or installed.
std::string python_path() {
  const fs::path here = program_directory();
  for (const char* up : {"../share/myriad/python", "../../sdk/python", "../../../sdk/python"})
    if (fs::exists(here / up)) return fs::canonical(here / up).string();
  return "";
}

auto make_of(const Source& source) {
  return [source](const EnvOptions& options, const EnvContext& context) -> std::unique_ptr<Environment> {
    // Those made before one of them is reset share.
    thread_local std::map<std::pair<std::string, EnvOptions>, std::weak_ptr<Group>> groups;
    std::erase_if(groups, [](const auto& entry) { return entry.second.expired(); });  // a curriculum makes many
    std::weak_ptr<Group>& kept = groups[{source.name(), options}];
    std::shared_ptr<Group> group = kept.lock();
    if (!group || !group->is_open()) kept = group = std::make_shared<Group>(source, options, context);
    return std::make_unique<SimulatedEnvironment>(std::move(group));
  };
}

/// What it says of itself with these options.
const HelloT& facts_of(const Source& source, const EnvOptions& options, const EnvContext& context) {
  learn_facts(context.facts);
  return hello_of(source.name(), options, [&] {
    try {
      return HelloT(Simulator(source, options, context, context.first_env).hello());
    } catch (const Error& error) {
      throw Error(error.exit_status(), error.code(), error.what() + sandbox_hint(context.sandbox, error.what()));
    }
  });
}

/// The EnvSpec of a simulator's Hello.
EnvSpec spec_of(const Source& source, const EnvContext& context) {
  const HelloT& hello = facts_of(source, {}, context);
  EnvSpec spec{.id = "",
               .observation_space = to_space(hello.observation.get(), "observation"),
               .action_space = to_space(hello.action.get(), "action"),
               .max_episode_steps = static_cast<int>(std::min<uint32_t>(hello.max_episode_steps, INT32_MAX)),
               .source = hello.source.substr(0, 256),
               .submits = true,
               .isolated = true,
               .needs_network = source.command.empty(),
               .agents = static_cast<int>(agents_of(hello)),
               .make = make_of(source)};
  if (!std::isnan(hello.reward_threshold)) spec.reward_threshold = hello.reward_threshold;
  for (const auto& option : hello.options)
    if (option && std::isfinite(option->value)) spec.options[option->name] = option->value;
  spec.configure = [source](EnvSpec& configured, const EnvContext& configures) {
    const HelloT& other = facts_of(source, configured.options, configures);
    configured.observation_space = to_space(other.observation.get(), "observation");
    configured.action_space = to_space(other.action.get(), "action");
    configured.agents = static_cast<int>(agents_of(other));
  };
  return spec;
}

/// The Python package's way to environments of others.
Source python_module(const char* module, const std::string& id) {
  return {{python(), "-m", module, id}, "", python_path()};
}

EnvSpec process_spec(const std::string& command, const EnvContext& context) {
  return spec_of({{"/bin/sh", "-c", "exec " + command}, "", python_path()}, context);
}
EnvSpec connected_spec(const std::string& address, const EnvContext& context) {
  return spec_of({{}, address}, context);
}
EnvSpec gymnasium_spec(const std::string& id, const EnvContext& context) {
  return spec_of(python_module("myriad_client.gymnasium", id), context);
}
EnvSpec pettingzoo_spec(const std::string& id, const EnvContext& context) {
  return spec_of(python_module("myriad_client.pettingzoo", id), context);
}

const RegisterEnv process{EnvPrefix{.prefix = "process", .make_spec = process_spec}};
const RegisterEnv connected{EnvPrefix{.prefix = "connect", .make_spec = connected_spec}};
const RegisterEnv gymnasium{EnvPrefix{.prefix = "gymnasium", .make_spec = gymnasium_spec}};
const RegisterEnv pettingzoo{EnvPrefix{.prefix = "pettingzoo", .make_spec = pettingzoo_spec}};

}  // namespace
}  // namespace myriad::simulator
