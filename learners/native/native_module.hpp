// NativeModule: a ModuleSpec's training executor on CPUs, in Eigen, without torch.
//
// Forward keeps what backward needs; backward adds into one flat gradient buffer laid out like the parameters. Samples
// are taken in chunks of 256 (64 where pictures are convolved: that is work enough for a thread), and a chunk's
// activations stay in the cache from layer to layer:
//
//   chunk c -> lane c % 8;  task = (network, lane);  each task adds its chunks in order into its own gradient;
//   the lanes are added in order at the end.
//
// Which thread runs a task does not matter, so the gradient is the same to the bit for any number of threads,
// as long as the caller's buffers keep their alignment (torch's tensors lie at multiples of 64 bytes).
// Owned and called by one thread (the learner's); worker threads live inside and only during a call do they touch it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "learners/aligned_vector.hpp"
#include "learners/group/partition.hpp"
#include "learners/native/native_kernels.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

class WorkerThreads;

/// Observations [n, obs_size], as runners sent them.
struct ObsRows {
  const float* floats = nullptr;
  const uint8_t* bytes = nullptr;  ///< in place of floats
  ObsRows() = default;
  ObsRows(const float* rows) : floats(rows) {}
  ObsRows(const uint8_t* rows) : bytes(rows) {}
};

class NativeModule {
 public:
  /// What it cannot train, "a layer of kind conv2d" or "the network qf1"; "" where it can train all. It knows the
  /// networks of make_module_spec() and make_q_spec(), pi and vf of one linear layer. Streams, BatchNorm, AvgPool2d
  /// and RandomShift are the torch executor's; a Select can only be an encoder's first layer.
  static std::string obstacle(const ModuleSpec& spec);
  static bool supports(const ModuleSpec& spec) { return obstacle(spec).empty(); }
  /// Whether 64 samples of the largest layer stay in the caches, where it outruns torch: nature_cnn on pictures of
  /// 84 x 84, and impala_resnet on those below 44 x 44.
  static bool pays(const ModuleSpec& spec);

  /// `threads` >= 1 take part in a call large enough to share. Throws Error("impossible") for what it does not support.
  NativeModule(const ModuleSpec& spec, int threads, const NativeKernels& kernels = native_kernels());
  ~NativeModule();

  const ModuleSpec& spec() const { return spec_; }
  int threads() const { return threads_; }

  /// Computes both outputs and keeps the activations for backward(). `obs` must stay alive until then.
  void forward(const float* parameters, ObsRows obs,  // [num_parameters], [n, obs_size]
               size_t n, float* action_dist_inputs,   // [n, inputs_size]
               float* values);                        // [n]

  /// Adds the gradient of the last forward() to `gradient`. Throws Error when no forward() came before. Where
  /// `finished` is given the value network comes first, and `finished` is called with the range of each network once
  /// it is done: the bits are the same.
  void backward(const float* parameters, const float* d_action_dist_inputs,  // [num_parameters], [n, inputs_size]
                const float* d_values, float* gradient,                      // [n], [num_parameters]
                const std::function<void(Range)>& finished = {});

  /// Values alone; keeps nothing.
  void values(const float* parameters, ObsRows obs, size_t n, float* values);  // [n, obs_size] -> [n]

 private:
  struct Step;
  struct Trunk;
  struct Head {
    size_t weight = 0, bias = 0;
    int inputs = 0, outputs = 0;
  };
  struct Scratch {
    AlignedVector activations, a, b, head, value, room, saved;
  };
  struct Call {  ///< what the tasks of one call read
    const float* parameters = nullptr;
    ObsRows obs;
    size_t n = 0;
    float* action_dist_inputs = nullptr;
    float* values = nullptr;
    const float* d_action_dist_inputs = nullptr;
    const float* d_values = nullptr;
    float* gradient = nullptr;
    size_t first = 0, networks = 0;  ///< those that backward works on
  };
  using Task = void (NativeModule::*)(size_t task, size_t thread);

  void add_network(const std::vector<Layer>& layers, size_t& offset);
  size_t lanes() const;
  float* lane_gradient(size_t lane);
  Range range_of(size_t first, size_t networks) const;
  void run(size_t tasks, size_t multiplications, Task task);
  void forward_task(size_t task, size_t thread);
  void backward_task(size_t task, size_t thread);
  void values_task(size_t task, size_t thread);
  /// Calls `visit(start, count)` for the panels of a lane: count <= 64 samples from start on.
  template <class Visit>
  void each_panel(size_t lane, Visit visit) const;
  const float* features_of(const Trunk& network, size_t start, size_t count, float* activations) const;
  void policy_head(const float* features, size_t start, size_t count, AlignedVector& head);
  void policy_head_gradient(size_t start, size_t count, AlignedVector& head, float* gradient) const;
  bool is_masked(size_t sample, int choice) const;
  void pack(const Trunk& network, size_t start, size_t count, float* panel) const;
  void value_head(const float* features, size_t start, size_t count, Scratch& scratch) const;
  void greedy_values(const float* features, size_t start, size_t count, AlignedVector& head) const;
  int best_of(const AlignedVector& head, size_t start, size_t i) const;
  void trunk_backward(const Trunk& network, const float* activations, int n, float* gradient, Scratch& scratch) const;

  ModuleSpec spec_;
  int threads_;
  const NativeKernels& k_;
  size_t num_parameters_, num_inference_, log_std_at_ = 0;
  int inputs_size_;
  std::vector<ActionPart> parts_;  ///< of the distribution
  bool has_state_log_std_ = false, has_value_head_;
  size_t chunk_;
  size_t multiplications_ = 0;   ///< of a sample
  std::vector<Trunk> networks_;  ///< the policy's; the value's unless they share
  Head policy_, value_;
  std::vector<int> best_;         ///< [n] greedy actions, where there is no value head
  AlignedVector raw_;             ///< [n, inputs_size] before log stds are clipped, where some depend on the state
  std::vector<Scratch> scratch_;  ///< one a thread
  std::vector<AlignedVector> lane_gradients_;  ///< of lanes 1, 2, ...
  Call call_;
  std::unique_ptr<WorkerThreads> workers_;
};

}  // namespace myriad
