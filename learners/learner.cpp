#include "learners/learner.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "learners/action_distribution.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kSmallModule = 200'000;  // parameters; below, torch's threads cost more than they bring

Executor executor_of(const LearnersConfig& config) {
  if (config.device != "cpu") return Executor::torch;
  if (config.executor == "auto" || config.executor == "native") return Executor::native;
  if (config.executor == "torch") return Executor::torch;
  const std::vector<std::string> known{"auto", "native", "torch"};
  fail(Exit::usage, "out-of-range", "unknown learners.executor '{}'{}", config.executor,
       suggestion(config.executor, known));
}

int threads_of(const LearnersConfig& config) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return config.num_threads > 0 ? static_cast<int>(config.num_threads) : cores;
}

void set_torch_threads(int threads) {
  at::set_num_threads(threads);
  static const bool once = [] {
    at::set_num_interop_threads(1);  // torch allows this once a process
    return true;
  }();
  static_cast<void>(once);
}

Tensor scalar(int64_t value) { return Tensor::of(std::span<const int64_t>(&value, 1), {1}); }
Tensor scalar(double value) { return Tensor::of(std::span<const double>(&value, 1), {1}); }

const Tensor& find(const TensorMap& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) fail(Exit::usage, "foreign-checkpoint", "the learner's state has no '{}'", name);
  return found->second;
}
int64_t integer(const TensorMap& tensors, const std::string& name) {
  const std::vector<int64_t> values = find(tensors, name).i64();
  if (values.size() != 1)
    fail(Exit::usage, "foreign-checkpoint", "the learner's '{}' has {} values, want 1", name, values.size());
  return values[0];
}

constexpr std::string_view kCoefficient = "algorithm.";

std::span<float> room_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

}  // namespace

Learner::Learner(const Config& config, const Space& observation_space, const Space& action_space,
                 std::unique_ptr<DeviceSupport> support)
    : training_(config.training),
      action_space_(action_space),
      algorithm_(make_algorithm(config)),
      plan_(algorithm_->plan()),
      random_(static_cast<uint64_t>(config.seed), StreamPurpose::minibatch, 0) {
  // Before anything of torch runs: it counts its devices once.
  if (support == nullptr && config.learners.device != "cpu") support = open_device(config.learners.device, 0);
  const ModuleSpec spec = algorithm_->module_spec(observation_space, action_space);
  const Executor executor = executor_of(config.learners);
  const int threads = threads_of(config.learners);
  set_torch_threads(executor == Executor::native || spec.num_parameters() < kSmallModule ? 1 : threads);
  module_ = std::make_unique<TorchModule>(spec, initial_parameters(spec, static_cast<uint64_t>(config.seed)), executor,
                                          threads);
  optimizer_ = std::make_unique<Optimizer>(spec, training_.adam_epsilon, training_.grad_clip);
  if (config.environment.observation_filter == "MeanStdFilter")
    filter_.emplace(spec.obs_size, config.environment.observation_clip);
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

UpdateResult Learner::update(Fragment& fragment) {
  UpdateResult result;
  algorithm_->begin_update(static_cast<double>(env_steps_));
  const double lr = training_.lr.at(static_cast<double>(env_steps_));
  if (device_)
    train_on_device(fragment, lr, result);
  else
    train_here(fragment, lr, result);
  algorithm_->end_update(result.metrics);
  update_filter(fragment);
  env_steps_ += int64_t{fragment.layout().steps()} * fragment.layout().environments();
  ++version_;
  result.metrics["default_optimizer_learning_rate"] = lr;
  result.metrics["num_trainable_parameters"] = static_cast<double>(spec().num_parameters());
  result.metrics["num_env_steps_trained_lifetime"] = static_cast<double>(env_steps_);
  result.metrics["num_module_steps_trained_lifetime"] = static_cast<double>(module_steps_);
  result.metrics["num_grad_updates"] = static_cast<double>(result.grad_updates);
  if (plan_.target) result.metrics["num_target_updates_lifetime"] = static_cast<double>(target_updates_);
  result.metrics["num_skipped_updates"] = static_cast<double>(result.skipped);
  result.metrics["num_skipped_updates_lifetime"] =
      static_cast<double>(device_ ? device_->num_skipped() : optimizer_->num_skipped());
  return result;
}

void Learner::train_here(Fragment& fragment, double lr, UpdateResult& result) {
  TensorBatch batch = make_tensor_batch(fragment, spec(), action_space_, filter_ ? &*filter_ : nullptr);
  Metrics of_batch = plan_.time_major ? train_sequences(batch, lr, result) : train_rows(batch, lr, result);
  result.metrics.merge(of_batch);
}

void Learner::train_on_device(Fragment& fragment, double lr, UpdateResult& result) {
  PassCounters counters{module_steps_, target_updates_, target_updated_at_};
  DeviceLearner::Result trained = device_->update(fragment, filter_ ? &*filter_ : nullptr, lr, random_, counters);
  module_steps_ = counters.module_steps;
  target_updates_ = counters.target_updates;
  target_updated_at_ = counters.target_updated_at;
  result = {std::move(trained.metrics), trained.grad_updates, trained.skipped};
  for (const auto& [kind, count] : device_->work_counts())
    result.metrics["num_device_work_" + kind + "_lifetime"] = static_cast<double>(count);
}

std::span<const float> Learner::parameters() const { return device_ ? device_->parameters() : module_->parameters(); }

Metrics Learner::train_rows(TensorBatch& batch, double lr, UpdateResult& result) {
  Metrics metrics;
  fill_values(batch);
  algorithm_->add_targets(batch, metrics);
  Columns columns = flat_columns(batch);
  train_pass(columns, batch.steps * batch.environments, lr, result);
  return metrics;
}

/// With a circular buffer of N batches, passes go on until fewer than N uses are left. An update that made K passes
/// whatever is left would empty the buffer each time: N would mean nothing. So the first updates fill it, after that
/// there are K passes an update, and a use waits for (N - 1) / K updates on average.
Metrics Learner::train_sequences(const TensorBatch& batch, double lr, UpdateResult& result) {
  const int64_t rows = batch.steps * batch.environments;
  Columns columns = sequence_columns(batch, algorithm_->loss_columns());
  if (!buffer_) {
    train_pass(columns, rows, lr, result);
    return {};
  }
  for (auto& [name, column] : columns) column = column.clone();  // the fragment's buffer is only lent
  const int64_t unused = buffer_->push(std::move(columns));
  while (buffer_->uses_left() >= plan_.buffer_batches) train_pass(*buffer_->take(random_), rows, lr, result);
  return {{"circular_buffer_uses_dropped", static_cast<double>(unused)},
          {"circular_buffer_uses_left", static_cast<double>(buffer_->uses_left())}};
}

void Learner::fill_values(TensorBatch& batch) {
  const int64_t obs_size = spec().obs_size;
  batch.values = module_->values(batch.obs.view({-1, obs_size})).view({batch.steps + 1, batch.environments});
  batch.final_values = module_->values(batch.final_obs);
}

/// The loss's columns, a row for each step: [T * N, ...].
Columns Learner::flat_columns(const TensorBatch& batch) const {
  Columns columns;
  for (const std::string& name : algorithm_->loss_columns()) {
    const auto found = batch.columns.find(name);
    check(found != batch.columns.end(), "the loss wants the column {}, which neither runners nor add_targets gave",
          name);
    columns[name] = found->second.flatten(0, 1);
  }
  return columns;
}

/// num_epochs over the columns; the metrics are the last one's.
void Learner::train_pass(Columns& columns, int64_t rows, double lr, UpdateResult& result) {
  if (plan_.target) add_target_columns(columns);
  for (int64_t epoch = 0; epoch < training_.num_epochs; ++epoch) {
    result.metrics = train_epoch(columns, rows, lr, result);
    if (result.metrics.contains("total_loss") && algorithm_->stops_epochs(result.metrics)) break;
  }
  if (plan_.target) update_target();
}

/// Every row (or, time-major, every environment) once, in minibatches of equal size to one, none above minibatch_size
/// (but for a single environment).
Metrics Learner::train_epoch(const Columns& columns, int64_t rows, double lr, UpdateResult& result) {
  const int64_t unit = plan_.time_major ? columns.at("truncateds").size(0) : 1, units = rows / unit;  // rows of one
  const int64_t size =
      training_.minibatch_size == 0 ? units : std::clamp(training_.minibatch_size / unit, int64_t{1}, units);
  const int64_t minibatches = (units + size - 1) / size;
  const at::Tensor order = at::arange(units, at::kLong);
  const std::span<int64_t> chosen(order.mutable_data_ptr<int64_t>(), static_cast<size_t>(units));
  const bool whole = plan_.time_major && minibatches == 1;  // nothing to shuffle
  if (training_.shuffle_batch_per_epoch && !whole) shuffle(chosen, random_);
  Columns shuffled = columns;
  if (training_.shuffle_batch_per_epoch && !plan_.time_major)
    for (auto& [name, column] : shuffled) column = column.index_select(0, order);
  Metrics sums;
  int64_t trained = 0;
  Columns minibatch = columns;
  for (int64_t i = 0; i < minibatches; ++i) {
    const int64_t begin = units * i / minibatches, count = units * (i + 1) / minibatches - begin;
    if (!plan_.time_major)
      for (const auto& [name, column] : shuffled) minibatch[name] = column.narrow(0, begin, count);
    else if (!whole)
      minibatch = sequence_columns_of(columns, chosen.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)));
    if (train_minibatch(minibatch, lr, static_cast<double>(count * unit), sums)) {
      trained += count * unit;
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

/// Whether the optimizer stepped; then the metrics are added to `sums` times `weight`.
bool Learner::train_minibatch(const Columns& minibatch, double lr, double weight, Metrics& sums) {
  module_->zero_gradients();
  const Loss loss = algorithm_->loss(spec(), module_->forward(minibatch.at("obs")), minibatch);
  loss.total.backward();
  if (optimizer_->step(module_->parameters(), module_->gradients(), lr) == Optimizer::Outcome::skipped) return false;
  const auto add = [&](std::string_view name, double value) { sums[std::string(name)] += weight * value; };
  add("total_loss", static_cast<double>(*loss.total.const_data_ptr<float>()));
  const float* values = loss.metrics.const_data_ptr<float>();
  for (size_t i = 0; i < loss.names.size(); ++i) add(loss.names[i], static_cast<double>(values[i]));
  add("gradients_default_optimizer_global_norm", optimizer_->gradient_norm());
  return true;
}

/// What the target policy says of a batch; kept with a batch of the circular buffer until the target changes.
void Learner::add_target_columns(Columns& columns) {
  if (columns.contains(kTargetInputs)) return;
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

/// Each observation an action was taken at counts once; row T returns as row 0 of the next batch.
void Learner::update_filter(Fragment& fragment) {
  if (!filter_) return;
  const FragmentLayout& layout = fragment.layout();
  const std::span<float> obs = fragment.values<float>(layout.column("obs"));
  const auto rows = obs.first(static_cast<size_t>(layout.steps()) * static_cast<size_t>(layout.environments()) *
                              static_cast<size_t>(spec().obs_size));
  // One bad row would stay in the statistics for ever.
  if (std::all_of(rows.begin(), rows.end(), [](float x) { return std::isfinite(x); })) filter_->update(rows);
}

Weights Learner::weights() const {
  const auto inference = parameters().first(spec().num_inference_parameters());
  Weights weights{
      .version = version_, .layout_hash = spec().hash(), .values = {inference.begin(), inference.end()}, .filter = {}};
  if (filter_) weights.filter = filter_->state();
  return weights;
}

LearnerState Learner::state() const {
  LearnerState state{.module = named_parameters(spec(), parameters()),
                     .optimizer = device_ ? device_->optimizer_state() : optimizer_->state(),
                     .connectors = {},
                     .scalars = {}};
  if (filter_) {
    const std::vector<double> statistics = filter_->state();
    state.connectors["mean_std_filter"] = Tensor::of(std::span<const double>(statistics), {statistics.size()});
  }
  state.scalars = {{"version", scalar(static_cast<int64_t>(version_))},
                   {"num_env_steps_trained_lifetime", scalar(env_steps_)},
                   {"num_module_steps_trained_lifetime", scalar(module_steps_)},
                   {"minibatch_random_position", scalar(static_cast<int64_t>(random_.position()))}};
  if (plan_.target) {
    const std::vector<float> on_device = device_ ? device_->target() : std::vector<float>();
    const std::span<const float> target = device_ ? std::span<const float>(on_device) : room_of(target_);
    state.scalars["target_parameters"] = Tensor::of(target, {target.size()});
    state.scalars["num_target_updates"] = scalar(target_updates_);
    state.scalars["target_updated_at"] = scalar(target_updated_at_);
  }
  for (const auto& [name, value] : algorithm_->state()) state.scalars[std::string(kCoefficient) + name] = scalar(value);
  return state;
}

void Learner::set_state(const LearnerState& state) {
  const std::vector<float> parameters = flat_parameters(spec(), state.module, "the learner's state");
  if (plan_.target) {
    const std::vector<float> target = find(state.scalars, "target_parameters").f32();
    if (target.size() != parameters.size())
      fail(Exit::usage, "foreign-checkpoint", "the target network has {} parameters, want {}", target.size(),
           parameters.size());
    std::ranges::copy(target, room_of(target_).begin());
    target_updates_ = integer(state.scalars, "num_target_updates");
    target_updated_at_ = integer(state.scalars, "target_updated_at");
  }
  empty_buffer();
  if (device_) {
    device_->set_state(parameters, state.optimizer,
                       plan_.target ? std::span<const float>(room_of(target_)) : std::span<const float>());
  } else {
    optimizer_->set_state(state.optimizer);
    std::ranges::copy(parameters, module_->parameters().begin());
  }
  if (filter_) filter_->set_state(find(state.connectors, "mean_std_filter").f64());
  version_ = static_cast<uint64_t>(integer(state.scalars, "version"));
  env_steps_ = integer(state.scalars, "num_env_steps_trained_lifetime");
  module_steps_ = integer(state.scalars, "num_module_steps_trained_lifetime");
  random_.set_position(static_cast<uint64_t>(integer(state.scalars, "minibatch_random_position")));
  std::map<std::string, double> coefficients;
  for (const auto& [name, tensor] : state.scalars)
    if (name.starts_with(kCoefficient)) coefficients[name.substr(kCoefficient.size())] = tensor.f64().at(0);
  algorithm_->set_state(coefficients);
}

}  // namespace myriad
