#include "sims/mujoco/mujoco_env.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <filesystem>

#include "rl/check.hpp"
#include "sims/mujoco/guarded.hpp"
#include "sims/mujoco/model_file.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

/// assets/ beside the file this code was loaded from, so that the build tree can be moved.
fs::path assets_folder() {
  Dl_info info{};
  check(dladdr(reinterpret_cast<const void*>(&assets_folder), &info) != 0,
        "the MuJoCo module cannot find its own file");
  return fs::absolute(info.dli_fname).parent_path() / "assets";
}

/// Of their positions' coordinate `axis`, as NumPy's. [m]
double median_of_geoms(const mjModel& model, const mjData& data, int axis) {
  std::vector<double> values;
  for (int i = 0; i < model.ngeom; ++i) values.push_back(data.geom_xpos[3 * i + axis]);
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n == 0 ? 0 : (values[(n - 1) / 2] + values[n / 2]) / 2;
}

}  // namespace

std::string asset_path(const std::string& xml) {
  const fs::path file = assets_folder() / xml;
  std::error_code missing;
  return fs::exists(file, missing) ? file.string() : "";
}

MujocoEnv::MujocoEnv(const std::string& xml, int frame_skip, std::vector<MujocoField> fields)
    : MujocoEnv(
          build_model({.path = (assets_folder() / xml).string(), .task_folder = "", .settings = {}, .ours = true}), xml,
          frame_skip) {
  for (const MujocoField& field : fields) depend_on(field);
}

MujocoEnv::MujocoEnv(std::shared_ptr<const mjModel> model, std::string name, int frame_skip)
    : model_(std::move(model)), name_(std::move(name)), frame_skip_(frame_skip) {
  if (frame_skip < 1) fail(Exit::usage, "env-option", "frame_skip is {}, want at least 1", frame_skip);
  guarded(name_, [&] { data_.reset(mj_makeData(model_.get())); });
  if (data_ == nullptr) fail(Exit::resource, "mujoco", "{}: no memory for a simulation", name_);
}

void MujocoEnv::depend_on(const MujocoField& field) {
  if (std::ranges::find(fields_, field) != fields_.end()) return;
  fields_.push_back(field);
  const auto is = [&](auto... values) { return ((field.values == values) || ...); };
  forces_ |= is(&mjData::cfrc_ext, &mjData::cfrc_int, &mjData::cacc);
  subtree_velocities_ |= is(&mjData::subtree_linvel, &mjData::subtree_angmom);
}

void MujocoEnv::reset(RandomStream& random, Row observation) {
  lost_ = {};
  warning_.clear();
  guarded(name_, [&] {
    mj_resetData(model_.get(), data_.get());
    add_reset_noise(random, {data_->qpos, qpos().size()}, {data_->qvel, qvel().size()});
    mj_forward(model_.get(), data_.get());
  });
  note_warnings();
  start_memory();
  observe(observation);
}

double MujocoEnv::simulate_forward(std::span<const float> controls) {
  const double x_before = qpos()[0];
  simulate(controls);
  return (qpos()[0] - x_before) / dt();
}

void MujocoEnv::simulate(std::span<const float> controls) {
  check(controls.size() == static_cast<size_t>(model_->nu), "an action has {} values, want {}", controls.size(),
        model_->nu);
  std::copy(controls.begin(), controls.end(), data_->ctrl);
  advance();
}

void MujocoEnv::advance() {
  guarded(name_, [&] {
    for (int i = 0; i < frame_skip_; ++i) mj_step(model_.get(), data_.get());
    if (forces_) mj_rnePostConstraint(model_.get(), data_.get());
    if (subtree_velocities_) mj_subtreeVel(model_.get(), data_.get());
  });
  note_warnings();
}

void MujocoEnv::note_warnings() {
  const auto& warnings = data_->warning;
  for (const int kind : {mjWARN_BADQPOS, mjWARN_BADQVEL, mjWARN_BADQACC})
    if (warnings[kind].number > 0) [[unlikely]]
      fail(Exit::environment, "unstable",
           "{}: the simulation became unstable: {}; a smaller timestep, more damping or narrower [randomize] may help",
           name_, mju_warningText(kind, static_cast<size_t>(warnings[kind].lastinfo)));
  for (size_t i = 0; i < kLosses.size(); ++i)
    if (warnings[kLosses[i].kind].number != lost_[i]) [[unlikely]]
      note_loss(i);
}

void MujocoEnv::note_loss(size_t i) {
  const mjWarningStat& warning = data_->warning[kLosses[i].kind];
  lost_[i] = warning.number;
  if (warning_.empty())
    warning_ =
        fmt::format("{}: MuJoCo: {} What finds no room is left out: <size memory=\"...\"/> in the model makes more",
                    name_, mju_warningText(kLosses[i].kind, static_cast<size_t>(warning.lastinfo)));
  static std::array<std::atomic_flag, kLosses.size()> told{};
  if (!told[i].test_and_set()) std::fprintf(stderr, "warning: %s\n", warning_.c_str());
}

std::span<const EpisodeNumber> MujocoEnv::numbers() {
  numbers_.clear();
  add_numbers(numbers_);
  for (size_t i = 0; i < kLosses.size(); ++i)
    if (const double lost = lost_[i]; lost > 0) numbers_.push_back({kLosses[i].name, lost, lost});
  return numbers_;
}

std::optional<std::vector<double>> MujocoEnv::state() const {
  std::vector<double> state(mj_stateSize(model_.get(), mjSTATE_INTEGRATION));
  mj_getState(model_.get(), data_.get(), state.data(), mjSTATE_INTEGRATION);
  for (const MujocoField& field : fields_) state.insert(state.end(), read(field).begin(), read(field).end());
  for (const std::span<double>& memory : memory_) state.insert(state.end(), memory.begin(), memory.end());
  return state;
}

void MujocoEnv::set_state(std::span<const double> state, Row observation) {
  lost_ = {};
  warning_.clear();
  const size_t nq = qpos().size(), short_size = nq + qvel().size();
  const size_t simulation = mj_stateSize(model_.get(), mjSTATE_INTEGRATION);
  size_t full = simulation;
  for (const MujocoField& field : fields_) full += read(field).size();
  for (const std::span<double>& memory : memory_) full += memory.size();
  if (state.size() != full && state.size() != short_size)
    fail(Exit::usage, "env-state-length",
         "a state of this MuJoCo environment has {} values, want {} or [qpos, qvel], {}", state.size(), full,
         short_size);
  if (state.size() != full) {
    guarded(name_, [&] {
      mj_resetData(model_.get(), data_.get());
      std::copy_n(state.begin(), nq, data_->qpos);
      std::copy(state.begin() + nq, state.end(), data_->qvel);
      mj_forward(model_.get(), data_.get());
    });
    start_memory();
  } else {
    size_t at = full;
    for (const std::span<double>& memory : memory_) at -= memory.size();
    for (const std::span<double>& memory : memory_) {
      std::copy_n(state.begin() + at, memory.size(), memory.begin());
      at += memory.size();
    }
    guarded(name_, [&] {
      restore_memory();
      mj_resetData(model_.get(), data_.get());
      mj_setState(model_.get(), data_.get(), state.data(), mjSTATE_INTEGRATION);
      mj_forward(model_.get(), data_.get());  // what the task reads and its state has not
      mj_setState(model_.get(), data_.get(), state.data(), mjSTATE_INTEGRATION);  // the solver's warm start again
    });
    at = simulation;
    for (const MujocoField& field : fields_) {
      std::copy_n(state.begin() + at, read(field).size(), data_.get()->*field.values);
      at += read(field).size();
    }
  }
  observe(observation);
}

std::optional<Frame> MujocoEnv::render(int width, int height) {
  if (!renderer_) {
    mjvCamera camera;
    mjv_defaultCamera(&camera);
    camera.fixedcamid = mj_name2id(model_.get(), mjOBJ_CAMERA, "track");
    if (camera.fixedcamid >= 0) {
      camera.type = mjCAMERA_FIXED;
    } else {
      const std::unique_ptr<mjData, Free> initial(mj_makeData(model_.get()));
      mj_kinematics(model_.get(), initial.get());
      for (int i = 0; i < 3; ++i) camera.lookat[i] = median_of_geoms(*model_, *initial, i);
      camera.distance = model_->stat.extent;
      place_camera(camera);
    }
    guarded(name_, [&] { renderer_ = std::make_unique<MujocoRenderer>(*model_, camera); });
  }
  std::optional<Frame> frame;
  guarded(name_, [&] { frame = renderer_->render(*data_, width, height); });
  return frame;
}

int MujocoEnv::body_id(const char* name) const {
  const int id = mj_name2id(model_.get(), mjOBJ_BODY, name);
  check(id >= 0, "the MuJoCo model has no body {}", name);
  return id;
}

void MujocoEnv::write_qpos_qvel(Row observation, size_t skip, double qvel_limit) const {
  const auto out = observation.f64();
  const size_t positions = qpos().size() - skip;
  check(out.size() == positions + qvel().size(), "an observation row has {} values, want {}", out.size(),
        positions + qvel().size());
  std::copy(qpos().begin() + skip, qpos().end(), out.begin());
  std::transform(qvel().begin(), qvel().end(), out.begin() + positions,
                 [&](double value) { return std::clamp(value, -qvel_limit, qvel_limit); });
}

Space mujoco_observation_space(int size) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  return Space::box(-kInf, kInf, {size}, DType::f64);
}

std::function<void(EnvSpec& spec)> observation_size(int size, std::vector<std::pair<const char*, int>> options) {
  return [size, options = std::move(options)](EnvSpec& spec) {
    int all = size;
    for (const auto& [name, values] : options)
      if (spec.options.at(name) != 0) all += values;
    spec.observation_space = mujoco_observation_space(all);
  };
}

void write_blocks(Row observation, std::initializer_list<std::span<const double>> blocks) {
  size_t size = 0;
  for (const auto& block : blocks) size += block.size();
  check(observation.f64().size() == size, "an observation row has {} values, want {}", observation.f64().size(), size);
  auto out = observation.f64().begin();
  for (const auto& block : blocks) out = std::copy(block.begin(), block.end(), out);
}

float control_cost(double weight, std::span<const float> action) {
  // NumPy: eight partial sums, added in pairs; fewer than eight values, and what is left over, one by one.
  const size_t paired = action.size() / 8 * 8;
  float parts[8] = {};
  for (size_t i = 0; i < paired; ++i) parts[i % 8] += action[i] * action[i];
  float sum = ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  for (const float value : action.subspan(paired)) sum += value * value;
  return static_cast<float>(weight) * sum;
}

double sum_of_squares(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return sum;
}

void add_uniform(RandomStream& random, std::span<double> values, double scale) {
  for (double& value : values) value += random.uniform(-scale, scale);
}

void add_normal(RandomStream& random, std::span<double> values, double scale) {
  for (double& value : values) value += scale * random.normal();
}

}  // namespace myriad
