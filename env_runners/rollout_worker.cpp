#include "env_runners/rollout_worker.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "rl/check.hpp"
#include "rl/curriculum.hpp"

namespace myriad {
namespace {

/// An environment that fails so often in a row is made anew with its process: what is broken may be more than itself.
constexpr int64_t kFailuresInAProcess = 3;

/// Streams of different incarnations start 2^40 draws apart.
uint64_t first_draw(uint32_t incarnation) { return uint64_t{incarnation} << 40; }

VectorEnv::Options env_options(const Config& config, const EnvSpec& env, uint64_t first_env_index,
                               uint32_t incarnation) {
  const EnvironmentConfig& e = config.environment;
  return {.num_envs = static_cast<int>(config.env_runners.num_envs_per_env_runner),
          .first_env_index = first_env_index,
          .first_draw = first_draw(incarnation),
          .seed = static_cast<uint64_t>(config.seed),
          .env_config = e.env_config,
          .max_episode_steps = e.max_episode_steps > 0 ? e.max_episode_steps : env.max_episode_steps,
          .curriculum = Curriculum::options_of(config.curriculum),
          .rewards = {.filter = e.filters_rewards(),
                      .gamma = config.training.gamma,
                      .scale = e.reward_scale,
                      .clip = e.reward_clip,
                      .sign = e.reward_sign},
          .out_of_bounds = out_of_bounds_of(e.out_of_bounds),
          .restarts = e.on_failure == "restart",
          .max_failures_in_a_row =
              static_cast<uint32_t>(std::min(kFailuresInAProcess, config.fault_tolerance.max_failures_in_a_row))};
}

const Tensor& tensor_of(const TensorMap& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) fail(Exit::environment, "corrupt-file", "the runner's state has no tensor {}", name);
  return found->second;
}

}  // namespace

RolloutWorker::RolloutWorker(const Config& config, const EnvSpec& env, const ModuleSpec& module,
                             uint64_t first_env_index, uint32_t incarnation, const EnvContext& context)
    : num_envs_(static_cast<size_t>(config.env_runners.num_envs_per_env_runner)),
      obs_size_(static_cast<size_t>(module.obs_size)),
      frame_stack_(static_cast<size_t>(config.environment.frame_stack)),
      mode_(config.env_runners.random_actions ? Mode::uniform
            : config.env_runners.explore      ? Mode::sample
                                              : Mode::mode),
      envs_(env, env_options(config, env, first_env_index, incarnation), context),
      flatten_(envs_.spec().observation_space),
      runs_(observation_runs(config, envs_.spec().observation_space)),
      run_rows_(runs_.size() == 1 ? 0 : runs_.size()),
      bytes_(runs_.size() == 1 && runs_[0].dtype == DType::u8),
      flat_(bytes_ || flatten_.is_identity()),
      obs_bytes_(obs_size_ * (bytes_ ? 1 : sizeof(float))),
      frame_bytes_(obs_bytes_ / frame_stack_),
      mask_offset_(module.mask_offset),
      filter_(observation_filter(config, module)),
      policy_(module),
      dist_(module.distribution, envs_.spec().action_space),
      uniform_(envs_.spec().action_space, config.environment.normalize_actions),
      connector_(envs_.spec().action_space, config.environment.normalize_actions, config.environment.clip_actions),
      observed_(num_envs_ * obs_bytes_),
      env_action_bytes_(envs_.spec().action_space.row_bytes()),
      env_actions_(num_envs_ * env_action_bytes_),
      own_action_(dist_.row_bytes()) {
  const int flat_size = envs_.spec().observation_space.flat_size();
  check(module.obs_size == flat_size, "the module takes {} features, {} has {}", module.obs_size, envs_.spec().id,
        flat_size);
  if (frame_stack_ > 1) env_stacks_.resize(observed_.size());
  if (filter_ || bytes_) features_.resize(num_envs_ * obs_size_);
  if (!flat_) {
    for (std::vector<std::byte>& rows : rows_) rows.resize(num_envs_ * envs_.row_bytes());
    final_rows_.resize(rows_[0].size());
  }
  action_streams_.reserve(num_envs_);
  for (size_t b = 0; b < num_envs_; ++b)
    action_streams_.emplace_back(static_cast<uint64_t>(config.seed), StreamPurpose::action, first_env_index + b)
        .set_position(first_draw(incarnation));
}

void RolloutWorker::to_features(const std::byte* rows, size_t n, std::byte* features) const {
  const size_t row_bytes = envs_.row_bytes();
  auto* const to = reinterpret_cast<float*>(features);
  for (size_t i = 0; i < n; ++i) flatten_({rows + i * row_bytes, row_bytes}, {to + i * obs_size_, obs_size_});
}

void RolloutWorker::sample(Fragment& fragment, const WeightsView& weights) {
  begin(fragment, weights);
  step_some(fragment.layout().steps());
}

void RolloutWorker::begin(Fragment& fragment, const WeightsView& weights) {
  check(target_.fragment == nullptr, "a fragment is begun before the last one is full");
  const FragmentLayout& layout = fragment.layout();
  check(static_cast<size_t>(layout.environments()) == num_envs_, "a fragment of {} environments, want {}",
        layout.environments(), num_envs_);
  check(static_cast<size_t>(layout.frame_stack()) == frame_stack_, "a fragment of stacks of {} frames, want {}",
        layout.frame_stack(), frame_stack_);
  policy_.load(weights.values);
  if (filter_) filter_->set_state(weights.filter);
  std::span<const double> published = weights.published;
  if (dist_.is_epsilon_greedy()) {
    check(!published.empty(), "the weights of an epsilon-greedy policy have no epsilon");
    dist_.set_epsilon(published.back());
    published = published.first(published.size() - 1);
  }
  envs_.set_curriculum(published);
  clients_lag_ = 0;
  if (!started_) {
    envs_.reset(flat_ ? observed_.data() : rows_[0].data());
    if (!flat_) to_features(rows_[0].data(), num_envs_, observed_.data());
    started_ = true;
  }
  const auto start = [&](const char* name) { return fragment.row(layout.column(name), 0); };
  const size_t inputs = static_cast<size_t>(dist_.num_inputs());
  // What the algorithm does not want has one row of its own, written anew at each step.
  const auto wanted = [&](const char* name, std::vector<float>& otherwise, size_t size) {
    if (layout.find(name) != nullptr) return std::pair(reinterpret_cast<float*>(start(name)), size);
    otherwise.resize(size);
    return std::pair(otherwise.data(), size_t{0});
  };
  const auto [logp, logp_stride] = wanted(kLogp, logp_, num_envs_);
  const auto [drawn_from, inputs_stride] = wanted(kActionDistInputs, inputs_, num_envs_ * inputs);
  const auto floats = [&](const char* name) { return reinterpret_cast<float*>(start(name)); };
  const auto flags = [&](const char* name) { return reinterpret_cast<uint8_t*>(start(name)); };
  target_ = {.fragment = &fragment,
             .obs = in_place() ? start("obs") : observed_.data(),
             .frames = frame_stack_ == 1 ? nullptr : start("frames"),
             .final_obs = start("final_obs"),
             .actions = start("actions"),
             .rewards = floats("rewards"),
             .logp = logp,
             .inputs = drawn_from,
             .terminateds = flags("terminateds"),
             .truncateds = flags("truncateds"),
             .logp_stride = logp_stride,
             .inputs_stride = inputs_stride};
  if (frame_stack_ > 1) {
    write_first_stacks();
  } else if (in_place()) {
    std::copy(observed_.begin(), observed_.end(), target_.obs);
  } else {
    size_t run = 0;
    for (const Column& column : layout.columns())
      if (column.holds_observations() && run < run_rows_.size()) run_rows_[run++] = fragment.row(column, 0);
    check(run == run_rows_.size(), "a fragment of {} columns of observations, want {}", run, run_rows_.size());
    write_runs();
  }
  const size_t samples = static_cast<size_t>(layout.steps()) * num_envs_;
  if (mode_ == Mode::uniform) std::fill_n(drawn_from, inputs_stride > 0 ? samples * inputs : num_envs_ * inputs, 0.0f);
  fragment.weights_version = weights.version;
  fragment.final_rows = 0;
  fragment.episodes.clear();
  fragment.episodes.reserve(samples);  // the worst case, so that no step allocates
}

bool RolloutWorker::step_some(int steps) {
  check(target_.fragment != nullptr, "no fragment is begun");
  const int end = std::min(target_.fragment->layout().steps(), target_.t + steps);
  while (target_.t < end) step_once();
  if (end < target_.fragment->layout().steps()) return false;
  if (in_place()) std::copy_n(target_.obs, observed_.size(), observed_.begin());  // the next fragment's row 0
  std::exchange(target_.fragment, nullptr)->report = envs_.take_report();
  return true;
}

void RolloutWorker::step_once() {
  Target& to = target_;
  const size_t n = num_envs_, row_bytes = dist_.row_bytes();
  choose_actions(to.obs, to.actions, to.logp, to.inputs);
  for (size_t b = 0; b < n; ++b)
    connector_({to.actions + b * row_bytes, row_bytes},
               {env_actions_.data() + b * env_action_bytes_, env_action_bytes_});

  std::byte* const next_obs = frame_stack_ > 1 ? env_stacks_.data()
                              : in_place()     ? to.obs + n * obs_bytes_
                                               : observed_.data();
  std::byte* const next_final = to.final_obs + to.fragment->final_rows * obs_bytes_;
  std::swap(rows_[0], rows_[1]);
  const size_t final_rows = envs_.step(env_actions_.data(), {.obs = flat_ ? next_obs : rows_[0].data(),
                                                             .rewards = to.rewards,
                                                             .terminateds = to.terminateds,
                                                             .truncateds = to.truncateds,
                                                             .final_obs = flat_ ? next_final : final_rows_.data(),
                                                             .episodes = &to.fragment->episodes,
                                                             .own = &own_,
                                                             .before = !flat_       ? rows_[1].data()
                                                                       : in_place() ? to.obs
                                                                                    : observed_.data()});
  for (const auto& [b, own] : std::exchange(own_, {})) take_own(b, *own);
  if (!flat_) {
    to_features(rows_[0].data(), n, next_obs);
    to_features(final_rows_.data(), final_rows, next_final);
  }
  to.fragment->final_rows += final_rows;
  if (frame_stack_ > 1) {
    take_frames(next_final);
  } else {
    to.obs = next_obs;
    if (!in_place()) write_runs();
  }
  to.actions += n * row_bytes;
  to.rewards += n, to.terminateds += n, to.truncateds += n;
  to.logp += to.logp_stride, to.inputs += to.inputs_stride;
  ++to.t;
  env_steps_ += n;
}

/// observed_, whose features are floats, run by run.
void RolloutWorker::write_runs() {
  const auto* from = reinterpret_cast<const float*>(observed_.data());
  for (size_t b = 0; b < num_envs_; ++b)
    for (size_t i = 0; i < runs_.size(); ++i) {
      const auto size = static_cast<size_t>(runs_[i].size);
      if (runs_[i].dtype == DType::u8) {
        std::transform(from, from + size, run_rows_[i], [](float x) { return static_cast<std::byte>(x); });
        run_rows_[i] += size;
      } else {
        std::memcpy(run_rows_[i], from, size * sizeof(float));
        run_rows_[i] += size * sizeof(float);
      }
      from += size;
    }
}

/// Rows 0 to k-1 of the fragment's frames.
void RolloutWorker::write_first_stacks() {
  for (size_t i = 0; i < frame_stack_; ++i)
    for (size_t b = 0; b < num_envs_; ++b, target_.frames += frame_bytes_)
      std::copy_n(observed_.data() + b * obs_bytes_ + i * frame_bytes_, frame_bytes_, target_.frames);
}

/// Of the environments' stacks only the newest frames count, also in the step's rows of `final_obs`; the older ones are
/// those of before. An environment that goes on from a state may round its observation otherwise than before it, and
/// the learner has one frame for both.
void RolloutWorker::take_frames(std::byte* final_obs) {
  Target& to = target_;
  const size_t older = obs_bytes_ - frame_bytes_;
  for (size_t b = 0; b < num_envs_; ++b) {
    std::byte* const stack = observed_.data() + b * obs_bytes_;
    const std::byte* const env_stack = env_stacks_.data() + b * obs_bytes_;
    std::copy(stack + frame_bytes_, stack + obs_bytes_, stack);
    if (to.truncateds[b] && !to.terminateds[b]) {
      std::copy_n(stack, older, final_obs);
      final_obs += obs_bytes_;
    }
    std::copy_n(env_stack + older, frame_bytes_, stack + older);
    if (to.truncateds[b] || to.terminateds[b])  // an S_0
      for (size_t i = 0; i < older; i += frame_bytes_) std::copy_n(stack + older, frame_bytes_, stack + i);
    to.frames = std::copy_n(stack + older, frame_bytes_, to.frames);
  }
}

/// Records what environment `b` did in place of the action sent. Without the inputs it was drawn from it counts as
/// drawn from the policy here.
void RolloutWorker::take_own(size_t b, const OwnAction& own) {
  const size_t inputs = static_cast<size_t>(dist_.num_inputs());
  check(own.dist_inputs.empty() || own.dist_inputs.size() == inputs, "an action drawn from {} numbers, want {}",
        own.dist_inputs.size(), inputs);
  check(!own.version || *own.version <= target_.fragment->weights_version, "an action of weights {}, newer than {}",
        own.version.value_or(0), target_.fragment->weights_version);
  if (own.version) clients_lag_ = std::max(clients_lag_, target_.fragment->weights_version - *own.version);
  connector_.store(own.action, own_action_);
  float* const drawn_from = target_.inputs + b * inputs;
  const auto masked = [](float input) { return input <= kMaskedLogit; };
  if (!own.dist_inputs.empty() && std::isfinite(dist_.logp(own.dist_inputs.data(), own_action_.data())) &&
      std::equal(drawn_from, drawn_from + inputs, own.dist_inputs.begin(),
                 [&](float here, float there) { return masked(here) == masked(there); }))
    std::ranges::copy(own.dist_inputs, drawn_from);
  const float logp = dist_.logp(drawn_from, own_action_.data());
  // Impossible under this policy: keep the action we sent. Q-learning learns of any action.
  if (!std::isfinite(logp) && !dist_.is_epsilon_greedy()) return;
  std::ranges::copy(own_action_, target_.actions + b * dist_.row_bytes());
  target_.logp[b] = logp;
}

void RolloutWorker::choose_actions(const std::byte* obs, std::byte* actions, float* logp, float* inputs) {
  const auto* features = reinterpret_cast<const float*>(obs);
  if (bytes_) {
    std::copy_n(reinterpret_cast<const uint8_t*>(obs), features_.size(), features_.begin());
    features = features_.data();
  }
  if (mode_ == Mode::uniform) {
    for (size_t b = 0; b < num_envs_; ++b)
      logp[b] = uniform_(action_streams_[b], {actions + b * dist_.row_bytes(), dist_.row_bytes()},
                         mask_offset_ < 0 ? nullptr : features + b * obs_size_ + mask_offset_);
    return;
  }
  if (filter_) {
    filter_->apply({features, features_.size()}, features_);
    features = features_.data();
  }
  policy_.forward(features, num_envs_, inputs);
  if (mode_ == Mode::sample)
    dist_.sample(inputs, action_streams_, actions, logp);
  else
    dist_.mode(inputs, num_envs_, actions, logp);
  float sum = 0.0f;  // NaN or inf where one of them is
  for (size_t b = 0; b < num_envs_; ++b) sum += logp[b];
  if (!std::isfinite(sum)) [[unlikely]]
    fail(Exit::internal, "nan",
         "the policy of weights version {} gives an action whose log probability is {}: its outputs are not finite",
         target_.fragment->weights_version, sum);
}

std::vector<std::byte> RolloutWorker::state() const {
  check(target_.fragment == nullptr, "the state is asked for within a fragment");
  if (!started_) return encode_safetensors({});  // nothing has happened yet
  TensorMap tensors = envs_.state();
  std::vector<int64_t> positions;
  for (const RandomStream& stream : action_streams_) positions.push_back(static_cast<int64_t>(stream.position()));
  tensors["action/random_position"] = Tensor::of(std::span<const int64_t>(positions), {num_envs_});
  std::vector<float> obs(num_envs_ * obs_size_);
  if (bytes_)
    std::copy_n(reinterpret_cast<const uint8_t*>(observed_.data()), obs.size(), obs.begin());
  else
    std::memcpy(obs.data(), observed_.data(), observed_.size());
  tensors["obs"] = Tensor::of(std::span<const float>(obs), {num_envs_, obs_size_});
  return encode_safetensors(tensors, {{"content", "rollout_worker"}, {"env", envs_.spec().id}});
}

std::string RolloutWorker::set_state(std::span<const std::byte> bytes) {
  check(target_.fragment == nullptr, "a state is set within a fragment");
  const TensorMap tensors = decode_safetensors(bytes, "runner state");
  if (tensors.empty()) return "";
  const std::vector<int64_t> positions = tensor_of(tensors, "action/random_position").i64();
  const std::vector<float> obs = tensor_of(tensors, "obs").f32();
  if (positions.size() != num_envs_ || obs.size() != num_envs_ * obs_size_)
    fail(Exit::usage, "foreign-checkpoint",
         "the runner's state has {} environments of {} features in all, want {} of {}", positions.size(), obs.size(),
         num_envs_, num_envs_ * obs_size_);
  const std::vector<int> restarted = envs_.set_state(tensors, flat_ ? observed_.data() : rows_[0].data());
  if (!flat_) to_features(rows_[0].data(), num_envs_, observed_.data());
  for (size_t b = 0; b < num_envs_; ++b) {
    action_streams_[b].set_position(static_cast<uint64_t>(positions[b]));
    // The observation as it was, should the simulator's own be of another rounding; not of an episode that began anew.
    if (std::find(restarted.begin(), restarted.end(), static_cast<int>(b)) != restarted.end()) continue;
    const float* const was = obs.data() + b * obs_size_;
    std::byte* const now = observed_.data() + b * obs_bytes_;
    if (bytes_)
      std::transform(was, was + obs_size_, reinterpret_cast<uint8_t*>(now),
                     [](float x) { return static_cast<uint8_t>(std::clamp(x, 0.0f, 255.0f)); });
    else
      std::memcpy(now, was, obs_bytes_);
  }
  started_ = true;
  if (restarted.empty()) return "";
  return fmt::format("{} cannot give its state: {} of {} episodes start anew", envs_.spec().id, restarted.size(),
                     num_envs_);
}

}  // namespace myriad
