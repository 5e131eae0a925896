// DeviceBatch: the batch an update trains on, on a torch device, and what its minibatches are made of.
//
// The slab is the fragment's buffer there, so that a batch is one copy and every shape is fixed; what varies, the rows
// of final_obs, is rounded up. Frames are stacked and observations filtered on the device. Minibatches are gathered on
// the device by units that the host chose: rows, or whole environments by a SequencePlan. Nothing here waits
// for the device. Owned by TorchTrainer; one thread, inside DeviceSupport::run().
#pragma once

#include <map>
#include <string>
#include <vector>

#include "learners/algorithm.hpp"
#include "learners/device/device_support.hpp"
#include "learners/device/recorded_work.hpp"

namespace myriad {

class DeviceBatch {
 public:
  /// All outlive it.
  DeviceBatch(const ModuleSpec& spec, const Space& action_space, const Algorithm& algorithm, DeviceSupport& support,
              RecordedWork& work);

  /// How observations are filtered: clip((x - shift) * scale), by numbers that lie on the device.
  struct Filter {
    at::Tensor shift, scale;  // [obs_size]
    float clip = 0.0f;
  };
  /// Takes `fragment`, filtered where there is a `filter`; actions count from 0. Returns false where its layout is
  /// another than the last one's: then what was recorded is forgotten and what was kept is of no use. Throws Error for
  /// columns or actions that do not fit.
  bool load(Fragment& fragment, const Filter* filter);

  /// Adds a copy of the batch to `kept`; takes the batch a copy was made of. Nothing where there is none.
  void keep(Columns& kept) const;
  void bring_back(const Columns& kept);
  static bool has_copy(const Columns& kept) { return kept.contains(kSlab); }

  int64_t steps() const { return batch_.steps; }                ///< T
  int64_t environments() const { return batch_.environments; }  ///< N
  /// In names of recorded work: what varies in the shapes of a layout's batches.
  int64_t final_capacity() const { return final_capacity_; }
  const at::Tensor& slab() const { return slab_; }

  at::Tensor obs() const { return batch_.columns.at("obs").reshape({steps() * environments(), -1}); }
  at::Tensor all_obs() const { return all_obs(batch_.obs); }  // [(T+1) * N + final_capacity, obs_size]
  const at::Tensor& column(std::string_view name) const;      // [T, N, ...]  may be changed in place
  /// With the module's values of all_obs(), [(T+1) * N + final_capacity]; undefined: it has none.
  TensorBatch with_values(const at::Tensor& values) const;
  /// Adds a column, or what is in it.
  void set_column(const std::string& name, const at::Tensor& values);

  /// The units of an epoch, in order; and `count` of them from `begin`, in a place that is always the same.
  void set_order(std::span<const int64_t> units);
  at::Tensor choose(int64_t begin, int64_t count);  // [count]

  /// The loss's columns of `units`, of all where undefined. Rows' are [n, ...]; sequences' [T, n, ...], and "obs"
  /// [(T+1) * n + final_capacity, obs_size].
  Columns minibatch(const at::Tensor& units) const;

 private:
  static constexpr const char *kSlab = "slab", *kObs = "obs";

  void prepare(const FragmentLayout& layout);
  void grow_final_rows(int64_t rows);
  void refresh_final_index();
  at::Tensor all_obs(const at::Tensor& obs) const;

  ModuleSpec spec_;
  Space action_space_;
  const Algorithm& algorithm_;
  const bool sequences_, target_columns_;  ///< by the algorithm's plan
  DeviceSupport& support_;
  RecordedWork& work_;

  // What lies on the device for good, for batches of one layout.
  uint64_t layout_hash_ = 0;
  at::Tensor slab_;               // [bytes]  the fragment's buffer
  size_t slab_bytes_ = 0;         ///< with final_capacity_ rows of final_obs
  at::Tensor frames_;             ///< view of slab_, [T+k, N, frame]; undefined where observations are no stacks
  std::vector<at::Tensor> runs_;  ///< views of slab_, [T+1, N, n]; none where they are one column of observations
  TensorBatch batch_;             ///< views of slab_, all the rows final_obs can have among them; columns beside it
  int64_t stack_ = 1;             ///< k
  int64_t final_capacity_ = 0;    ///< rows of final_obs that go through the module; never shrinks
  at::Tensor order_;              // [units]
  std::map<int64_t, at::Tensor> chosen_;  ///< a minibatch's units, by their number
};

}  // namespace myriad
