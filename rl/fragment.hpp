// Fragment: the one unit of experience, T steps of B environments in one contiguous buffer of time-major columns.
//
//   obs                [T+1, B, ...]  S_t, in the row layout of the observation the module sees; row T bootstraps
//   obs.0, obs.1, ...  [T+1, B, ...]  in its place where neighbouring features of S_t are of several types
//   frames             [T+k, B, ...]  in its place where observations are stacks of k frames: each frame once
//   actions            [T, B, ...]    A_t
//   rewards            [T, B]         R_{t+1}
//   terminateds        [T, B]         S_{t+1} is terminal
//   truncateds         [T, B]         S_{t+1} ended its episode otherwise: the time limit, or cut by the simulator
//   logp               [T, B]         log mu(A_t | S_t) of the behaviour policy, where the algorithm asks for it
//   action_dist_inputs [T, B, n]      of mu at S_t, where the algorithm asks for them
//   final_obs          [F, ...]       S_{t+1} where truncated and not terminated, in time-major order of (t, b)
//
// obs[t+1] is already the next episode's S_0 where an episode ended, so that
// V_next[t] = (1 - terminated) * (truncated ? V(final_obs) : V(obs[t+1])) holds at terminations, time limits and cuts.
//
// Rows 0 to k-1 of frames are the stack of S_0, the oldest first; row k-1+t is the newest frame of S_t. An episode's
// S_0 is one frame k times, as FrameStack resets. So place i of the stack of S_t, 0 the oldest, has row
//
//   max(t + i, k - 1 + s)   s <= t: the last step at which an episode began, after an end at s - 1
//   t + i                   where none did
//
// final_obs has whole stacks: there are few, and the newest frame of such an S_{t+1} is in no row of frames.
// The runner fills a fragment in place; the wire sends the buffer as it is; the learner copies columns into its batch.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rl/env_failure.hpp"
#include "rl/space.hpp"

namespace myriad {

/// What a column has one row for.
enum class Rows : uint8_t { step = 0, step_and_bootstrap = 1, environment = 2, final_step = 3, frame = 4 };

struct Column {
  std::string name;
  Rows rows;
  DType dtype;
  std::vector<int> shape;  ///< of one row
  size_t row_bytes;
  size_t offset;  ///< bytes from the start of the buffer; 64-byte aligned

  bool holds_observations() const { return name == "obs" || name.starts_with("obs."); }
};

/// Where each column lies; the same for every fragment of a run, so shapes stay fixed (CUDA graphs need that).
class FragmentLayout {
 public:
  /// `frame_stack`: the frames of an observation, k.
  FragmentLayout(int steps, int environments, int frame_stack = 1);

  /// Appends a column; Rows::final_step must come last (its used rows are the buffer's tail).
  FragmentLayout& add(std::string name, Rows rows, DType dtype, std::vector<int> shape);

  int steps() const { return steps_; }                ///< T
  int environments() const { return environments_; }  ///< B
  int frame_stack() const { return frame_stack_; }    ///< k
  std::span<const Column> columns() const { return columns_; }
  const Column& column(std::string_view name) const;  ///< throws Error for an unknown name
  const Column* find(std::string_view name) const;
  /// Those that hold S_t, in the order of its features: obs, or obs.0, obs.1, ...; none where there are frames.
  std::vector<const Column*> observation_columns() const;
  size_t rows(const Column& column) const;  ///< rows it can hold
  size_t capacity_bytes() const { return capacity_bytes_; }
  /// The bytes in use when `final_rows` rows of final_obs are.
  size_t used_bytes(size_t final_rows) const;
  /// Buffers of a layout with another hash are refused.
  uint64_t hash() const;

 private:
  int steps_, environments_, frame_stack_;
  std::vector<Column> columns_;
  size_t capacity_bytes_ = 0;
};

/// Which fragment this is: never reused, so that a duplicate is recognised wherever it turns up.
struct FragmentId {
  uint32_t slot = 0;         ///< the runner's place in the run
  uint32_t incarnation = 0;  ///< which process in that slot
  uint64_t seq = 0;          ///< 0, 1, 2, ... within the incarnation
  auto operator<=>(const FragmentId&) const = default;
};

/// One finished episode, reported beside the fragment it ended in.
struct EpisodeStats {
  double episode_return = 0.0;  ///< undiscounted sum of the environment's own rewards
  uint32_t length = 0;          ///< env steps
  uint32_t env_index = 0;       ///< global index of the environment
  uint32_t level = 0;           ///< of the curriculum, when it began
};

/// A number that environments gave of episodes that ended in a fragment: EpisodeNumber.
struct NumberStats {
  std::string name;
  uint64_t episodes = 0;
  double mean_sum = 0, mean_min = 0, mean_max = 0;  ///< of the episodes' means
  double last_sum = 0;
};

/// What the environments of a fragment did beside its columns.
struct EnvReport {
  EnvFailureCounts failures{};
  uint64_t outside = 0;  ///< observations that were clipped or let through
  std::vector<NumberStats> numbers;
};

class Fragment {
 public:
  explicit Fragment(std::shared_ptr<const FragmentLayout> layout);

  const FragmentLayout& layout() const { return *layout_; }
  std::span<std::byte> buffer() { return {buffer_.get(), layout_->capacity_bytes()}; }
  std::span<const std::byte> used() const { return {buffer_.get(), layout_->used_bytes(final_rows)}; }

  /// All rows of a column as T, row-major.
  template <class T>
  std::span<T> values(const Column& column) {
    return {reinterpret_cast<T*>(buffer_.get() + column.offset), layout_->rows(column) * column.row_bytes / sizeof(T)};
  }
  /// The `i`-th row in storage order: t * B + b.
  std::byte* row(const Column& column, size_t i) { return buffer_.get() + column.offset + i * column.row_bytes; }

  FragmentId id;
  uint64_t weights_version = 0;  ///< of the behaviour policy, the same for all T steps
  size_t final_rows = 0;         ///< rows of final_obs in use
  std::vector<EpisodeStats> episodes;
  EnvReport report;

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::shared_ptr<const FragmentLayout> layout_;
  std::unique_ptr<std::byte[], Free> buffer_;
};

/// "" when the buffer can be used: length, flags in {0, 1}, final_rows as the flags say, every float finite,
/// each choice of the actions inside `action_space`; else the first fact that does not hold. For bytes that came from
/// the network.
std::string fragment_violation(const FragmentLayout& layout, std::span<const std::byte> buffer, size_t final_rows,
                               const Space& action_space);

}  // namespace myriad
