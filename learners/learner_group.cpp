// A Learner as one shard of a group: joining, what is computed together, the transaction of an update.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "learners/learner.hpp"
#include "rl/check.hpp"
#include "rl/hash.hpp"

namespace myriad {
namespace {

constexpr uint64_t kHashEvery = 100;  // versions
constexpr size_t kFit = 5;            // floats of a shard's ValueFit

std::span<float> room_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

void assign(AlignedVector& to, std::span<const float> from) { to.assign(from.begin(), from.end()); }

/// Ranks whose hash is not the one of more than half; nullopt when all are equal, empty without such a hash.
std::optional<std::vector<uint32_t>> minority_of(std::span<const uint64_t> hashes) {
  std::vector<uint32_t> others;
  for (const uint64_t candidate : hashes) {
    others.clear();
    for (uint32_t r = 0; r < hashes.size(); ++r)
      if (hashes[r] != candidate) others.push_back(r);
    if (others.empty()) return std::nullopt;
    if (2 * others.size() < hashes.size()) return others;
  }
  return std::vector<uint32_t>();
}

/// One map of four, and back.
TensorMap joined(const LearnerState& state) {
  TensorMap all;
  const auto add = [&](const char* part, const TensorMap& tensors) {
    for (const auto& [name, tensor] : tensors) all[std::string(part) + name] = tensor;
  };
  add("m/", state.module);
  add("o/", state.optimizer);
  add("c/", state.connectors);
  add("s/", state.scalars);
  return all;
}
LearnerState parted(TensorMap all) {
  LearnerState state;
  for (auto& [name, tensor] : all) {
    TensorMap& part = name[0] == 'm'   ? state.module
                      : name[0] == 'o' ? state.optimizer
                      : name[0] == 'c' ? state.connectors
                                       : state.scalars;
    part[name.substr(2)] = std::move(tensor);
  }
  return state;
}

}  // namespace

void Learner::join(std::shared_ptr<Collective> group, const Sources& sources) {
  check(standing_ == Standing::settled, "a shard joins a group before its update is settled");
  group_ = nullptr;
  if (device_) device_->set_group(nullptr);
  if (group && !sources.everybody) {
    const LearnerState state = receive(*group, sources);
    if (group->rank() != sources.root) set_state(state);
  }
  group_ = std::move(group);
  empty_buffer();
  device_group_ = alone() ? nullptr : make_host_group(*group_);
  if (device_) device_->set_group(device_group_.get());
  if (alone()) snapshot_ = {};
}

/// The root's state, at every shard.
LearnerState Learner::receive(Collective& group, const Sources& sources) const {
  std::vector<std::byte> bytes;
  if (group.rank() == sources.root) bytes = encode_safetensors(joined(state()));
  uint64_t count = bytes.size();
  group.broadcast(std::as_writable_bytes(std::span(&count, 1)), sources.root);
  bytes.resize(count);
  group.broadcast(bytes, sources.root);
  return parted(decode_safetensors(bytes, "the root's state"));
}

/// One operation: the gradient, and behind it the sums and each shard's fit in a place of its own.
void Learner::sum_gradient(Sums& sums) {
  const size_t metrics = sums.metrics.size(), fits = plan_.time_major ? kFit * size() : 0;
  const std::span<float> all = module_->gradients_with_tail(1 + metrics + fits);
  const std::span<float> tail = all.last(1 + metrics + fits), fit = tail.subspan(1 + metrics);
  std::ranges::fill(tail, 0.0f);
  tail[0] = static_cast<float>(sums.total);
  for (size_t i = 0; i < metrics; ++i) tail[1 + i] = static_cast<float>(sums.metrics[i]);
  if (!fit.empty()) {
    const ValueFit& own = sums.fit;
    const std::array<double, kFit> values{own.targets.count, own.targets.mean, own.targets.m2, own.residuals.mean,
                                          own.residuals.m2};
    std::ranges::transform(values, fit.begin() + kFit * rank(), [](double x) { return static_cast<float>(x); });
  }
  group_->all_reduce(all);
  sums.total = tail[0];
  for (size_t i = 0; i < metrics; ++i) sums.metrics[i] = tail[1 + i];
  sums.fit = {};
  for (size_t at = 0; at < fits; at += kFit)
    sums.fit.merge({{fit[at], fit[at + 1], fit[at + 2]}, {fit[at], fit[at + 3], fit[at + 4]}});
}

/// Each observation an action was taken at counts once; row T returns as row 0 of the next batch.
void Learner::update_filter(Fragment* batch) {
  if (!filter_) return;
  MeanStdFilter own(filter_->size());
  bool finite = true;
  if (batch != nullptr) {
    const FragmentLayout& layout = batch->layout();
    const auto rows = batch->values<float>(layout.column("obs"))
                          .first(static_cast<size_t>(layout.steps()) * static_cast<size_t>(layout.environments()) *
                                 static_cast<size_t>(spec().obs_size));
    finite = std::all_of(rows.begin(), rows.end(), [](float x) { return std::isfinite(x); });
    if (finite && alone()) filter_->update(rows);
    if (finite && !alone()) own.update(rows);
  }
  if (alone()) return;
  // Merged in rank order, so that all shards have the same bits.
  const std::vector<double> mine = own.state();
  std::vector<double> all((mine.size() + 1) * size());
  const auto of = [&](uint32_t shard) { return std::span(all).subspan(shard * (mine.size() + 1), mine.size() + 1); };
  std::ranges::copy(mine, of(rank()).begin());
  of(rank()).back() = finite ? 1.0 : 0.0;
  group_->all_gather(std::as_writable_bytes(std::span(all)), (mine.size() + 1) * sizeof(double));
  // One bad row would stay in the statistics for ever.
  for (uint32_t shard = 0; shard < size(); ++shard)
    if (of(shard).back() == 0.0) return;
  for (uint32_t shard = 0; shard < size(); ++shard) {
    own.set_state(of(shard).first(mine.size()));
    filter_->merge(own);
  }
}

void Learner::take_snapshot() {
  Snapshot& s = snapshot_;
  if (device_) {
    device_->take_snapshot();
  } else {
    assign(s.parameters, module_->parameters());
    if (plan_.target) assign(s.target, room_of(target_));
    s.optimizer = optimizer_->memory();
  }
  s.filter = filter_;
  s.coefficients = algorithm_->state();
  s.env_steps = env_steps_;
  s.module_steps = module_steps_;
  s.target_updates = target_updates_;
  s.target_updated_at = target_updated_at_;
}

void Learner::restore_snapshot() {
  const Snapshot& s = snapshot_;
  if (device_) {
    device_->restore_snapshot();
  } else {
    std::ranges::copy(s.parameters, module_->parameters().begin());
    if (plan_.target) std::ranges::copy(s.target, room_of(target_).begin());
    optimizer_->set_memory(s.optimizer);
  }
  filter_ = s.filter;
  algorithm_->set_state(s.coefficients);
  env_steps_ = s.env_steps;
  module_steps_ = s.module_steps;
  target_updates_ = s.target_updates;
  target_updated_at_ = s.target_updated_at;
}

/// Who comes out of it knows that every shard is prepared. Every kHashEvery versions it also compares the parameters.
void Learner::pass_barrier() {
  const bool compares = (version_ + 1) % kHashEvery == 0;
  std::vector<double> values(compares ? 2 * size() : 1, 0.0);  // a hash as two numbers below 2^32
  if (compares) {
    const uint64_t hash = hash64(std::as_bytes(parameters()));
    values[2 * rank()] = static_cast<double>(hash >> 32);
    values[2 * rank() + 1] = static_cast<double>(hash & 0xFFFFFFFF);
  }
  group_->all_reduce(std::span<double>(values));
  if (!compares) return;
  std::vector<uint64_t> hashes;
  for (size_t i = 0; i < values.size(); i += 2)
    hashes.push_back(static_cast<uint64_t>(values[i]) << 32 | static_cast<uint64_t>(values[i + 1]));
  if (const auto minority = minority_of(hashes))
    throw ShardsDisagree(fmt::format("parameters of version {} differ: ranks {} of {} have others", version_ + 1,
                                     fmt::join(*minority, ", "), size()),
                         *minority);
}

void Learner::commit() {
  ++version_;
  standing_ = Standing::settled;
}

void Learner::settle(bool forward) {
  if (standing_ == Standing::settled) return;
  check(!forward || standing_ == Standing::prepared, "an update that was not finished cannot be settled forward");
  if (forward) return commit();
  restore_snapshot();
  empty_buffer();  // what follows is a new group, which begins with an empty one
  standing_ = Standing::settled;
}

}  // namespace myriad
