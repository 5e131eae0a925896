// RolloutWorker: an env runner's loop without its sockets: fills fragments with the experience of B environments.
//
// One thread. Per step: [filter] -> EigenPolicy -> ActionDist -> ActionConnector -> VectorEnv, each writing straight
// into the fragment's columns where shapes allow; no heap allocation, lock or shared atomic per step. Where
// observations are stacks of frames the fragment gets each frame once, and the policy sees stacks that the worker makes
// of them as the learner will. A fragment can be filled in pieces, so that the caller may send heartbeats between them:
//
//   worker.begin(fragment, weights);
//   while (!worker.step_some(8)) heartbeat();      // or at once: worker.sample(fragment, weights)
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "env_runners/action_dist.hpp"
#include "env_runners/eigen_policy.hpp"
#include "env_runners/vector_env.hpp"
#include "rl/connector.hpp"
#include "rl/fragment.hpp"
#include "rl/run_layout.hpp"
#include "rl/weights.hpp"

namespace myriad {

class RolloutWorker {
 public:
  /// `first_env_index` is slot * B; `incarnation`: a restarted runner draws other numbers than the process it replaces.
  /// `env` may be the registered spec or the configured one; environments are made in `context`.
  RolloutWorker(const Config& config, const EnvSpec& env, const ModuleSpec& module, uint64_t first_env_index,
                uint32_t incarnation = 0, const EnvContext& context = {});

  /// Fills all T steps under `weights`: begin() and step_some(T). The fragment's id is the caller's to set.
  void sample(Fragment& fragment, const WeightsView& weights);

  /// Starts a fragment: the fragment and what the view shows must stay until it is full. The first one resets the
  /// environments.
  void begin(Fragment& fragment, const WeightsView& weights);
  /// At most `steps` vector steps; true when the fragment is full. Throws Error (exit 3) when an environment fails.
  bool step_some(int steps);

  /// Is told what VectorEnv tells.
  void on_event(std::function<void(std::string_view kind, const std::string& text)> tell) {
    envs_.on_event(std::move(tell));
  }
  uint64_t num_env_steps() const { return env_steps_; }  ///< by this object, over all B
  /// Of the newest fragment: versions between its weights and the oldest that a client chose an action in it with.
  uint64_t clients_lag() const { return clients_lag_; }

  /// Everything the next fragment depends on but the weights, as safetensors; only between fragments.
  std::vector<std::byte> state() const;
  /// Continues from what state() gave; returns a note where an environment had to start its episode anew, else "".
  /// Throws Error("corrupt-file" or "foreign-checkpoint").
  std::string set_state(std::span<const std::byte> bytes);

 private:
  struct Target {  // where step t of the fragment being filled goes
    Fragment* fragment = nullptr;
    std::byte *obs, *frames, *final_obs, *actions;  // obs: in the fragment, or observed_
    float *rewards, *logp, *inputs;
    uint8_t *terminateds, *truncateds;
    size_t logp_stride, inputs_stride;  // floats to the next step's; 0 where the fragment has no such column
    int t = 0;
  };
  void step_once();
  bool in_place() const { return frame_stack_ == 1 && run_rows_.empty(); }  ///< environments write into fragments
  void write_runs();
  void write_first_stacks();
  void take_frames(std::byte* final_obs);
  void take_own(size_t b, const OwnAction& own);
  void choose_actions(const std::byte* obs, std::byte* actions, float* logp, float* inputs);  // [B, ...] each
  void to_features(const std::byte* rows, size_t n, std::byte* features) const;

  enum class Mode { sample, mode, uniform };

  size_t num_envs_, obs_size_;
  size_t frame_stack_;  ///< frames of an observation
  Mode mode_;
  VectorEnv envs_;
  ObservationFlattener flatten_;
  std::vector<ObservationRun> runs_;  ///< how fragments carry observations
  std::vector<std::byte*> run_rows_;  ///< where the next row of each goes; none where there is one run
  bool bytes_;                        ///< fragments carry observations as the env's uint8
  bool flat_;                         ///< an env row is what they carry
  size_t obs_bytes_, frame_bytes_;
  int mask_offset_;  ///< of the action mask in features; -1: none
  std::optional<MeanStdFilter> filter_;
  EigenPolicy policy_;
  ActionDist dist_;
  UniformActions uniform_;
  ActionConnector connector_;
  std::vector<RandomStream> action_streams_;              // [B]
  std::vector<std::pair<size_t, const OwnAction*>> own_;  ///< of one step
  std::vector<std::byte> observed_;    // [B, obs_bytes]  S_t where the next fragment starts; S_t where it has no obs
  std::vector<std::byte> env_stacks_;  // [B, obs_bytes]  where observations are stacks: the environments' own
  std::vector<float> features_;        // [B, obs_size]  of uint8, or filtered
  std::vector<float> logp_, inputs_;   // [B], [B, k]  where fragments have no such column
  std::vector<std::byte> rows_[2];     // [B, row_bytes]  where rows are not features: of S_t, and of the state before
  std::vector<std::byte> final_rows_;  // [B, row_bytes]
  size_t env_action_bytes_;
  std::vector<std::byte> env_actions_;  // [B, env_action_bytes]
  std::vector<std::byte> own_action_;   // of one environment, as the fragment keeps it
  bool started_ = false;
  uint64_t env_steps_ = 0, clients_lag_ = 0;
  Target target_;
};

}  // namespace myriad
