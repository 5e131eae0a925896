#include "learners/native/optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "rl/check.hpp"

namespace myriad {

std::vector<LrRange> lr_ranges(const ModuleSpec& spec, const std::map<std::string, double>& multipliers) {
  const std::vector<Parameter> parameters = spec.parameters();
  const std::vector<double> each = lr_multipliers(spec, multipliers);
  std::vector<LrRange> ranges;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const size_t begin = parameters[i].offset, end = begin + parameters[i].count;
    if (!ranges.empty() && ranges.back().multiplier == each[i])
      ranges.back().range.end = end;
    else
      ranges.push_back({{begin, end}, each[i]});
  }
  return ranges;
}

Optimizer::Optimizer(const ModuleSpec& spec, double epsilon, std::optional<double> grad_clip,
                     const std::map<std::string, double>& multipliers, const NativeKernels& kernels)
    : spec_(spec),
      epsilon_(epsilon),
      grad_clip_(grad_clip),
      k_(kernels),
      lr_ranges_(lr_ranges(spec, multipliers)),
      part_{0, spec.num_parameters()} {
  memory_.first.resize(part_.count());
  memory_.second.resize(part_.count());
}

void Optimizer::set_part(Range part, Memory memory) {
  check(memory.first.size() == part.count() && memory.second.size() == part.count(),
        "moments of {} and {} for a part of {} parameters", memory.first.size(), memory.second.size(), part.count());
  part_ = part;
  memory_ = std::move(memory);
}

Optimizer::Outcome Optimizer::step(std::span<float> parameters, std::span<const float> gradient, double lr,
                                   double squares) {
  Memory& m = memory_;
  check(parameters.size() == m.first.size() && gradient.size() == m.first.size(),
        "Adam over {} parameters got {} and {} gradients", m.first.size(), parameters.size(), gradient.size());
  gradient_norm_ = std::sqrt(squares);
  if (!std::isfinite(gradient_norm_)) {
    ++m.skipped;
    if (++m.skipped_in_a_row <= kSkipsAllowed) return Outcome::skipped;
    fail(Exit::internal, "diverged",
         "{} updates in a row had a gradient that is not finite, first in '{}'; lower lr or set grad_clip",
         m.skipped_in_a_row, not_finite(gradient));
  }
  m.skipped_in_a_row = 0;
  ++m.steps;
  const double t = static_cast<double>(m.steps);
  const double clip =
      grad_clip_ ? std::min(1.0, *grad_clip_ / (gradient_norm_ + 1e-6)) : 1.0;  // 1e-6 as torch's clip_grad_norm_
  AdamStep adam{.lr = 0.0f,
                .beta1 = static_cast<float>(kBeta1),
                .beta2 = static_cast<float>(kBeta2),
                .epsilon = static_cast<float>(epsilon_),
                .second_scale = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(kBeta2, t))),
                .gradient_scale = static_cast<float>(clip)};
  for (const auto& [range, multiplier] : lr_ranges_) {
    const Range here = part_.overlap(range);
    if (here.count() == 0 || multiplier == 0) continue;
    const size_t at = here.begin - part_.begin;
    adam.lr = static_cast<float>(lr * multiplier / (1.0 - std::pow(kBeta1, t)));
    k_.adam(adam, &gradient[at], &parameters[at], &m.first[at], &m.second[at], here.count());
  }
  return Outcome::stepped;
}

void Optimizer::clear_frozen(std::span<float> gradient, Range range) const {
  for (const auto& [frozen, multiplier] : lr_ranges_)
    if (const Range here = range.overlap(frozen); multiplier == 0 && here.count() > 0)
      std::ranges::fill(gradient.subspan(here.begin - range.begin, here.count()), 0.0f);
}

/// The first tensor of the part's gradient with a value that is not finite.
std::string Optimizer::not_finite(std::span<const float> gradient) const {
  for (const Parameter& p : spec_.parameters()) {
    const Range here = part_.overlap({p.offset, p.offset + p.count});
    if (here.count() == 0) continue;
    const auto values = gradient.subspan(here.begin - part_.begin, here.count());
    if (!std::all_of(values.begin(), values.end(), [](float g) { return std::isfinite(g); })) return p.name;
  }
  return part_.count() == spec_.num_parameters() ? "the sum of squares" : "another shard's part";
}

void Optimizer::set_counter_state(const TensorMap& state) {
  static_cast<OptimizerCounters&>(memory_) = optimizer_counters(state);
}

TensorMap Optimizer::state() const {
  return optimizer_state(memory_, memory_.first, memory_.second, part_, spec_.num_parameters());
}

void Optimizer::set_state(const TensorMap& state) {
  const size_t count = spec_.num_parameters();
  const auto [first, second] = optimizer_moments(state, count);
  Memory memory;
  static_cast<OptimizerCounters&>(memory) = optimizer_counters(state);
  memory.first.assign(first.begin(), first.end());
  memory.second.assign(second.begin(), second.end());
  set_part({0, count}, std::move(memory));
}

}  // namespace myriad
