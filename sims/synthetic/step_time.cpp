// StepTime-v0: nothing to learn, steps that take time. For measuring how a set-up bears slow and uneven simulators.
//
// A step sleeps a log-normal time of mean mean_step_us (sigma 0: always the same; 1.5: one in a hundred takes ten times
// the mean), as a simulator in another process would. Drawn from the environment's own stream: the same seed, the same
// times.
#include <algorithm>
#include <cmath>
#include <ctime>

#include "rl/environment.hpp"

namespace myriad {
namespace {

class StepTime final : public Environment {
 public:
  StepTime(double mean_step_us, double sigma)
      : median_us_(mean_step_us * std::exp(-0.5 * sigma * sigma)), sigma_(sigma) {}

  void reset(RandomStream&, Row observation) override {
    step_ = 0;
    observe(observation);
  }

  StepResult step(ConstRow, RandomStream& random, Row observation) override {
    if (median_us_ > 0) {
      const double us = median_us_ * std::exp(sigma_ * random.normal());
      const timespec time{static_cast<time_t>(us * 1e-6), static_cast<long>(std::fmod(us, 1e6) * 1e3)};
      ::nanosleep(&time, nullptr);
    }
    ++step_;
    observe(observation);
    return {.reward = 1.0, .terminated = false};
  }

  std::optional<std::vector<double>> state() const override { return std::vector{static_cast<double>(step_)}; }
  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("StepTime-v0", state.size(), 1);
    step_ = static_cast<int>(state[0]);
    observe(observation);
  }

  static constexpr int kEpisode = 100;

 private:
  void observe(Row observation) const {
    observation.f32()[0] = std::min(1.0f, static_cast<float>(step_) / kEpisode);  // share of the episode
  }

  double median_us_, sigma_;
  int step_ = 0;
};

const RegisterEnv step_time{{
    .id = "StepTime-v0",
    .observation_space = Box{.low = {0.0}, .high = {1.0}, .shape = {1}},
    .action_space = Space::discrete(2),
    .max_episode_steps = StepTime::kEpisode,
    .source = "Myriad",
    .options = {{"mean_step_us", 0.0}, {"sigma", 0.0}},
    .state_names = {"step"},
    .make = [](const EnvOptions& o) { return std::make_unique<StepTime>(o.at("mean_step_us"), o.at("sigma")); },
}};

}  // namespace
}  // namespace myriad
