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
constexpr size_t kFit = ValueFit::kNumbers;

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
  if (device_ && gradients) device_->meet(*gradients);
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
  empty_buffer();
  if (alone()) snapshot_ = {};
  if (!device_) {
    if (next) place(std::move(own));
    return module_->set_group(alone() ? nullptr : group_.get());
  }
  if (alone())
    gradients = nullptr;
  else if (!gradients)
    gradients = make_host_group(*group_);
  std::swap(device_group_, gradients);  // the one before lives until the device has left it
  device_->set_group(device_group_.get(), placement(), own);
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

/// The sharded vectors as they are, this shard's part of each; `copies`: room for what lies on a device.
Parts::Live Learner::live(Parts::Slices& copies) {
  if (device_) {
    copies = device_->copies(shard_ == Shard::parameters);
    return {copies.begin(), copies.end()};
  }
  Parts::Live live;
  if (shard_ == Shard::parameters) live.push_back(module_->parameters());
  live.push_back(optimizer_->first());
  live.push_back(optimizer_->second());
  if (shard_ == Shard::parameters && plan_.target) live.push_back(room_of(target_));
  return live;
}

Placement Learner::placement() const {
  return {.partition = parts_.partition(),
          .part = parts_.part(),
          .gradients_in_parts = !parts_.whole() && shard_ >= Shard::gradients,
          .parameters_in_parts = parameters_in_parts()};
}

/// Takes this shard's part of the sharded vectors, in live()'s order.
void Learner::place(Parts::Slices own) {
  const size_t moments = shard_ == Shard::parameters ? 1 : 0;
  const std::span<const float> parameters = moments == 1 ? std::span<const float>(own[0]) : module_->parameters();
  if (plan_.target && shard_ == Shard::parameters) {
    target_ = at::empty({static_cast<int64_t>(own.back().size())}, at::kFloat);
    std::ranges::copy(own.back(), room_of(target_).begin());
  }
  module_->place(placement(), parameters, group_.get());
  Optimizer::Memory memory = optimizer_->counters();
  memory.first = std::move(own[moments]);
  memory.second = std::move(own[moments + 1]);
  optimizer_->set_part(placement().own(), std::move(memory));
}

/// The sums and each shard's fit in a place of its own: [total, metrics..., fits...].
void Learner::write_sums(const Sums& sums, std::span<double> to) const {
  to[0] = sums.total;
  std::ranges::copy(sums.metrics, to.begin() + 1);
  if (!plan_.time_major) return;
  std::ranges::copy(sums.fit.numbers(), to.subspan(1 + sums.metrics.size() + kFit * rank()).begin());
}
void Learner::read_sums(std::span<const double> from, Sums& sums) const {
  sums.total = from[0];
  std::copy_n(from.begin() + 1, sums.metrics.size(), sums.metrics.begin());
  sums.fit = {};
  if (!plan_.time_major) return;
  for (uint32_t shard = 0; shard < size(); ++shard)
    sums.fit.merge(ValueFit::of(from.subspan(1 + sums.metrics.size() + kFit * shard).first<kFit>()));
}

/// Sums a minibatch's gradient over the group, and with it what was found by the way: in one operation, or, where the
/// gradient was summed during backward, what is left of it. Returns the whole gradient's sum of squares.
double Learner::sum_gradient(Sums& sums) {
  const auto sum_squares = [this] {
    optimizer_->clear_frozen(module_->gradients(), module_->placement().gradients());
    return optimizer_->sum_squares(module_->gradients());
  };
  if (alone()) return sum_squares();
  std::vector<double> numbers(1 + sums.metrics.size() + (plan_.time_major ? kFit * size() : 0), 0.0);
  write_sums(sums, numbers);
  if (module_->placement().gradients_in_parts) {
    numbers.push_back(sum_squares());
    group_->all_reduce(std::span<double>(numbers));
    read_sums(numbers, sums);
    return numbers.back();
  }
  if (module_->finish_sums()) {
    group_->all_reduce(std::span<double>(numbers));
    read_sums(numbers, sums);
    return sum_squares();
  }
  const std::span<float> all = module_->gradients_with_tail(numbers.size()), tail = all.last(numbers.size());
  std::ranges::transform(numbers, tail.begin(), [](double x) { return static_cast<float>(x); });
  group_->all_reduce(all);
  std::ranges::copy(tail, numbers.begin());
  read_sums(numbers, sums);
  return sum_squares();
}

/// Steps this shard's part; where all have all parameters, they get the other parts.
Optimizer::Outcome Learner::step(double lr, double squares) {
  const Range own = optimizer_->part();
  const auto mine = [&](std::span<float> all) {
    return all.size() == own.count() ? all : all.subspan(own.begin, own.count());
  };
  const auto outcome = optimizer_->step(mine(module_->parameters()), mine(module_->gradients()), lr, squares);
  if (outcome == Optimizer::Outcome::stepped && !parts_.whole() && !parameters_in_parts())
    group_->all_gather(std::as_writable_bytes(module_->parameters()), parts_.partition().chunk() * sizeof(float));
  return outcome;
}

/// Of this shard; the formula is in the header.
void Learner::add_memory(Metrics& metrics) {
  const auto add = [&](const char* what, size_t bytes) {
    metrics[fmt::format("learner_memory_{}_bytes", what)] = static_cast<double>(bytes);
  };
  add("redundancy", parts_.redundancy_bytes());
  if (device_) {
    const DeviceLearner::Memory memory = device_->memory();
    add("parameters", memory.parameters_bytes);
    add("gradients", memory.gradients_bytes);
    add("optimizer", memory.optimizer_bytes);
    return add("snapshot", memory.snapshot_bytes);
  }
  const PartedModule::Peak peak = module_->peak();
  const auto bytes = [](auto... floats) { return (floats.size() + ...) * sizeof(float); };
  const std::span<float> target = plan_.target ? room_of(target_) : std::span<float>();
  const Snapshot& s = snapshot_;
  add("parameters", bytes(module_->parameters(), target) + peak.fetched_bytes);
  add("gradients", bytes(module_->gradients()) + peak.gradient_bytes);
  add("optimizer", bytes(optimizer_->first(), optimizer_->second()));
  add("snapshot",
      bytes(std::span(s.parameters), std::span(s.target), std::span(s.optimizer.first), std::span(s.optimizer.second)));
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
  const bool compares = (version_ + 1) % kHashEvery == 0 && !parameters_in_parts();
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
  parts_.commit();
  standing_ = Standing::settled;
}

void Learner::settle(bool forward) {
  if (standing_ == Standing::settled) return;
  check(!forward || standing_ == Standing::prepared, "an update that was not finished cannot be settled forward");
  if (forward) return commit();
  restore_snapshot();
  parts_.roll_back();
  empty_buffer();  // what follows is a new group, which begins with an empty one
  standing_ = Standing::settled;
}

}  // namespace myriad
