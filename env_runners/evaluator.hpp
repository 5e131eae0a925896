// Evaluator: runs exactly N episodes of a policy and reports each one.
//
// One thread. Episode i has its own random streams and is run by environment i mod B; an environment with no episode
// left rests. So no short episode is counted in place of a long one, and results do not depend on B. An episode that
// fails (environment.on_failure) is left out of the means and counted.
// What an agent gets in a world of several is one episode, however often it ends and comes back; what it waits does
// not count.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "env_runners/action_dist.hpp"
#include "env_runners/eigen_policy.hpp"
#include "env_runners/env_stepper.hpp"
#include "rl/config.hpp"
#include "rl/connector.hpp"
#include "rl/environment.hpp"
#include "rl/run_layout.hpp"
#include "rl/system.hpp"
#include "rl/weights.hpp"

namespace myriad {

struct EvaluationResult {
  struct Episode {
    double episode_return = 0.0;  ///< undiscounted sum of the environment's own rewards
    uint32_t length = 0;          ///< env steps
    bool failed = false;          ///< it was not played to its end: return and length are of its beginning
    bool ended = true;            ///< also where it failed; false: the time of the evaluation was over before
  };
  std::vector<Episode> episodes;  ///< by episode number
  std::vector<NumberStats> numbers = {};
  size_t num_cut = 0;  ///< at kEndlessEpisode

  size_t num_ended() const;
  size_t num_failed() const;
  // Of the episodes that ended and did not fail; 0 for none.
  double return_mean() const;
  double return_stddev() const;  ///< of the sample (n - 1); 0 for fewer than two
  double length_mean() const;
};

/// A_t, what came of it, and S_{t+1}.
struct SeenStep {
  int64_t t;  ///< steps of the episode, this one included
  ConstRow action, observation;
  StepResult result;  ///< `truncated` by the time limit, too
};

/// Looks on at an evaluation: called after every reset and step. Episodes that run side by side alternate.
class EpisodeObserver {
 public:
  virtual ~EpisodeObserver() = default;
  virtual void began(size_t episode, Environment& env, ConstRow observation) = 0;
  virtual void stepped(size_t episode, Environment& env, const SeenStep& step) = 0;
  virtual void failed(size_t) {}  ///< this episode ends without another step
};

class Evaluator {
 public:
  /// The time limit [env steps] of an environment that has none: a policy may never end an episode.
  static constexpr uint32_t kEndlessEpisode = 100'000;
  struct Options {
    int episodes = 20;
    uint64_t seed = 0;
    bool explore = false;  ///< sample actions instead of taking the mode
    size_t max_envs = 16;  ///< side by side: a panel of the policy; 1: the episodes come in their order
    Time max_time{};       ///< for evaluate_policy(), which ends it then with the episodes there are; 0: none
    EpisodeObserver* observer = nullptr;
    EnvContext context = {};  ///< environments are made in it
  };
  /// Of `episodes` that are asked for: whole worlds of its agents.
  static int whole_worlds(const EnvSpec& env, int episodes) {
    return (episodes + env.agents - 1) / env.agents * env.agents;
  }
  /// Keeps `weights`; plays whole_worlds() of the episodes. Throws what making the environments throws.
  Evaluator(const Config& config, const EnvSpec& env, const ModuleSpec& module, WeightsPtr weights,
            const Options& options);

  /// At most `steps` steps of every environment; true when all episodes are over. Throws EnvError: the first where
  /// environment.on_failure is "end" or agents share a world; else when more than fault_tolerance.max_failed_episodes
  /// of the episodes have failed.
  bool step_some(int steps);
  size_t num_finished() const { return finished_; }
  const EvaluationResult& result() const { return result_; }

 private:
  struct Slot {
    EnvStepper stepper;
    size_t episode;                         // which one it runs
    EvaluationResult::Episode before = {};  // of an agent: what it got in this world until it ended last
  };
  void start(size_t slot);
  bool begin(size_t slot);
  bool next(size_t slot);
  void drop_episode(size_t slot, const EnvError& error);
  void step_once();
  void read_observation(size_t slot);

  std::shared_ptr<const EnvRules> rules_;
  bool has_time_limit_;
  WeightsPtr weights_;
  Options options_;
  bool restarts_;
  double may_fail_;  // episodes
  ObservationFlattener flatten_;
  std::optional<MeanStdFilter> filter_;
  EigenPolicy policy_;
  ActionDist dist_;
  ActionConnector connector_;
  size_t obs_size_, num_envs_ = 0;                // num_envs_: B of the beginning
  std::vector<Slot> slots_;                       // those with an episode to run
  std::vector<RandomStream> action_streams_;      // [slots]
  std::vector<float> features_, filtered_;        // [slots, obs_size]
  std::vector<float> inputs_, logp_;              // [slots, n], [slots]
  std::vector<std::byte> row_;                    // of one observation
  std::vector<std::byte> actions_, env_actions_;  // [slots] rows
  size_t finished_ = 0, failed_ = 0;
  EvaluationResult result_;
};

/// Runs `episodes` episodes from `seed`.
EvaluationResult evaluate(const Config& config, const EnvSpec& env, const ModuleSpec& module, const Weights& weights,
                          int episodes, uint64_t seed, bool explore);

}  // namespace myriad
