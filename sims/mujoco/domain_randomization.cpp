#include "sims/mujoco/domain_randomization.hpp"

#include <cmath>

#include "rl/check.hpp"
#include "sims/mujoco/named_fields.hpp"

namespace myriad {

double sample(RandomStream& random, Distribution::Kind kind, double first, double second) {
  switch (kind) {
    case Distribution::Kind::uniform:
      return random.uniform(first, second);
    case Distribution::Kind::normal:
      return first + second * random.normal();
    case Distribution::Kind::log_uniform:
      return std::exp(random.uniform(std::log(first), std::log(second)));
  }
  return 0;
}

void check_distribution(const std::string& where, Distribution::Kind kind, double first, double second) {
  const bool finite = std::isfinite(first) && std::isfinite(second);
  const bool normal = kind == Distribution::Kind::normal, log = kind == Distribution::Kind::log_uniform;
  if (finite && (normal ? second >= 0 : first <= second) && (!log || first > 0)) return;
  fail(Exit::usage, "out-of-range", "{}: got [{}, {}], want {}", where, first, second,
       normal ? "[mean, standard deviation >= 0]"
       : log  ? "0 < low <= high"
              : "low <= high");
}

DomainRandomization::DomainRandomization(mjModel& model, const std::vector<Randomized>& randomized,
                                         const std::function<double(const Formula&)>& number)
    : model_(model) {
  for (const Randomized& one : randomized) {
    const Distribution& distribution = one.distribution;
    const Draw draw{distribution.kind, number(distribution.first), number(distribution.second)};
    check_distribution(one.where, draw.kind, draw.first, draw.second);
    std::vector<std::vector<std::span<double>>> rows;  // of each field
    for (const std::string& field : one.fields) {
      try {
        rows.push_back(model_field(model, field));
      } catch (const Error& error) { fail(Exit::usage, error.code(), "{}: {}", one.where, error.what()); }
      if (rows.back().size() != rows.front().size())
        fail(Exit::usage, "unknown-field", "{}: {} has {} rows and {} has {}", one.where, one.fields[0],
             rows.front().size(), field, rows.back().size());
    }
    for (size_t i = 0; i < rows.front().size(); ++i) {
      Target target{.how = one.how, .values = {}, .base = {}};
      for (const auto& field : rows) {
        target.values.push_back(field[i]);
        target.base.emplace_back(field[i].begin(), field[i].end());
      }
      drawn_.push_back(one.how == Randomized::How::scale                            ? 1
                       : one.how == Randomized::How::set && !target.base[0].empty() ? target.base[0][0]
                                                                                    : 0);
      draws_.push_back(draw);
      targets_.push_back(std::move(target));
    }
  }
}

void DomainRandomization::draw(RandomStream& random) {
  for (size_t i = 0; i < draws_.size(); ++i)
    drawn_[i] = sample(random, draws_[i].kind, draws_[i].first, draws_[i].second);
}

void DomainRandomization::apply(mjData& data) {
  for (Target& target : targets_)
    for (size_t i = 0; i < target.values.size(); ++i) std::ranges::copy(target.base[i], target.values[i].begin());
  for (size_t i = 0; i < targets_.size(); ++i) {
    const double drawn = drawn_[i];
    for (const std::span<double>& values : targets_[i].values)
      for (double& value : values) {
        switch (targets_[i].how) {
          case Randomized::How::add:
            value += drawn;
            break;
          case Randomized::How::scale:
            value *= drawn;
            break;
          case Randomized::How::set:
            value = drawn;
            break;
        }
      }
  }
  mj_setConst(&model_, &data);
}

}  // namespace myriad
