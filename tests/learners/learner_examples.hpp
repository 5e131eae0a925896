// Configs and a batch for tests of the Learner.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "algorithms/appo.hpp"
#include "algorithms/ppo.hpp"
#include "learners/learner.hpp"
#include "rl/algorithm_info.hpp"

namespace myriad {

inline constexpr int kSteps = 16, kEnvironments = 8;
inline const Space kObs = Space::box(-10, 10, {3});

inline Config config_of(const std::string& executor = "native") {
  Config config;
  PpoConfig own;
  own.lambda_ = 0.95;
  own.entropy_coeff = 0.001;
  config.algorithm_config = std::make_unique<PpoConfig>(own);
  config.environment.observation_filter = "MeanStdFilter";
  config.learners.executor = executor;
  config.learners.num_threads = 1;
  config.rl_module.fcnet_hiddens = {16, 16};
  config.training.num_epochs = 4;
  config.training.minibatch_size = 32;
  config.training.lr = 1e-3;
  config.seed = 3;
  return config;
}

/// PQN, with LayerNorm.
inline Config pqn_config(const std::string& executor = "native") {
  Config config = config_of(executor);
  config.algorithm = "PQN";
  config.algorithm_config = find_algorithm("PQN").make_config();
  config.rl_module.fcnet_use_layernorm = true;
  return config;
}

/// IMPALA or APPO over whole batches; APPO's buffer of `batches`, two passes each.
inline Config async_config(const char* algorithm, const std::string& executor = "native", int64_t batches = 1) {
  Config config = config_of(executor);
  config.algorithm = algorithm;
  config.training.num_epochs = 1;
  config.training.minibatch_size = 0;
  config.training.train_batch_size = kSteps * kEnvironments;
  AppoConfig own;  // IMPALA takes its part of it
  own.circular_buffer_num_batches = batches;
  own.use_kl_loss = true;
  config.algorithm_config = std::make_unique<AppoConfig>(own);
  return config;
}

/// A batch whose rewards depend on observation and action; one row of each kind of end, and `cuts` more time limits.
inline Fragment batch_of(const Space& action_space, uint64_t seed = 1, size_t cuts = 0,
                         int environments = kEnvironments) {
  const bool discrete = action_space.get_if<Discrete>() != nullptr;
  const int k = discrete ? action_space.get_if<Discrete>()->n : 2 * action_space.flat_size();
  auto layout = std::make_shared<FragmentLayout>(kSteps, environments);
  layout->add("obs", Rows::step_and_bootstrap, DType::f32, {3})
      .add("actions", Rows::step, discrete ? DType::i32 : DType::f32, {discrete ? 1 : action_space.flat_size()})
      .add("rewards", Rows::step, DType::f32, {})
      .add("terminateds", Rows::step, DType::u8, {})
      .add("truncateds", Rows::step, DType::u8, {})
      .add("logp", Rows::step, DType::f32, {})
      .add("action_dist_inputs", Rows::step, DType::f32, {k})
      .add("final_obs", Rows::final_step, DType::f32, {3});
  Fragment f(layout);
  RandomStream random(seed, StreamPurpose::simulation, 0);
  const auto values = [&](const char* name) { return f.values<float>(layout->column(name)); };
  for (float& x : values("obs")) x = static_cast<float>(2.0 + random.normal());
  for (size_t i = 0; i < values("rewards").size(); ++i) {
    const float x = values("obs")[3 * i];
    if (discrete) {
      const auto* d = action_space.get_if<Discrete>();
      const auto choice = static_cast<int>(random.below(static_cast<uint64_t>(d->n)));
      f.values<int32_t>(layout->column("actions"))[i] = d->start + choice;
      values("logp")[i] = -std::log(static_cast<float>(d->n));  // uniform: all inputs are 0
      values("rewards")[i] = (choice == 0) == (x > 2.0f) ? 1.0f : 0.0f;
    } else {
      const auto a = static_cast<float>(random.normal());  // standard normal: mean 0, log std 0
      values("actions")[i] = a;
      values("logp")[i] = -0.5f * a * a - 0.9189385f;
      values("rewards")[i] = a * x;
    }
  }
  f.values<uint8_t>(layout->column("terminateds"))[5] = 1;
  f.values<uint8_t>(layout->column("truncateds"))[20] = 1;
  for (size_t i = 0; i < cuts; ++i) f.values<uint8_t>(layout->column("truncateds"))[21 + i] = 1;
  f.final_rows = 1 + cuts;
  for (size_t j = 0; j < 3 * f.final_rows; ++j) values("final_obs")[j] = 1.0f + 0.5f * static_cast<float>(j / 3);
  return f;
}

/// Each frame once of `batch`, whose observations become what FrameStack makes of these frames: three of one feature.
inline Fragment frames_of(Fragment& batch) {
  const FragmentLayout& whole = batch.layout();
  auto layout = std::make_shared<FragmentLayout>(whole.steps(), whole.environments(), 3);
  layout->add("frames", Rows::frame, DType::f32, {1});
  for (const Column& c : whole.columns())
    if (c.name != "obs") layout->add(c.name, c.rows, c.dtype, c.shape);
  Fragment frames(layout);
  frames.final_rows = batch.final_rows;
  for (const Column& c : whole.columns())
    if (c.name != "obs")
      std::copy_n(batch.row(c, 0), c.row_bytes * (c.rows == Rows::final_step ? batch.final_rows : whole.rows(c)),
                  frames.row(layout->column(c.name), 0));
  const auto n = static_cast<size_t>(whole.environments());
  const auto obs = batch.values<float>(whole.column("obs")), to = frames.values<float>(layout->column("frames"));
  const auto terminateds = batch.values<uint8_t>(whole.column("terminateds"));
  const auto truncateds = batch.values<uint8_t>(whole.column("truncateds"));
  for (size_t i = 0; i < 3 * n; ++i) to[i] = obs[i % n * 3 + i / n];
  for (size_t i = 0; i < terminateds.size(); ++i) {
    const auto before = obs.subspan(3 * i, 3), stack = obs.subspan(3 * (i + n), 3);
    to[3 * n + i] = stack[2];
    const bool ended = terminateds[i] || truncateds[i];
    stack[0] = ended ? stack[2] : before[1], stack[1] = ended ? stack[2] : before[2];
  }
  return frames;
}

inline bool same(const TensorMap& a, const TensorMap& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const auto& x, const auto& y) {
           return x.first == y.first && x.second.shape == y.second.shape && x.second.bytes == y.second.bytes;
         });
}
inline bool same(const LearnerState& a, const LearnerState& b) {
  return same(a.module, b.module) && same(a.optimizer, b.optimizer) && same(a.connectors, b.connectors) &&
         same(a.scalars, b.scalars);
}

/// `count` environments of a batch, from `first` on.
inline Fragment slice_of(Fragment& batch, int first, int count) {
  const FragmentLayout& whole = batch.layout();
  auto layout = std::make_shared<FragmentLayout>(whole.steps(), count, whole.frame_stack());
  for (const Column& c : whole.columns()) layout->add(c.name, c.rows, c.dtype, c.shape);
  Fragment slice(layout);
  for (const Column& c : whole.columns()) {
    if (c.rows == Rows::final_step) continue;
    const Column& to = layout->column(c.name);
    const size_t times = whole.rows(c) / static_cast<size_t>(whole.environments());
    for (size_t t = 0; t < times; ++t)
      for (int e = 0; e < count; ++e) {
        const std::byte* row =
            batch.row(c, t * static_cast<size_t>(whole.environments()) + static_cast<size_t>(first + e));
        std::copy_n(row, c.row_bytes, slice.row(to, t * static_cast<size_t>(count) + static_cast<size_t>(e)));
      }
  }
  const auto flags = [&](const char* name) { return batch.values<uint8_t>(whole.column(name)); };
  size_t from = 0;
  for (size_t i = 0; i < flags("truncateds").size(); ++i) {
    if (flags("truncateds")[i] == 0 || flags("terminateds")[i] != 0) continue;
    const int environment = static_cast<int>(i) % whole.environments();
    if (environment >= first && environment < first + count)
      std::copy_n(batch.row(whole.column("final_obs"), from), whole.column("final_obs").row_bytes,
                  slice.row(layout->column("final_obs"), slice.final_rows++));
    ++from;
  }
  return slice;
}

/// Without what was replayed, which the torch executor alone counts, and otherwise in a learner that begins.
inline Metrics without_work(Metrics metrics) {
  std::erase_if(metrics, [](const auto& m) { return m.first.starts_with("num_device_work"); });
  return metrics;
}

}  // namespace myriad
