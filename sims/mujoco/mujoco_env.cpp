#include "sims/mujoco/mujoco_env.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>

#include "rl/check.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

/// Without handlers MuJoCo writes MUJOCO_LOG.TXT into the working folder: ten thousand runners share one.
void print_warning(const char* message) { std::fprintf(stderr, "warning: MuJoCo: %s\n", message); }

[[noreturn]] void print_error_and_exit(const char* message) {
  std::fprintf(stderr, "error[mujoco] %s\n", message);
  std::_Exit(static_cast<int>(Exit::internal));  // MuJoCo's error handler must not return
}

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

std::shared_ptr<const mjModel> load_model(const std::string& xml) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const mjModel>> models;
  const std::scoped_lock lock(mutex);
  std::shared_ptr<const mjModel>& model = models[xml];
  if (model) return model;
  mju_user_error = print_error_and_exit;
  const std::string file = (assets_folder() / xml).string();
  // Of our files' age MuJoCo warns in vain: they are pinned, with the wheel.
  mju_user_warning = file == xml ? print_warning : [](const char*) {};
  char error[1000] = "";
  mjModel* loaded = mj_loadXML(file.c_str(), nullptr, error, sizeof error);
  std::ranges::replace(error, '\n', ' ');
  if (loaded == nullptr) fail(Exit::environment, "mujoco-model", "MuJoCo cannot load {}: {}", file, error);
  mju_user_warning = print_warning;
  model.reset(loaded, [](const mjModel* m) { mj_deleteModel(const_cast<mjModel*>(m)); });
  return model;
}

bool has_model(const std::string& xml) {
  std::error_code missing;
  return fs::exists(assets_folder() / xml, missing);
}

MujocoEnv::MujocoEnv(const std::string& xml, int frame_skip, std::vector<MujocoField> fields)
    : MujocoEnv(load_model(xml), frame_skip) {
  for (const MujocoField& field : fields) depend_on(field);
}

MujocoEnv::MujocoEnv(std::shared_ptr<const mjModel> model, int frame_skip)
    : model_(std::move(model)), data_(mj_makeData(model_.get())), frame_skip_(frame_skip) {
  if (frame_skip < 1) fail(Exit::usage, "env-option", "frame_skip is {}, want at least 1", frame_skip);
  check(data_ != nullptr, "MuJoCo cannot make mjData");
}

void MujocoEnv::depend_on(const MujocoField& field) {
  if (std::ranges::find(fields_, field) != fields_.end()) return;
  fields_.push_back(field);
  const auto is = [&](auto... values) { return ((field.values == values) || ...); };
  forces_ |= is(&mjData::cfrc_ext, &mjData::cfrc_int, &mjData::cacc);
  subtree_velocities_ |= is(&mjData::subtree_linvel, &mjData::subtree_angmom);
}

void MujocoEnv::reset(RandomStream& random, Row observation) {
  mj_resetData(model_.get(), data_.get());
  add_reset_noise(random, {data_->qpos, qpos().size()}, {data_->qvel, qvel().size()});
  mj_forward(model_.get(), data_.get());
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
  for (int i = 0; i < frame_skip_; ++i) mj_step(model_.get(), data_.get());
  if (forces_) mj_rnePostConstraint(model_.get(), data_.get());
  if (subtree_velocities_) mj_subtreeVel(model_.get(), data_.get());
}

std::optional<std::vector<double>> MujocoEnv::state() const {
  std::vector<double> state(mj_stateSize(model_.get(), mjSTATE_INTEGRATION));
  mj_getState(model_.get(), data_.get(), state.data(), mjSTATE_INTEGRATION);
  for (const MujocoField& field : fields_) state.insert(state.end(), read(field).begin(), read(field).end());
  for (const std::span<double>& memory : memory_) state.insert(state.end(), memory.begin(), memory.end());
  return state;
}

void MujocoEnv::set_state(std::span<const double> state, Row observation) {
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
    mj_resetData(model_.get(), data_.get());
    std::copy_n(state.begin(), nq, data_->qpos);
    std::copy(state.begin() + nq, state.end(), data_->qvel);
    mj_forward(model_.get(), data_.get());
    start_memory();
  } else {
    size_t at = full;
    for (const std::span<double>& memory : memory_) at -= memory.size();
    for (const std::span<double>& memory : memory_) {
      std::copy_n(state.begin() + at, memory.size(), memory.begin());
      at += memory.size();
    }
    restore_memory();
    mj_resetData(model_.get(), data_.get());
    mj_setState(model_.get(), data_.get(), state.data(), mjSTATE_INTEGRATION);
    mj_forward(model_.get(), data_.get());  // what the task reads and its state has not
    mj_setState(model_.get(), data_.get(), state.data(), mjSTATE_INTEGRATION);  // the solver's warm start again
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
    renderer_ = std::make_unique<MujocoRenderer>(*model_, camera);
  }
  return renderer_->render(*data_, width, height);
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
