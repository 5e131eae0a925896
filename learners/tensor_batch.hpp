// TensorBatch: a fragment as torch tensors, observations stacked and filtered. Tensors that need no change are views of
// the fragment's buffer, so the fragment outlives the batch. One thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "rl/connector.hpp"
#include "rl/fragment.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

at::ScalarType torch_type(DType dtype);

/// Tensors by column name.
using Columns = std::map<std::string, at::Tensor, std::less<>>;

/// On a device: the row of final_obs that a step [T, N] has, where it was cut by the time limit; 0 elsewhere.
constexpr const char* kFinalIndex = "final_index";

struct TensorBatch {
  int64_t steps = 0;         ///< T
  int64_t environments = 0;  ///< N
  at::Tensor obs;            // [T+1, N, obs_size]  filtered
  at::Tensor final_obs;      // [F, obs_size]       filtered
  at::Tensor values;         // [T+1, N]            V(obs), by the learner's own module before the update
  at::Tensor final_values;   // [F]                 V(final_obs)
  Columns columns;  // [T, N, ...]         "obs" (its first T rows), "actions", "rewards", ..., what targets adds
};

/// What a shard trains on in one pass: its own columns, and how much each shard of the group has.
struct Share {
  Columns columns;             ///< empty where this shard has nothing
  std::vector<int64_t> units;  ///< of each shard: what minibatches are made of, rows or environments
  int64_t unit_rows = 1;       ///< rows (env steps) of a unit, the same everywhere
};

/// Stacks from the frames of a fragment, by the rule of rl/fragment.hpp: frames [T+k, N, f] and the flags [T, N] become
/// [T+1, N, k * f]. In torch's operators, on any device and without waiting for it.
at::Tensor stacked(const at::Tensor& frames, const at::Tensor& terminateds, const at::Tensor& truncateds, int64_t k);
void stack(const at::Tensor& frames, const at::Tensor& terminateds, const at::Tensor& truncateds, int64_t k,
           const at::Tensor& out);

/// The observations of `fragment` as they were sent, unfiltered, [T+1, N, obs_size]: a view, or stacks of its frames.
at::Tensor observations(Fragment& fragment);

/// Throws Error for columns or actions that do not fit `spec`.
void check_batch(Fragment& fragment, const ModuleSpec& spec, const Space& action_space);

/// Views `fragment` as tensors; `filter` may be null, `observed` is its observations() where they are there already.
/// Discrete actions count from 0. Throws Error as check_batch().
TensorBatch make_tensor_batch(Fragment& fragment, const ModuleSpec& spec, const Space& action_space,
                              const MeanStdFilter* filter, const at::Tensor& observed = {});

/// Nothing of a batch: no environments, and tensors without rows.
TensorBatch empty_tensor_batch(const ModuleSpec& spec);

/// The named columns of the whole batch, [T, N, ...], but "obs" as rows [(T+1) * N + F, obs_size]: steps, bootstrap
/// row, final_obs. Views where they can be.
Columns sequence_columns(const TensorBatch& batch, const std::vector<std::string>& names);

/// The same of some environments, copied: [T, n, ...] and "obs" [(T+1) * n + f, obs_size].
Columns sequence_columns_of(const Columns& columns, std::span<const int64_t> environments);

/// kFinalIndex from the flags [T, N], in torch's operators.
at::Tensor final_index(const at::Tensor& terminateds, const at::Tensor& truncateds);  // [T, N]  int64

/// The rows of `columns`' "obs" that an action was taken at, [T * N, obs_size].
at::Tensor step_obs(const Columns& columns);

}  // namespace myriad
