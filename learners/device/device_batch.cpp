#include "learners/device/device_batch.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <bit>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr int64_t kFewFinalRows = 8;

/// A column of the slab, [leading..., shape...].
at::Tensor view_of(const at::Tensor& slab, const FragmentLayout& layout, const Column& column,
                   std::vector<int64_t> leading) {
  leading.insert(leading.end(), column.shape.begin(), column.shape.end());
  const auto bytes = static_cast<int64_t>(layout.rows(column) * column.row_bytes);
  return slab.narrow(0, static_cast<int64_t>(column.offset), bytes).view(torch_type(column.dtype)).view(leading);
}

}  // namespace

DeviceBatch::DeviceBatch(const ModuleSpec& spec, const Space& action_space, const Algorithm& algorithm,
                         DeviceSupport& support, RecordedWork& work)
    : spec_(spec),
      action_space_(action_space),
      algorithm_(algorithm),
      sequences_(std::holds_alternative<SequencePlan>(algorithm.plan())),
      target_columns_(sequences_ && target_of(algorithm.plan())),
      support_(support),
      work_(work) {}

bool DeviceBatch::load(Fragment& fragment, const Filter* filter) {
  check_batch(fragment, spec_, action_space_);
  const FragmentLayout& layout = fragment.layout();
  const bool same = layout.hash() == layout_hash_;
  if (!same) prepare(layout);
  grow_final_rows(static_cast<int64_t>(fragment.final_rows));
  slab_bytes_ = layout.used_bytes(static_cast<size_t>(final_capacity_));
  support_.upload(fragment.used(), slab_.mutable_data_ptr());
  std::vector<at::Tensor> shared{slab_};
  if (filter) shared.push_back(filter->shift);
  work_.run(fmt::format("load {} {}", final_capacity_, filter != nullptr), shared, [this, filter] {
    if (frames_.defined()) stack(frames_, column("terminateds"), column("truncateds"), stack_, batch_.obs);
    if (!runs_.empty()) batch_.obs.copy_(at::cat(runs_, 2));
    if (filter)
      for (const at::Tensor& obs : {batch_.obs, batch_.final_obs.narrow(0, 0, final_capacity_)})
        obs.sub_(filter->shift).mul_(filter->scale).clamp_(-filter->clip, filter->clip);
    if (const auto* discrete = action_space_.get_if<Discrete>(); discrete != nullptr && discrete->start != 0)
      batch_.columns.at("actions").sub_(discrete->start);
    refresh_final_index();
  });
  return same;
}

void DeviceBatch::prepare(const FragmentLayout& layout) {
  layout_hash_ = layout.hash();
  work_.forget("layout");
  chosen_.clear();
  const at::TensorOptions options(support_.device());
  slab_ = at::zeros({static_cast<int64_t>(layout.capacity_bytes())}, options.dtype(at::kByte));
  const int64_t steps = layout.steps(), environments = layout.environments(), obs_size = spec_.obs_size;
  batch_ = {};
  batch_.steps = steps;
  batch_.environments = environments;
  for (const Column& column : layout.columns())
    if (column.rows == Rows::step) batch_.columns[column.name] = view_of(slab_, layout, column, {steps, environments});
  frames_.reset();
  runs_.clear();
  stack_ = layout.frame_stack();
  if (const Column* frames = layout.find("frames")) {
    frames_ = view_of(slab_, layout, *frames, {steps + stack_, environments}).flatten(2);
    batch_.obs = at::zeros({steps + 1, environments, obs_size}, options.dtype(frames_.scalar_type()));
  } else {
    for (const Column* column : layout.observation_columns())
      runs_.push_back(view_of(slab_, layout, *column, {steps + 1, environments}).flatten(2));
    batch_.obs =
        runs_.size() == 1 ? runs_[0] : at::zeros({steps + 1, environments, obs_size}, options.dtype(at::kFloat));
    if (runs_.size() == 1) runs_.clear();
  }
  batch_.columns["obs"] = batch_.obs.narrow(0, 0, steps);
  const Column* final_obs = layout.find("final_obs");
  batch_.final_obs = final_obs ? view_of(slab_, layout, *final_obs, {steps * environments}).view({-1, obs_size})
                               : at::zeros({1, obs_size}, options.dtype(at::kFloat));
  final_capacity_ = std::min(kFewFinalRows, batch_.final_obs.size(0));
  batch_.columns[kFinalIndex] = at::zeros({steps, environments}, options.dtype(at::kLong));
  if (target_columns_) {
    const at::TensorOptions floats = options.dtype(at::kFloat);
    batch_.columns[kTargetInputs] = at::zeros({steps, environments, inputs_size(spec_.distribution)}, floats);
    batch_.columns[kTargetLogp] = at::zeros({steps, environments}, floats);
  }
  order_ = at::zeros({sequences_ ? environments : steps * environments}, options.dtype(at::kLong));
}

/// To the next power of two, so that recordings are made anew only a few times.
void DeviceBatch::grow_final_rows(int64_t rows) {
  if (rows <= final_capacity_) return;
  final_capacity_ =
      std::min(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows))), batch_.final_obs.size(0));
  work_.forget("final_rows");
}

void DeviceBatch::refresh_final_index() {
  batch_.columns.at(kFinalIndex).copy_(final_index(batch_.columns.at("terminateds"), batch_.columns.at("truncateds")));
}

void DeviceBatch::keep(Columns& kept) const {
  kept[kSlab] = slab_.narrow(0, 0, static_cast<int64_t>(slab_bytes_)).clone();
  if (frames_.defined() || !runs_.empty()) kept[kObs] = batch_.obs.clone();
}

void DeviceBatch::bring_back(const Columns& kept) {
  if (!has_copy(kept)) return;
  const at::Tensor& slab = kept.at(kSlab);
  slab_.narrow(0, 0, slab.size(0)).copy_(slab);
  if (frames_.defined() || !runs_.empty()) batch_.obs.copy_(kept.at(kObs));
  const std::array<at::Tensor, 1> shared{slab_};
  work_.run("final index", shared, [this] { refresh_final_index(); });
}

at::Tensor DeviceBatch::all_obs(const at::Tensor& obs) const {
  return at::cat({obs.reshape({-1, spec_.obs_size}), batch_.final_obs.narrow(0, 0, final_capacity_)});
}

const at::Tensor& DeviceBatch::column(std::string_view name) const {
  const auto found = batch_.columns.find(name);
  check(found != batch_.columns.end(), "the loss wants the column {}, which neither runners nor targets gave", name);
  return found->second;
}

TensorBatch DeviceBatch::with_values(const at::Tensor& values) const {
  const int64_t rows = (steps() + 1) * environments();
  TensorBatch batch = batch_;
  if (!values.defined()) return batch;
  batch.values = values.narrow(0, 0, rows).view({steps() + 1, environments()});
  batch.final_values = values.narrow(0, rows, final_capacity_);
  return batch;
}

void DeviceBatch::set_column(const std::string& name, const at::Tensor& values) {
  at::Tensor& place = batch_.columns[name];
  if (!place.defined()) place = at::zeros_like(values);
  place.copy_(values);
}

void DeviceBatch::set_order(std::span<const int64_t> units) {
  support_.upload(std::as_bytes(units), order_.mutable_data_ptr());
}

at::Tensor DeviceBatch::choose(int64_t begin, int64_t count) {
  at::Tensor& place = chosen_[count];
  if (!place.defined()) place = at::zeros({count}, order_.options());
  return place.copy_(order_.narrow(0, begin, count));
}

Columns DeviceBatch::minibatch(const at::Tensor& units) const {
  Columns minibatch;
  const auto add = [&](const std::string& name) {
    const at::Tensor& all = column(name);
    const at::Tensor column = sequences_ ? all : all.flatten(0, 1);
    minibatch[name] = units.defined() ? column.index_select(sequences_ ? 1 : 0, units) : column;
  };
  for (const std::string& name : algorithm_.loss_columns())
    if (!sequences_ || name != "obs") add(name);
  if (!sequences_) return minibatch;
  add(kFinalIndex);
  if (target_columns_) {
    add(kTargetInputs);
    add(kTargetLogp);
  }
  minibatch["obs"] = all_obs(units.defined() ? batch_.obs.index_select(1, units) : batch_.obs);
  return minibatch;
}

}  // namespace myriad
