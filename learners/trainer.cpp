#include "learners/trainer.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#include "learners/device/torch_trainer.hpp"
#include "learners/native/native_trainer.hpp"
#include "rl/check.hpp"
#include "rl/machine.hpp"

namespace myriad {
namespace {

constexpr size_t kSmallModule = 200'000;  // parameters; below, torch's threads cost more than they bring

/// Whether the native executor trains it; `sampled`: the algorithm has SampleLosses.
bool is_native(const Config& run, const ModuleSpec& spec, bool sampled) {
  const LearnersConfig& config = run.learners;
  if (config.device != "cpu") return false;
  if (config.native() && !sampled)
    fail(Exit::usage, "impossible",
         "{} has no loss by hand, which executor 'native' wants; 'auto' and 'torch' train it", run.algorithm);
  if (config.executor == "auto")
    return !config.shards_by_layer() && sampled && NativeModule::supports(spec) && NativeModule::pays(spec);
  if (config.native()) return true;
  if (config.executor == "torch") return false;
  const std::vector<std::string> known{"auto", "native", "torch"};
  fail(Exit::usage, "out-of-range", "unknown learners.executor '{}'{}", config.executor,
       suggestion(config.executor, known));
}

/// 0: the learners of this machine share its cores.
int threads_of(const LearnersConfig& config) {
  const int cores = usable_cores();
  return config.num_threads > 0 ? static_cast<int>(config.num_threads)
                                : std::max(1, cores / static_cast<int>(config.num_learners));
}

void set_torch_threads(int threads) {
  at::set_num_threads(threads);
  static const bool once = [] {
    at::set_num_interop_threads(1);  // torch allows this once a process
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

std::unique_ptr<Trainer> make_trainer(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec,
                                      const Space& action_space, std::unique_ptr<DeviceSupport> support) {
  const auto* sampled = dynamic_cast<const SampleLosses*>(&algorithm);
  const bool native = is_native(config, spec, sampled != nullptr);
  const int threads = threads_of(config.learners);
  set_torch_threads(native || spec.num_parameters() < kSmallModule ? 1 : threads);
  if (native && support == nullptr)
    return std::make_unique<NativeTrainer>(config, algorithm, *sampled, spec, action_space, threads);
  if (support == nullptr) support = make_cpu_support();
  return std::make_unique<TorchTrainer>(config, algorithm, spec, action_space, std::move(support));
}

Trainer::Trainer(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec)
    : training_(config.training),
      accumulation_(config.learners.gradient_accumulation),
      spec_(spec),
      algorithm_(algorithm),
      plan_(algorithm.plan()),
      sequences_(std::get_if<SequencePlan>(&plan_)),
      target_plan_(target_of(plan_)),
      placement_{.partition = {spec.num_parameters(), 1}},
      sums_(algorithm.loss_metrics(), sequences_ != nullptr) {
  empty_buffer();
}

void Trainer::empty_buffer() {
  if (sequences_ && sequences_->buffer) buffer_.emplace(sequences_->buffer->batches, sequences_->buffer->uses);
}

void Trainer::set_group(std::shared_ptr<Collective> group, std::shared_ptr<DeviceGroup> gradients,
                        const Placement& placement, Parts::Slices own) {
  const auto before = std::exchange(group_, std::move(group));  // lives until what was made for it is gone
  placement_ = placement;
  place(std::move(gradients), std::move(own));
  empty_buffer();
}

Trainer::Result Trainer::update(Update update, Books& books) {
  Result result;
  const OptimizerCounters before = counters();
  steps_before_ = books.module_steps;
  sums_.begin_update();
  epoch_ = 0;
  run([&] {
    load(update);
    train_batches(update, books, result);
    finish(result.of_batch);
  });
  if (epoch_ == 0) return result;  // a circular buffer that fills
  result.metrics = sums_.metrics();
  books.module_steps = steps_before_ + rows_trained();
  result.grad_updates = counters().steps - before.steps;
  result.skipped = counters().skipped - before.skipped;
  return result;
}

/// With a circular buffer of N batches, passes go on until fewer than N uses are left. An update that made K passes
/// whatever is left would empty the buffer each time: N would mean nothing. So the first updates fill it, after that
/// there are K passes an update, and a use waits for (N - 1) / K updates on average.
void Trainer::train_batches(Update& update, Books& books, Result& result) {
  const bool mine = update.batch != nullptr;
  if (!sequences_) make_targets(mine);
  if (!buffer_) return train_pass(update.share, update, books);
  Share kept = update.share;
  if (mine) keep(kept.columns);
  const int64_t unused = buffer_->push(std::move(kept));
  while (buffer_->uses_left() >= sequences_->buffer->batches) {
    const std::shared_ptr<Share> share = buffer_->take(update.buffer);
    if (share->units[rank()] > 0) bring_back(share->columns);
    train_pass(*share, update, books);
  }
  result.of_batch = {{"circular_buffer_uses_dropped", static_cast<double>(unused)},
                     {"circular_buffer_uses_left", static_cast<double>(buffer_->uses_left())}};
}

/// num_epochs over the batch; share.columns keep what the target policy says of it for the next use.
void Trainer::train_pass(Share& share, Update& update, Books& books) {
  if (sequences_ && target_plan_) take_target_columns(share);
  for (int64_t epoch = 0; epoch < training_.num_epochs; ++epoch)
    if (train_epoch(share, update)) break;
  if (target_plan_) update_target(books);
}

/// Kept with a batch of the circular buffer until the target changes.
void Trainer::take_target_columns(Share& share) {
  const bool mine = share.units[rank()] > 0;
  const bool made = share.columns.contains(kTargetInputs);
  if (!made) make_target_columns(mine);
  for (const char* name : {kTargetInputs, kTargetLogp}) {
    if (!made)
      share.columns[name] = mine && buffer_ ? column(name).clone() : at::Tensor();
    else if (mine)
      set_column(name, share.columns.at(name));
  }
}

void Trainer::update_target(Books& books) {
  books.module_steps = steps_before_ + rows_trained();
  if (static_cast<double>(books.module_steps - books.target_updated_at) < target_plan_->interval) return;
  books.target_updated_at = books.module_steps;
  ++books.target_updates;
  move_target(static_cast<float>(target_plan_->tau));
  if (!buffer_) return;
  buffer_->erase(kTargetInputs);
  buffer_->erase(kTargetLogp);
}

/// Every unit once. Returns whether the update's epochs end here.
bool Trainer::train_epoch(const Share& share, Update& update) {
  const Minibatches minibatches(share.units, share.unit_rows, training_.minibatch_size, rank());
  const bool whole = sequences_ && minibatches.count() == 1;  // nothing to shuffle
  order_.resize(static_cast<size_t>(share.units[rank()]));
  std::iota(order_.begin(), order_.end(), int64_t{0});
  const bool shuffles = training_.shuffle_batch_per_epoch && !whole;
  if (shuffles) shuffle(std::span<int64_t>(order_), update.minibatches);
  begin_epoch(order_, shuffles);
  ++epoch_;
  for (int64_t i = 0; i < minibatches.count(); ++i)
    if (const Minibatch minibatch = minibatches[i]; minibatch.units > 0) train_minibatch(minibatch);
  if (!algorithm_.may_stop_epochs()) return false;
  read_steps();
  const Metrics metrics = sums_.metrics();
  return metrics.contains("total_loss") && algorithm_.stops_epochs(metrics);
}

void Trainer::compute_gradient(const Minibatch& minibatch) {
  begin_gradient();
  for (int64_t i = 0; i < accumulation_; ++i) {
    const Piece part = piece_of(minibatch.own.count, i, accumulation_);
    if (i + 1 == accumulation_) begin_last_part();
    if (part.count > 0)
      add_gradient(minibatch, part, i);
    else
      add_nothing();
  }
}

}  // namespace myriad
