#include "env_runners/evaluator.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr uint64_t kActions = uint64_t{1} << 32;  // index of the episode's action stream, apart from its environment's

}  // namespace

namespace {

template <class F>
double mean_of(const EvaluationResult& result, F&& value) {
  const size_t count = result.num_ended() - result.num_failed();
  double sum = 0.0;
  for (const EvaluationResult::Episode& episode : result.episodes)
    if (episode.ended && !episode.failed) sum += value(episode);
  return count == 0 ? 0.0 : sum / static_cast<double>(count);
}

}  // namespace

size_t EvaluationResult::num_ended() const {
  return static_cast<size_t>(std::ranges::count_if(episodes, &Episode::ended));
}

size_t EvaluationResult::num_failed() const {
  return static_cast<size_t>(std::ranges::count_if(episodes, &Episode::failed));
}

double EvaluationResult::return_mean() const {
  return mean_of(*this, [](const Episode& episode) { return episode.episode_return; });
}

double EvaluationResult::return_stddev() const {
  const size_t count = num_ended() - num_failed();
  if (count < 2) return 0.0;
  const double mean = return_mean();
  const double variance = mean_of(*this, [mean](const Episode& episode) {
    return (episode.episode_return - mean) * (episode.episode_return - mean);
  });
  return std::sqrt(variance * static_cast<double>(count) / static_cast<double>(count - 1));
}

double EvaluationResult::length_mean() const {
  return mean_of(*this, [](const Episode& episode) { return static_cast<double>(episode.length); });
}

namespace {

int64_t time_limit_of(const Config& config, const EnvSpec& env) {
  return config.environment.max_episode_steps > 0 ? config.environment.max_episode_steps : env.max_episode_steps;
}

}  // namespace

Evaluator::Evaluator(const Config& config, const EnvSpec& env, const ModuleSpec& module, WeightsPtr weights,
                     const Options& options)
    : rules_(std::make_shared<const EnvRules>(
          env, config.environment.env_config,
          time_limit_of(config, env) > 0 ? time_limit_of(config, env) : int64_t{kEndlessEpisode}, options.context,
          out_of_bounds_of(config.environment.out_of_bounds))),
      has_time_limit_(time_limit_of(config, env) > 0),
      weights_(std::move(weights)),
      options_(options),
      restarts_(config.environment.on_failure == "restart" && rules_->spec.agents == 1),
      may_fail_(config.fault_tolerance.max_failed_episodes * options.episodes),
      flatten_(rules_->spec.observation_space),
      policy_(module),
      dist_(module.distribution, rules_->spec.action_space),
      connector_(rules_->spec.action_space, config.environment.normalize_actions, config.environment.clip_actions),
      obs_size_(static_cast<size_t>(module.obs_size)),
      row_(rules_->spec.observation_space.row_bytes()) {
  check(options.episodes >= 1 && options.max_envs >= 1, "an evaluation of {} episodes in {} environments",
        options.episodes, options.max_envs);
  check(module.obs_size == rules_->spec.observation_space.flat_size(), "the module takes {} features, {} has {}",
        module.obs_size, rules_->spec.id, rules_->spec.observation_space.flat_size());
  policy_.load(weights_->values);
  if (dist_.is_epsilon_greedy() && !weights_->published.empty()) dist_.set_epsilon(weights_->published.back());
  filter_ = observation_filter(config, module);
  if (filter_) filter_->set_state(weights_->filter);
  result_.episodes.resize(static_cast<size_t>(whole_worlds(rules_->spec, options.episodes)), {.ended = false});
  const size_t agents = static_cast<size_t>(rules_->spec.agents);
  num_envs_ = std::min(result_.episodes.size(), std::max(options.max_envs / agents, size_t{1}) * agents);
  const size_t n = num_envs_;
  features_.resize(n * obs_size_), filtered_.resize(features_.size());
  inputs_.resize(n * static_cast<size_t>(dist_.num_inputs())), logp_.resize(n);
  actions_.resize(n * dist_.row_bytes()), env_actions_.resize(n * rules_->spec.action_space.row_bytes());
  for (size_t i = 0; i < n; ++i) {
    slots_.push_back({EnvStepper(rules_, options.seed, StreamPurpose::evaluation, i), i});
    action_streams_.emplace_back(0, StreamPurpose::evaluation, 0);
  }
  for (size_t i = 0; i < slots_.size();)
    if (begin(i)) ++i;
}

void Evaluator::start(size_t i) {
  auto& [stepper, episode, before] = slots_[i];
  before = {};
  action_streams_[i] = RandomStream(options_.seed, StreamPurpose::evaluation, episode | kActions);
  stepper.set_index(episode);
  stepper.reset(Row(row_));
  stepper.check_start(Row(row_));
  read_observation(i);
  if (options_.observer != nullptr) options_.observer->began(episode, stepper.env(), ConstRow(row_));
}

void Evaluator::read_observation(size_t i) { flatten_(row_, {features_.data() + i * obs_size_, obs_size_}); }

bool Evaluator::step_some(int steps) {
  for (; steps > 0 && !slots_.empty(); --steps) step_once();
  return slots_.empty();
}

void Evaluator::step_once() {
  const size_t n = slots_.size(), row_bytes = dist_.row_bytes();
  const std::span<float> features{features_.data(), n * obs_size_};
  const std::span<float> filtered{filtered_.data(), features.size()};
  if (filter_) filter_->apply(features, filtered);
  policy_.forward(filter_ ? filtered.data() : features.data(), n, inputs_.data());
  if (options_.explore)
    dist_.sample(inputs_.data(), action_streams_, actions_.data(), logp_.data());
  else
    dist_.mode(inputs_.data(), n, actions_.data(), logp_.data());
  const size_t env_bytes = rules_->spec.action_space.row_bytes();
  const auto env_action = [&](size_t i) { return std::span(env_actions_).subspan(i * env_bytes, env_bytes); };
  for (size_t i = 0; i < n; ++i) {
    connector_({actions_.data() + i * row_bytes, row_bytes}, env_action(i));
    if (rules_->spec.submits) slots_[i].stepper.submit(ConstRow(env_action(i)));
  }
  for (size_t i = n; i-- > 0;) {  // downwards: the last slot moves into a place that was stepped already
    auto& [stepper, episode, before] = slots_[i];
    StepResult result;
    try {
      result = stepper.step(ConstRow(env_action(i)), Row(row_));
      stepper.check_step(result, result.reward, Row(row_));
    } catch (const EnvError& error) {
      drop_episode(i, error);
      if (next(i)) begin(i);
      continue;
    }
    EvaluationResult::Episode& so_far = result_.episodes[episode];
    so_far = before;
    so_far.ended = false;
    if (!result.abandoned) so_far.episode_return += stepper.episode_return(), so_far.length += stepper.episode_length();
    if (result.alone) {
      before = so_far;
      stepper.reset(Row(row_));  // what its world shows it next
    }
    read_observation(i);
    if (options_.observer != nullptr)
      options_.observer->stepped(episode, stepper.env(),
                                 {stepper.episode_length(), ConstRow(env_action(i)), ConstRow(row_), result});
    if ((!result.terminated && !result.truncated) || result.alone) continue;
    stepper.add_numbers(result_.numbers);
    if (next(i)) begin(i);
  }
}

/// Begins the slot's episode, or if that fails one of the next. False: there is none, and the slot is another one.
bool Evaluator::begin(size_t i) {
  for (;;) {
    try {
      start(i);
      return true;
    } catch (const EnvError& error) { drop_episode(i, error); }
    if (!next(i)) return false;
  }
}

/// The slot's episode is over: the next one is num_envs_ further on. False: the slot has left, and the last one is in
/// its place.
bool Evaluator::next(size_t i) {
  ++finished_;
  EvaluationResult::Episode& ended = result_.episodes[slots_[i].episode];
  ended.ended = true;
  if (!has_time_limit_ && ended.length == kEndlessEpisode) ++result_.num_cut;
  slots_[i].episode += num_envs_;
  if (slots_[i].episode < result_.episodes.size()) return true;
  const size_t last = slots_.size() - 1;
  std::copy_n(features_.data() + last * obs_size_, obs_size_, features_.data() + i * obs_size_);
  if (i != last) slots_[i] = std::move(slots_[last]);
  action_streams_[i] = action_streams_[last];
  slots_.pop_back();
  action_streams_.pop_back();
  return false;
}

/// The slot's episode fails; its environment is made anew.
void Evaluator::drop_episode(size_t i, const EnvError& error) {
  auto& [stepper, episode, before] = slots_[i];
  if (!restarts_ || !error.mendable || static_cast<double>(++failed_) > may_fail_) throw error;
  result_.episodes[episode] = {stepper.episode_return(), stepper.episode_length(), true};
  if (options_.observer != nullptr) options_.observer->failed(episode);
  if (is_told(failed_)) std::fprintf(stderr, "%s\n", error.line().c_str());
  stepper.renew(rules_->spec.options, error.what());
}

EvaluationResult evaluate(const Config& config, const EnvSpec& env, const ModuleSpec& module, const Weights& weights,
                          int episodes, uint64_t seed, bool explore) {
  const WeightsPtr borrowed(std::shared_ptr<void>(), &weights);  // the caller keeps them until we return
  Evaluator evaluator(config, env, module, borrowed, {.episodes = episodes, .seed = seed, .explore = explore});
  while (!evaluator.step_some(1000)) continue;
  return evaluator.result();
}

}  // namespace myriad
