#include "tests/simulation/world.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <queue>
#include <set>

#include "apps/driver/driver_core.hpp"
#include "env_runners/runner_core.hpp"
#include "learners/learner_core.hpp"
#include "tests/simulation/sim_files.hpp"

namespace myriad::simulation {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr uint32_t kDriver = UINT32_MAX, kLearner = UINT32_MAX - 1;
constexpr uint64_t kMaxEvents = 400'000;
constexpr int kSteps = 3, kEnvironments = 2;
constexpr uint64_t kSpecHash = 0x5bec, kRun = 77;
constexpr Time kHelloRetry = milliseconds(200), kStatusEvery = milliseconds(500);  // as the shells in apps/
constexpr Time kLiveness = std::chrono::seconds(30);
constexpr const char* kRoot = "checkpoints";

uint64_t mix(uint64_t a, uint64_t b = 0) {
  uint64_t z = a + 0x9e3779b97f4a7c15ULL * (b + 1);  // splitmix64's finaliser (Steele et al. 2014)
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// Fast, and apart from the roles' own streams.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(mix(seed, 0xd1ce)) {}
  uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ULL); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  bool chance(double p) { return p > 0 && uniform() < p; }
  uint64_t below(uint64_t n) { return next() % n; }
  Time time(Time low, Time high) {
    return low + Time(static_cast<int64_t>(uniform() * static_cast<double>((high - low).count())));
  }
  Time log_time(Time low, Time high) {
    return Time(static_cast<int64_t>(
        static_cast<double>(low.count()) *
        std::pow(static_cast<double>(high.count()) / static_cast<double>(low.count()), uniform())));
  }

 private:
  uint64_t state_;
};

/// What a fragment says of itself in its payload: out of reach of whatever happens to its header.
struct Truth {
  uint64_t process, seq, version, content;
  uint64_t valid, spare[3];
};
static_assert(sizeof(Truth) == 64);

/// The learner's and the driver's part of a checkpoint.
struct LearnerFile {
  uint64_t iteration, env_steps, version, hash;
};
struct DriverFile {
  uint64_t iteration, env_steps, episodes;
};

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

struct Plan {
  uint32_t slots = 1, fragments = 1, faults = 0;
  double loss = 0, duplicates = 0, flips = 0, slow = 0, kills_per_s = 0, pauses_per_s = 0, hang = 0, spawn_failure = 0,
         invalid = 0, disk = 0;
  Time jitter{}, faults_end{}, interrupt = Time::max(), second_interrupt = Time::max(), learner_kill = Time::max();
  std::vector<Time> crashes;
  uint32_t bad_slot = UINT32_MAX;
  Time sample = milliseconds(10), update = milliseconds(20), step_timeout = std::chrono::seconds(5);
  uint64_t start_iteration = 0, start_steps = 0, start_version = 0;
  uint64_t stop_iteration = 0, stop_steps = 0, checkpoint_frequency = 0;
  uint32_t num_to_keep = 1, max_crashes = 5;
};

Plan draw_plan(uint64_t seed, uint32_t allowed) {
  Dice dice(mix(seed, 1));
  Plan plan;
  for (uint32_t i = 0; i < static_cast<uint32_t>(Fault::usage_error); ++i) {
    const bool rare = i == static_cast<uint32_t>(Fault::learner_kill) || i == static_cast<uint32_t>(Fault::interrupt) ||
                      i == static_cast<uint32_t>(Fault::bad_slot) || i == static_cast<uint32_t>(Fault::hangs);
    if (dice.chance(rare ? 0.12 : 0.5)) plan.faults |= 1u << i;  // the draw does not depend on `allowed`
  }
  if (Dice(mix(seed, 5)).chance(0.05)) plan.faults |= bit(Fault::usage_error);
  plan.faults &= allowed;
  const auto has = [&](Fault fault) { return (plan.faults & bit(fault)) != 0; };
  const bool wide = dice.chance(0.04);
  plan.slots = wide ? 7 + static_cast<uint32_t>(dice.below(34)) : 1 + static_cast<uint32_t>(dice.below(6));
  plan.fragments = wide ? plan.slots : 1 + static_cast<uint32_t>(dice.below(3 * plan.slots + 1));
  const double loss = 0.3 * dice.uniform(), duplicates = 0.5 * dice.uniform(), flips = 0.01 * dice.uniform();
  plan.loss = has(Fault::loss) ? loss : 0;
  plan.duplicates = has(Fault::duplicates) ? duplicates : 0;
  plan.flips = has(Fault::bit_flips) ? flips : 0;
  const Time jitter = dice.log_time(milliseconds(1), milliseconds(60));
  plan.jitter = has(Fault::latency) ? jitter : Time::zero();
  plan.slow = has(Fault::latency) ? 0.003 : 0;
  const bool lengthy = !wide && dice.chance(0.05);
  plan.faults_end = lengthy ? dice.time(std::chrono::seconds(10), std::chrono::seconds(60))
                            : dice.log_time(milliseconds(500), std::chrono::seconds(12));
  const double kills = (0.05 + dice.uniform()) * (lengthy ? 0.1 : 1.0),
               pauses = (0.1 + dice.uniform()) * (lengthy ? 0.1 : 1.0);
  plan.kills_per_s = has(Fault::runner_kills) ? kills : 0;
  plan.pauses_per_s = has(Fault::pauses) ? pauses : 0;
  plan.hang = has(Fault::hangs) ? 0.05 : 0;
  plan.spawn_failure = has(Fault::spawn_failures) ? 0.4 : 0;
  plan.invalid = has(Fault::invalid_fragments) ? 0.02 : 0;
  plan.disk = has(Fault::disk) ? 0.02 + 0.1 * dice.uniform() : 0;
  const auto bad_slot = static_cast<uint32_t>(dice.below(plan.slots));
  if (has(Fault::bad_slot)) plan.bad_slot = bad_slot;
  const auto moment = [&] {
    return dice.time(milliseconds(10), std::min<Time>(plan.faults_end, std::chrono::seconds(6)));
  };
  const Time interrupt = moment(), learner_kill = moment();
  if (has(Fault::interrupt)) plan.interrupt = interrupt;
  if (has(Fault::interrupt) && dice.chance(0.3))
    plan.second_interrupt = interrupt + dice.log_time(milliseconds(1), std::chrono::seconds(3));
  if (has(Fault::learner_kill)) plan.learner_kill = learner_kill;
  const uint64_t crashes = 1 + dice.below(3);
  if (has(Fault::crash))
    for (uint64_t i = 0; i < crashes; ++i) plan.crashes.push_back(moment());
  plan.sample = dice.log_time(milliseconds(5), milliseconds(60));
  plan.update = dice.log_time(milliseconds(2), milliseconds(100));
  plan.step_timeout = std::chrono::seconds(2 + dice.below(9));
  if (dice.chance(0.25)) {
    constexpr std::array<uint64_t, 3> kEdges = {uint64_t{1} << 16, uint64_t{1} << 31, uint64_t{1} << 32};
    const uint64_t edge = kEdges[dice.below(3)];
    plan.start_iteration = edge - 1 - dice.below(4);
    plan.start_version = edge - 1 - dice.below(4);
    plan.start_steps = edge - dice.below(40);
  }
  const uint64_t iterations = 2 + dice.below(24);
  switch (dice.below(4)) {
    case 0:
      break;  // until the schedule ends
    case 1:
      plan.stop_steps = plan.start_steps + iterations * plan.fragments * kSteps * kEnvironments - dice.below(3);
      break;
    default:
      plan.stop_iteration = plan.start_iteration + iterations;
  }
  plan.checkpoint_frequency = dice.below(4);
  plan.num_to_keep = 1 + static_cast<uint32_t>(dice.below(3));
  plan.max_crashes = 3 + static_cast<uint32_t>(dice.below(3));
  return plan;
}

std::string to_text(const Plan& plan) {
  std::string faults;
  for (uint32_t i = 0; i < static_cast<uint32_t>(Fault::count); ++i)
    if ((plan.faults >> i & 1) != 0) faults += fmt::format(" {}", name_of(static_cast<Fault>(i)));
  return fmt::format(
      "{} slots, {} fragments a batch, faults until {:.2f} s:{}; loss {:.2f} dup {:.2f} flips {:.4f} jitter {:.0f} ms "
      "disk {:.2f}; "
      "start {}, stop at iteration {} / {} steps; checkpoint every {}, keep {}; sample {:.0f} ms update {:.0f} ms; "
      "crash-restarts {}, step timeout {:.0f} s",
      plan.slots, plan.fragments, to_seconds(plan.faults_end), faults.empty() ? " none" : faults, plan.loss,
      plan.duplicates, plan.flips, to_seconds(plan.jitter) * 1e3, plan.disk, plan.start_iteration, plan.stop_iteration,
      plan.stop_steps, plan.checkpoint_frequency, plan.num_to_keep, to_seconds(plan.sample) * 1e3,
      to_seconds(plan.update) * 1e3, plan.crashes.size(), to_seconds(plan.step_timeout));
}

struct Violation {
  std::string text;
};

template <class... Args>
void rule(bool holds, std::string_view name, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) [[unlikely]]
    throw Violation{fmt::format("{}: {}", name, fmt::format(format, std::forward<Args>(args)...))};
}

/// A process and, while it lives, its role.
struct Process {
  uint32_t id = 0, slot = 0, incarnation = 0;
  uint64_t life = 0;
  bool learner = false, alive = true, paused = false, hung = false, welcomed = false, terminating = false;
  Time born{}, armed = Time::max(), resumes_at{}, next_status{};
  struct Letter {
    uint32_t from;
    Message message;
  };
  std::deque<Letter> inbox;  // while it works or stands still

  // a runner
  std::unique_ptr<RunnerCore> runner;
  bool sampling = false;
  WeightsPtr sampled_with, first_weights;
  uint64_t environment = 0;  // the state of its environments
  uint64_t granted = 0, acknowledged = 0, version = 0;
  bool has_version = false;
  struct Produced {
    uint64_t content;
    uint64_t version;
    bool valid, accepted;
  };
  std::vector<Produced> produced;  // by seq

  // the learner
  std::unique_ptr<LearnerCore> core;
  std::optional<LearnerCore::WriteCheckpoint> writing;
  uint64_t hash = 0, previous_hash = 0, fragments_arrived = 0, accepted = 0;
  std::vector<std::optional<Truth>> batch;
  std::vector<uint32_t> arrival_order;
  uint64_t reported = 0;
};

class World {
 public:
  World(uint64_t seed, uint32_t allowed, Bug bug, bool verbose)
      : seed_(seed),
        bug_(bug),
        verbose_(verbose),
        plan_(draw_plan(seed, allowed)),
        dice_(mix(seed, 2)),
        network_(mix(seed, 3)) {
    layout_ = std::make_shared<FragmentLayout>(kSteps, kEnvironments);
    layout_->add("truth", Rows::environment, DType::i64, {4});
  }

  Result run();

 private:
  enum class Kind : uint8_t {
    deliver,
    timer,
    sampled,
    updated,
    written,
    runner_exited,
    learner_exited,
    kill,
    pause,
    resume,
    faults_end,
    interrupt,
    learner_kill,
    crash,
    restart,
    deadline
  };
  struct Event {
    Time at;
    uint64_t id;
    Kind kind;
    uint32_t process, extra;
    bool operator>(const Event& other) const { return at != other.at ? at > other.at : id > other.id; }
  };

  void push(Time at, Kind kind, uint32_t process = 0, uint32_t extra = 0) {
    queue_.push({at, next_id_++, kind, process, extra});
  }
  void note(const std::string& text) {
    if (verbose_) result_.log += fmt::format("{:10.4f} {}\n", to_seconds(now_), text);
  }
  bool faulty() const { return now_ < plan_.faults_end; }
  bool bugged(Bug bug) const { return bug_ == bug; }

  // network
  void send(uint32_t from, uint32_t to, const Message& message);
  void deliver(uint32_t from, uint32_t to, const Frames& frames);

  // driver node
  void start_life();
  void step_driver(const DriverCore::Input& input);
  void apply_driver(DriverCore::Output& output);
  void arm_driver();
  void save(CheckpointWriter::Input& input);
  uint32_t spawn(bool learner, uint32_t slot, uint32_t incarnation);
  void kill(Process& process, const char* cause);

  // processes
  void receive(Process& process, uint32_t from, Message&& message);
  void timer(Process& process);
  void arm(Process& process);
  void to_driver(const Process& process, Message message);
  template <class T>
  void to_driver(const Process& process, T body) {
    to_driver(process, make_message(std::move(body)));
  }
  void runner_message(Process& process, const Message& message);
  void pump(Process& process);
  void finish_sample(Process& process);
  void check_weights(Process& process);
  void start_learner(Process& process, const wire::LearnerWelcomeT& welcome);
  void learner_message(Process& process, uint32_t from, Message&& message);
  void step_learner(Process& process, const LearnerCore::Input& input);
  void apply_learner(Process& process, LearnerCore::Output& output);
  void assemble(Process& process, const AcceptedFragment& fragment);
  void updated(Process& process);
  void written(Process& process);
  void close_ledger(const Process& learner);

  // checkpoints
  struct Saved {
    std::string directory;
    LearnerFile learner{};
    DriverFile driver{};
    std::vector<SharedBytes> states;
    bool complete = true;
  };
  Saved load(const std::string& directory);
  void check_newest_checkpoint();
  void crash();

  void handle(const Event& event);
  void check_progress(bool last);
  uint64_t fresh_environment(uint32_t slot, uint32_t incarnation) const {
    return mix(mix(seed_, slot), incarnation == 0 ? 0 : mix(life_, incarnation));
  }
  static uint64_t content_of(uint32_t slot, uint64_t environment, uint64_t weights) {
    return mix(mix(environment, slot), weights);
  }

  /// What is true of an iteration, told apart from the roles' own books.
  struct State {
    uint64_t env_steps = 0, episodes = 0, version = 0, hash = 0, batch = 0;
    std::vector<uint64_t> environments;  // by slot, while no runner died
  };

  uint64_t seed_;
  Bug bug_;
  bool verbose_;
  Plan plan_;
  Dice dice_, network_;
  std::shared_ptr<FragmentLayout> layout_;
  Result result_;

  Time now_{};
  uint64_t next_id_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
  struct Letter {
    uint32_t from;
    Frames frames;
  };  // `from` is what ZeroMQ's routing id says
  std::vector<Letter> letters_;
  std::vector<uint32_t> free_letters_;

  uint64_t life_ = 0;
  SimFiles files_;
  std::unique_ptr<DriverCore> driver_;
  std::unique_ptr<CheckpointWriter> writer_;
  Time driver_armed_ = Time::max();
  std::optional<DriverCore::Finished> finished_;
  std::deque<Process> processes_;
  std::vector<uint32_t> current_;  // process of each slot
  uint32_t learner_ = kDriver;     // none
  Saved saved_;

  std::map<uint64_t, uint64_t> published_;      // version -> hash, of this life
  std::map<uint64_t, State> states_;            // by iteration
  std::vector<int64_t> heard_up_, heard_down_;  // by slot: the newest incarnation the learner was told of
  std::vector<std::deque<Time>> spawns_;
  bool deterministic_ = true;
  uint64_t iteration_ = 0;  // of the learner
  uint64_t reported_ = 0;   // by the driver
  std::optional<uint64_t> committed_;
  Time last_update_ = -seconds(1);
  bool learner_killed_ = false, interrupted_ = false, usage_error_ = false, restarting_ = false, done_ = false;
};

// --- network ---

void World::send(uint32_t from, uint32_t to, const Message& message) {
  Frames frames = encode(message);
  if (faulty() && network_.chance(plan_.loss)) return;
  uint64_t copies = 1 + (faulty() && network_.chance(plan_.duplicates) ? 1 : 0);
  for (; copies > 0; --copies) {
    Time latency = microseconds(200);
    if (faulty() && plan_.jitter > Time::zero()) {
      latency += network_.time(Time::zero(), plan_.jitter);
      if (network_.chance(plan_.slow)) latency += network_.log_time(milliseconds(100), std::chrono::seconds(5));
    }
    Frames sent = frames;
    if (faulty() && network_.chance(plan_.flips)) {
      SharedBytes& frame = sent[network_.below(sent.size())];
      std::vector<std::byte> bytes(frame.view.begin(), frame.view.end());
      if (!bytes.empty() && network_.chance(0.8))
        bytes[network_.below(bytes.size())] ^= static_cast<std::byte>(1u << network_.below(8));
      else
        bytes.resize(network_.below(bytes.size() + 1));
      frame = SharedBytes::of(std::move(bytes));
    }
    uint32_t letter;
    if (free_letters_.empty()) {
      letter = static_cast<uint32_t>(letters_.size());
      letters_.push_back({from, std::move(sent)});
    } else {
      letter = free_letters_.back();
      free_letters_.pop_back();
      letters_[letter] = {from, std::move(sent)};
    }
    push(now_ + latency, Kind::deliver, to, letter);
  }
}

void World::deliver(uint32_t from, uint32_t to, const Frames& frames) {
  if (to == kLearner) to = learner_;
  if (to != kDriver && (to >= processes_.size() || !processes_[to].alive)) return;
  if (to == kDriver && driver_ == nullptr) return;
  auto decoded = decode(frames);
  if (const auto* malformed = std::get_if<Malformed>(&decoded)) {
    rule((plan_.faults & bit(Fault::bit_flips)) != 0, "wire", "an intact message was refused: {}", name_of(*malformed));
    if (to != kDriver && processes_[to].core) processes_[to].core->count_malformed(*malformed);
    return;
  }
  Message& message = std::get<Message>(decoded);
  if (verbose_)
    note(fmt::format("  {} -> {}: {}", from == kDriver ? "driver" : fmt::format("p{}", from),
                     to == kDriver ? "driver" : fmt::format("p{}", to), wire::EnumNameBody(message.body.type)));
  result_.trace = mix(result_.trace, static_cast<uint64_t>(message.body.type));
  if (bugged(Bug::stale_epoch_accepted) && to != kDriver) message.epoch = life_;
  if (to == kDriver) {
    step_driver(DriverCore::Received{std::to_string(from), std::move(message)});
    return;
  }
  Process& process = processes_[to];
  if (process.paused || process.hung || process.sampling)
    process.inbox.push_back({from, std::move(message)});
  else
    receive(process, from, std::move(message));
}

// --- driver ---

void World::start_life() {
  ++life_;
  result_.lives = life_;
  restarting_ = false;
  std::vector<std::string> broken;
  const auto valid = valid_checkpoints(files_, kRoot, &broken);
  check_newest_checkpoint();
  saved_ = {};
  saved_.driver = {plan_.start_iteration, plan_.start_steps, 0};
  if (!valid.empty()) saved_ = load(valid.back());
  if (!saved_.complete) deterministic_ = false;
  iteration_ = reported_ = saved_.driver.iteration;
  published_.clear();
  heard_up_.assign(plan_.slots, 0);
  heard_down_.assign(plan_.slots, -1);
  spawns_.assign(plan_.slots, {});
  current_.assign(plan_.slots, UINT32_MAX);
  driver_armed_ = Time::max();

  DriverCore::Options options;
  options.run = kRun;
  options.epoch = life_;
  options.resume_directory = saved_.directory;
  options.runner_states = saved_.states;
  options.training_iteration = saved_.driver.iteration;
  options.num_env_steps_sampled_lifetime = saved_.driver.env_steps;
  options.num_episodes_lifetime = saved_.driver.episodes;
  options.stop.training_iteration = static_cast<int64_t>(plan_.stop_iteration);
  options.stop.num_env_steps_sampled_lifetime = static_cast<int64_t>(plan_.stop_steps);
  options.checkpoint_frequency = plan_.checkpoint_frequency;
  options.smoothing_episodes = 4;
  options.slots.num_slots = plan_.slots;
  options.slots.step_timeout = plan_.step_timeout;
  options.slots.start_timeout = 2 * plan_.step_timeout;
  options.slots.max_crashes_per_minute = plan_.max_crashes;
  if (bugged(Bug::restart_without_backoff)) {
    options.slots.backoff = options.slots.backoff_max = Time::zero();
    options.slots.max_crashes_per_minute = UINT32_MAX;
  }
  options.seed = seed_;
  driver_ = std::make_unique<DriverCore>(std::move(options));
  writer_ = std::make_unique<CheckpointWriter>(files_, kRoot, plan_.num_to_keep);
  note(fmt::format("life {} starts at iteration {}", life_, iteration_));
  step_driver(DriverCore::Start{});
}

void World::step_driver(const DriverCore::Input& input) {
  std::vector<DriverCore::Output> outputs;
  driver_->step(input, now_, outputs);
  for (DriverCore::Output& output : outputs) apply_driver(output);
  arm_driver();
}

void World::arm_driver() {
  const Time next = std::max(driver_->next_timer(), now_);
  if (finished_ || next == Time::max() || next >= driver_armed_) return;
  driver_armed_ = next;
  push(next, Kind::timer, kDriver, static_cast<uint32_t>(life_));
}

void World::apply_driver(DriverCore::Output& output) {
  if (std::holds_alternative<DriverCore::SpawnLearner>(output)) {
    learner_ = spawn(true, 0, 0);
  } else if (const auto* runner = std::get_if<DriverCore::SpawnRunner>(&output)) {
    auto& recent = spawns_[runner->slot];
    while (!recent.empty() && now_ - recent.front() > std::chrono::minutes(1)) recent.pop_front();
    recent.push_back(now_);
    rule(recent.size() <= plan_.max_crashes + 1, "I10", "slot {} was started {} times in a minute", runner->slot,
         recent.size());
    if (runner->incarnation > 0) deterministic_ = false;
    if (faulty() && dice_.chance(plan_.spawn_failure)) {
      deterministic_ = false;
      step_driver(DriverCore::SpawnFailed{runner->slot, "no more processes"});
      return;
    }
    current_[runner->slot] = spawn(false, runner->slot, runner->incarnation);
  } else if (const auto* stop = std::get_if<DriverCore::KillRunner>(&output)) {
    const uint32_t id = current_[stop->slot];
    if (id == UINT32_MAX || !processes_[id].alive || processes_[id].incarnation != stop->incarnation) return;
    if (stop->signal == SIGKILL && !bugged(Bug::hung_runner_not_killed))
      kill(processes_[id], "SIGKILL");
    else if (stop->signal == SIGTERM && !processes_[id].paused && !processes_[id].hung)
      kill(processes_[id], "SIGTERM");
  } else if (std::holds_alternative<DriverCore::KillAll>(output)) {
    for (Process& process : processes_)
      if (process.alive && process.life == life_) kill(process, "SIGKILL");
  } else if (const auto* message = std::get_if<DriverCore::Send>(&output)) {
    if (bugged(Bug::credit_leak_on_death))
      if (const auto* slot = message->message.as<wire::SlotStateT>(); slot != nullptr && !slot->up) return;
    send(kDriver, static_cast<uint32_t>(std::stoul(message->peer)), message->message);
  } else if (auto* request = std::get_if<DriverCore::Save>(&output)) {
    save(request->input);
  } else if (const auto* report = std::get_if<DriverCore::Report>(&output)) {
    const uint64_t iteration = report->report.training_iteration;
    rule(iteration == reported_ + 1, "I8", "iteration {} reported after {}", iteration, reported_);
    reported_ = iteration;
    const State& state = states_.at(iteration);
    rule(driver_->env_steps() == state.env_steps, "I8", "iteration {} has {} env steps, want {}", iteration,
         driver_->env_steps(), state.env_steps);
    rule(driver_->episodes_lifetime() == state.episodes, "I8", "iteration {} has {} episodes, want {}", iteration,
         driver_->episodes_lifetime(), state.episodes);
    rule(report->report.weights_version == state.version, "I4", "iteration {} reported with weights {}, want {}",
         iteration, report->report.weights_version, state.version);
  } else if (const auto* event = std::get_if<DriverCore::Event>(&output)) {
    note(fmt::format("{}: {}", event->kind, event->text));
  } else {
    finished_ = std::get<DriverCore::Finished>(output);
    note(fmt::format("finished: {} [{}]", finished_->reason, finished_->error_code));
  }
}

void World::save(CheckpointWriter::Input& input) {
  if (auto* commit = std::get_if<CheckpointWriter::Commit>(&input)) {
    const DriverFile file{driver_->training_iteration(), driver_->env_steps(), driver_->episodes_lifetime()};
    commit->extra["driver.bin"] = std::string(reinterpret_cast<const char*>(&file), sizeof file);
  }
  const auto result = writer_->step(input, now_);
  if (const auto* committed = std::get_if<CheckpointWriter::Committed>(&result)) {
    ++result_.checkpoints;
    if (bugged(Bug::newest_pruned) && committed->training_iteration % 2 == 1) files_.remove(committed->directory);
    rule(!committed_ || committed->training_iteration >= *committed_, "I7", "checkpoint {} committed after {}",
         committed->training_iteration, committed_.value_or(0));
    committed_ = committed->training_iteration;
    check_newest_checkpoint();
    const auto valid = valid_checkpoints(files_, kRoot);
    rule(valid.size() <= plan_.num_to_keep, "I7", "{} checkpoints kept, want {}", valid.size(), plan_.num_to_keep);
  }
  step_driver(DriverCore::Saved{result});
}

uint32_t World::spawn(bool learner, uint32_t slot, uint32_t incarnation) {
  const auto id = static_cast<uint32_t>(processes_.size());
  Process& process = processes_.emplace_back();
  process.id = id;
  process.learner = learner;
  process.slot = slot;
  process.incarnation = incarnation;
  process.life = life_;
  process.born = now_;
  process.environment = fresh_environment(slot, incarnation);
  const Time start = now_ + dice_.time(milliseconds(1), milliseconds(20));
  process.armed = start;
  push(start, Kind::timer, id);
  if (learner) return id;
  if (slot == plan_.bad_slot) push(start + milliseconds(30), Kind::kill, id);
  if (faulty() && plan_.kills_per_s > 0) {
    const Time at = now_ + seconds(-std::log(1 - dice_.uniform()) / plan_.kills_per_s * 2);
    if (at < plan_.faults_end) push(at, Kind::kill, id);
  }
  if (faulty() && plan_.pauses_per_s > 0) {
    const Time at = now_ + seconds(-std::log(1 - dice_.uniform()) / plan_.pauses_per_s);
    if (at < plan_.faults_end) push(at, Kind::pause, id);
  }
  if (faulty() && dice_.chance(plan_.hang)) push(dice_.time(now_, plan_.faults_end), Kind::pause, id, 1);
  return id;
}

void World::kill(Process& process, const char* cause) {
  if (!process.alive) return;
  note(fmt::format("p{} ({}) ends: {}", process.id,
                   process.learner ? "learner" : fmt::format("runner {}.{}", process.slot, process.incarnation),
                   cause));
  if ((plan_.faults & bit(Fault::usage_error)) != 0 && faulty() && !process.learner && !driver_->finishing()) {
    wire::ProcessErrorT error;  // a mistake of the user's, seen by one environment only
    error.code = "out-of-range";
    error.message = "env_config.size";
    error.exit = static_cast<int32_t>(Exit::usage);
    to_driver(process, std::move(error));
    usage_error_ = true;
  }
  process.alive = false;
  process.inbox.clear();
  if (process.learner)
    close_ledger(process);
  else
    ++result_.runner_deaths;
  push(now_ + dice_.time(milliseconds(1), milliseconds(10)),
       process.learner ? Kind::learner_exited : Kind::runner_exited, process.id);
}

// --- processes ---

void World::to_driver(const Process& process, Message message) {
  message.run = kRun;
  message.epoch = process.life;
  send(process.id, kDriver, message);
}

void World::arm(Process& process) {
  if (!process.alive) return;
  Time next;
  if (!process.welcomed)
    next = now_ + kHelloRetry;
  else if (process.learner)
    next = process.core->next_timer();
  else if (process.sampling)
    return;
  else
    next = std::min(process.runner->next_timer(), process.next_status);
  next = std::max(next, now_);
  if (next >= process.armed) return;
  process.armed = next;
  push(next, Kind::timer, process.id);
}

void World::timer(Process& process) {
  if (!process.welcomed) {
    if (now_ - process.born > std::chrono::seconds(60)) return kill(process, "the driver did not answer for 60 s");
    if (process.learner) {
      wire::LearnerHelloT hello;
      hello.protocol = kProtocolVersion;
      to_driver(process, std::move(hello));
    } else {
      wire::RunnerHelloT hello;
      hello.slot = process.slot;
      hello.incarnation = process.incarnation;
      hello.protocol = kProtocolVersion;
      to_driver(process, std::move(hello));
    }
  } else if (process.learner) {
    if (bugged(Bug::grants_not_repeated)) {
      push(process.armed = now_ + LearnerCore::kRetry, Kind::timer, process.id);
      return;
    }
    step_learner(process, LearnerCore::Tick{});
    rule(process.core->next_timer() > now_, "I10", "the learner spins");
  } else if (!process.sampling) {
    if (!bugged(Bug::grants_not_repeated) || process.runner->weights() == nullptr) process.runner->tick(now_);
    if (now_ >= process.next_status) {
      process.next_status = now_ + kStatusEvery;
      wire::RunnerStatusT status;
      status.slot = process.slot;
      status.incarnation = process.incarnation;
      to_driver(process, std::move(status));
    }
    pump(process);
    if (bugged(Bug::grants_not_repeated)) {
      if (process.alive && !process.sampling) push(process.armed = process.next_status, Kind::timer, process.id);
      return;
    }
  }
  arm(process);
}

void World::receive(Process& process, uint32_t from, Message&& message) {
  if (process.learner) {
    if (!process.welcomed) {
      if (const auto* welcome = message.as<wire::LearnerWelcomeT>();
          welcome != nullptr && message.epoch == process.life)
        start_learner(process, *welcome);
    } else {
      learner_message(process, from, std::move(message));
    }
  } else if (!process.welcomed) {
    const auto* welcome = message.as<wire::RunnerWelcomeT>();
    if (welcome == nullptr || message.epoch != process.life) return;
    process.welcomed = true;
    if (message.payloads.size() == 1 && message.payloads[0].view.size() == 8 && !bugged(Bug::runner_state_not_restored))
      std::memcpy(&process.environment, message.payloads[0].view.data(), 8);
    process.runner = std::make_unique<RunnerCore>(
        RunnerCore::Identity{kRun, process.life, process.slot, process.incarnation, kSpecHash, layout_->hash(), 4, 2});
    process.next_status = now_;
    process.runner->tick(now_);
    pump(process);
  } else {
    runner_message(process, message);
    pump(process);
  }
  arm(process);
}

Weights weights_of(uint64_t version, uint64_t hash) {
  Weights weights{version, kSpecHash, {}, {static_cast<double>(hash >> 32), static_cast<double>(version & 0xffffffff)}};
  for (int i = 0; i < 4; ++i) weights.values.push_back(static_cast<float>(hash >> (16 * i) & 0xffff));
  return weights;
}

uint64_t hash_of(const Weights& weights) {
  uint64_t hash = 0;
  for (size_t i = 0; i < 4; ++i) hash |= static_cast<uint64_t>(weights.values[i]) << (16 * i);
  return hash;
}

void World::check_weights(Process& process) {
  const WeightsPtr& weights = process.runner->weights();
  if (weights == nullptr) return;
  rule(!process.has_version || weights->version >= process.version, "I4", "runner {} went from weights {} to {}",
       process.slot, process.version, weights->version);
  if (process.has_version && weights->version == process.version) return;
  process.has_version = true;
  process.version = weights->version;
  const auto published = published_.find(weights->version);
  rule(published != published_.end(), "I4", "runner {} has weights {} that nobody published", process.slot,
       weights->version);
  const Weights want = weights_of(weights->version, published->second);
  rule(weights->values == want.values && weights->filter == want.filter, "I4",
       "runner {}: weights {} are not the published ones", process.slot, weights->version);
}

void World::runner_message(Process& process, const Message& message) {
  Message changed = message;
  if (auto* header = changed.body.AsWeightsHeader()) {
    if (process.first_weights == nullptr) {
      if (auto weights = weights_from(changed))
        process.first_weights = std::make_shared<const Weights>(std::move(*weights));
    } else if (header->version > process.first_weights->version) {
      const Message old = weights_message(process.first_weights);
      if (bugged(Bug::weights_torn)) changed.payloads[1] = old.payloads[1];
      if (bugged(Bug::old_weights_under_new_version)) changed.payloads = old.payloads;
    }
    if (bugged(Bug::filter_not_resent) && process.incarnation > 0) {
      const std::array<double, 2> nothing{};
      const auto bytes = std::as_bytes(std::span(nothing));
      changed.payloads[1] = SharedBytes::of({bytes.begin(), bytes.end()});
    }
  } else if (auto* grant = changed.body.AsGrant()) {
    if (bugged(Bug::old_weights_sampled)) grant->weights_version = 0;
    // I2: what the learner acknowledges is in a batch; the runner forgets it.
    if (message.run == kRun && message.epoch == process.life && grant->incarnation == process.incarnation) {
      rule(grant->acknowledged <= process.produced.size(), "I2",
           "runner {}.{} produced {} fragments, {} are acknowledged", process.slot, process.incarnation,
           process.produced.size(), grant->acknowledged);
      for (; process.acknowledged < grant->acknowledged; ++process.acknowledged)
        rule(process.produced[process.acknowledged].accepted, "I2",
             "fragment {} of runner {}.{} was acknowledged and is in no batch", process.acknowledged, process.slot,
             process.incarnation);
    }
  }
  process.runner->received(changed, now_);
  check_weights(process);
}

void World::pump(Process& process) {
  RunnerCore& core = *process.runner;
  for (;;) {
    for (const Message& message : core.take_outputs()) send(process.id, kLearner, message);
    if (!core.refused().empty()) {
      wire::ProcessErrorT error;
      error.code = "refused";
      error.message = core.refused();
      error.exit = static_cast<int32_t>(Exit::internal);
      to_driver(process, std::move(error));
      return kill(process, core.refused().c_str());
    }
    const bool ignores =
        bugged(Bug::runner_ignores_credit) && core.weights() != nullptr && process.produced.size() < 64;
    if (core.may_sample() || ignores) {
      process.sampling = true;
      process.sampled_with = core.weights();
      push(now_ + dice_.time(plan_.sample / 2, 2 * plan_.sample), Kind::sampled, process.id);
      return;
    }
    if (!core.wants_state()) return;
    const auto bytes = bytes_of(process.environment);
    core.state_saved(SharedBytes::of({bytes.begin(), bytes.end()}), now_);
  }
}

void World::finish_sample(Process& process) {
  process.sampling = false;
  RunnerCore& core = *process.runner;
  rule(core.next_seq() < process.granted, "I3", "runner {}.{} produces fragment {} with credit for {}", process.slot,
       process.incarnation, core.next_seq(), process.granted);
  rule(process.sampled_with == core.weights(), "I4", "weights changed within a fragment");
  std::shared_ptr<Fragment> fragment = core.take_free();
  if (fragment == nullptr) fragment = std::make_shared<Fragment>(layout_);
  const bool valid = !(faulty() && dice_.chance(plan_.invalid));
  const uint64_t content = content_of(process.slot, process.environment, hash_of(*process.sampled_with));
  process.environment = mix(process.environment);
  const Truth truth{process.id, core.next_seq(), process.sampled_with->version, content, valid ? 1u : 0u, {}};
  std::memcpy(fragment->buffer().data(), &truth, sizeof truth);
  fragment->episodes.assign(content % 3, EpisodeStats{static_cast<double>(content % 100), 7, process.slot});
  process.produced.push_back({content, truth.version, valid, false});
  core.finished(std::move(fragment), 1000, 0, now_);
  auto letters = std::exchange(process.inbox, {});
  for (const Process::Letter& letter : letters) runner_message(process, letter.message);
  pump(process);
  arm(process);
}

// --- learner ---

void World::start_learner(Process& process, const wire::LearnerWelcomeT& welcome) {
  process.welcomed = true;
  LearnerFile file{plan_.start_iteration, plan_.start_steps, plan_.start_version, mix(seed_, 4)};
  if (!welcome.checkpoint.empty()) file = load(welcome.checkpoint).learner;
  if (bugged(Bug::counters_reset_on_resume) && !welcome.checkpoint.empty()) file.env_steps = 0;
  LearnerCore::Options options;
  options.run = kRun;
  options.epoch = process.life;
  options.num_slots = plan_.slots;
  options.fragments_per_batch = plan_.fragments;
  options.steps = kSteps;
  options.environments = kEnvironments;
  options.spec_hash = kSpecHash;
  options.fragment_hash = layout_->hash();
  options.training_iteration = file.iteration;
  options.num_env_steps_sampled_lifetime = file.env_steps;
  options.violation = [](const wire::FragmentHeaderT&, std::span<const std::byte> bytes) -> std::string {
    Truth truth;
    if (bytes.size() != sizeof truth) return "size";
    std::memcpy(&truth, bytes.data(), sizeof truth);
    return truth.valid == 1 ? "" : "column reward has a value that is not finite";
  };
  process.core = std::make_unique<LearnerCore>(std::move(options));
  process.hash = process.previous_hash = file.hash;
  process.batch.assign(plan_.fragments, std::nullopt);
  if (states_.empty() || !states_.contains(file.iteration)) {
    State& state = states_[file.iteration];
    state = {file.env_steps, 0, file.version, file.hash, 0, {}};
    for (uint32_t slot = 0; slot < plan_.slots; ++slot) state.environments.push_back(fresh_environment(slot, 0));
  }
  published_[file.version] = file.hash;
  std::vector<LearnerCore::Output> outputs;
  process.core->start(std::make_shared<const Weights>(weights_of(file.version, file.hash)), now_, outputs);
  for (LearnerCore::Output& output : outputs) apply_learner(process, output);
}

void World::learner_message(Process& process, uint32_t from, Message&& message) {
  const bool ours = message.run == kRun && message.epoch == process.life;
  const bool from_driver = from == kDriver;
  if (from_driver) {
    if (const auto* slot = message.as<wire::SlotStateT>(); slot != nullptr && ours && slot->slot < plan_.slots) {
      auto& heard = slot->up ? heard_up_ : heard_down_;
      heard[slot->slot] = std::max(heard[slot->slot], int64_t{slot->incarnation});
    }
    return step_learner(process, LearnerCore::FromDriver{std::move(message)});
  }
  if (const auto* join = message.as<wire::JoinT>(); join != nullptr && ours && join->slot < plan_.slots)
    heard_up_[join->slot] = std::max(heard_up_[join->slot], int64_t{join->incarnation});
  if (auto* header = message.body.AsFragmentHeader()) {
    if (ours) ++process.fragments_arrived;
    const FragmentQueue& queue = process.core->queue();
    const auto credit = queue.credit(header->key->slot());
    const bool open = credit.acknowledged < credit.granted;
    if (bugged(Bug::no_incarnation_check) && ours && open && header->key->incarnation() < credit.incarnation) {
      header->key = std::make_unique<wire::FragmentKey>(header->key->slot(), credit.incarnation, credit.acknowledged);
      header->weights_version = queue.weights_version();
    }
    if (bugged(Bug::stale_epoch_accepted) && processes_[from].life != process.life && open) {
      header->key = std::make_unique<wire::FragmentKey>(header->key->slot(), credit.incarnation, credit.acknowledged);
      header->weights_version = queue.weights_version();
    }
    if (bugged(Bug::duplicate_accepted) && ours && open && header->key->incarnation() == credit.incarnation &&
        header->key->seq() < credit.acknowledged) {
      header->key = std::make_unique<wire::FragmentKey>(header->key->slot(), credit.incarnation, credit.acknowledged);
      header->weights_version = queue.weights_version();
    }
    if (bugged(Bug::ack_before_enqueue) && ours && header->key->incarnation() == credit.incarnation &&
        header->key->seq() == credit.acknowledged && dice_.chance(0.05)) {
      wire::GrantT grant;
      grant.incarnation = credit.incarnation;
      grant.granted = credit.granted;
      grant.acknowledged = credit.acknowledged + 1;
      grant.weights_version = queue.weights_version();
      Message early = make_message(std::move(grant));
      early.run = kRun;
      early.epoch = process.life;
      --process.fragments_arrived;
      return send(process.id, from, early);
    }
  }
  step_learner(process, LearnerCore::FromRunner{std::to_string(from), std::move(message)});
}

void World::step_learner(Process& process, const LearnerCore::Input& input) {
  std::vector<LearnerCore::Output> outputs;
  process.core->step(input, now_, outputs);
  for (LearnerCore::Output& output : outputs) {
    if (!process.alive) return;
    apply_learner(process, output);
  }
}

void World::apply_learner(Process& process, LearnerCore::Output& output) {
  if (auto* driver = std::get_if<LearnerCore::ToDriver>(&output)) {
    if (const auto* report = driver->message.as<wire::IterationReportT>(); report != nullptr) {
      if (bugged(Bug::report_not_repeated) && report->training_iteration == process.reported) return;
      process.reported = report->training_iteration;
    }
    send(process.id, kDriver, driver->message);
  } else if (auto* runner = std::get_if<LearnerCore::ToRunner>(&output)) {
    const auto peer = static_cast<uint32_t>(std::stoul(runner->peer));
    if (const auto* grant = runner->message.as<wire::GrantT>(); grant != nullptr && peer < processes_.size()) {
      Process& to = processes_[peer];
      if (to.incarnation == grant->incarnation) to.granted = std::max(to.granted, grant->granted);
    }
    send(process.id, peer, runner->message);
  } else if (auto* fragment = std::get_if<LearnerCore::Assemble>(&output)) {
    assemble(process, fragment->fragment);
  } else if (std::holds_alternative<LearnerCore::Update>(output)) {
    push(now_ + dice_.time(plan_.update / 2, 2 * plan_.update), Kind::updated, process.id);
  } else if (auto* write = std::get_if<LearnerCore::WriteCheckpoint>(&output)) {
    rule(!process.writing, "I7", "a second checkpoint is written while one is under way");
    process.writing = std::move(*write);
    push(now_ + dice_.time(milliseconds(1), milliseconds(50)), Kind::written, process.id);
  } else {
    kill(process, std::get<LearnerCore::Exit>(output).reason.c_str());
  }
}

void World::assemble(Process& process, const AcceptedFragment& fragment) {
  Truth truth;
  std::memcpy(&truth, fragment.message.payloads[0].view.data(), sizeof truth);
  rule(truth.process < processes_.size(), "I2", "a fragment of no process is in a batch");
  Process& source = processes_[truth.process];
  rule(source.life == process.life, "I5", "a fragment of life {} is in a batch of life {}", source.life, process.life);
  rule(truth.seq < source.produced.size(), "I2", "fragment {} of runner {}.{} was never produced", truth.seq,
       source.slot, source.incarnation);
  auto& produced = source.produced[truth.seq];
  rule(!produced.accepted, "I1", "fragment {} of runner {}.{} is twice in a batch", truth.seq, source.slot,
       source.incarnation);
  produced.accepted = true;
  rule(produced.content == truth.content && produced.version == truth.version, "I2",
       "fragment {} of runner {}.{} changed on its way", truth.seq, source.slot, source.incarnation);
  rule(produced.valid, "I2", "an invalid fragment is in a batch");
  rule(source.incarnation >= heard_up_[source.slot] && source.incarnation > heard_down_[source.slot], "I5",
       "fragment of runner {}.{} is in a batch after incarnation {} began and {} ended", source.slot,
       source.incarnation, heard_up_[source.slot], heard_down_[source.slot]);
  rule(truth.version == process.core->queue().weights_version(), "I4", "a fragment of weights {} is in a round of {}",
       truth.version, process.core->queue().weights_version());
  size_t place = fragment.place;
  rule(place < process.batch.size(), "I3", "place {} of {}", place, process.batch.size());
  rule(!process.batch[place] || bugged(Bug::batch_in_arrival_order), "I3", "place {} is filled twice", place);
  if (bugged(Bug::batch_in_arrival_order))
    place = static_cast<size_t>(
        std::find_if(process.batch.begin(), process.batch.end(), [](const auto& taken) { return !taken; }) -
        process.batch.begin());
  process.batch[place] = truth;
  ++process.accepted;
}

void World::updated(Process& process) {
  const State before = states_.at(iteration_);
  State state = before;
  std::vector<uint64_t> model = before.environments;
  uint64_t batch = 0, want = 0;
  for (uint32_t place = 0; place < plan_.fragments; ++place) {
    rule(process.batch[place].has_value(), "I3", "place {} is open at the update", place);
    const Truth& truth = *process.batch[place];
    batch = mix(batch, truth.content);
    state.episodes += truth.content % 3;
    if (deterministic_) {
      uint64_t& environment = model[place % plan_.slots];
      want = mix(want, content_of(place % plan_.slots, environment, before.hash));
      environment = mix(environment);
    }
    process.batch[place].reset();
  }
  rule(!deterministic_ || batch == want, "determinism",
       "the batch of iteration {} is not the one of the undisturbed run", iteration_ + 1);
  state.env_steps += uint64_t{plan_.fragments} * kSteps * kEnvironments;
  state.version = before.version + 1;
  state.hash = mix(process.hash, batch);
  state.batch = batch;
  state.environments = deterministic_ ? model : std::vector<uint64_t>{};
  if (deterministic_) {
    result_.batches.resize(iteration_ - plan_.start_iteration);
    result_.batches.push_back(batch);
  }
  process.previous_hash = std::exchange(process.hash, state.hash);
  states_[++iteration_] = state;
  published_[state.version] = state.hash;
  last_update_ = now_;
  ++result_.updates;
  step_learner(process, LearnerCore::Updated{std::make_shared<const Weights>(weights_of(state.version, state.hash)),
                                             {{"loss", 0.5}}});
  rule(process.core->training_iteration() == iteration_, "I8", "the learner is at iteration {}, want {}",
       process.core->training_iteration(), iteration_);
  close_ledger(process);
}

/// I2: every fragment message that came was accepted or dropped for a counted reason, and for no unexplained one.
void World::close_ledger(const Process& learner) {
  if (learner.core == nullptr) return;
  const auto& drops = learner.core->queue().drops();
  uint64_t dropped = 0;
  for (const uint64_t count : drops) dropped += count;
  rule(learner.fragments_arrived == learner.accepted + dropped, "I2",
       "{} fragments came, {} are in batches, {} dropped", learner.fragments_arrived, learner.accepted, dropped);
  const auto of = [&](Drop reason) { return drops[static_cast<size_t>(reason)]; };
  rule(of(Drop::unknown_slot) == 0 && of(Drop::beyond_credit) == 0, "I3", "{} fragments beyond credit",
       of(Drop::beyond_credit));
  rule(of(Drop::wrong_version) == 0, "I4", "{} fragments sampled with other weights", of(Drop::wrong_version));
  rule(plan_.invalid > 0 || of(Drop::invalid) == 0, "I2", "{} fragments dropped as invalid", of(Drop::invalid));
}

void World::written(Process& process) {
  const LearnerCore::WriteCheckpoint request = *std::exchange(process.writing, std::nullopt);
  LearnerCore::CheckpointWritten written{request.sequence, {}, ""};
  const auto add = [&](const std::string& name, std::span<const std::byte> bytes) {
    const CheckpointFile file = write_checkpoint_file(files_, request.directory, name, bytes);
    wire::FileEntryT entry;
    entry.name = file.name;
    entry.bytes = file.bytes;
    entry.crc32c = file.crc32c;
    written.files.push_back(std::move(entry));
  };
  try {
    const State& state = states_.at(iteration_);
    const LearnerFile file{request.training_iteration, request.num_env_steps_sampled_lifetime, state.version,
                           bugged(Bug::other_iterations_weights) ? process.previous_hash : process.hash};
    add("learner_group/state.bin", bytes_of(file));
    for (const SavedRunner& runner : request.runners)
      add(fmt::format("env_runners/slot-{:04}", runner.slot), runner.state.view);
  } catch (const FileError& error) { written.error = fmt::format("{}: {}", error.path, std::strerror(error.error)); }
  step_learner(process, written);
}

// --- checkpoints ---

World::Saved World::load(const std::string& directory) {
  Saved saved;
  saved.directory = directory;
  const auto read = [&](const char* name, auto& into) {
    const auto bytes = files_.read(directory + "/" + name);
    rule(bytes.size() == sizeof into, "I7", "{}/{} has {} bytes", directory, name, bytes.size());
    std::memcpy(&into, bytes.data(), sizeof into);
  };
  read("learner_group/state.bin", saved.learner);
  read("driver.bin", saved.driver);
  for (uint32_t slot = 0; slot < plan_.slots; ++slot) {
    const std::string name = fmt::format("slot-{:04}", slot);
    const auto names = files_.list(directory + "/env_runners");
    const bool there = std::find(names.begin(), names.end(), name) != names.end();
    saved.states.push_back(there ? SharedBytes::of(files_.read(directory + "/env_runners/" + name)) : SharedBytes{});
    saved.complete &= there;
  }
  return saved;
}

/// I7: the newest checkpoint that verifies is not older than the last one committed, and holds exactly its iteration's
/// state.
void World::check_newest_checkpoint() {
  std::vector<std::string> broken;
  const auto valid = valid_checkpoints(files_, kRoot, &broken);
  if (!committed_ && valid.empty()) return;
  rule(!valid.empty(), "I7", "checkpoint {} was committed and none verifies: {}", committed_.value_or(0),
       broken.empty() ? "none there" : broken[0]);
  const Saved saved = load(valid.back());
  rule(!committed_ || saved.driver.iteration >= *committed_, "I7",
       "the newest checkpoint is of iteration {}, {} was committed", saved.driver.iteration, committed_.value_or(0));
  const State& state = states_.at(saved.driver.iteration);
  rule(saved.learner.iteration == saved.driver.iteration, "I7",
       "the learner's part is of iteration {}, the driver's of {}", saved.learner.iteration, saved.driver.iteration);
  rule(saved.learner.version == state.version && saved.learner.hash == state.hash, "I7",
       "checkpoint {} holds other weights than its iteration's", saved.driver.iteration);
  rule(saved.learner.env_steps == state.env_steps && saved.driver.env_steps == state.env_steps, "I8",
       "checkpoint {} counts {} / {} env steps, want {}", saved.driver.iteration, saved.learner.env_steps,
       saved.driver.env_steps, state.env_steps);
  rule(saved.driver.episodes == state.episodes, "I8", "checkpoint {} counts {} episodes, want {}",
       saved.driver.iteration, saved.driver.episodes, state.episodes);
}

void World::crash() {
  note("the machine crashes");
  ++result_.crashes;
  for (Process& process : processes_)
    if (process.alive) {
      process.alive = false;
      process.inbox.clear();
      if (process.learner) close_ledger(process);
    }
  driver_.reset();
  writer_.reset();
  learner_ = kDriver;
  const double kept = std::array{0.0, 0.5, 1.0}[dice_.below(3)];
  files_.crash([&](const SimFiles::Operation&) { return dice_.chance(kept); });
  restarting_ = true;
  push(now_ + dice_.log_time(milliseconds(1), seconds(1)), Kind::restart);
}

// --- the loop ---

void World::check_progress(bool last) {
  if (finished_ || restarting_) {
    if (last && restarting_) done_ = true;
    return;
  }
  if (now_ < plan_.faults_end) return;
  const bool ending = driver_->finishing() || learner_killed_ || interrupted_;
  bool slots_settled = driver_->slots().num_running() + driver_->slots().num_quarantined() == plan_.slots;
  for (uint32_t slot = 0; slot < plan_.slots && slots_settled; ++slot)
    if (driver_->slots().running(slot))
      slots_settled =
          current_[slot] != UINT32_MAX && processes_[current_[slot]].alive && !processes_[current_[slot]].hung;
  if (!ending && slots_settled && last_update_ > plan_.faults_end) {
    done_ = true;
    return;
  }
  rule(!last, "I9", "{:.0f} s after the last fault: last update at {:.2f} s, {} running, {} quarantined of {}{}",
       to_seconds(kLiveness), to_seconds(last_update_), driver_->slots().num_running(),
       driver_->slots().num_quarantined(), plan_.slots, ending ? ", the run does not end" : "");
}

void World::handle(const Event& event) {
  Process* process = event.process < processes_.size() ? &processes_[event.process] : nullptr;
  const bool alive = process != nullptr && process->alive;
  switch (event.kind) {
    case Kind::deliver: {
      const Letter letter = std::move(letters_[event.extra]);
      free_letters_.push_back(event.extra);
      deliver(letter.from, event.process, letter.frames);
      break;
    }
    case Kind::timer:
      if (event.process == kDriver) {
        if (driver_ == nullptr || event.extra != life_ || driver_armed_ != event.at || finished_) return;
        driver_armed_ = Time::max();
        step_driver(DriverCore::Tick{});
        rule(finished_ || driver_->next_timer() > now_, "I10", "the driver spins");
      } else if (alive && process->armed == event.at) {
        if (process->paused || process->hung) {
          process->armed = Time::max();  // the end of the pause arms it again
        } else {
          process->armed = Time::max();
          timer(*process);
        }
      }
      break;
    case Kind::sampled:
      if (!alive || process->hung) return;
      if (process->paused)
        push(process->resumes_at + milliseconds(1), Kind::sampled, event.process);
      else
        finish_sample(*process);
      break;
    case Kind::updated:
      if (alive) updated(*process);
      break;
    case Kind::written:
      if (alive) written(*process);
      break;
    case Kind::runner_exited:
      if (driver_ != nullptr && process->life == life_ && !finished_)
        step_driver(DriverCore::RunnerExited{process->slot, process->incarnation, "killed"});
      break;
    case Kind::learner_exited:
      if (driver_ != nullptr && process->life == life_ && !finished_) step_driver(DriverCore::LearnerExited{"killed"});
      break;
    case Kind::kill:
      if (alive) kill(*process, "SIGSEGV");
      break;
    case Kind::pause: {
      if (!alive || process->paused || process->hung) return;
      if (event.extra == 1) {
        process->hung = true;
        note(fmt::format("p{} hangs", process->id));
        return;
      }
      process->paused = true;
      process->resumes_at =
          std::min(now_ + dice_.log_time(milliseconds(1), std::chrono::seconds(60)), plan_.faults_end);
      note(fmt::format("p{} is paused until {:.3f}", process->id, to_seconds(process->resumes_at)));
      push(process->resumes_at, Kind::resume, event.process);
      break;
    }
    case Kind::resume: {
      if (!alive) return;
      process->paused = false;
      if (process->hung) return;
      if (!process->sampling)
        for (Process::Letter& letter : std::exchange(process->inbox, {}))
          if (process->alive) {
            if (process->sampling)
              process->inbox.push_back(std::move(letter));
            else
              receive(*process, letter.from, std::move(letter.message));
          }
      process->armed = Time::max();
      arm(*process);
      break;
    }
    case Kind::faults_end:
      break;
    case Kind::interrupt:
      if (driver_ == nullptr || finished_) return;
      interrupted_ = true;
      note("Ctrl-C");
      step_driver(DriverCore::Interrupted{});
      break;
    case Kind::learner_kill:
      if (learner_ == kDriver || finished_ || !processes_[learner_].alive) return;
      learner_killed_ = true;
      kill(processes_[learner_], "SIGKILL");
      break;
    case Kind::crash:
      if (driver_ == nullptr || finished_ || interrupted_ || learner_killed_) return;
      crash();
      break;
    case Kind::restart:
      start_life();
      break;
    case Kind::deadline:
      check_progress(true);
      break;
  }
}

Result World::run() {
  result_.plan = to_text(plan_);
  result_.faults = plan_.faults;
  files_.make_directory(kRoot);
  files_.fsync("");
  files_.ignores_file_fsync = bugged(Bug::no_file_fsync);
  files_.ignores_directory_fsync = bugged(Bug::no_directory_fsync);
  files_.fault = [this](const char*, const std::string&) {
    return faulty() && dice_.chance(plan_.disk) ? (dice_.chance(0.5) ? ENOSPC : EIO) : 0;
  };
  try {
    for (const Time at : plan_.crashes) push(at, Kind::crash);
    if (plan_.interrupt != Time::max()) push(plan_.interrupt, Kind::interrupt);
    if (plan_.second_interrupt != Time::max()) push(plan_.second_interrupt, Kind::interrupt);
    if (plan_.learner_kill != Time::max()) push(plan_.learner_kill, Kind::learner_kill);
    push(plan_.faults_end, Kind::faults_end);
    // A crash just before the end of the faults restarts a second later.
    push(plan_.faults_end + kLiveness + seconds(2), Kind::deadline);
    start_life();
    while (!queue_.empty() && !done_ && !finished_) {
      const Event event = queue_.top();
      queue_.pop();
      now_ = event.at;
      result_.trace = mix(result_.trace, mix(static_cast<uint64_t>(event.at.count()),
                                             uint64_t{event.process} << 8 | static_cast<uint64_t>(event.kind)));
      rule(++result_.events < kMaxEvents, "I10", "more than {} events", kMaxEvents);
      handle(event);
      if (event.kind == Kind::updated || event.kind == Kind::timer) check_progress(false);
    }
    if (finished_) {
      result_.finished = finished_->reason;
      rule(!finished_->reason.empty(), "I9", "the run finished without a reason");
      if (finished_->exit == Exit::ok) {
        rule(!interrupted_, "I9", "an interrupted run says it is done");
        rule(plan_.stop_iteration == 0 ||
                 driver_->training_iteration() == std::max(plan_.stop_iteration, plan_.start_iteration),
             "I9", "stopped at iteration {}, want {}", driver_->training_iteration(), plan_.stop_iteration);
        const uint64_t per_iteration = uint64_t{plan_.fragments} * kSteps * kEnvironments;
        rule(plan_.stop_steps == 0 ||
                 (driver_->env_steps() >= plan_.stop_steps && driver_->env_steps() < plan_.stop_steps + per_iteration),
             "I9", "stopped at {} env steps, want {}", driver_->env_steps(), plan_.stop_steps);
      } else if (learner_killed_ && !interrupted_ && finished_->exit == Exit::internal) {
        rule(finished_->error_code == "learner-lost" || finished_->error_code == "refused", "I9",
             "a lost learner ends the run with {}", finished_->error_code);
      } else {
        rule(interrupted_ || learner_killed_ || (usage_error_ && finished_->exit == Exit::usage) ||
                 driver_->slots().num_quarantined() == plan_.slots,
             "I9", "the run ended for nothing: {}", finished_->reason);
      }
    }
    if (learner_ != kDriver) close_ledger(processes_[learner_]);
    check_newest_checkpoint();
  } catch (const Violation& violation) { result_.violation = violation.text; } catch (const std::exception& error) {
    result_.violation = fmt::format("exception: {}", error.what());
  } catch (const FileError& error) { result_.violation = fmt::format("file error {} of {}", error.error, error.path); }
  return result_;
}

}  // namespace

std::string_view name_of(Fault fault) {
  constexpr std::array<std::string_view, static_cast<size_t>(Fault::count)> kNames = {
      "loss",         "duplicates", "latency",  "bit_flips",      "runner_kills",
      "pauses",       "hangs",      "bad_slot", "spawn_failures", "invalid_fragments",
      "learner_kill", "interrupt",  "disk",     "crash",          "usage_error"};
  return kNames[static_cast<size_t>(fault)];
}

std::string_view name_of(Bug bug) {
  constexpr std::array<std::string_view, static_cast<size_t>(Bug::count)> kNames = {"none",
                                                                                    "ack_before_enqueue",
                                                                                    "no_incarnation_check",
                                                                                    "duplicate_accepted",
                                                                                    "stale_epoch_accepted",
                                                                                    "no_file_fsync",
                                                                                    "no_directory_fsync",
                                                                                    "credit_leak_on_death",
                                                                                    "weights_torn",
                                                                                    "old_weights_under_new_version",
                                                                                    "grants_not_repeated",
                                                                                    "runner_ignores_credit",
                                                                                    "report_not_repeated",
                                                                                    "other_iterations_weights",
                                                                                    "restart_without_backoff",
                                                                                    "filter_not_resent",
                                                                                    "counters_reset_on_resume",
                                                                                    "hung_runner_not_killed",
                                                                                    "runner_state_not_restored",
                                                                                    "newest_pruned",
                                                                                    "batch_in_arrival_order",
                                                                                    "old_weights_sampled"};
  return kNames[static_cast<size_t>(bug)];
}

Result run_schedule(uint64_t seed, uint32_t allowed, Bug bug, bool verbose) {
  return World(seed, allowed, bug, verbose).run();
}

}  // namespace myriad::simulation
