#include "env_runners/action_dist.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <tuple>

#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

const float kHalfLog2Pi = static_cast<float>(0.5 * std::log(2.0 * std::numbers::pi));

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

template <class T>
void store(std::byte* row, size_t i, T value) {
  std::memcpy(row + i * sizeof value, &value, sizeof value);
}
template <class T>
T load(const std::byte* row, size_t i) {
  T value;
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

void ActionDist::Elements::put_choice(size_t i, int choice) const {
  if (format.floats)
    store(row, first + i, static_cast<float>(choice));
  else
    store(row, i, format.start + choice);
}
int ActionDist::Elements::choice(size_t i, int n) const {
  const int choice =
      format.floats ? static_cast<int>(load<float>(row, first + i)) : load<int32_t>(row, i) - format.start;
  check(choice >= 0 && choice < n, "action {} lies outside [0, {})", choice, n);
  return choice;
}
void ActionDist::Elements::put_real(size_t i, float value) const {
  if (format.f64)
    store(row, i, static_cast<double>(value));
  else
    store(row, first + i, value);
}
float ActionDist::Elements::real(size_t i) const {
  return format.f64 ? static_cast<float>(load<double>(row, i)) : load<float>(row, first + i);
}

/// One sample of one part: from its inputs to its elements of an action.
struct ActionDist::Draw {
  const ActionDist& dist;
  float* cumulative;  // scratch

  float operator()(const Categorical& d, const float* inputs, RandomStream& random, const Elements& to) const {
    return choose(0, d.n, inputs, random, to);
  }
  float operator()(const MultiCategorical& d, const float* inputs, RandomStream& random, const Elements& to) const {
    float sum = 0.0f;
    size_t element = 0;
    for (const int n : d.nvec) {
      sum += choose(element++, n, inputs, random, to);
      inputs += n;
    }
    return sum;
  }
  float operator()(const DiagGaussian& d, const float* inputs, RandomStream& random, const Elements& to) const {
    return gaussian<false>(d, inputs, random, to);
  }
  float operator()(const SquashedGaussian& d, const float* inputs, RandomStream& random, const Elements& to) const {
    return gaussian<true>(d, inputs, random, to);
  }
  float operator()(const Beta& d, const float* inputs, RandomStream& random, const Elements& to) const {
    float sum = 0.0f;
    for (int j = 0; j < d.n; ++j) {
      const BetaElement element(inputs[j], inputs[d.n + j]);
      const float action = element.draw(random);
      to.put_real(static_cast<size_t>(j), action);
      sum += element.logp(action);
    }
    return sum;
  }
  float operator()(const EpsilonGreedy& d, const float* inputs, RandomStream& random, const Elements& to) const {
    const Greedy greedy(inputs, d.n);
    const int choice = random.uniform() < dist.epsilon_
                           ? greedy.possible(inputs, random.below(static_cast<uint64_t>(greedy.num_possible)))
                           : greedy.best;
    to.put_choice(0, choice);
    return greedy.logp(choice, dist.epsilon_) + unless_finite(inputs, d.n);
  }
  float operator()(const Composite& d, const float* inputs, RandomStream& random, const Elements& to) const {
    float sum = 0.0f;
    for (size_t i = 0; i < d.parts.size(); ++i) {
      const ActionPart& part = dist.parts_[i];
      sum += std::visit([&](const auto& one) { return (*this)(one, inputs + part.input, random, to.of(part)); },
                        d.parts[i]);
    }
    return sum;
  }

 private:
  float choose(size_t element, int n, const float* logits, RandomStream& random, const Elements& to) const {
    const LogSumExp total = log_sum_exp(logits, n, cumulative);
    const int choice = draw_choice(logits, cumulative, n, random.uniform());
    to.put_choice(element, choice);
    return total.logp(logits[choice]);
  }
  template <bool kSquash>
  static float gaussian(const DiagGaussian& d, const float* inputs, RandomStream& random, const Elements& to) {
    float sum = 0.0f;
    float noise[2] = {};
    for (int j = 0; j < d.n; ++j) {
      if (j % 2 == 0) std::tie(noise[0], noise[1]) = normal_pair(random);
      const float mean = inputs[j], log_std = inputs[d.n + j];
      const float u = mean + std::exp(log_std) * noise[j % 2], action = kSquash ? squashed(u) : u;
      to.put_real(static_cast<size_t>(j), action);
      sum += kSquash ? squashed_logp(action, mean, log_std) : normal_logp(action, mean, log_std);
    }
    return sum;
  }
};

/// The likeliest action of one part.
struct ActionDist::Mode {
  const ActionDist& dist;

  void operator()(const Categorical& d, const float* inputs, const Elements& to) const {
    to.put_choice(0, argmax(inputs, d.n));
  }
  void operator()(const MultiCategorical& d, const float* inputs, const Elements& to) const {
    size_t element = 0;
    for (const int n : d.nvec) {
      to.put_choice(element++, argmax(inputs, n));
      inputs += n;
    }
  }
  void operator()(const DiagGaussian& d, const float* inputs, const Elements& to) const {
    for (int j = 0; j < d.n; ++j) to.put_real(static_cast<size_t>(j), inputs[j]);
  }
  void operator()(const SquashedGaussian& d, const float* inputs, const Elements& to) const {
    for (int j = 0; j < d.n; ++j) to.put_real(static_cast<size_t>(j), squashed(inputs[j]));
  }
  void operator()(const Beta& d, const float* inputs, const Elements& to) const {
    for (int j = 0; j < d.n; ++j) to.put_real(static_cast<size_t>(j), BetaElement(inputs[j], inputs[d.n + j]).mode());
  }
  void operator()(const EpsilonGreedy& d, const float* inputs, const Elements& to) const {
    to.put_choice(0, argmax(inputs, d.n));
  }
  void operator()(const Composite& d, const float* inputs, const Elements& to) const {
    for (size_t i = 0; i < d.parts.size(); ++i) {
      const ActionPart& part = dist.parts_[i];
      std::visit([&](const auto& one) { (*this)(one, inputs + part.input, to.of(part)); }, d.parts[i]);
    }
  }
};

/// The log probability (density) of an action of one part.
struct ActionDist::LogProb {
  const ActionDist& dist;

  float operator()(const Categorical& d, const float* inputs, const Elements& action) const {
    return log_sum_exp(inputs, d.n).logp(inputs[action.choice(0, d.n)]);
  }
  float operator()(const MultiCategorical& d, const float* inputs, const Elements& action) const {
    float sum = 0.0f;
    size_t element = 0;
    for (const int n : d.nvec) {
      sum += log_sum_exp(inputs, n).logp(inputs[action.choice(element++, n)]);
      inputs += n;
    }
    return sum;
  }
  float operator()(const DiagGaussian& d, const float* inputs, const Elements& action) const {
    float sum = 0.0f;
    for (int j = 0; j < d.n; ++j) sum += normal_logp(action.real(static_cast<size_t>(j)), inputs[j], inputs[d.n + j]);
    return sum;
  }
  float operator()(const SquashedGaussian& d, const float* inputs, const Elements& action) const {
    float sum = 0.0f;
    for (int j = 0; j < d.n; ++j) sum += squashed_logp(action.real(static_cast<size_t>(j)), inputs[j], inputs[d.n + j]);
    return sum;
  }
  float operator()(const Beta& d, const float* inputs, const Elements& action) const {
    float sum = 0.0f;
    for (int j = 0; j < d.n; ++j)
      sum += BetaElement(inputs[j], inputs[d.n + j]).logp(action.real(static_cast<size_t>(j)));
    return sum;
  }
  float operator()(const EpsilonGreedy& d, const float* inputs, const Elements& action) const {
    const int choice = action.choice(0, d.n);
    if (inputs[choice] <= kMaskedLogit) return -INFINITY;
    return Greedy(inputs, d.n).logp(choice, dist.epsilon_) + unless_finite(inputs, d.n);
  }
  float operator()(const Composite& d, const float* inputs, const Elements& action) const {
    float sum = 0.0f;
    for (size_t i = 0; i < d.parts.size(); ++i) {
      const ActionPart& part = dist.parts_[i];
      sum +=
          std::visit([&](const auto& one) { return (*this)(one, inputs + part.input, action.of(part)); }, d.parts[i]);
    }
    return sum;
  }
};

ActionDist::ActionDist(const ActionDistribution& distribution, const Space& action_space)
    : distribution_(distribution),
      parts_(action_parts(distribution)),
      row_bytes_(stored_action(action_space).bytes),
      inputs_(inputs_size(distribution)) {
  const auto fits = [&](bool holds) {
    check(holds, "a distribution of {} inputs does not fit {}", inputs_, action_space.to_string());
  };
  const auto leaves = action_space.leaves();
  const bool composite = std::holds_alternative<Composite>(distribution_);
  fits(composite != action_space.is_leaf() && parts_.size() == leaves.size());
  for (size_t i = 0; i < parts_.size(); ++i) {
    const Leaf& leaf = leaves[i];
    const auto* discrete = leaf.space->get_if<Discrete>();
    const bool is_real = leaf.dtype == DType::f32 || leaf.dtype == DType::f64;
    std::visit(
        Overloaded{[&](const Categorical& d) { fits(discrete != nullptr && discrete->n == d.n); },
                   [&](const EpsilonGreedy& d) { fits(discrete != nullptr && discrete->n == d.n); },
                   [&](const MultiCategorical& d) { fits(leaf.dtype == DType::i32 && d.nvec.size() == leaf.count); },
                   [&](const Composite&) { fits(false); },
                   [&](const auto& d) { fits(is_real && static_cast<size_t>(d.n) == leaf.count); }},
        parts_[i].distribution);
  }
  format_ = {.floats = composite, .f64 = !composite && leaves[0].dtype == DType::f64};
  if (const auto* discrete = action_space.get_if<Discrete>()) format_.start = discrete->start;
  int largest = 1;
  for (const ActionPart& part : parts_) {
    if (const auto* one = std::get_if<Categorical>(&part.distribution)) largest = std::max(largest, one->n);
    if (const auto* multi = std::get_if<MultiCategorical>(&part.distribution))
      largest = std::max(largest, std::ranges::max(multi->nvec));
  }
  cumulative_.resize(static_cast<size_t>(largest));
}

void ActionDist::set_epsilon(double epsilon) {
  check(is_epsilon_greedy() && epsilon >= 0 && epsilon <= 1, "an epsilon of {} for {} inputs", epsilon, inputs_);
  epsilon_ = epsilon;
}

void ActionDist::sample(const float* inputs, std::span<RandomStream> streams, std::byte* actions, float* logp) {
  const Draw draw{*this, cumulative_.data()};
  std::visit(
      [&](const auto& d) {
        for (RandomStream& random : streams) {
          *logp++ = draw(d, inputs, random, {actions, 0, format_});
          actions += row_bytes_;
          inputs += inputs_;
        }
      },
      distribution_);
}

void ActionDist::mode(const float* inputs, size_t n, std::byte* actions, float* logp) const {
  for (size_t i = 0; i < n; ++i, inputs += inputs_, actions += row_bytes_) {
    std::visit([&](const auto& d) { Mode{*this}(d, inputs, {actions, 0, format_}); }, distribution_);
    logp[i] = this->logp(inputs, actions);
  }
}

float ActionDist::logp(const float* inputs, const std::byte* action) const {
  const Elements elements{const_cast<std::byte*>(action), 0, format_};  // read alone
  return std::visit([&](const auto& d) { return LogProb{*this}(d, inputs, elements); }, distribution_);
}

// ---- UniformActions ----

namespace {

/// The space with [-1, 1] for every bounded element of a Box.
Space normalized(const Space& space) {
  if (const auto* dict = space.get_if<Dict>()) {
    Dict parts;
    for (const auto& [name, part] : dict->spaces) parts.spaces.emplace_back(name, normalized(part));
    return parts;
  }
  if (const auto* tuple = space.get_if<Tuple>()) {
    Tuple parts;
    for (const Space& part : tuple->spaces) parts.spaces.push_back(normalized(part));
    return parts;
  }
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
      store_(action_space, false, false),
      choices_(choices_of(action_space)),
      row_(action_space.row_bytes()) {
  for (const Choice& choice : choices_) choices_logp_ -= std::log(static_cast<double>(choice.n));
  for (const Leaf& leaf : space_.leaves())
    if (const auto* box = leaf.space->get_if<Box>()) {
      only_choices_ = false;
      for (size_t i = 0; i < leaf.count; ++i) {
        const double low = bound_at(box->low, i), high = bound_at(box->high, i);
        if (std::isfinite(low) && std::isfinite(high))
          bounded_logp_ -= high > low ? std::log(high - low) : 0.0;
        else
          unbounded_.push_back({leaf.offset + i * size_of(leaf.dtype), leaf.dtype == DType::f64, low, high});
      }
    }
}

float UniformActions::operator()(RandomStream& random, std::span<std::byte> action, const float* mask) {
  if (mask == nullptr || !only_choices_) space_.sample(random, row_);
  double logp = bounded_logp_;
  logp += mask != nullptr ? sample_allowed(random, choices_, mask, row_) : choices_logp_;
  for (const Unbounded& u : unbounded_) {
    const std::byte* at = row_.data() + u.offset;
    const double value = u.f64 ? load<double>(at, 0) : static_cast<double>(load<float>(at, 0));
    if (std::isfinite(u.low))
      logp -= value - u.low;  // exponential above low
    else if (std::isfinite(u.high))
      logp -= u.high - value;  // and below high
    else
      logp += -0.5 * value * value - static_cast<double>(kHalfLog2Pi);
  }
  store_.store(row_, action);
  return static_cast<float>(logp);
}

}  // namespace myriad
