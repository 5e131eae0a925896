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

/// The collective of a learner without a group: every operation is a no-op.
struct Nobody final : Collective {
  uint32_t rank() const override { return 0; }
  uint32_t size() const override { return 1; }
  void all_reduce(std::span<float>) override {}
  void all_reduce(std::span<double>) override {}
  void broadcast(std::span<std::byte>, uint32_t) override {}
  void abort() noexcept override {}
  uint64_t operations() const override { return 0; }
  bool inside() const override { return false; }
};

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

void Learner::join(std::shared_ptr<Collective> group, const Sources& sources, std::shared_ptr<DeviceGroup> gradients) {
  check(standing_ == Standing::settled, "a shard joins a group before its update is settled");
  if (gradients) trainer_->meet(*gradients);
  Nobody nobody;
  Collective& with = group ? *group : nobody;
  std::optional<LearnerState> state;
  std::optional<Parts::Next> next;
  if (!sources.everybody) state = receive(with, sources.root);
  if (shard_ != Shard::none) {
    Parts::Slices copies;
    next = sources.everybody ? parts_.cut(with.rank(), with.size(), live(copies))
                             : parts_.gather(with, sources.holders, live(copies));
  }
  // Nothing was changed so far.
  if (state && with.rank() != sources.root) set_replicated_state(*state);
  Parts::Slices own;
  if (next) own = parts_.accept(std::move(*next));
  group_ = std::move(group);
  trainer_->set_group(alone() ? nullptr : group_, alone() ? nullptr : std::move(gradients), placement(),
                      std::move(own));
}

/// What is replicated, of the root, at every shard.
LearnerState Learner::receive(Collective& group, uint32_t root) const {
  std::vector<std::byte> bytes;
  if (group.rank() == root) bytes = encode_safetensors(joined(replicated_state()));
  uint64_t count = bytes.size();
  group.broadcast(std::as_writable_bytes(std::span(&count, 1)), root);
  bytes.resize(count);
  group.broadcast(bytes, root);
  return parted(decode_safetensors(bytes, "the root's state"));
}

Placement Learner::placement() const {
  return {.partition = parts_.partition(),
          .part = parts_.part(),
          .gradients_in_parts = !parts_.whole() && shard_ >= Shard::gradients,
          .parameters_in_parts = parameters_in_parts()};
}

/// Of this shard; the formula is in the header.
void Learner::add_memory(Metrics& metrics) {
  const auto add = [&](const char* what, size_t bytes) {
    metrics[fmt::format("learner_memory_{}_bytes", what)] = static_cast<double>(bytes);
  };
  const Trainer::Memory memory = trainer_->memory();
  add("parameters", memory.parameters_bytes);
  add("gradients", memory.gradients_bytes);
  add("optimizer", memory.optimizer_bytes);
  add("snapshot", memory.snapshot_bytes);
  add("redundancy", parts_.redundancy_bytes());
}

/// Each observation an action was taken at counts once; row T returns as row 0 of the next batch. `observed`: the
/// batch's observations(); undefined where this shard has none.
void Learner::update_filter(const at::Tensor& observed) {
  if (!filter_) return;
  MeanStdFilter own(filter_->size());
  bool finite = true;
  if (observed.defined()) {
    const at::Tensor obs = observed.narrow(0, 0, observed.size(0) - 1);
    const std::span rows(obs.const_data_ptr<float>(), static_cast<size_t>(obs.numel()));
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
  trainer_->take_snapshot();
  snapshot_ = {filter_, algorithm_->state(), env_steps_, books_};
}

void Learner::restore_snapshot() {
  trainer_->restore_snapshot();
  filter_ = snapshot_.filter;
  algorithm_->set_state(snapshot_.coefficients);
  env_steps_ = snapshot_.env_steps;
  books_ = snapshot_.books;
}

/// Who comes out of it knows that every shard is prepared. Every kHashEvery versions it also compares the parameters.
void Learner::pass_barrier() {
  const bool compares = (version_ + 1) % kHashEvery == 0 && !parameters_in_parts();
  std::vector<double> values(compares ? 2 * size() : 1, 0.0);  // a hash as two numbers below 2^32
  if (compares) {
    const uint64_t hash = hash64(std::as_bytes(trainer_->parameters()));
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
  parts_.commit();
  standing_ = Standing::settled;
}

void Learner::settle(bool forward) {
  if (standing_ == Standing::settled) return;
  check(!forward || standing_ == Standing::prepared, "an update that was not finished cannot be settled forward");
  if (forward) return commit();
  restore_snapshot();
  parts_.roll_back();
  trainer_->empty_buffer();  // what follows is a new group, which begins with an empty one
  standing_ = Standing::settled;
}

}  // namespace myriad
