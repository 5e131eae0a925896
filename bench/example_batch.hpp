// The batch that learner_bench and device_bench learn from, in HalfCheetah's shapes.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "rl/fragment.hpp"
#include "rl/random.hpp"

namespace myriad {

inline constexpr int kObs = 17, kActions = 6;  // HalfCheetah's

/// FLOPs of one sample's forward pass through the linear layers of both networks.
inline double forward_flops(const std::vector<int>& hiddens) {
  double flops = 0;
  for (const int outputs : {kActions, 1}) {
    int size = kObs;
    for (const int h : hiddens) flops += 2.0 * std::exchange(size, h) * h;
    flops += 2.0 * size * outputs;
  }
  return flops;
}

/// [steps, environments] of a random policy, an episode's end of each kind in every hundredth row.
inline Fragment batch_of(int steps, int environments) {
  auto layout = std::make_shared<FragmentLayout>(steps, environments);
  layout->add("obs", Rows::step_and_bootstrap, DType::f32, {kObs})
      .add("actions", Rows::step, DType::f32, {kActions})
      .add("rewards", Rows::step, DType::f32, {})
      .add("terminateds", Rows::step, DType::u8, {})
      .add("truncateds", Rows::step, DType::u8, {})
      .add("logp", Rows::step, DType::f32, {})
      .add("action_dist_inputs", Rows::step, DType::f32, {2 * kActions})
      .add("final_obs", Rows::final_step, DType::f32, {kObs});
  Fragment f(layout);
  RandomStream random(1, StreamPurpose::simulation, 0);
  for (const char* name : {"obs", "actions", "rewards", "final_obs"})
    for (float& x : f.values<float>(layout->column(name))) x = static_cast<float>(random.normal());
  for (float& x : f.values<float>(layout->column("logp"))) x = -8.5f;
  const auto flags = [&](const char* name) { return f.values<uint8_t>(layout->column(name)); };
  for (size_t i = 100; i < flags("truncateds").size(); i += 100) {
    flags(i % 200 == 0 ? "truncateds" : "terminateds")[i] = 1;
    f.final_rows += i % 200 == 0;
  }
  return f;
}

}  // namespace myriad
