// MujocoEnv: what Gymnasium's MuJoCo tasks share. A task is one short file: reset noise, reward, observation.
//
// One const mjModel per XML file and process, shared by all its environments (and by forked runners); one mjData per
// environment. The XML files lie in assets/ beside this module. A step is Gymnasium's: set the controls, mj_step
// `frame_skip` times; mj_rnePostConstraint only where a task reads contact forces, for it changes nothing else.
//
// mj_step moves qpos and qvel last, so that positions of bodies, forces, ... are those of its last evaluation of the
// dynamics, a moment before. Gymnasium observes them so. A task names those it depends on, and its state holds them.
#pragma once

#include <mujoco/mujoco.h>

#include <algorithm>
#include <array>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rl/environment.hpp"
#include "sims/mujoco/renderer.hpp"

namespace myriad {

/// An array of mjData, [rows, width].
struct MujocoField {
  mjtNum* mjData::*values;
  decltype(mjModel::nbody) mjModel::*rows;
  size_t width;
  bool operator==(const MujocoField&) const = default;
};
inline constexpr MujocoField kBodyPositions{&mjData::xpos, &mjModel::nbody, 3};             // m
inline constexpr MujocoField kBodyMassCentres{&mjData::xipos, &mjModel::nbody, 3};          // m
inline constexpr MujocoField kBodyInertias{&mjData::cinert, &mjModel::nbody, 10};           // kg m^2, kg m, kg
inline constexpr MujocoField kBodyVelocities{&mjData::cvel, &mjModel::nbody, 6};            // rad/s, m/s
inline constexpr MujocoField kContactForces{&mjData::cfrc_ext, &mjModel::nbody, 6};         // N m, N
inline constexpr MujocoField kActuatorForces{&mjData::qfrc_actuator, &mjModel::nv, 1};      // N, N m
inline constexpr MujocoField kConstraintForces{&mjData::qfrc_constraint, &mjModel::nv, 1};  // N, N m

class MujocoEnv : public Environment {
 public:
  void reset(RandomStream& random, Row observation) final;

  /// mjSTATE_INTEGRATION, everything that makes continuing bit-exact (the solver's warm start included); then the
  /// task's fields, then its memory.
  std::optional<std::vector<double>> state() const final;

  /// Takes state()'s values, or [qpos, qvel] alone, as Gymnasium's set_state(qpos, qvel) after a reset.
  void set_state(std::span<const double> state, Row observation) final;

  /// Seen by the model's camera "track" where it has one, as Gymnasium does; else by a free one (place_camera).
  std::optional<Frame> render(int width, int height) final;

  /// The task's, and how often MuJoCo left out contacts or constraints, where it did: warning() has its words.
  std::span<const EpisodeNumber> numbers() final;
  std::string_view warning() final { return warning_; }
  double render_fps() const final { return 1 / dt(); }

 protected:
  /// Loads assets/`xml`; `fields` are what the observation and the next step's reward read beside qpos and qvel.
  /// Throws Error("mujoco-model") with MuJoCo's own words.
  MujocoEnv(const std::string& xml, int frame_skip, std::vector<MujocoField> fields = {});
  /// The same of a model that was loaded, or a copy for one environment; `name` is for errors.
  MujocoEnv(std::shared_ptr<const mjModel> model, std::string name, int frame_skip);

  /// Adds to the fields.
  void depend_on(const MujocoField& field);

  /// Adds to the memory: numbers of the task's own that are part of its state.
  void keep(std::span<double> memory) { memory_.push_back(memory); }

  /// Adds the task's noise to the model's initial `qpos` and `qvel`.
  virtual void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) = 0;
  virtual void observe(Row observation) const = 0;

  /// Gymnasium's default_camera_config, for models without a camera "track". It looks at the middle of the model's
  /// initial pose.
  virtual void place_camera(mjvCamera&) const {}
  /// Called when memory has been restored, before the simulation's state is; and when an episode starts without one.
  virtual void restore_memory() {}
  virtual void start_memory() {}

  /// Adds the task's own numbers of an episode.
  virtual void add_numbers(std::vector<EpisodeNumber>&) const {}

  /// Applies the controls for one env step. Throws Error("mujoco") for a fatal error of MuJoCo, Error("unstable") for a
  /// simulation that it gave up.
  void simulate(std::span<const float> controls);

  /// The same with the controls that mjData has.
  void advance();

  /// The same; the velocity at which x, the first of qpos, has changed.
  double simulate_forward(std::span<const float> controls);  // m/s

  std::span<const double> qpos() const { return {data_->qpos, static_cast<size_t>(model_->nq)}; }
  std::span<const double> qvel() const { return {data_->qvel, static_cast<size_t>(model_->nv)}; }
  std::span<const double> read(const MujocoField& field) const {
    return {data_.get()->*field.values, static_cast<size_t>(model_.get()->*field.rows) * field.width};
  }
  /// Without row 0, which is the world.
  std::span<const double> read_bodies(const MujocoField& field) const { return read(field).subspan(field.width); }
  const double* body_position(int body) const { return data_->xpos + 3 * body; }  // [3]  m
  int body_id(const char* name) const;
  const mjModel& model() const { return *model_; }
  const mjData& data() const { return *data_; }
  mjData& data() { return *data_; }
  double dt() const { return model_->opt.timestep * frame_skip_; }  ///< seconds an env step

  /// Writes qpos from `skip` on, then qvel held within +-`qvel_limit`.
  void write_qpos_qvel(Row observation, size_t skip, double qvel_limit = std::numeric_limits<double>::infinity()) const;

 private:
  struct Free {
    void operator()(mjData* data) const { mj_deleteData(data); }
  };

  /// Contacts or constraints that were left out: MuJoCo's warning, and their name among numbers().
  struct Loss {
    mjtWarning kind;
    std::string_view name;
  };
  static constexpr std::array<Loss, 2> kLosses{
      {{mjWARN_CONTACTFULL, "mujoco_contacts_lost"}, {mjWARN_CNSTRFULL, "mujoco_constraints_lost"}}};

  void note_warnings();
  void note_loss(size_t i);

  std::shared_ptr<const mjModel> model_;
  std::string name_;
  std::unique_ptr<mjData, Free> data_;
  int frame_skip_;
  std::vector<MujocoField> fields_;
  std::unique_ptr<MujocoRenderer> renderer_;  // from the first render() on
  std::vector<std::span<double>> memory_;
  std::array<int, kLosses.size()> lost_{};  // how often, in this episode
  std::string warning_;
  std::vector<EpisodeNumber> numbers_;
  bool forces_ = false;              // mj_rnePostConstraint: of contacts, inside and outside bodies
  bool subtree_velocities_ = false;  // mj_subtreeVel
};

/// assets/`xml`; "" where there is none.
std::string asset_path(const std::string& xml);

/// A pair of Gymnasium's, two options here: `name`_low and `name`_high.
struct OptionRange {
  OptionRange(const EnvOptions& options, const std::string& name)
      : low(options.at(name + "_low")), high(options.at(name + "_high")) {}
  bool contains(double value) const { return low < value && value < high; }
  double clamp(double value) const { return std::min(std::max(value, low), high); }
  double low, high;
};

/// Unbounded float64 observations, as Gymnasium's MuJoCo tasks have them.
Space mujoco_observation_space(int size);

/// For EnvSpec::configure: `size` values and, for each option which is on, as many more (or fewer).
std::function<void(EnvSpec& spec)> observation_size(int size, std::vector<std::pair<const char*, int>> options);

/// Writes `blocks` side by side; they fill the row.
void write_blocks(Row observation, std::initializer_list<std::span<const double>> blocks);

/// `block`, or nothing where it is not observed.
inline std::span<const double> block_if(bool observed, std::span<const double> block) {
  return observed ? block : std::span<const double>();
}

/// weight * |action|^2 in float32, in the order in which NumPy sums float32 actions.
float control_cost(double weight, std::span<const float> action);

double sum_of_squares(std::span<const double> values);

/// Adds uniform noise in [-scale, scale).
void add_uniform(RandomStream& random, std::span<double> values, double scale);

/// Adds normal noise of standard deviation `scale`.
void add_normal(RandomStream& random, std::span<double> values, double scale);

}  // namespace myriad
