// Learner: algorithm, filter, schedules and books of one shard, and the updates of its group. What a batch does to the
// parameters is Trainer's.
//
//   batch -> Trainer -> filter statistics -> version + 1
//
// In a group each shard has a share of the batch, and all compute what one learner would compute from the whole of it:
//
//   begin: rows of each shard | snapshot | Trainer; each gradient is summed over the group | prepared: barrier |
//   version + 1
//
// An update is a transaction. A group that breaks leaves a shard torn (in the middle), prepared (finished, and does not
// know whether everybody has) or settled. Whoever passed the barrier knows that all were prepared. So if all survivors
// are prepared or further, they settle forward, else back, and have the same version to the bit either way.
//
// What lies in parts over the shards (`learners.shard`), by P parameters, n shards, a part of c = P / n, the largest
// layer L and t = 1 with a target network, in bytes a shard, L at the peak of a pass:
//
//   learner_memory_   parameters_bytes      gradients_bytes   optimizer_bytes   redundancy_bytes
//   none              4 P (1 + t)           4 P               8 P               0
//   optimizer         4 P (1 + t)           4 P               8 c               8 c
//   gradients         4 P (1 + t)           4 (c + L)         8 c               8 c
//   parameters        4 c (1 + t) + 4 L     4 (c + L)         8 c               4 c (3 + t)
//
// Beside these a group of several keeps a snapshot of this shard's parameters, moments and target (snapshot_bytes), and
// the collective a copy of its largest operand. The redundancy is the left neighbour's part of the last version; while
// an update ends, that of the next one is there, too.
//
// The redundancy is here, in the host's memory; the rest is where the trainer's device has it.
//
// No socket, file or clock: apps/learner/main.cpp feeds it batches and publishes weights(). Constructed and called by
// one thread.
#pragma once

#include <memory>
#include <optional>

#include "learners/algorithm.hpp"
#include "learners/group/collective.hpp"
#include "learners/group/parts.hpp"
#include "learners/tensor_batch.hpp"
#include "learners/trainer.hpp"
#include "rl/config.hpp"
#include "rl/weights.hpp"

namespace myriad {

struct UpdateResult {
  Metrics metrics;           ///< under RLlib's names; losses are means over the last epoch. The group's, at every shard
  int64_t grad_updates = 0;  ///< optimizer steps taken
  int64_t skipped = 0;       ///< minibatches whose gradient was not finite
  bool empty = false;        ///< nobody had a row: nothing was trained, the version stays
};

/// All of a learner that changes. A new learner with this state continues bit for bit, unless there is a circular
/// buffer of more than one batch: its batches are not saved, so that the fewer than N uses they had left are lost, and
/// passes begin again when N uses are there.
struct LearnerState {
  TensorMap module;      ///< parameters by name
  TensorMap optimizer;   ///< this shard's part, with "offset" and "total" where that is not everything
  TensorMap connectors;  ///< "mean_std_filter" and "epsilon", where there are such
  TensorMap scalars;     ///< counters, the algorithm's coefficients, target_parameters
};

enum class Standing : uint8_t { settled, torn, prepared };

/// Shards that should have the same parameters have not.
struct ShardsDisagree : GroupBroken {
  ShardsDisagree(const std::string& what, std::vector<uint32_t> ranks)
      : GroupBroken(what), minority(std::move(ranks)) {}
  std::vector<uint32_t> minority;  ///< ranks; empty when no parameters have a majority
};

class Learner {
 public:
  /// Throws Error for an unknown algorithm, device or executor, or spaces no module covers.
  /// `support`: the device to train on, open_device() of the learner's number; null: what learners.device says for
  /// learner 0.
  Learner(const Config& config, const Space& observation_space, const Space& action_space,
          std::unique_ptr<DeviceSupport> support = nullptr);

  const ModuleSpec& spec() const { return spec_; }
  const Algorithm& algorithm() const { return *algorithm_; }
  uint64_t version() const { return version_; }
  uint32_t rank() const { return group_ ? group_->rank() : 0; }
  uint32_t size() const { return group_ ? group_->size() : 1; }
  c10::Device device() const { return trainer_->device(); }
  double collective_seconds() const { return group_ ? group_->seconds() : 0; }  ///< with this group, so far

  /// Who has what when a group forms; ranks are those of the new group.
  struct Sources {
    uint32_t root = 0;  ///< has all that is replicated: counters, coefficients, filter (and parameters unless sharded)
    std::vector<uint32_t> holders;  ///< who has part i of `holders.size()` parts of the sharded state, of the group
                                    ///< before (1 part = everything)
    bool everybody = true;          ///< all have everything already (a start): nothing is sent
  };
  /// From now on updates are done together with `group` (nullptr: alone). Collective: all shards call it. Empties a
  /// circular buffer. Throws GroupBroken; then this shard is as it was before.
  /// `gradients`: how these are summed where they lie on a device; null: through host memory, by `group`.
  void join(std::shared_ptr<Collective> group, const Sources& sources,
            std::shared_ptr<DeviceGroup> gradients = nullptr);

  /// The parts of the sharded state this shard has, of how many: {0} of 1 when it has everything.
  std::vector<uint32_t> parts() const { return holdings().front().parts; }
  uint32_t num_parts() const { return holdings().front().num_parts; }

  /// The same, and from join() until the new group's first operation also what it had before: a join that broke may
  /// leave some shards with old and new parts, others with old ones alone.
  std::vector<Parts::Holding> holdings() const { return parts_.holdings(); }

  /// One update of the whole group. `batch`: this shard's share, nullptr when it has none. `shared`: summed over the
  /// shards, in place, before anything else is done. Throws GroupBroken; standing() then says where this shard is.
  /// Throws Error("diverged") at the third gradient in a row that is not finite.
  UpdateResult update(Fragment* batch, std::span<double> shared = {});

  /// settled: at version(); torn, prepared: between version() and version() + 1.
  Standing standing() const { return standing_; }

  /// Ends an update that the group did not: `forward` makes a prepared one version() + 1; back is version(), bit for
  /// bit.
  void settle(bool forward);

  /// Of the last update that this shard finished, whether or not the group has.
  const UpdateResult& result() const { return result_; }

  /// What runners need: the inference part, the filter's statistics and the version. With parameters in parts it is
  /// collective: all shards call it, at the same version. Throws GroupBroken.
  Weights weights() const;

  /// Collective as weights() is. The optimizer's part is this shard's own.
  LearnerState state() const;
  /// Of the whole, before join(). Throws Error("foreign-checkpoint") when it does not fit.
  void set_state(const LearnerState& state);

 private:
  /// What an update may change beside the trainer, as it was before.
  struct Snapshot {
    std::optional<MeanStdFilter> filter;
    std::map<std::string, double> coefficients;
    int64_t env_steps = 0;
    Trainer::Books books;
  };

  bool alone() const { return size() == 1; }
  Share begin(Fragment* batch, std::span<double> shared);
  void train(Fragment* batch, Share share, UpdateResult& result);
  void update_filter(const at::Tensor& observed);

  void take_snapshot();
  void restore_snapshot();
  void pass_barrier();
  void commit();
  void add_memory(Metrics& metrics);

  bool parameters_in_parts() const { return shard_ == Shard::parameters && !parts_.whole(); }
  Placement placement() const;
  std::vector<float> gathered(std::span<const float> home, Range range) const;
  Parts::Live live(Parts::Slices& copies) { return trainer_->live(shard_ == Shard::parameters, copies); }
  LearnerState receive(Collective& group, uint32_t root) const;
  LearnerState replicated_state() const;
  void set_replicated_state(const LearnerState& state);
  std::vector<float> parameters_in(const LearnerState& state) const;
  std::vector<float> target_in(const LearnerState& state) const;
  void set_counters(const LearnerState& state);

  uint64_t seed_;
  Schedule lr_;
  std::unique_ptr<Algorithm> algorithm_;
  std::optional<Schedule> epsilon_;  ///< of an epsilon-greedy policy
  const UpdatePlan plan_;
  const bool has_target_;  ///< by plan_
  ModuleSpec spec_;
  std::unique_ptr<Trainer> trainer_;
  std::optional<MeanStdFilter> filter_;
  uint64_t version_ = 0;   ///< updates done
  int64_t env_steps_ = 0;  ///< trained on, lifetime
  Trainer::Books books_;

  enum class Shard : uint8_t { none, optimizer, gradients, parameters };
  Shard shard_;
  Parts parts_;
  std::shared_ptr<Collective> group_;  ///< null: alone
  Standing standing_ = Standing::settled;
  Snapshot snapshot_;
  UpdateResult result_;
};

}  // namespace myriad
