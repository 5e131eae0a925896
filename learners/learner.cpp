#include "learners/learner.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "learners/module/action_distribution.hpp"
#include "rl/check.hpp"
#include "rl/run_layout.hpp"

namespace myriad {
namespace {

constexpr size_t kSmallModule = 200'000;  // parameters; below, torch's threads cost more than they bring

bool by_layer(const LearnersConfig& config) { return config.shard == "gradients" || config.shard == "parameters"; }

/// `sampled`: the algorithm has SampleLosses.
Executor executor_of(const Config& run, const ModuleSpec& spec, bool sampled) {
  const LearnersConfig& config = run.learners;
  if (config.device != "cpu") return Executor::torch;
  if (config.executor == "native" && by_layer(config))
    fail(Exit::usage, "impossible", "learners.shard '{}' goes layer by layer; executor 'native' cannot, 'torch' can",
         config.shard);
  if (config.executor == "native" && !sampled)
    fail(Exit::usage, "impossible",
         "{} has no loss by hand, which executor 'native' wants; 'auto' and 'torch' train it", run.algorithm);
  if (config.executor == "auto")
    return by_layer(config) || !sampled || !NativeModule::supports(spec) ? Executor::torch : Executor::native;
  if (config.executor == "native") return Executor::native;
  if (config.executor == "torch") return Executor::torch;
  const std::vector<std::string> known{"auto", "native", "torch"};
  fail(Exit::usage, "out-of-range", "unknown learners.executor '{}'{}", config.executor,
       suggestion(config.executor, known));
}

constexpr std::array<std::string_view, 4> kShards{"none", "optimizer", "gradients", "parameters"};  // as Shard

/// 0: the learners of this machine share its cores.
int threads_of(const LearnersConfig& config) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
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

std::span<float> room_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

/// Part `index` of `parts` near-equal ones of `count` units.
std::pair<int64_t, int64_t> split(int64_t count, int64_t index, int64_t parts) {
  const int64_t begin = count * index / parts;
  return {begin, count * (index + 1) / parts - begin};
}

}  // namespace

Learner::Learner(const Config& config, const Space& observation_space, const Space& action_space,
                 std::unique_ptr<DeviceSupport> support)
    : training_(config.training),
      learners_(config.learners),
      seed_(static_cast<uint64_t>(config.seed)),
      action_space_(action_space),
      algorithm_(make_algorithm(config)),
      sampled_(dynamic_cast<const SampleLosses*>(algorithm_.get())),
      plan_(algorithm_->plan()),
      random_(seed_, StreamPurpose::minibatch, 0),
      shard_(static_cast<Shard>(std::ranges::find(kShards, config.learners.shard) - kShards.begin())),
      parts_(0, config.learners.redundancy) {
  check(static_cast<size_t>(shard_) < kShards.size(), "unknown learners.shard '{}'", config.learners.shard);
  // Before anything of torch runs: it counts its devices once.
  if (support == nullptr && config.learners.device != "cpu") support = open_device(config.learners.device, 0);
  const ModuleSpec spec = module_of(config, observation_space, action_space);
  if (const AlgorithmInfo& info = find_algorithm(config.algorithm); info.epsilon) epsilon_ = info.epsilon(config);
  const Executor executor = executor_of(config, spec, sampled_ != nullptr);
  if (support == nullptr && sampled_ == nullptr) support = make_cpu_support();
  const int threads = threads_of(config.learners);
  set_torch_threads(executor == Executor::native || spec.num_parameters() < kSmallModule ? 1 : threads);
  module_ = std::make_unique<TorchModule>(spec, initial_parameters(spec, seed_), executor, threads);
  parts_ = Parts(spec.num_parameters(), config.learners.redundancy);
  optimizer_ = std::make_unique<Optimizer>(spec, training_.adam_epsilon, training_.grad_clip, training_.lr_multipliers);
  filter_ = observation_filter(config, spec);
  empty_buffer();
  if (plan_.target) {
    target_ = at::empty({static_cast<int64_t>(spec.num_parameters())}, at::kFloat);
    std::ranges::copy(module_->parameters(), room_of(target_).begin());
  }
  if (support != nullptr)
    device_ = std::make_unique<DeviceLearner>(config, *algorithm_, spec, action_space, std::move(support));
}

void Learner::empty_buffer() {
  if (plan_.buffer_batches > 0) buffer_.emplace(plan_.buffer_batches, plan_.buffer_uses);
}

SumOverGroup Learner::sum_over_group() const {
  if (alone()) return {};
  return [this](std::span<double> values) { group_->all_reduce(values); };
}

UpdateResult Learner::update(Fragment* batch, std::span<double> shared) {
  check(standing_ == Standing::settled, "an update begins before the last one is settled");
  Share share = begin(batch, shared);
  UpdateResult result;
  if (std::ranges::all_of(share.units, [](int64_t units) { return units == 0; })) {
    result.empty = true;
    return result;
  }
  if (alone()) {
    train(batch, std::move(share), result);
    add_memory(result.metrics);
    commit();
    return result;
  }
  take_snapshot();
  standing_ = Standing::torn;
  train(batch, std::move(share), result);
  if (device_group_) device_group_->require_alive();
  if (Parts::Slices copies; parts_.redundant()) parts_.exchange(*group_, live(copies));
  add_memory(result.metrics);
  result_ = result;
  standing_ = Standing::prepared;
  pass_barrier();
  commit();
  return result;
}

/// The first operation of an update: who has how much. Nothing is changed before it.
Share Learner::begin(Fragment* batch, std::span<double> shared) {
  const int64_t environments = batch == nullptr ? 0 : batch->layout().environments();
  const int64_t rows = environments * (batch == nullptr ? 0 : batch->layout().steps());
  const size_t shards = size();
  std::vector<double> values(shared.begin(), shared.end());
  values.resize(shared.size() + shards + 1);
  const auto units = std::span(values).subspan(shared.size(), shards);
  units[rank()] = static_cast<double>(plan_.time_major ? environments : rows);
  values.back() = static_cast<double>(rows);
  if (!alone()) group_->all_reduce(std::span<double>(values));
  parts_.confirm();  // everybody is here, and so has joined
  std::copy_n(values.begin(), shared.size(), shared.begin());
  const double all = std::accumulate(units.begin(), units.end(), 0.0);
  Share share;
  share.units.assign(units.begin(), units.end());
  if (all > 0) share.unit_rows = static_cast<int64_t>(values.back() / all);
  return share;
}

void Learner::train(Fragment* fragment, Share share, UpdateResult& result) {
  const int64_t rows = std::accumulate(share.units.begin(), share.units.end(), int64_t{0}) * share.unit_rows;
  // A stream of this version and rank: whoever takes a shard's place goes on with its numbers.
  random_ = RandomStream(seed_, StreamPurpose::minibatch, version_ << 16 | rank());
  if (share.units[rank()] == 0) fragment = nullptr;
  at::Tensor observed;
  if (fragment != nullptr && (filter_ || !device_)) observed = observations(*fragment);
  algorithm_->begin_update(static_cast<double>(env_steps_));
  const double lr = training_.lr.at(static_cast<double>(env_steps_));
  Metrics of_batch = device_ ? train_on_device(fragment, share, lr, result)
                             : train_here(fragment, observed, std::move(share), lr, result);
  result.metrics.merge(of_batch);
  algorithm_->end_update(result.metrics);
  update_filter(observed);
  env_steps_ += rows;
  result.metrics["default_optimizer_learning_rate"] = lr;
  result.metrics["num_trainable_parameters"] = static_cast<double>(spec().num_parameters());
  result.metrics["num_env_steps_trained_lifetime"] = static_cast<double>(env_steps_);
  result.metrics["num_module_steps_trained_lifetime"] = static_cast<double>(module_steps_);
  result.metrics["num_grad_updates"] = static_cast<double>(result.grad_updates);
  if (plan_.target) result.metrics["num_target_updates_lifetime"] = static_cast<double>(target_updates_);
  result.metrics["num_skipped_updates"] = static_cast<double>(result.skipped);
  result.metrics["num_skipped_updates_lifetime"] =
      static_cast<double>(device_ ? device_->num_skipped() : optimizer_->num_skipped());
}

/// `fragment`: null where this shard has nothing; `observed`: its observations().
Metrics Learner::train_here(Fragment* fragment, const at::Tensor& observed, Share share, double lr,
                            UpdateResult& result) {
  const MeanStdFilter* filter = filter_ ? &*filter_ : nullptr;
  TensorBatch batch =
      fragment ? make_tensor_batch(*fragment, spec(), action_space_, filter, observed) : empty_tensor_batch(spec());
  if (plan_.time_major) {
    if (fragment) share.columns = sequence_columns(batch, algorithm_->loss_columns());
    return train_sequences(std::move(share), lr, result);
  }
  Metrics of_batch;
  fill_values(batch);
  sampled_->sample_targets(batch, of_batch, sum_over_group());
  if (fragment) share.columns = flat_columns(batch);
  train_pass(share, lr, result);
  return of_batch;
}

Metrics Learner::train_on_device(Fragment* fragment, const Share& share, double lr, UpdateResult& result) {
  DeviceLearner::Pass pass{.share = share,
                           .filter = filter_ ? &*filter_ : nullptr,
                           .lr = lr,
                           .minibatches = &random_,
                           .buffer = RandomStream(seed_, StreamPurpose::circular_buffer, version_),
                           .module_steps = module_steps_,
                           .target_updates = target_updates_,
                           .target_updated_at = target_updated_at_};
  DeviceLearner::Result trained = device_->update(fragment, pass);
  module_steps_ = pass.module_steps;
  target_updates_ = pass.target_updates;
  target_updated_at_ = pass.target_updated_at;
  result.metrics = std::move(trained.metrics);
  result.grad_updates = trained.grad_updates;
  result.skipped = trained.skipped;
  Metrics of_batch = std::move(trained.of_batch);
  for (const auto& [kind, count] : device_->work_counts())
    of_batch["num_device_work_" + kind + "_lifetime"] = static_cast<double>(count);
  return of_batch;
}

/// With a circular buffer of N batches, passes go on until fewer than N uses are left. An update that made K passes
/// whatever is left would empty the buffer each time: N would mean nothing. So the first updates fill it, after that
/// there are K passes an update, and a use waits for (N - 1) / K updates on average.
Metrics Learner::train_sequences(Share share, double lr, UpdateResult& result) {
  if (!buffer_) {
    train_pass(share, lr, result);
    return {};
  }
  for (auto& [name, column] : share.columns) column = column.clone();  // the fragment's buffer is only lent
  const int64_t unused = buffer_->push(std::move(share));
  RandomStream random(seed_, StreamPurpose::circular_buffer, version_);  // the same at every shard
  while (buffer_->uses_left() >= plan_.buffer_batches) train_pass(*buffer_->take(random), lr, result);
  return {{"circular_buffer_uses_dropped", static_cast<double>(unused)},
          {"circular_buffer_uses_left", static_cast<double>(buffer_->uses_left())}};
}

void Learner::fill_values(TensorBatch& batch) {
  if (batch.environments == 0) {
    for (int passes = 0; passes < 2; ++passes) module_->idle_values();
    return;
  }
  const int64_t obs_size = spec().obs_size;
  batch.values = module_->values(batch.obs.view({-1, obs_size})).view({batch.steps + 1, batch.environments});
  batch.final_values = module_->values(batch.final_obs);
}

/// The loss's columns, a row for each step: [T * N, ...].
Columns Learner::flat_columns(const TensorBatch& batch) const {
  Columns columns;
  for (const std::string& name : algorithm_->loss_columns()) {
    const auto found = batch.columns.find(name);
    check(found != batch.columns.end(), "the loss wants the column {}, which neither runners nor its targets gave",
          name);
    columns[name] = found->second.flatten(0, 1);
  }
  return columns;
}

/// num_epochs over the share; the metrics are the last one's.
void Learner::train_pass(Share& share, double lr, UpdateResult& result) {
  if (plan_.target) add_target_columns(share.columns);
  for (int64_t epoch = 0; epoch < training_.num_epochs; ++epoch) {
    result.metrics = train_epoch(share, lr, result);
    if (result.metrics.contains("total_loss") && algorithm_->stops_epochs(result.metrics)) break;
  }
  if (plan_.target) update_target();
}

/// Every row (or, time-major, every environment) once, in minibatches of equal size to one for each shard, none above
/// minibatch_size by more (but for a single environment). What a minibatch is made of comes from all shards alike.
Metrics Learner::train_epoch(const Share& share, double lr, UpdateResult& result) {
  const int64_t units = std::accumulate(share.units.begin(), share.units.end(), int64_t{0}), own = share.units[rank()];
  const int64_t size =
      training_.minibatch_size == 0 ? units : std::clamp(training_.minibatch_size / share.unit_rows, int64_t{1}, units);
  const int64_t minibatches = (units + size - 1) / size;
  const at::Tensor order = at::arange(own, at::kLong);
  const std::span<int64_t> chosen(order.mutable_data_ptr<int64_t>(), static_cast<size_t>(own));
  const bool whole = plan_.time_major && minibatches == 1;  // nothing to shuffle
  if (training_.shuffle_batch_per_epoch && !whole) shuffle(chosen, random_);
  Columns shuffled = share.columns;
  if (training_.shuffle_batch_per_epoch && !plan_.time_major)
    for (auto& [name, column] : shuffled) column = column.index_select(0, order);
  const auto columns_of = [&](Piece piece) {
    if (plan_.time_major)
      return piece.count == own ? share.columns
                                : sequence_columns_of(share.columns, chosen.subspan(static_cast<size_t>(piece.begin),
                                                                                    static_cast<size_t>(piece.count)));
    Columns columns;
    for (const auto& [name, column] : shuffled) columns[name] = column.narrow(0, piece.begin, piece.count);
    return columns;
  };
  // Which of its pieces a shard takes differs by rank, so that small shares do not meet in the same minibatches.
  const auto piece_of = [&](size_t shard, int64_t minibatch) {
    const auto [begin, count] =
        split(share.units[shard], (minibatch + static_cast<int64_t>(shard)) % minibatches, minibatches);
    return Piece{begin, count};
  };
  Metrics sums;
  int64_t trained = 0;
  for (int64_t i = 0; i < minibatches; ++i) {
    int64_t total = 0;
    for (size_t shard = 0; shard < share.units.size(); ++shard) total += piece_of(shard, i).count;
    if (total == 0) continue;  // where there are hardly more units than minibatches
    if (train_minibatch(columns_of, piece_of(rank(), i), total, share.unit_rows, lr, sums)) {
      trained += total * share.unit_rows;
      ++result.grad_updates;
    } else {
      ++result.skipped;
    }
  }
  module_steps_ += trained;
  for (auto& [name, sum] : sums) sum /= static_cast<double>(trained);
  sums["num_module_steps_trained"] = static_cast<double>(trained);
  return sums;
}

/// `piece` of the group's minibatch of `total` units. Whether the optimizer stepped; then the metrics are added to
/// `sums`, times the minibatch's rows.
bool Learner::train_minibatch(const ColumnsOf& columns_of, Piece piece, int64_t total, int64_t unit_rows, double lr,
                              Metrics& sums) {
  module_->zero_gradients();
  Sums minibatch;
  minibatch.metrics.resize(algorithm_->loss_metrics().size());
  for (int64_t i = 0; i < learners_.gradient_accumulation; ++i) {
    const auto [begin, count] = split(piece.count, i, learners_.gradient_accumulation);
    if (i + 1 == learners_.gradient_accumulation) module_->sum_during_backward();
    if (count > 0)
      backward(columns_of({piece.begin + begin, count}), count, total, minibatch);
    else
      module_->idle_pass();
  }
  if (step(lr, sum_gradient(minibatch)) == Optimizer::Outcome::skipped) return false;
  const double weight = static_cast<double>(total * unit_rows);
  const auto add = [&](std::string_view name, double value) { sums[std::string(name)] += weight * value; };
  add("total_loss", minibatch.total);
  for (size_t i = 0; i < minibatch.metrics.size(); ++i) add(algorithm_->loss_metrics()[i], minibatch.metrics[i]);
  if (minibatch.fit.targets.count > 0) add("vf_explained_var", minibatch.fit.explained_variance());
  add("gradients_default_optimizer_global_norm", optimizer_->gradient_norm());
  return true;
}

/// Adds `count` of a minibatch's `total` units to its gradient and sums.
void Learner::backward(const Columns& columns, int64_t count, int64_t total, Sums& sums) {
  const HostLoss loss = sampled_->sample_loss(spec(), module_->forward(columns.at("obs")), columns);
  const double share = static_cast<double>(count) / static_cast<double>(total);
  const double scale = plan_.loss_is_sum ? 1.0 : share;
  if (scale == 1.0)
    loss.total.backward();
  else
    (loss.total * scale).backward();
  sums.total += scale * static_cast<double>(*loss.total.const_data_ptr<float>());
  const float* values = loss.metrics.const_data_ptr<float>();
  for (size_t i = 0; i < sums.metrics.size(); ++i) sums.metrics[i] += share * static_cast<double>(values[i]);
  if (loss.fit) sums.fit.merge(*loss.fit);
}

/// What the target policy says of a batch; kept with a batch of the circular buffer until the target changes.
void Learner::add_target_columns(Columns& columns) {
  if (columns.contains(kTargetInputs)) return;
  if (columns.empty()) {  // a shard without rows
    module_->idle_infer(target_);
    columns[kTargetInputs] = at::Tensor();
    return;
  }
  const at::Tensor &rewards = columns.at("rewards"), &actions = columns.at("actions");
  const at::Tensor inputs = module_->infer(target_, step_obs(columns)).action_dist_inputs;
  columns[kTargetLogp] =
      log_prob(spec().distribution, inputs, actions.reshape({inputs.size(0), -1})).view(rewards.sizes());
  columns[kTargetInputs] = inputs.view({rewards.size(0), rewards.size(1), -1});
}

void Learner::update_target() {
  if (static_cast<double>(module_steps_ - target_updated_at_) < plan_.target->interval) return;
  target_updated_at_ = module_steps_;
  ++target_updates_;
  const auto tau = static_cast<float>(plan_.target->tau);
  std::ranges::transform(module_->parameters(), room_of(target_), room_of(target_).begin(),
                         [tau](float p, float t) { return tau * p + (1.0f - tau) * t; });
  if (!buffer_) return;
  buffer_->erase(kTargetInputs);
  buffer_->erase(kTargetLogp);
}

}  // namespace myriad
