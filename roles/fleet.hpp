// Fleet: the places of the host agents: which agent holds each, its state, and its newest status.
//
//   free --spawned by the driver, or from outside: hello--> held --welcome--> up --left, lost, ended--> free again, or
//                                                                                                     respawned
//
// Place h owns the runner slots [h R / H, (h + 1) R / H). Each agent that holds it has an incarnation, one higher than
// the last one's; messages of other peers in its name are ignored. The place's learner is told of each agent that
// comes or goes. Part of DriverCore: a state machine, one thread, time comes in.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "rl/check.hpp"
#include "rl/wire/messages.hpp"
#include "roles/slot_supervisor.hpp"

namespace myriad {

class Fleet {
 public:
  struct Options {
    uint64_t run = 0;
    std::string config_toml;                 ///< resolved, for the agents
    uint32_t num_slots = 1;                  ///< runner slots of all places
    bool spawns = true;                      ///< hosts.launcher "local"; else every agent comes from outside
    uint32_t weights_fanout = 8;             ///< agents that take the weights from one source
    std::vector<SharedBytes> runner_states;  ///< by runner slot, of the checkpoint; may be empty
    SlotSupervisor::Options agents;          ///< num_slots: places; the timeouts are set here
    uint64_t seed = 0;
  };
  static constexpr uint32_t kAnyPlace = UINT32_MAX;                ///< of an agent from outside
  static constexpr Time kAgentTimeout = std::chrono::seconds(10);  ///< without a word: hung, or lost
  static constexpr size_t kMaxWaiting = 4096;  ///< agents without a place that are told when the run ends
  static constexpr Time kRelayGrace =
      std::chrono::seconds(10);  ///< an agent waits for the agent that relays weights to it
  static constexpr Time kRefusalEvery = std::chrono::seconds(10);  ///< between events about agents that cannot be used
  static constexpr size_t kMaxStateBytes = kMaxPayloadBytes * 7 / 8;  ///< of one agent's runners, in one welcome

  explicit Fleet(Options options);

  // --- outputs ---
  struct SpawnAgent {
    uint32_t agent, incarnation;
  };
  struct KillAgent {
    uint32_t agent, incarnation;
    int signal;
  };
  struct ToAgent {
    std::string peer;
    Message message;
  };
  struct ToLearner {
    uint32_t shard;
    Message message;
  };
  struct Event {
    std::string kind, text;
  };
  struct Over {
    Exit exit;
    std::string reason, error_code;
  };  ///< the run cannot go on; may come more than once
  using Output = std::variant<SpawnAgent, KillAgent, ToAgent, ToLearner, Event, Over>;
  using Outputs = std::vector<Output>;

  void start(Time now, Outputs& outputs);
  /// A learner of the group, as it concerns an agent.
  struct LearnerOf {
    uint32_t shard = 0;
    std::string endpoint;
  };
  /// Where each place sends fragments in this epoch; no agent is welcomed before the first call.
  void set_learners(uint64_t epoch, std::vector<LearnerOf> by_place, Time now, Outputs& outputs);
  /// AgentHello, AgentStatus, Event or ProcessError. False for anything else, and from peers without a place.
  /// `user`: the peer's name in the allow-list, where sockets have keys.
  bool received(const std::string& peer, const std::string& user, const Message& message, Time now, Outputs& outputs);
  /// `drained`: it ended because it was told to (preemption).
  void exited(uint32_t agent, uint32_t incarnation, const std::string& cause, bool drained, Time now, Outputs& outputs);
  void spawn_failed(uint32_t agent, const std::string& cause, Time now, Outputs& outputs);
  void tick(Time now, Outputs& outputs);
  /// What the learner should know, again.
  void announce_all(Outputs& outputs) const;
  /// `next_run`: what agents from outside join then; 0: nothing.
  void stop(const std::string& reason, uint64_t next_run, Time now, Outputs& outputs);

  Time next_timer() const;
  /// Of the learner group given to set_learners(), and of all messages; the next group may be forming.
  uint64_t epoch() const { return epoch_; }
  uint32_t num_processes() const { return supervisor_.num_running(); }  ///< started by this driver

  struct Counts {
    uint32_t hosts = 0;                                  ///< that take part
    uint32_t running = 0, quarantined = 0, waiting = 0;  ///< runners on them
    uint64_t restarts = 0;                               ///< of runners, those of a replaced agent included
    uint64_t fragments = 0;                              ///< that these hosts have received from their runners
    int64_t weights_version = -1;                        ///< the oldest that a host has
    int64_t sampling_version = -1;                       ///< the oldest that a runner samples with
    float weights_latency_p50_ms = 0, weights_latency_p99_ms = 0, weights_latency_max_ms = 0;  ///< of the slowest host
  };
  Counts counts() const;
  /// Places whose runners will not come: quarantined, or left by an agent without a successor.
  std::set<uint32_t> given_up() const;

 private:
  struct Place {
    uint32_t incarnation = 0;  // of the newest agent that held it
    bool used = false;
    bool outside = false;  // held by an agent that this driver did not start
    bool up = false;       // welcomed, and neither left nor gone
    bool left = false;     // drained; its end follows
    std::string peer;      // its routing id; "": no agent to send to
    std::string user;      // the agent's name in the allow-list, where sockets have keys
    std::string host;
    Time first_hello{}, heard{};
    wire::AgentStatusT status;
    uint64_t restarts_before = 0;                            // by its earlier agents
    std::optional<uint32_t> announced;                       // the newest incarnation the learner was told of
    std::optional<wire::ProcessErrorT> error, runner_error;  // last words
  };
  uint32_t first_slot(uint32_t agent) const;
  uint32_t num_slots(uint32_t agent) const { return first_slot(agent + 1) - first_slot(agent); }
  void hello(const std::string& peer, const std::string& user, const wire::AgentHelloT& hello, Time now,
             Outputs& outputs);
  void status(const std::string& peer, uint64_t epoch, const wire::AgentStatusT& status, Time now, Outputs& outputs);
  void move(uint32_t agent, Time now, Outputs& outputs) const;
  void last_words(uint32_t agent, const wire::ProcessErrorT& error, Outputs& outputs);
  void welcome(uint32_t agent, const std::string& weights_endpoint, Outputs& outputs);
  std::optional<uint32_t> place_for(const std::string& peer, const wire::AgentHelloT& hello, Time now,
                                    Outputs& outputs);
  std::optional<std::string> weights_endpoint(uint32_t agent, Time now) const;
  SharedBytes states_of(uint32_t agent, Outputs& outputs) const;
  void take_place(uint32_t agent, uint32_t incarnation, bool outside);
  void bind(uint32_t agent, const std::string& peer, const std::string& host, Time now);
  void down(uint32_t agent, Outputs& outputs);
  void vacate(uint32_t agent, Outputs& outputs);
  void supervise(const SlotSupervisor::Input& input, Time now, Outputs& outputs);
  void end_if_given_up(Over over, Outputs& outputs) const;
  void announce(uint32_t agent, Outputs& outputs) const;
  void tell_to_stop(const std::string& peer, const std::string& reason, Outputs& outputs) const;
  void refuse(const std::string& text, Time now, Outputs& outputs);

  Options options_;
  SlotSupervisor supervisor_;
  std::vector<Place> places_;
  std::map<std::string, uint32_t> place_of_;  // by peer
  std::set<std::string> waiting_;             // peers from outside that found no free place
  std::vector<LearnerOf> learners_;           // by place
  uint64_t epoch_ = 0;                        // of the learner group
  std::string stop_reason_;
  uint64_t next_run_ = 0;
  bool stopping_ = false;
  Time next_refusal_{};
};

}  // namespace myriad
