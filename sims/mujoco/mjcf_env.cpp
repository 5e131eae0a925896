// "mjcf:PATH": a task of any MJCF model, described by a TOML file (task_file.hpp, docs/howto-mjcf.md).
//
// Everything that the file names becomes an address in mjData or mjModel, and every expression part of one Program,
// when an environment is made. A step copies the action, simulates, runs the program and copies its values out.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "rl/check.hpp"
#include "sims/mujoco/domain_randomization.hpp"
#include "sims/mujoco/expression.hpp"
#include "sims/mujoco/mujoco_env.hpp"
#include "sims/mujoco/named_fields.hpp"
#include "sims/mujoco/task_file.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

/// A copy for one environment, whose fields it may change.
std::shared_ptr<mjModel> copy_of(const mjModel& model) {
  mjModel* copy = mj_copyModel(nullptr, &model);
  check(copy != nullptr, "MuJoCo cannot copy a model");
  return {copy, mj_deleteModel};
}

/// Runs `find`; the place is put before what it throws.
template <class F>
auto named(const Formula& formula, F&& find) {
  try {
    return find();
  } catch (const Error& error) { fail(Exit::usage, error.code(), "{}: {}", formula.where, error.what()); }
}

class MjcfEnv final : public MujocoEnv {
 public:
  MjcfEnv(const TaskFile& task, std::shared_ptr<const mjModel> shared, const EnvOptions& options)
      : MjcfEnv(task, task.randomize.empty() ? nullptr : copy_of(*shared), shared, options) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    program_.remember();
    const auto given = action.f32();
    check(given.size() == controls_.size(), "an action has {} values, want {}", given.size(), controls_.size());
    for (size_t i = 0; i < given.size(); ++i) {
      action_[i] = given[i];
      data().ctrl[controls_[i]] = action_scale_ * given[i];
    }
    advance();
    refuse_unstable();
    observe(observation);
    StepResult result;
    for (const auto& [value, weight] : reward_) result.reward += *weight.at * *value.at;
    result.terminated = terminated_.at != nullptr && *terminated_.at != 0;
    return result;
  }

  /// The environment's facts, as far as they follow from the model.
  void describe(EnvSpec& spec) const {
    spec.state_names.clear();
    int size = 0;
    for (const Value& term : observation_) size += static_cast<int>(term.size);
    spec.observation_space = mujoco_observation_space(size);
    Box box{.low = {}, .high = {}, .shape = {static_cast<int>(controls_.size())}};
    for (const size_t control : controls_) {
      box.low.push_back(model().actuator_ctrlrange[2 * control] / action_scale_);
      box.high.push_back(model().actuator_ctrlrange[2 * control + 1] / action_scale_);
    }
    spec.action_space = box;
    const std::vector<std::string> joints = object_names(model(), mjOBJ_JOINT);
    std::vector<std::string> velocities;
    for (size_t joint = 0; joint < joints.size(); ++joint) {
      const JointRows rows = joint_rows(model(), static_cast<int>(joint));
      const std::string name = joints[joint].empty() ? fmt::format("joint_{}", joint) : joints[joint];
      const auto add = [&](std::vector<std::string>& names, size_t count, const char* suffix) {
        for (size_t i = 0; i < count; ++i) names.push_back(name + suffix + (count > 1 ? fmt::format("_{}", i) : ""));
      };
      add(spec.state_names, rows.num_qpos, "");
      add(velocities, rows.num_qvel, "_dot");
    }
    spec.state_names.insert(spec.state_names.end(), velocities.begin(), velocities.end());
  }

 private:
  /// Noise of one number of qpos or qvel.
  struct Noise {
    double* value;
    Distribution::Kind kind;
    double first, second;
  };

  MjcfEnv(const TaskFile& task, const std::shared_ptr<mjModel>& own, const std::shared_ptr<const mjModel>& shared,
          const EnvOptions& options)
      : MujocoEnv(own ? own : shared, task.frame_skip) {
    for (const auto& [name, value] : options) names_[name] = program_.constant(value);
    set_actions(task);
    set_names();
    if (task.action_scale) action_scale_ = *constant(*task.action_scale).at;
    if (!(action_scale_ > 0 && std::isfinite(action_scale_)))
      fail(Exit::usage, "out-of-range", "{} is {}, want more than 0", task.action_scale->where, action_scale_);
    for (const NamedFormula& value : task.values) {
      if (names_.contains(value.name))
        fail(Exit::usage, "bad-name", "{}: there is another {}", value.formula.where, value.name);
      names_[value.name] = compile(value.formula);
    }
    for (const ObservationTerm& term : task.observation) observation_.push_back(observed(term));
    if (std::ranges::all_of(observation_, [](const Value& term) { return term.size == 0; }))
      fail(Exit::usage, "bad-expression", "{}: all terms together have no value", task.observation[0].value.where);
    for (const RewardTerm& term : task.reward) reward_.push_back({compile_number(term.value), constant(term.weight)});
    if (task.terminated) terminated_ = compile_number(*task.terminated);
    for (const std::span<double>& memory : program_.remembered()) keep(memory);
    set_noise(task);
    if (task.keyframe)
      keyframe_ = named(*task.keyframe, [&] { return object_id(model(), mjOBJ_KEY, task.keyframe->text); });
    if (own) {
      randomization_.emplace(*own, task.randomize, [&](const Formula& formula) { return *constant(formula).at; });
      keep(randomization_->drawn());
    }
  }

  void add_reset_noise(RandomStream& random, std::span<double>, std::span<double>) override {
    if (randomization_) {
      randomization_->draw(random);
      randomization_->apply(data());
      mj_resetData(&model(), &data());
    }
    if (keyframe_ >= 0) mj_resetDataKeyframe(&model(), &data(), keyframe_);
    for (const Noise& noise : noise_) *noise.value += sample(random, noise.kind, noise.first, noise.second);
  }

  void restore_memory() override {
    if (randomization_) randomization_->apply(data());
  }

  void start_memory() override {
    std::ranges::fill(action_, 0.0);
    // S_0 has no step before it: every before(e) becomes e, the innermost first.
    for (size_t i = 0; i < program_.remembered().size(); ++i) {
      program_.run();
      program_.remember();
    }
  }

  void observe(Row observation) const override {
    program_.run();
    const auto row = observation.f64();
    auto out = row.begin();
    for (const Value& term : observation_) out = std::copy_n(term.at, term.size, out);
    check(out == row.end(), "an observation row has {} values, want {}", row.size(), out - row.begin());
  }

  void refuse_unstable() const {
    for (const int kind : {mjWARN_BADQPOS, mjWARN_BADQVEL, mjWARN_BADQACC})
      if (data().warning[kind].number > 0) [[unlikely]]
        fail(Exit::environment, "unstable",
             "the simulation became unstable: {}; a smaller timestep, more damping or "
             "narrower [randomize] may help",
             mju_warningText(kind, static_cast<size_t>(data().warning[kind].lastinfo)));
  }

  // --- from the file to addresses ---

  void set_actions(const TaskFile& task) {
    std::vector<int> actuators;
    for (const Formula& name : task.actuators)
      actuators.push_back(named(name, [&] { return object_id(model(), mjOBJ_ACTUATOR, name.text); }));
    if (task.actuators.empty())
      for (int id = 0; id < static_cast<int>(model().nactuator); ++id) actuators.push_back(id);
    for (const int id : actuators)
      for (int i = 0; i < model().actuator_ctrlnum[id]; ++i)
        controls_.push_back(static_cast<size_t>(model().actuator_ctrladr[id] + i));
    if (controls_.empty()) fail(Exit::usage, "no-actuators", "{}: the model has no actuator", task.where);
    for (const size_t control : controls_)
      if (!model().actuator_ctrllimited[control])
        fail(Exit::usage, "no-ctrlrange",
             "{}: control {} of the model has no ctrlrange, which bounds the actions: add "
             "ctrlrange=\"-1 1\" to its actuator",
             task.where, control);
    action_.resize(controls_.size());
    keep(action_);
  }

  /// Names that every expression may use, beside options and fields of mjData.
  void set_names() {
    const auto add = [&](const char* name, Value value) {
      if (!names_.emplace(name, value).second)
        fail(Exit::usage, "bad-name", "the option {} has a name that is taken", name);
    };
    add("action", {action_.data(), action_.size()});
    add("time", {&data().time, 1});
    add("dt", program_.constant(dt()));
  }

  Value find(const std::string& name) {
    if (const auto known = names_.find(name); known != names_.end()) return known->second;
    const std::string array = name.substr(0, name.find(':'));
    std::vector<std::string> known = data_field_names();
    if (std::ranges::find(known, array) == known.end()) {
      std::vector<std::string> own;
      for (const auto& [own_name, value] : names_) own.push_back(own_name);
      known.insert(known.end(), own.begin(), own.end());
      const std::string nearest = nearest_name(array, known);
      fail(Exit::usage, "unknown-name", "no value {}; {}", name,
           nearest.empty() ? fmt::format("known: {} and the arrays of mjData", fmt::join(own, ", "))
                           : fmt::format("did you mean {}?", nearest));
    }
    const DataField field = data_field(model(), data(), name);
    // What mjSTATE_INTEGRATION has need not be kept twice.
    const auto is = [&](auto... values) { return ((field.field.values == values) || ...); };
    if (!is(&mjData::qpos, &mjData::qvel, &mjData::act, &mjData::ctrl, &mjData::mocap_pos, &mjData::mocap_quat,
            &mjData::qfrc_applied, &mjData::xfrc_applied, &mjData::qacc_warmstart, &mjData::userdata))
      depend_on(field.field);
    return {field.values.data(), field.values.size()};
  }

  Value compile(const Formula& formula) {
    return program_.compile(formula.text, formula.where, [&](const std::string& name) { return find(name); });
  }
  Value compile_number(const Formula& formula) {
    const Value value = compile(formula);
    if (value.size != 1)
      fail(Exit::usage, "bad-expression",
           "{}: it has {} values, want 1: sum(...), norm(...), all(...) or an index makes one", formula.where,
           value.size);
    return value;
  }
  /// A number known before the simulation starts: of numbers and options.
  Value constant(const Formula& formula) {
    const Value value = compile_number(formula);
    if (!value.constant) fail(Exit::usage, "bad-expression", "{}: it may use numbers and options only", formula.where);
    return value;
  }

  Value observed(const ObservationTerm& term) {
    Value value = compile(term.value);
    Program::Names part = [&](const std::string&) { return value; };
    const auto apply = [&](const std::string& text, const Formula& where) {
      value = program_.compile(text, where.where, part);
    };
    if (term.scale) apply(fmt::format("value * {:.17g}", *constant(*term.scale).at), *term.scale);
    if (term.clip)
      apply(
          fmt::format("clip(value, {:.17g}, {:.17g})", *constant(term.clip->first).at, *constant(term.clip->second).at),
          term.clip->first);
    return value;
  }

  void set_noise(const TaskFile& task) {
    std::vector<Noise> all(static_cast<size_t>(model().nq + model().nv), Noise{nullptr, {}, 0, 0});  // qpos, then qvel
    const size_t nq = qpos().size();
    for (const bool of_joints : {false, true})
      for (const ResetNoise& noise : task.noise) {
        if (noise.joint.empty() == of_joints) continue;
        const double first = *constant(noise.noise.first).at, second = *constant(noise.noise.second).at;
        check_distribution(noise.where, noise.noise.kind, first, second);
        size_t begin = noise.velocities ? nq : 0, count = noise.velocities ? qvel().size() : nq;
        if (of_joints) {
          const int joint = named({"", noise.where}, [&] { return object_id(model(), mjOBJ_JOINT, noise.joint); });
          const JointRows rows = joint_rows(model(), joint);
          begin += noise.velocities ? rows.qvel : rows.qpos;
          count = noise.velocities ? rows.num_qvel : rows.num_qpos;
        }
        for (size_t i = begin; i < begin + count; ++i)
          all[i] = {i < nq ? data().qpos + i : data().qvel + (i - nq), noise.noise.kind, first, second};
      }
    for (const Noise& noise : all)
      if (noise.value != nullptr) noise_.push_back(noise);
  }

  struct Weighted {
    Value value, weight;
  };

  Program program_;
  std::map<std::string, Value> names_;
  std::vector<size_t> controls_;  // of mjData::ctrl, in the order of the action
  std::vector<double> action_;
  double action_scale_ = 1;
  std::vector<Value> observation_;
  std::vector<Weighted> reward_;
  Value terminated_{nullptr, 0};
  std::vector<Noise> noise_;
  int keyframe_ = -1;
  std::optional<DomainRandomization> randomization_;
};

/// A model beside the task's file, or one of those that come with Myriad.
std::string model_path(const TaskFile& task, const fs::path& file) {
  const fs::path beside = (file.parent_path() / task.model).lexically_normal();
  std::error_code missing;
  if (fs::exists(beside, missing)) return beside.string();
  if (has_model(task.model)) return task.model;
  fail(Exit::usage, "no-model", "{}: there is no file {}", task.where, beside.string());
}

EnvSpec mjcf_spec(const std::string& path) {
  std::ifstream in(path);
  if (!in) fail(Exit::usage, "no-task", "{} cannot be read", path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto task = std::make_shared<const TaskFile>(read_task(text, path));
  const std::string xml = model_path(*task, path);
  const auto describe = [task, xml](EnvSpec& configured) {
    MjcfEnv(*task, load_model(xml), configured.options).describe(configured);
  };
  EnvSpec spec{
      .id = path,
      .observation_space = mujoco_observation_space(1),
      .action_space = Space::box(-1, 1, {1}),
      .max_episode_steps = task->max_episode_steps,
      .reward_threshold = task->reward_threshold,
      .source = fmt::format("{}, MuJoCo {}", path, mj_versionString()),
      .options = task->options,
      .make = [task,
               xml](const EnvOptions& options) { return std::make_unique<MjcfEnv>(*task, load_model(xml), options); },
      .configure = describe};
  describe(spec);
  return spec;
}

const RegisterEnv mjcf{EnvPrefix{.prefix = "mjcf", .names_file = true, .make_spec = mjcf_spec}};

}  // namespace
}  // namespace myriad
