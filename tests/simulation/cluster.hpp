// The World class: its processes, events and books. Parts: see world.hpp.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <queue>
#include <set>

#include "env_runners/shared_weights.hpp"
#include "roles/driver_core.hpp"
#include "roles/group_member.hpp"
#include "roles/host_agent.hpp"
#include "roles/learner_core.hpp"
#include "tests/simulation/sim_files.hpp"
#include "tests/simulation/world.hpp"

namespace myriad::simulation {

inline constexpr uint32_t kDriver = UINT32_MAX, kNobody = UINT32_MAX - 1, kOperator = UINT32_MAX - 2;
inline constexpr int kSteps = 3, kEnvironments = 2;
inline constexpr uint64_t kSpecHash = 0x5bec, kRun = 77, kFragmentBytes = 64;
inline constexpr size_t kValues = 4, kFilter = 2, kPublished = 2;
inline constexpr const char* kRoot = "checkpoints";
inline constexpr Time kLiveness = std::chrono::seconds(30);

struct Violation {
  std::string text;
};

template <class... Args>
void rule(bool holds, std::string_view name, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) [[unlikely]]
    throw Violation{fmt::format("{}: {}", name, fmt::format(format, std::forward<Args>(args)...))};
}

/// What a fragment says of itself in its payload: out of reach of whatever happens to its header.
struct Truth {
  uint64_t process, seq, version, content;
  uint64_t valid, forged, spare[2];
};
static_assert(sizeof(Truth) == kFragmentBytes);
inline constexpr uint64_t kResumed = UINT64_MAX;  // Truth::process of a batch out of a checkpoint

/// The learners' and the driver's part of a checkpoint. lag1: `batch` (content, version) follows in a file of each
/// shard.
struct LearnerFile {
  uint64_t iteration, env_steps, version, hash;
};
struct DriverFile {
  uint64_t iteration, env_steps, episodes;
  uint64_t has_best = 0, best_iteration = 0;
  double best_score = 0;
};
struct WaitingFragment {
  uint64_t content, version;
};

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

Weights weights_of(uint64_t version, uint64_t hash);
uint64_t hash_of(std::span<const float> values);

enum class Kind : uint8_t {
  deliver,  // a letter over ZeroMQ
  stream,   // a packed message between an agent and a runner
  timer,
  started,  // a process runs, or an agent has loaded its simulators
  sampled,
  joins,      // the update thread of a learner has settled and waits for the others
  joined,     // it has what the others gave it
  prepared,   // it has finished an update
  committed,  // it knows that everybody has
  aborted,    // it noticed that the epoch is over
  written,
  spawn_failed,
  runner_exited,
  agent_exited,
  learner_exited,
  kill,
  pause,
  hang,
  resume,
  drain,
  newcomer,  // a host from outside starts an agent
  faults_end,
  interrupt,
  resize,
  crash,
  restart,
  evaluated,  // an evaluation ended
  deadline
};
struct Event {
  Time at;
  uint64_t id;
  Kind kind;
  uint32_t process, extra;
  bool operator>(const Event& other) const { return at != other.at ? at > other.at : id > other.id; }
};

struct Produced {
  uint64_t content, version;
  bool valid = true;
  bool received = false;  // by its agent
  bool arrived = false;   // at a learner, from an agent that takes part
  bool used = false;      // trained on in an update that counts
  bool done = false;      // used, or dropped
  bool presumed = false;  // done as dropped, by its agent's mark alone
};

struct Runner {
  uint32_t slot = 0, incarnation = 0, agent = kNobody;   // agent: a process
  bool up = false;                                       // its agent heard it
  uint64_t granted = 0, want_state = 0, state_sent = 0;  // its own view
  bool welcomed = false, sampling = false, hostile = false, produced_lately = false;
  uint64_t environment = 0, version = 0;
  bool has_version = false;
  std::optional<WeightsView> weights;
  RunnerPage page;
  std::vector<Produced> produced;                         // by seq
  uint64_t permitted = 0, received = 0, lowest_open = 0;  // the world's books
  Time from_it{}, to_it{};                                // streams keep their order
};

struct AgentNode {
  uint32_t place = UINT32_MAX, incarnation = 0;
  bool outside = false, term_pending = false;
  std::unique_ptr<HostAgent> core;  // once it has loaded its simulators
  wire::AgentWelcomeT welcome;
  SharedBytes welcome_states;
  std::vector<std::byte> region;
  std::unique_ptr<SharedWeightsWriter> writer;
  WeightsPtr pending, first_weights;
  Time pending_since{};
  std::vector<uint32_t> runners;  // process by slot - first_slot
  std::map<uint32_t, SharedBytes> states;
  Time next_look{}, parent_heard{};
  uint32_t parent = kNobody, learner = kNobody;
  uint64_t moved_to = 0;  // the epoch it was told of last
  WeightsPublisher publisher;
  bool joined = false;

  // books
  bool draining = false, drained = false;
  uint64_t installed = 0, required = 0;  // weights versions
  bool has_weights = false;
  uint64_t granted = 0, heard_granted = 0, wrong_granted = 0;     // async, fragments: by the learner; heard of
  uint64_t permits = 0, open = 0, num_up = 0;                     // async: permitted in all, of them open; runners
  uint64_t received = 0, arrived = 0, placed = 0, placed_in = 0;  // fragments; in an epoch
  uint64_t granted_there = 0, granted_in = 0;                     // async: in the epoch granted_in
  struct SlotCredit {
    uint32_t incarnation = 0;
    uint64_t granted = 0, epoch = 0;
    uint32_t epoch_incarnation = 0;
    uint64_t epoch_granted = 0;
  };
  std::map<uint32_t, SlotCredit> by_slot;  // by the learners
  struct Relayed {
    uint64_t number;
    uint32_t runner;
    uint64_t seq;
  };
  std::deque<Relayed> relayed;  // fragments in parcels, not released
  uint64_t relayed_until = 0;
  std::vector<uint32_t> starts;  // by slot: since an episode of it has come
  std::deque<Time> events;
};

enum class Standing : uint8_t { settled, torn, prepared };

struct LearnerNode {
  uint32_t shard = 0, incarnation = 0;
  std::string checkpoint;
  std::unique_ptr<GroupMember> member;
  std::unique_ptr<LearnerCore> core;
  GroupPart part;
  bool veteran = false;  // it has the state
  bool known = false;    // and the driver has heard that
  // the update thread: events of another job than this one are of the past
  uint32_t job = 0;
  bool busy = false;
  std::set<std::string> found;  // in the rendezvous
  std::optional<LearnerCore::WriteCheckpoint> writing;
  // what Learner holds
  Standing standing = Standing::settled;
  uint64_t start_version = 0, version = 0, hash = 0, previous_hash = 0, prepared_hash = 0;

  uint64_t reported = 0;
  std::vector<std::optional<Truth>> batch, training;
  UpdateTally tally;        // of the update it works on
  uint64_t batch_hash = 0;  // of all shards
  struct Heard {
    uint32_t incarnation = 0, num_slots = 0;
    bool up = false;
  };
  // of this epoch
  std::map<uint32_t, Heard> heard;            // agents, as the driver says
  std::map<uint32_t, uint64_t> acknowledged;  // by agent process: as sent to it
};

/// What the collectives of an epoch see.
struct Group {
  uint64_t epoch = 0;
  uint32_t size = 0;
  std::vector<uint32_t> processes;                          // by rank, kNobody until it joins
  uint64_t version = 0, hash = 0, previous_hash = 0;        // with which it begins
  std::vector<std::optional<std::vector<double>>> tallies;  // by rank, of the update that begins
  std::vector<std::vector<Truth>> batches;
  std::vector<bool> prepared;
  bool broken = false;  // somebody left before an update had begun
};

/// The newest update that all shards of a group have begun.
struct OpenUpdate {
  uint64_t version = 0;  // before it
  UpdateTally tally;
  std::vector<Truth> batch;                          // in order of rank and place
  std::vector<std::pair<uint32_t, uint32_t>> slots;  // of each rank: first and how many
  std::vector<size_t> places;                        // of each rank
  uint64_t batch_hash = 0;
};

/// A process and, while it lives, its role.
struct Process {
  uint32_t id = 0;
  uint64_t life = 0;
  bool alive = true, paused = false, hung = false, welcomed = false, loading = false;
  bool clean = false;  // an agent: it ends with the exit status of one that drained
  Time born{}, armed = Time::max(), resumes_at = -std::chrono::seconds(60);
  Time connected_until{};      // to the driver, when it has ended
  bool shut_out = false;       // of the driver's socket
  std::deque<Event> deferred;  // while it stands still
  std::unique_ptr<Runner> runner;
  std::unique_ptr<AgentNode> agent;
  std::unique_ptr<LearnerNode> learner;
};

class World {
 public:
  explicit World(const Schedule& schedule);
  Result run();

 private:
  /// What is true of an iteration, told apart from the roles' own books.
  struct State {
    uint64_t env_steps = 0, episodes = 0, version = 0, hash = 0;
    std::map<uint32_t, uint64_t> waiting;  // lag1: content by place
    std::vector<uint64_t> environments;    // by slot, before the next batch, while no runner died
  };
  struct Saved {
    std::string directory;
    LearnerFile learner{};
    DriverFile driver{};
    std::map<uint32_t, WaitingFragment> batch;  // by place
    std::vector<SharedBytes> states;
    bool complete = true;
  };
  struct Letter {
    uint32_t from = 0;  // what ZeroMQ's routing id says
    Frames frames;
    std::vector<std::byte> packed;  // on a stream
    uint64_t seq = UINT64_MAX;      // on a stream: the fragment in it
    bool hello = false;
  };

  // world.cpp
  void push(Time at, Kind kind, uint32_t process = 0, uint32_t extra = 0) {
    queue_.push({at, next_id_++, kind, process, extra});
  }
  void note(const std::string& text) {
    if (verbose_) result_.log += fmt::format("{:10.4f} {}\n", to_seconds(now_), text);
  }
  bool faulty() const { return now_ < plan_.faults_end; }
  bool bugged(Bug bug) const { return bug_ == bug; }
  uint32_t keep(Letter letter);
  void send(uint32_t from, uint32_t to, const Message& message);
  void send_frames(uint32_t from, uint32_t to, const Frames& frames);
  void deliver(uint32_t to, const Letter& letter);
  bool let_in(Process& process);
  std::string routing_id(const Process& process) const;
  void to_driver(const Process& process, Message message);
  void stream(Process& from, Process& to, Letter letter);
  Process& add_process();
  void kill(Process& process, const char* cause);
  void crash();
  void end_life();
  void dispatch(const Event& event);
  void handle(const Event& event);
  void check_progress(bool last);
  void check_finished();
  void timer(Process& process);
  void arm(Process& process, Time at);

  // world_driver.cpp
  void start_life();
  void step_driver(const DriverCore::Input& input);
  void apply_driver(DriverCore::Output& output);
  void save(CheckpointWriter::Input& input);
  Saved load(const std::string& directory);
  void check_newest_checkpoint();
  void begin_evaluation(const DriverCore::Evaluate& evaluate);
  void evaluated(uint32_t number);
  void check_kept();

  // world_agent.cpp
  uint32_t spawn_agent(uint32_t place, uint32_t incarnation);
  void agent_hello(Process& process);
  void agent_message(Process& process, uint32_t from, Message&& message);
  void agent_loaded(Process& process);
  void follow(Process& process, uint64_t epoch, uint32_t place, uint32_t incarnation, const std::string& learner,
              const std::string& parent);
  void agent_wake(Process& process);
  void agent_look(Process& process);
  void step_agent(Process& process, const HostAgent::Input& input);
  void apply_agent(Process& process, HostAgent::Output& output);
  void agent_learner_message(Process& process, Message&& message);
  void publish(Process& process);
  void serve(Process& process, const std::vector<WeightsPublisher::Send>& sends);
  void leave(Process& process, bool drained);
  void from_runner(Process& process, const Letter& letter);
  void runner_exited(Process& runner);
  void spawn_runner(Process& agent, uint32_t slot, uint32_t incarnation);
  void runner_started(Process& process);
  void runner_message(Process& process, const Letter& letter);
  void runner_loop(Process& process);
  void finish_sample(Process& process);
  void send_fragment(Process& process, const Truth& truth, const FragmentId& id);
  void runner_says(Process& process, Message message, uint64_t seq = UINT64_MAX, bool hello = false);
  Process* runner_of(AgentNode& agent, uint32_t slot);

  // world_learner.cpp
  void start_learner(Process& process, const wire::LearnerWelcomeT& welcome);
  void step_member(Process& process, const GroupMember::Input& input);
  void learner_hello(Process& process);
  void say_found(Process& process);
  void meet(Process& process);
  void leave_epoch(Process& process);
  void give_job(Process& process);
  void settle(LearnerNode& node);
  void joins(Process& process);
  void joined(Process& process);
  LearnerCore::Options run_options(const Process& process) const;
  void begin_core(Process& process, const GroupPart& part);
  void enter_update(Process& process, LearnerCore::Update& update);
  void all_entered();
  void prepared(Process& process);
  void committed(Process& process);
  void update_fails(Process& process);
  void aborted(Process& process);
  void advance(uint64_t version, uint64_t hash);
  void learner_message(Process& process, uint32_t from, Message&& message);
  void step_learner(Process& process, const LearnerCore::Input& input);
  void apply_learner(Process& process, LearnerCore::Output& output);
  void assemble(Process& process, const AcceptedFragment& fragment);
  void check_batch(Process& process, uint64_t weights_version);
  void written(Process& process);
  bool plant_in_parcel(Process& process, Process& agent, Message& message);

  // world_books.cpp
  void book_agent_state(LearnerNode& learner, const wire::AgentStateT& state);
  bool takes_part(const LearnerNode& learner, const Process& agent) const;
  void book_relayed(Process& agent, const Message& parcel);
  void book_arrival(LearnerNode& learner, Process& agent, const wire::ParcelT& parcel);
  void book_acknowledged(Process& learner, Process& agent, uint64_t received, uint64_t released);
  void book_used(const Truth& truth);
  void book_grant(LearnerNode& learner, Process& agent, const wire::GrantT& grant);
  void book_consumed(const LearnerNode& learner, const LearnerCore::Consumed& consumed);
  void book_permit(Process& agent, Process& runner, const wire::PermitT& permit);
  void book_runner_end(AgentNode& agent, Process& runner);
  void check_credit(Process& agent);
  void check_kept(const AgentNode& agent);
  void check_drained(Process& agent);
  void close_books(uint64_t life);
  uint64_t run_of(const Process& process) const { return kRun + process.life; }
  bool any_veteran() const;
  Process* find_runner(uint32_t slot, uint32_t incarnation);
  uint64_t fresh_environment(uint32_t slot, uint32_t incarnation) const {
    return mix(mix(seed_, slot), incarnation == 0 ? 0 : mix(life_, incarnation));
  }
  static uint64_t content_of(uint32_t slot, uint64_t environment, uint64_t weights) {
    return mix(mix(environment, slot), weights);
  }

  uint64_t seed_;
  Bug bug_;
  bool verbose_;
  Plan plan_;
  Dice dice_, network_, connections_, evaluation_;
  std::map<std::string, uint32_t> connected_;  // to the driver: processes by routing id
  std::shared_ptr<FragmentLayout> layout_;
  std::shared_ptr<Fragment> fragment_;  // every runner's in turn
  SharedWeightsLayout weights_layout_;
  Result result_;

  Time now_{};
  uint64_t next_id_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
  std::vector<Letter> letters_;
  std::vector<uint32_t> free_letters_;

  uint64_t life_ = 0;
  SimFiles files_;
  std::unique_ptr<DriverCore> driver_;
  std::unique_ptr<CheckpointWriter> writer_;
  Time driver_armed_ = Time::max();
  std::optional<DriverCore::Finished> finished_;
  std::deque<Process> processes_;
  std::vector<uint32_t> agents_;                // processes of this life
  std::vector<std::vector<uint32_t>> of_slot_;  // runner processes of this life, oldest first
  std::set<uint32_t> given_up_, held_;          // places: for good; once
  std::vector<uint32_t> learners_;              // processes of this life
  Group group_;                                 // the newest
  OpenUpdate open_;
  std::map<std::pair<uint32_t, uint32_t>, uint64_t> marks_;  // by agent and incarnation: of updates that count
  Saved saved_;

  std::map<uint64_t, uint64_t> published_;  // version -> hash, of this life
  std::map<uint64_t, State> states_;        // by iteration
  State current_;                           // after the newest update
  std::vector<uint32_t> agent_starts_;      // since it had a fragment
  bool deterministic_ = true;
  uint64_t iteration_ = 0;       // of the learners
  uint64_t reported_ = 0;        // by the driver
  uint64_t updates_before_ = 0;  // the faults ended
  std::optional<uint64_t> committed_;
  std::optional<DriverCore::Evaluate> evaluating_;
  uint32_t evaluations_ = 0;  // begun
  Time last_update_ = -std::chrono::seconds(1), next_check_{};
  bool driver_cut_ = false;  // a run that ends without data has a last epoch
  int interrupts_ = 0;
  bool episodes_lost_ = false, learners_lost_ = false, interrupted_ = false, usage_error_ = false, restarting_ = false,
       done_ = false;
};

}  // namespace myriad::simulation
