#include "env_runners/action_dist.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <tuple>

#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

const float kHalfLog2Pi = static_cast<float>(0.5 * std::log(2.0 * std::numbers::pi));

/// Which elements a group of logits stands for: Categorical has one group, MultiCategorical several.
std::span<const int> groups_of(const Categorical& d) { return {&d.n, 1}; }
std::span<const int> groups_of(const MultiCategorical& d) { return d.nvec; }

struct LogSumExp {
  float top, sum;  // largest logit; sum of exp(logit - top)
  float logp(float logit) const { return logit <= kMaskedLogit ? -INFINITY : logit - top - std::log(sum); }
};

/// `cumulative`, where given, gets the running sums.
LogSumExp log_sum_exp(const float* logits, int n, float* cumulative = nullptr) {
  LogSumExp total{logits[0], 0.0f};
  for (int i = 1; i < n; ++i) total.top = std::max(total.top, logits[i]);
  for (int i = 0; i < n; ++i) {
    total.sum += std::exp(logits[i] - total.top);
    if (cumulative) cumulative[i] = total.sum;
  }
  return total;
}

int argmax(const float* logits, int n) { return static_cast<int>(std::max_element(logits, logits + n) - logits); }

void store(std::byte* row, size_t i, bool f64, float value) {
  const double wide = static_cast<double>(value);
  if (f64)
    std::memcpy(row + i * sizeof wide, &wide, sizeof wide);
  else
    std::memcpy(row + i * sizeof value, &value, sizeof value);
}
float load(const std::byte* row, size_t i, bool f64) {
  float value;
  double wide;
  if (!f64) return std::memcpy(&value, row + i * sizeof value, sizeof value), value;
  return std::memcpy(&wide, row + i * sizeof wide, sizeof wide), static_cast<float>(wide);
}
void store(std::byte* row, size_t i, int32_t value) { std::memcpy(row + i * sizeof value, &value, sizeof value); }
int32_t load(const std::byte* row, size_t i) {
  int32_t value;
  return std::memcpy(&value, row + i * sizeof value, sizeof value), value;
}

/// Two independent standard normals (Box and Muller 1958) from one draw: 32 bits each reach 6.6 standard deviations.
std::pair<float, float> normal_pair(RandomStream& random) {
  const uint64_t bits = random.next_u64();
  const float u = (static_cast<float>(bits >> 32) + 1.0f) * 0x1p-32f;  // (0, 1]
  const float angle = static_cast<float>(bits & 0xFFFFFFFF) * static_cast<float>(2.0 * std::numbers::pi * 0x1p-32);
  const float radius = std::sqrt(std::max(0.0f, -2.0f * std::log(u)));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

/// NaN where a Q-value is not finite, else 0: such values have no best action.
float unless_finite(const float* q, int n) {
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) sum += 0.0f * q[i];
  return sum;
}

/// Of Q-values, of which the masked ones stand for no action.
struct Greedy {
  int best, num_possible;
  Greedy(const float* q, int n)
      : best(argmax(q, n)),
        num_possible(static_cast<int>(std::count_if(q, q + n, [](float value) { return !(value <= kMaskedLogit); }))) {}

  /// The `index`-th action that is not masked.
  int possible(const float* q, uint64_t index) const {
    int action = 0;
    for (;; ++action)
      if (!(q[action] <= kMaskedLogit) && index-- == 0) return action;
  }
  float logp(int action, double epsilon) const {
    const double any = epsilon / num_possible;
    return static_cast<float>(std::log(action == best ? 1.0 - epsilon + any : any));
  }
};

/// One element's log density; from the stored action, so that the learner's ratio starts at 1.
float normal_logp(float action, float mean, float log_std) {
  const float z = (action - mean) * std::exp(-log_std);
  return -0.5f * z * z - log_std - kHalfLog2Pi;
}

/// One element's log density, where the normal variable u of `action` = tanh(u) has it: du / da = 1 / (1 - a^2).
float squashed_logp(float action, float mean, float log_std) {
  const float a = std::clamp(action, -kSquashedBound, kSquashedBound);
  return normal_logp(std::atanh(a), mean, log_std) - std::log((1.0f - a) * (1.0f + a));
}
float squashed(float u) { return std::clamp(std::tanh(u), -kSquashedBound, kSquashedBound); }

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

/// One element of a Beta.
struct BetaElement {
  double alpha, beta;
  BetaElement(float x, float y) : alpha(1 + softplus(double{x})), beta(1 + softplus(double{y})) {}

  float logp(float action) const {
    const double x = double{std::clamp(0.5f * (action + 1.0f), kBetaBound, 1.0f - kBetaBound)};
    const double log_beta = std::lgamma(alpha) + std::lgamma(beta) - std::lgamma(alpha + beta);
    return static_cast<float>((alpha - 1) * std::log(x) + (beta - 1) * std::log1p(-x) - log_beta -
                              std::numbers::ln2);  // dx / da = 1 / 2
  }
  static float action_of(double x) {
    const auto bounded = std::clamp(static_cast<float>(x), kBetaBound, 1.0f - kBetaBound);
    return 2.0f * bounded - 1.0f;
  }
  float mode() const {
    const double both = alpha + beta - 2;
    return action_of(both > 0 ? (alpha - 1) / both : 0.5);
  }
  float draw(RandomStream& random) const {
    const double a = gamma(alpha, random), b = gamma(beta, random);
    return action_of(a / (a + b));
  }
  /// Marsaglia and Tsang 2000, "A Simple Method for Generating Gamma Variables"; shape >= 1.
  static double gamma(double shape, RandomStream& random) {
    const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
    for (;;) {
      const double x = random.normal(), v = std::pow(1.0 + c * x, 3);
      if (v > 0 && std::log(1.0 - random.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
    }
  }
};

}  // namespace

// Counted without a branch that chance would decide. A masked choice adds nothing: its running sum is that of the
// choice before it, or 0, and exceeds nothing that this did not.
int draw_choice(const float* logits, const float* cumulative, int n, double u) {
  const double threshold = u * static_cast<double>(cumulative[n - 1]);
  int choice = 0;
  for (int i = 0; i < n; ++i) choice += static_cast<double>(cumulative[i]) <= threshold;
  return choice < n ? choice : argmax(logits, n);  // rounding may leave none: then the likeliest
}

ActionDist::ActionDist(const ActionDistribution& distribution, const Space& action_space)
    : distribution_(distribution), row_bytes_(action_space.row_bytes()), inputs_(inputs_size(distribution)) {
  check(action_space.is_leaf(), "the action space {} has no single row of elements", action_space.to_string());
  const Leaf& leaf = action_space.leaves()[0];
  if (const auto* discrete = action_space.get_if<Discrete>()) start_ = discrete->start;
  f64_ = leaf.dtype == DType::f64;
  const auto fits = [&](bool holds) {
    check(holds, "a distribution of {} inputs does not fit {}", inputs_, action_space.to_string());
  };
  const auto is_discrete = [&](int n) {
    const auto* discrete = action_space.get_if<Discrete>();
    return discrete != nullptr && discrete->n == n;
  };
  std::visit(
      Overloaded{
          [&](const Categorical& d) { fits(is_discrete(d.n)); },
          [&](const EpsilonGreedy& d) { fits(is_discrete(d.n)); },
          [&](const MultiCategorical& d) { fits(leaf.dtype == DType::i32 && d.nvec.size() == leaf.count); },
          [&](const auto& d) { fits((f64_ || leaf.dtype == DType::f32) && static_cast<size_t>(d.n) == leaf.count); }},
      distribution_);
  int largest = 1;
  if (const auto* one = std::get_if<Categorical>(&distribution_)) largest = one->n;
  if (const auto* multi = std::get_if<MultiCategorical>(&distribution_))
    largest = *std::max_element(multi->nvec.begin(), multi->nvec.end());
  cumulative_.resize(static_cast<size_t>(largest));
}

void ActionDist::set_epsilon(double epsilon) {
  check(is_epsilon_greedy() && epsilon >= 0 && epsilon <= 1, "an epsilon of {} for {} inputs", epsilon, inputs_);
  epsilon_ = epsilon;
}

void ActionDist::sample(const float* inputs, std::span<RandomStream> streams, std::byte* actions, float* logp) {
  const auto categories = [&](const auto& d) {
    for (RandomStream& random : streams) {
      float sum = 0.0f;
      size_t element = 0;
      for (const int n : groups_of(d)) {
        const LogSumExp total = log_sum_exp(inputs, n, cumulative_.data());
        const int choice = draw_choice(inputs, cumulative_.data(), n, random.uniform());
        sum += total.logp(inputs[choice]);
        store(actions, element++, start_ + choice);
        inputs += n;
      }
      *logp++ = sum;
      actions += row_bytes_;
    }
  };
  const auto gaussian = [&](const auto& d) {
    constexpr bool squash = std::is_same_v<std::remove_cvref_t<decltype(d)>, SquashedGaussian>;
    for (RandomStream& random : streams) {
      float sum = 0.0f;
      float noise[2] = {};
      for (int j = 0; j < d.n; ++j) {
        if (j % 2 == 0) std::tie(noise[0], noise[1]) = normal_pair(random);
        const float mean = inputs[j], log_std = inputs[d.n + j];
        const float u = mean + std::exp(log_std) * noise[j % 2], action = squash ? squashed(u) : u;
        store(actions, static_cast<size_t>(j), f64_, action);
        sum += squash ? squashed_logp(action, mean, log_std) : normal_logp(action, mean, log_std);
      }
      *logp++ = sum;
      actions += row_bytes_;
      inputs += 2 * d.n;
    }
  };
  const auto epsilon_greedy = [&](const EpsilonGreedy& d) {
    for (RandomStream& random : streams) {
      const Greedy greedy(inputs, d.n);
      const int choice = random.uniform() < epsilon_
                             ? greedy.possible(inputs, random.below(static_cast<uint64_t>(greedy.num_possible)))
                             : greedy.best;
      *logp++ = greedy.logp(choice, epsilon_) + unless_finite(inputs, d.n);
      store(actions, 0, start_ + choice);
      actions += row_bytes_;
      inputs += d.n;
    }
  };
  const auto beta = [&](const Beta& d) {
    for (RandomStream& random : streams) {
      float sum = 0.0f;
      for (int j = 0; j < d.n; ++j) {
        const BetaElement element(inputs[j], inputs[d.n + j]);
        const float action = element.draw(random);
        store(actions, static_cast<size_t>(j), f64_, action);
        sum += element.logp(action);
      }
      *logp++ = sum;
      actions += row_bytes_;
      inputs += 2 * d.n;
    }
  };
  std::visit(Overloaded{[&](const Categorical& d) { categories(d); }, [&](const MultiCategorical& d) { categories(d); },
                        [&](const DiagGaussian& d) { gaussian(d); }, [&](const SquashedGaussian& d) { gaussian(d); },
                        beta, epsilon_greedy},
             distribution_);
}

void ActionDist::mode(const float* inputs, size_t n, std::byte* actions, float* logp) const {
  const auto categories = [&](const auto& d, const float* in, std::byte* action) {
    size_t element = 0;
    for (const int size : groups_of(d)) {
      store(action, element++, start_ + argmax(in, size));
      in += size;
    }
  };
  for (size_t i = 0; i < n; ++i, inputs += inputs_, actions += row_bytes_) {
    std::visit(Overloaded{[&](const Categorical& d) { categories(d, inputs, actions); },
                          [&](const MultiCategorical& d) { categories(d, inputs, actions); },
                          [&](const DiagGaussian& d) {
                            for (int j = 0; j < d.n; ++j) store(actions, static_cast<size_t>(j), f64_, inputs[j]);
                          },
                          [&](const EpsilonGreedy& d) { store(actions, 0, start_ + argmax(inputs, d.n)); },
                          [&](const SquashedGaussian& d) {
                            for (int j = 0; j < d.n; ++j)
                              store(actions, static_cast<size_t>(j), f64_, squashed(inputs[j]));
                          },
                          [&](const Beta& d) {
                            for (int j = 0; j < d.n; ++j)
                              store(actions, static_cast<size_t>(j), f64_,
                                    BetaElement(inputs[j], inputs[d.n + j]).mode());
                          }},
               distribution_);
    logp[i] = this->logp(inputs, actions);
  }
}

float ActionDist::logp(const float* inputs, const std::byte* action) const {
  float sum = 0.0f;
  const auto categories = [&](const auto& d) {
    size_t element = 0;
    for (const int n : groups_of(d)) {
      const int choice = load(action, element++) - start_;
      check(choice >= 0 && choice < n, "action {} lies outside [0, {})", choice, n);
      sum += log_sum_exp(inputs, n).logp(inputs[choice]);
      inputs += n;
    }
  };
  std::visit(
      Overloaded{[&](const Categorical& d) { categories(d); }, [&](const MultiCategorical& d) { categories(d); },
                 [&](const DiagGaussian& d) {
                   for (int j = 0; j < d.n; ++j)
                     sum += normal_logp(load(action, static_cast<size_t>(j), f64_), inputs[j], inputs[d.n + j]);
                 },
                 [&](const SquashedGaussian& d) {
                   for (int j = 0; j < d.n; ++j)
                     sum += squashed_logp(load(action, static_cast<size_t>(j), f64_), inputs[j], inputs[d.n + j]);
                 },
                 [&](const Beta& d) {
                   for (int j = 0; j < d.n; ++j)
                     sum += BetaElement(inputs[j], inputs[d.n + j]).logp(load(action, static_cast<size_t>(j), f64_));
                 },
                 [&](const EpsilonGreedy& d) {
                   const int choice = load(action, 0) - start_;
                   check(choice >= 0 && choice < d.n, "action {} lies outside [0, {})", choice, d.n);
                   sum = inputs[choice] <= kMaskedLogit
                             ? -INFINITY
                             : Greedy(inputs, d.n).logp(choice, epsilon_) + unless_finite(inputs, d.n);
                 }},
      distribution_);
  return sum;
}

// ---- UniformActions ----

namespace {

/// The space with [-1, 1] for every bounded element of a Box.
Space normalized(const Space& space) {
  const auto* box = space.get_if<Box>();
  if (box == nullptr) return space;
  Box unit{.low = {}, .high = {}, .shape = box->shape, .dtype = box->dtype};
  for (size_t i = 0; i < space.leaves()[0].count; ++i) {
    const double low = bound_at(box->low, i), high = bound_at(box->high, i);
    const bool bounded = std::isfinite(low) && std::isfinite(high);
    unit.low.push_back(bounded ? -1.0 : low);
    unit.high.push_back(bounded ? 1.0 : high);
  }
  return Space(std::move(unit));
}
}  // namespace

UniformActions::UniformActions(const Space& action_space, bool normalize)
    : space_(normalize ? normalized(action_space) : action_space),
      dtype_(action_space.leaves()[0].dtype),
      choices_(choices_of(action_space)) {
  check(action_space.is_leaf(), "the action space {} has no single row of elements", action_space.to_string());
  const auto integers = [&](auto n) {
    for (size_t i = 0; i < space_.leaves()[0].count; ++i) bounded_logp_ -= std::log(static_cast<double>(n(i)));
  };
  if (const auto* one = space_.get_if<Discrete>()) integers([&](size_t) { return one->n; }), start_ = one->start;
  if (const auto* multi = space_.get_if<MultiDiscrete>()) integers([&](size_t i) { return multi->nvec[i]; });
  if (space_.get_if<MultiBinary>()) integers([](size_t) { return 2; });
  if (const auto* box = space_.get_if<Box>())
    for (size_t i = 0; i < space_.leaves()[0].count; ++i) {
      const double low = bound_at(box->low, i), high = bound_at(box->high, i);
      if (std::isfinite(low) && std::isfinite(high))
        bounded_logp_ -= high > low ? std::log(high - low) : 0.0;
      else
        unbounded_.push_back({i, low, high});
    }
}

float UniformActions::operator()(RandomStream& random, std::span<std::byte> action, const float* mask) const {
  if (mask != nullptr) return static_cast<float>(sample_allowed(random, choices_, start_, mask, action));
  space_.sample(random, action);
  double logp = bounded_logp_;
  for (const Unbounded& u : unbounded_) {
    const double value = static_cast<double>(load(action.data(), u.index, dtype_ == DType::f64));
    if (std::isfinite(u.low))
      logp -= value - u.low;  // exponential above low
    else if (std::isfinite(u.high))
      logp -= u.high - value;  // and below high
    else
      logp += -0.5 * value * value - static_cast<double>(kHalfLog2Pi);
  }
  return static_cast<float>(logp);
}

}  // namespace myriad
