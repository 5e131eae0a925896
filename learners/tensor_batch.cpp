#include "learners/tensor_batch.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "rl/check.hpp"

namespace myriad {
namespace {

/// A view of `rows` rows of a column: [rows..., shape...].
at::Tensor view(Fragment& fragment, const Column& column, std::vector<int64_t> rows) {
  rows.insert(rows.end(), column.shape.begin(), column.shape.end());
  return at::from_blob(fragment.row(column, 0), rows, at::TensorOptions(torch_type(column.dtype)));
}

at::Tensor filtered(const at::Tensor& obs, const MeanStdFilter* filter) {
  if (filter == nullptr) return obs;
  at::Tensor out = at::empty_like(obs);
  const auto count = static_cast<size_t>(obs.numel());
  filter->apply({obs.const_data_ptr<float>(), count}, {out.mutable_data_ptr<float>(), count});
  return out;
}

size_t count_of(const Column& column) { return column.row_bytes / size_of(column.dtype); }

int start_of(const Space& action_space) {
  const auto* discrete = action_space.get_if<Discrete>();
  return discrete ? discrete->start : 0;
}

/// Each choice inside its distribution: a loss indexes with them. `actions`: of int32 from `start` on, or of float32.
template <class T>
void check_choices(std::span<T> actions, const ModuleSpec& spec, int start) {
  std::vector<int> sizes;  // of each element's choice; 0 where it is a real number
  for (const ActionPart& part : action_parts(spec.distribution))
    if (const auto* multi = std::get_if<MultiCategorical>(&part.distribution))
      sizes.insert(sizes.end(), multi->nvec.begin(), multi->nvec.end());
    else
      sizes.insert(sizes.end(), static_cast<size_t>(part.num_elements), part.num_choices);
  for (size_t i = 0; i < actions.size(); ++i) {
    const int n = sizes[i % sizes.size()];
    if (n == 0) continue;
    const double choice = static_cast<double>(actions[i]) - start;
    check(choice >= 0 && choice < n && choice == std::trunc(choice), "actions[{}] is choice {} of {}", i, choice, n);
  }
}

}  // namespace

at::ScalarType torch_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return at::kFloat;
    case DType::f64:
      return at::kDouble;
    case DType::u8:
      return at::kByte;
    case DType::i32:
      return at::kInt;
    case DType::i64:
      return at::kLong;
  }
  return at::kFloat;
}

void stack(const at::Tensor& frames, const at::Tensor& terminateds, const at::Tensor& truncateds, int64_t k,
           const at::Tensor& out) {
  const int64_t steps = truncateds.size(0), environments = truncateds.size(1), size = frames.size(2);
  check(frames.size(0) == steps + k && frames.size(1) == environments, "frames are [{}, {}], want [{}, {}]",
        frames.size(0), frames.size(1), steps + k, environments);
  const auto count = [&](int64_t n) { return at::arange(n, frames.options().dtype(at::kLong)); };
  const at::Tensor time = count(steps + 1);
  // The first row of the episode that each S_t is of, k - 1 + s; none lies before row 0.
  const at::Tensor ended = at::logical_or(terminateds, truncateds);
  const at::Tensor began = ended * (time.narrow(0, 1, steps) + (k - 1)).unsqueeze(1);
  const at::Tensor first = std::get<0>(at::constant_pad_nd(began, {0, 0, 1, 0}).cummax(0));  // [T+1, N]
  const at::Tensor row = at::maximum(time.view({-1, 1, 1}) + count(k), first.unsqueeze(2));  // [T+1, N, k]
  const at::Tensor index = row * environments + count(environments).unsqueeze(1);
  at::Tensor rows = out.view({-1, size});
  at::index_select_out(rows, frames.flatten(0, 1), 0, index.flatten());
}

at::Tensor stacked(const at::Tensor& frames, const at::Tensor& terminateds, const at::Tensor& truncateds, int64_t k) {
  const at::Tensor out = at::empty({truncateds.size(0) + 1, truncateds.size(1), k * frames.size(2)}, frames.options());
  stack(frames, terminateds, truncateds, k, out);
  return out;
}

at::Tensor observations(Fragment& fragment) {
  const FragmentLayout& layout = fragment.layout();
  const int64_t steps = layout.steps(), environments = layout.environments(), k = layout.frame_stack();
  const auto rows = [&](const char* name, int64_t times) {
    return view(fragment, layout.column(name), {times, environments});
  };
  if (layout.find("frames") == nullptr) {
    std::vector<at::Tensor> runs;
    for (const Column* column : layout.observation_columns())
      runs.push_back(view(fragment, *column, {steps + 1, environments}).view({steps + 1, environments, -1}));
    return runs.size() == 1 ? runs[0] : at::cat(runs, 2);  // bytes beside floats become floats
  }
  return stacked(rows("frames", steps + k).view({steps + k, environments, -1}), rows("terminateds", steps),
                 rows("truncateds", steps), k);
}

void check_batch(Fragment& fragment, const ModuleSpec& spec, const Space& action_space) {
  const FragmentLayout& layout = fragment.layout();
  const Column* frames = layout.find("frames");
  const std::vector<const Column*> columns = frames ? std::vector{frames} : layout.observation_columns();
  size_t obs_size = 0;
  for (const Column* column : columns) {
    check(column->dtype == DType::f32 || column->dtype == DType::u8, "the fragment's {} are {}, want f32 or u8",
          column->name, name_of(column->dtype));
    obs_size += count_of(*column) * (frames ? static_cast<size_t>(layout.frame_stack()) : 1);
  }
  check(obs_size == static_cast<size_t>(spec.obs_size), "the fragment's obs are of {} features, the module wants {}",
        obs_size, spec.obs_size);
  check(layout.find("final_obs") != nullptr || fragment.final_rows == 0,
        "the fragment has final rows and no final_obs");
  const Column& actions = layout.column("actions");
  const DType dtype = stored_dtype(spec.distribution);
  size_t elements = 0;
  for (const ActionPart& part : action_parts(spec.distribution)) elements += static_cast<size_t>(part.num_elements);
  check(actions.dtype == dtype && count_of(actions) == elements,
        "the fragment's actions are {} {}, the module wants {} {}", count_of(actions), name_of(actions.dtype), elements,
        name_of(dtype));
  if (dtype == DType::i32)
    check_choices(fragment.values<int32_t>(actions), spec, start_of(action_space));
  else if (num_choices(spec.distribution) > 0)
    check_choices(fragment.values<float>(actions), spec, 0);
}

TensorBatch make_tensor_batch(Fragment& fragment, const ModuleSpec& spec, const Space& action_space,
                              const MeanStdFilter* filter, const at::Tensor& observed) {
  check_batch(fragment, spec, action_space);
  const FragmentLayout& layout = fragment.layout();
  TensorBatch batch;
  batch.steps = layout.steps();
  batch.environments = layout.environments();
  batch.obs = filtered(observed.defined() ? observed : observations(fragment), filter);
  for (const Column& column : layout.columns())
    if (column.rows == Rows::step)
      batch.columns[column.name] = view(fragment, column, {batch.steps, batch.environments});
  batch.columns["obs"] = batch.obs.narrow(0, 0, batch.steps);
  const auto rows = static_cast<int64_t>(fragment.final_rows);
  const Column* final_obs = layout.find("final_obs");
  batch.final_obs = final_obs ? filtered(view(fragment, *final_obs, {rows}).view({rows, spec.obs_size}), filter)
                              : at::empty({0, spec.obs_size}, at::kFloat);
  if (const int start = start_of(action_space); start != 0) batch.columns["actions"] = batch.columns["actions"] - start;
  return batch;
}

TensorBatch empty_tensor_batch(const ModuleSpec& spec) {
  TensorBatch batch;
  batch.obs = at::empty({1, 0, spec.obs_size}, at::kFloat);
  batch.final_obs = at::empty({0, spec.obs_size}, at::kFloat);
  batch.values = at::empty({1, 0}, at::kFloat);
  batch.final_values = at::empty({0}, at::kFloat);
  return batch;
}

Columns sequence_columns(const TensorBatch& batch, const std::vector<std::string>& names) {
  Columns columns;
  for (const std::string& name : names) {
    const auto found = batch.columns.find(name);
    check(found != batch.columns.end(), "the loss wants the column {}, which the runners did not send", name);
    columns[name] = found->second;
  }
  const at::Tensor rows = batch.obs.flatten(0, 1);
  columns["obs"] = batch.final_obs.size(0) == 0 ? rows : at::cat({rows, batch.final_obs});
  return columns;
}

Columns sequence_columns_of(const Columns& columns, std::span<const int64_t> environments) {
  const at::Tensor &terminateds = columns.at("terminateds"), &truncateds = columns.at("truncateds");
  const int64_t steps = truncateds.size(0), all = truncateds.size(1);
  const auto* terminated = terminateds.const_data_ptr<uint8_t>();
  const auto* truncated = truncateds.const_data_ptr<uint8_t>();
  std::vector<int64_t> rows, final_row(static_cast<size_t>(steps * all));  // [T, N]  where S_{t+1} lies in obs
  int64_t next = (steps + 1) * all;
  for (int64_t i = 0; i < steps * all; ++i)
    final_row[static_cast<size_t>(i)] = truncated[i] && !terminated[i] ? next++ : 0;
  for (int64_t t = 0; t <= steps; ++t)
    for (const int64_t environment : environments) rows.push_back(t * all + environment);
  for (int64_t t = 0; t < steps; ++t)
    for (const int64_t environment : environments)
      if (const int64_t row = final_row[static_cast<size_t>(t * all + environment)]) rows.push_back(row);
  const at::Tensor chosen = at::tensor(at::ArrayRef<int64_t>(environments.data(), environments.size()));
  Columns part;
  for (const auto& [name, column] : columns)
    part[name] = name == "obs" ? column.index_select(0, at::tensor(rows)) : column.index_select(1, chosen);
  return part;
}

at::Tensor final_index(const at::Tensor& terminateds, const at::Tensor& truncateds) {
  const at::Tensor cut = at::logical_and(truncateds.to(at::kBool), terminateds.logical_not());
  return (cut.flatten().to(at::kLong).cumsum(0) - 1).clamp_min(0).view_as(truncateds);
}

at::Tensor step_obs(const Columns& columns) { return columns.at("obs").narrow(0, 0, columns.at("truncateds").numel()); }

}  // namespace myriad
