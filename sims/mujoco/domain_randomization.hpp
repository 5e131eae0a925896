// DomainRandomization: fields of an environment's own mjModel get new values in each episode.
//
// Tobin et al. 2017, "Domain Randomization for Transferring Deep Neural Networks from Simulation to the Real World".
// The model's own values are the base: each episode starts from them, whatever the one before it drew.
#pragma once

#include <span>
#include <vector>

#include "rl/random.hpp"
#include "sims/mujoco/expression.hpp"
#include "sims/mujoco/mujoco_env.hpp"
#include "sims/mujoco/task_file.hpp"

namespace myriad {

class DomainRandomization {
 public:
  /// `number` gives a formula's value. Throws Error for unknown fields and impossible distributions.
  DomainRandomization(mjModel& model, const std::vector<Randomized>& randomized,
                      const std::function<double(const Formula&)>& number);

  /// An episode's numbers, from `random`. apply() writes them into the model, which needs `data` to compute what
  /// follows from them (mj_setConst): it is left at qpos0.
  void draw(RandomStream& random);
  void apply(mjData& data);

  /// What was drawn: the state. At first what leaves the model as it is.
  std::span<double> drawn() { return drawn_; }

 private:
  /// The same number for each of `values`.
  struct Target {
    Randomized::How how;
    std::vector<std::span<double>> values;
    std::vector<std::vector<double>> base;
  };
  struct Draw {
    Distribution::Kind kind;
    double first, second;
  };

  mjModel& model_;
  std::vector<Draw> draws_;
  std::vector<Target> targets_;  // one a draw
  std::vector<double> drawn_;
};

/// A number of the distribution.
double sample(RandomStream& random, Distribution::Kind kind, double first, double second);

/// Throws Error("out-of-range") where the parameters make no distribution.
void check_distribution(const std::string& where, Distribution::Kind kind, double first, double second);

}  // namespace myriad
