// MujocoEnv: what Gymnasium's MuJoCo tasks share. A task is one short file: reset noise, reward, observation.
//
// One const mjModel per XML file and process, shared by all its environments (and by forked runners); one mjData per
// environment. The XML files lie in assets/ beside this module. A step is Gymnasium's: set the controls, mj_step
// `frame_skip` times; mj_rnePostConstraint only where a task reads contact forces, for it changes nothing else.
#pragma once

#include <mujoco/mujoco.h>

#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rl/environment.hpp"

namespace myriad {

class MujocoEnv : public Environment {
 public:
  void reset(RandomStream& random, Row observation) final;

  /// mjSTATE_INTEGRATION: everything that makes continuing bit-exact, the solver's warm start included.
  std::optional<std::vector<double>> state() const final;

  /// Takes state()'s values, or [qpos, qvel] alone, as Gymnasium's set_state(qpos, qvel) after a reset.
  void set_state(std::span<const double> state, Row observation) final;

 protected:
  /// Loads assets/`xml`. Throws Error("mujoco-model") with MuJoCo's own words.
  MujocoEnv(const std::string& xml, int frame_skip, bool contact_forces = false);

  /// Adds the task's noise to the model's initial `qpos` and `qvel`.
  virtual void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) = 0;
  virtual void observe(Row observation) const = 0;

  /// Applies the controls for one env step.
  void simulate(std::span<const float> controls);

  std::span<const double> qpos() const { return {data_->qpos, static_cast<size_t>(model_->nq)}; }
  std::span<const double> qvel() const { return {data_->qvel, static_cast<size_t>(model_->nv)}; }
  const mjModel& model() const { return *model_; }
  const mjData& data() const { return *data_; }
  double dt() const { return model_->opt.timestep * frame_skip_; }  ///< seconds an env step

  /// Writes qpos from `skip` on, then qvel held within +-`qvel_limit`.
  void write_qpos_qvel(Row observation, size_t skip, double qvel_limit = std::numeric_limits<double>::infinity()) const;

 private:
  struct Free {
    void operator()(mjData* data) const { mj_deleteData(data); }
  };

  std::shared_ptr<const mjModel> model_;
  std::unique_ptr<mjData, Free> data_;
  int frame_skip_;
  bool contact_forces_;
};

/// Unbounded float64 observations, as Gymnasium's MuJoCo tasks have them.
Space mujoco_observation_space(int size);

/// For EnvSpec::configure: one more observation value when x is not excluded from the observation.
void include_x_position(EnvSpec& spec);

/// weight * |action|^2 in float32, as NumPy computes it from float32 actions.
float control_cost(double weight, std::span<const float> action);

/// Adds uniform noise in [-scale, scale).
void add_uniform(RandomStream& random, std::span<double> values, double scale);

}  // namespace myriad
