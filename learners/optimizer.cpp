#include "learners/optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "rl/check.hpp"

namespace myriad {

Optimizer::Optimizer(const ModuleSpec& spec, double epsilon, std::optional<double> grad_clip,
                     const NativeKernels& kernels)
    : spec_(spec),
      epsilon_(epsilon),
      grad_clip_(grad_clip),
      k_(kernels),
      first_(spec.num_parameters()),
      second_(first_.size()) {}

Optimizer::Outcome Optimizer::step(std::span<float> parameters, std::span<const float> gradient, double lr) {
  check(parameters.size() == first_.size() && gradient.size() == first_.size(),
        "Adam over {} parameters got {} and {} gradients", first_.size(), parameters.size(), gradient.size());
  gradient_norm_ = std::sqrt(k_.sum_squares(gradient.data(), gradient.size()));
  if (!std::isfinite(gradient_norm_)) {
    ++skipped_;
    if (++skipped_in_a_row_ <= kSkipsAllowed) return Outcome::skipped;
    std::string name = "the sum of squares";
    for (const Parameter& p : spec_.parameters()) {
      const auto part = gradient.subspan(p.offset, p.count);
      if (std::all_of(part.begin(), part.end(), [](float g) { return std::isfinite(g); })) continue;
      name = p.name;
      break;
    }
    fail(Exit::internal, "diverged",
         "{} updates in a row had a gradient that is not finite, first in '{}'; lower lr or set grad_clip",
         skipped_in_a_row_, name);
  }
  skipped_in_a_row_ = 0;
  ++steps_;
  const double t = static_cast<double>(steps_);
  const double clip =
      grad_clip_ ? std::min(1.0, *grad_clip_ / (gradient_norm_ + 1e-6)) : 1.0;  // 1e-6 as torch's clip_grad_norm_
  const AdamStep adam{.lr = static_cast<float>(lr / (1.0 - std::pow(kBeta1, t))),
                      .beta1 = static_cast<float>(kBeta1),
                      .beta2 = static_cast<float>(kBeta2),
                      .epsilon = static_cast<float>(epsilon_),
                      .second_scale = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(kBeta2, t))),
                      .gradient_scale = static_cast<float>(clip)};
  k_.adam(adam, gradient.data(), parameters.data(), first_.data(), second_.data(), first_.size());
  return Outcome::stepped;
}

TensorMap Optimizer::state() const {
  const std::array<int64_t, 3> counters{steps_, skipped_, skipped_in_a_row_};
  TensorMap state;
  state["exp_avg"] = Tensor::of(std::span<const float>(first_), {first_.size()});
  state["exp_avg_sq"] = Tensor::of(std::span<const float>(second_), {second_.size()});
  state["steps"] = Tensor::of(std::span<const int64_t>(counters), {3});
  return state;
}

void Optimizer::set_state(const TensorMap& state) {
  for (const char* name : {"exp_avg", "exp_avg_sq", "steps"})
    if (!state.contains(name)) fail(Exit::usage, "foreign-checkpoint", "the optimizer's state has no '{}'", name);
  const std::vector<float> first = state.at("exp_avg").f32(), second = state.at("exp_avg_sq").f32();
  const std::vector<int64_t> counters = state.at("steps").i64();
  if (first.size() != first_.size() || second.size() != first_.size() || counters.size() != 3)
    fail(Exit::usage, "foreign-checkpoint", "the optimizer's state is of {} parameters, want {}", first.size(),
         first_.size());
  first_.assign(first.begin(), first.end());
  second_.assign(second.begin(), second.end());
  steps_ = counters[0];
  skipped_ = counters[1];
  skipped_in_a_row_ = counters[2];
}

}  // namespace myriad
