#include "learners/learner.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kSmallModule = 200'000;  // parameters; below, torch's threads cost more than they bring

Executor executor_of(const LearnersConfig& config) {
  if (config.device != "cpu")
    fail(Exit::usage, "impossible", "learners.device is '{}'; this build trains on 'cpu'", config.device);
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

}  // namespace

Learner::Learner(const Config& config, const Space& observation_space, const Space& action_space)
    : training_(config.training),
      action_space_(action_space),
      algorithm_(make_algorithm(config)),
      random_(static_cast<uint64_t>(config.seed), StreamPurpose::minibatch, 0) {
  const ModuleSpec spec = algorithm_->module_spec(observation_space, action_space);
  const Executor executor = executor_of(config.learners);
  const int threads = threads_of(config.learners);
  set_torch_threads(executor == Executor::native || spec.num_parameters() < kSmallModule ? 1 : threads);
  module_ = std::make_unique<TorchModule>(spec, initial_parameters(spec, static_cast<uint64_t>(config.seed)), executor,
                                          threads);
  optimizer_ = std::make_unique<Optimizer>(spec, training_.adam_epsilon, training_.grad_clip);
  if (config.environment.observation_filter == "MeanStdFilter")
    filter_.emplace(spec.obs_size, config.environment.observation_clip);
}

UpdateResult Learner::update(Fragment& fragment) {
  UpdateResult result;
  TensorBatch batch = make_tensor_batch(fragment, spec(), action_space_, filter_ ? &*filter_ : nullptr);
  fill_values(batch);
  algorithm_->begin_update(static_cast<double>(env_steps_));
  Metrics targets;
  algorithm_->add_targets(batch, targets);
  const Columns columns = flat_columns(batch);
  const int64_t rows = batch.steps * batch.environments;
  const double lr = training_.lr.at(static_cast<double>(env_steps_));
  for (int64_t epoch = 0; epoch < training_.num_epochs; ++epoch) {
    result.metrics = train_epoch(columns, rows, lr, result);
    if (result.metrics.contains("total_loss") && algorithm_->stops_epochs(result.metrics)) break;
  }
  result.metrics.merge(targets);
  algorithm_->end_update(result.metrics);
  update_filter(fragment);
  env_steps_ += rows;
  ++version_;
  result.metrics["default_optimizer_learning_rate"] = lr;
  result.metrics["num_trainable_parameters"] = static_cast<double>(spec().num_parameters());
  result.metrics["num_env_steps_trained_lifetime"] = static_cast<double>(env_steps_);
  result.metrics["num_module_steps_trained_lifetime"] = static_cast<double>(module_steps_);
  result.metrics["num_grad_updates"] = static_cast<double>(result.grad_updates);
  result.metrics["num_skipped_updates"] = static_cast<double>(result.skipped);
  result.metrics["num_skipped_updates_lifetime"] = static_cast<double>(optimizer_->num_skipped());
  return result;
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

/// Every row once, in minibatches of equal size to one row, none above minibatch_size.
Metrics Learner::train_epoch(const Columns& columns, int64_t rows, double lr, UpdateResult& result) {
  Columns shuffled = columns;
  if (training_.shuffle_batch_per_epoch) {
    const at::Tensor order = at::arange(rows, at::kLong);
    shuffle(std::span<int64_t>(order.mutable_data_ptr<int64_t>(), static_cast<size_t>(rows)), random_);
    for (auto& [name, column] : shuffled) column = column.index_select(0, order);
  }
  const int64_t size = training_.minibatch_size == 0 ? rows : std::clamp(training_.minibatch_size, int64_t{1}, rows);
  const int64_t minibatches = (rows + size - 1) / size;
  Metrics sums;
  int64_t trained = 0;
  Columns minibatch;
  for (int64_t i = 0; i < minibatches; ++i) {
    const int64_t begin = rows * i / minibatches, count = rows * (i + 1) / minibatches - begin;
    for (const auto& [name, column] : shuffled) minibatch[name] = column.narrow(0, begin, count);
    if (train_minibatch(minibatch, lr, static_cast<double>(count), sums)) {
      trained += count;
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
  const std::span<const float> all = module_->parameters();
  const auto inference = all.first(spec().num_inference_parameters());
  Weights weights{
      .version = version_, .layout_hash = spec().hash(), .values = {inference.begin(), inference.end()}, .filter = {}};
  if (filter_) weights.filter = filter_->state();
  return weights;
}

LearnerState Learner::state() const {
  LearnerState state{.module = named_parameters(spec(), module_->parameters()),
                     .optimizer = optimizer_->state(),
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
  for (const auto& [name, value] : algorithm_->state()) state.scalars[std::string(kCoefficient) + name] = scalar(value);
  return state;
}

void Learner::set_state(const LearnerState& state) {
  const std::vector<float> parameters = flat_parameters(spec(), state.module, "the learner's state");
  optimizer_->set_state(state.optimizer);
  std::ranges::copy(parameters, module_->parameters().begin());
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
