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
#include "sims/mujoco/model_file.hpp"
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

/// Numbers of a task that are known before its model is: of numbers and options.
class Constants {
 public:
  explicit Constants(const EnvOptions& options) : options_(options) {}
  double operator()(const Formula& formula) {
    const Value value = program_.compile(formula.text, formula.where, [&](const std::string& name) {
      const auto option = options_.find(name);
      if (option == options_.end())
        fail(Exit::usage, "unknown-name", "no option {}: only numbers and options can be used here", name);
      return program_.constant(option->second);
    });
    if (value.size != 1) fail(Exit::usage, "bad-expression", "{}: it has {} values, want 1", formula.where, value.size);
    return *value.at;
  }

 private:
  const EnvOptions& options_;
  Program program_;
};

/// Those of `names` that fit one of `wanted`, by the order of `wanted`, then of `names`. Throws where one fits none.
std::vector<std::string> chosen(const std::vector<Formula>& wanted, std::vector<std::string> names,
                                std::string_view kind) {
  std::erase(names, "");
  std::vector<std::string> all;
  for (const Formula& pattern : wanted) {
    bool any = false;
    for (const std::string& name : names) {
      if (!fits(pattern.text, name)) continue;
      any = true;
      if (std::ranges::find(all, name) == all.end()) all.push_back(name);
    }
    if (!any)
      fail(Exit::usage, "unknown-object", "{}: the model has no {} '{}'{}", pattern.where, kind, pattern.text,
           names.empty() ? ": none has a name" : suggestion(pattern.text, names));
  }
  return all;
}

/// A setting of [action] for names that are none of those which act is a mistake.
template <class T>
void check_names(const PerName<T>& setting, const std::vector<std::string>& names, std::string_view kind) {
  for (const auto& [pattern, value] : setting.own) chosen({pattern}, names, kind);
}

/// A task's model, and the joints that it has to move.
struct TaskModel {
  ModelFile file;
  std::vector<std::string> joints;  ///< of [action] joints
  std::vector<JointDrive> drives;   ///< of these
  std::shared_ptr<const mjModel> model;
};

TaskModel model_of(const TaskFile& task, const ModelFile& file, const EnvOptions& options) {
  TaskModel result{.file = file, .joints = {}, .drives = {}, .model = {}};
  const ActionSettings& action = task.action;
  if (!action.joints.empty()) result.joints = chosen(action.joints, joint_names(file), "hinge or slide joint");
  for (const auto* setting : {&action.kp, &action.kd, &action.force}) {
    if (setting->all && action.joints.empty())
      fail(Exit::usage, "bad-action", "{}: kp, kd and force are of joints: joints = [\"*\"] names all",
           setting->all->where);
    check_names(*setting, result.joints, "joint among [action] joints");
  }
  Constants number(options);
  const auto positive = [&](const Formula* formula) -> std::optional<double> {
    if (formula == nullptr) return std::nullopt;
    const double value = number(*formula);
    if (!(value >= 0 && std::isfinite(value)))
      fail(Exit::usage, "out-of-range", "{} is {}, want 0 or more", formula->where, value);
    return value;
  };
  for (const std::string& joint : result.joints) {
    const std::optional<double> kp = positive(action.kp.of(joint)), kd = positive(action.kd.of(joint));
    if (kd && !kp) fail(Exit::usage, "bad-action", "{}: kd of '{}' wants kp, too", action.kd.of(joint)->where, joint);
    result.drives.push_back(
        {joint, kp ? std::optional(std::pair(*kp, kd.value_or(0))) : std::nullopt, positive(action.force.of(joint))});
  }
  result.model = build_model(file, result.drives);
  return result;
}

class MjcfEnv final : public MujocoEnv {
 public:
  MjcfEnv(const TaskFile& task, const TaskModel& shared, const EnvOptions& options)
      : MjcfEnv(task, shared, task.randomize.empty() ? nullptr : copy_of(*shared.model), options) {}

  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    program_.remember();
    act(action.f32());
    if (pushes_ && is_due(*pushes_)) {
      for (const Noise& push : push_) *push.value += sample(random, push.kind, push.first, push.second);
      pushes_->start(data().time, random);
    }
    advance();
    draw_noise(random);
    program_.run();
    StepResult result;
    for (size_t i = 0; i < reward_.size(); ++i) {
      last_[i] = *reward_[i].weight.at * *reward_[i].value.at;
      result.reward += last_[i];
    }
    for (size_t i = 0; i < info_.size(); ++i) last_[reward_.size() + i] = *info_[i].at;
    for (size_t i = 0; i < last_.size(); ++i) sums_[i] += last_[i];
    sums_.back() += 1;
    result.terminated = terminated_.at != nullptr && *terminated_.at != 0;
    // The reward is of the command that the policy has seen, S_{t+1} shows the next.
    if (draw_commands(random)) program_.run();
    write(observation);
    return result;
  }

  /// The environment's facts, as far as they follow from the model.
  void describe(EnvSpec& spec) const {
    spec.state_names.clear();
    int size = 0;
    for (const Value& term : observation_) size += static_cast<int>(term.size);
    spec.observation_space = mujoco_observation_space(size);
    Box box{.low = {}, .high = {}, .shape = {static_cast<int>(controls_.size())}};
    for (const Control& control : controls_) {
      box.low.push_back(control.low);
      box.high.push_back(control.high);
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
  /// Noise of one number.
  struct Noise {
    double* value;
    Distribution::Kind kind;
    double first, second;
  };

  /// control = offset + scale x action, of mjData::ctrl[index].
  struct Control {
    size_t index;
    double scale, offset;
    bool rests;        // at its offset until the first action
    double low, high;  // of the action
  };

  /// Something that happens from time to time.
  struct Schedule {
    double least, most;      // s
    std::span<double> next;  // s of the simulation
    void start(double time, RandomStream& random) const {
      next[0] = time + (least == most ? least : random.uniform(least, most));
    }
  };

  struct DrawnCommand {
    Noise draw;
    std::optional<Schedule> again;
  };

  /// A delay that is drawn for an episode. [env steps]
  struct Delay {
    int least, most;
    std::span<double> drawn;
  };

  MjcfEnv(const TaskFile& task, const TaskModel& shared, const std::shared_ptr<mjModel>& own, const EnvOptions& options)
      : MujocoEnv(own ? own : shared.model, shared.file.path, task.frame_skip) {
    for (const auto& [name, value] : options) names_[name] = program_.constant(value);
    if (task.keyframe)
      keyframe_ = named(*task.keyframe, [&] { return object_id(model(), mjOBJ_KEY, task.keyframe->text); });
    set_pose(task);
    const std::vector<Acting> acting = choose_actuators(task, shared);
    set_names();
    for (const Acting& one : acting) controls_.push_back(control(task, one));
    set_commands(task);
    for (const NamedFormula& value : task.values) {
      if (names_.contains(value.name))
        fail(Exit::usage, "bad-name", "{}: there is another {}", value.formula.where, value.name);
      names_[value.name] = value.start ? remembering(value) : compile(value.formula);
    }
    for (const ObservationTerm& term : task.observation) observation_.push_back(observed(term));
    if (std::ranges::all_of(observation_, [](const Value& term) { return term.size == 0; }))
      fail(Exit::usage, "bad-expression", "{}: all terms together have no value", task.observation[0].value.where);
    for (const RewardTerm& term : task.reward) {
      reward_.push_back({compile_number(term.value), constant(term.weight)});
      number_names_.push_back("reward_" + term.name);
    }
    for (const NamedFormula& number : task.info) {
      info_.push_back(compile_number(number.formula));
      number_names_.push_back(number.name);
    }
    last_.resize(number_names_.size());
    sums_.resize(number_names_.size() + 1);
    keep(sums_);
    if (task.terminated) terminated_ = compile_number(*task.terminated);
    for (const std::span<double>& memory : program_.remembered()) keep(memory);
    noise_ = noise_of(task.noise);
    if (task.pushes) {
      push_ = noise_of(task.pushes->noise);
      pushes_ = schedule(task.pushes->every);
    }
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
    for (const size_t i : posed_) data().qpos[i] = pose_[i];
    for (const Control& control : controls_)
      if (control.rests) data().ctrl[control.index] = control.offset;
    for (const Noise& noise : noise_) *noise.value += sample(random, noise.kind, noise.first, noise.second);
    for (const Delay& delay : delays_)
      delay.drawn[0] =
          delay.least + static_cast<double>(random.below(static_cast<uint64_t>(delay.most - delay.least + 1)));
    for (const DrawnCommand& command : commands_) draw(command, random);
    if (pushes_) pushes_->start(data().time, random);
    draw_noise(random);
  }

  void restore_memory() override {
    if (randomization_) randomization_->apply(data());
  }

  void start_memory() override {
    std::ranges::fill(action_, 0.0);
    std::ranges::fill(earlier_, 0.0);
    std::ranges::fill(sums_, 0.0);
    program_.begin();
  }

  void observe(Row observation) const override {
    program_.run();
    write(observation);
  }

  void write(Row observation) const {
    const auto row = observation.f64();
    auto out = row.begin();
    for (const Value& term : observation_) out = std::copy_n(term.at, term.size, out);
    check(out == row.end(), "an observation row has {} values, want {}", row.size(), out - row.begin());
  }

  void add_numbers(std::vector<EpisodeNumber>& numbers) const override {
    const double steps = std::max(sums_.back(), 1.0);
    for (size_t i = 0; i < last_.size(); ++i) numbers.push_back({number_names_[i], sums_[i] / steps, last_[i]});
  }

  void act(std::span<const float> given) {
    const size_t n = controls_.size();
    check(given.size() == n, "an action has {} values, want {}", given.size(), n);
    if (!earlier_.empty()) {  // the newest first
      std::copy_backward(earlier_.begin(), earlier_.end() - static_cast<ptrdiff_t>(n), earlier_.end());
      std::ranges::copy(action_, earlier_.begin());
    }
    std::ranges::copy(given, action_.begin());
    const double* applied = action_.data();
    if (action_delay_ && action_delay_->drawn[0] > 0)
      applied = earlier_.data() + (static_cast<size_t>(action_delay_->drawn[0]) - 1) * n;
    for (size_t i = 0; i < n; ++i)
      data().ctrl[controls_[i].index] = controls_[i].offset + controls_[i].scale * applied[i];
  }

  bool is_due(const Schedule& schedule) const { return data().time + dt() / 2 >= schedule.next[0]; }

  void draw(const DrawnCommand& command, RandomStream& random) const {
    *command.draw.value = sample(random, command.draw.kind, command.draw.first, command.draw.second);
    if (command.again) command.again->start(data().time, random);
  }

  /// Those whose time has come; whether there were any.
  bool draw_commands(RandomStream& random) const {
    bool any = false;
    for (const DrawnCommand& command : commands_)
      if (command.again && is_due(*command.again)) draw(command, random), any = true;
    return any;
  }

  void draw_noise(RandomStream& random) const {
    for (const Noise& noise : sensor_noise_) *noise.value = sample(random, noise.kind, noise.first, noise.second);
  }

  // --- from the file to addresses ---

  void set_pose(const TaskFile& task) {
    pose_.assign(model().qpos0, model().qpos0 + model().nq);
    if (keyframe_ >= 0) std::copy_n(model().key_qpos + keyframe_ * model().nq, model().nq, pose_.begin());
    const std::vector<std::string> joints = object_names(model(), mjOBJ_JOINT);
    for (const PoseEntry& entry : task.pose)
      for (const std::string& joint : chosen({entry.joint}, joints, "joint")) {
        const JointRows rows = joint_rows(model(), object_id(model(), mjOBJ_JOINT, joint));
        if (entry.values.size() != rows.num_qpos)
          fail(Exit::usage, "bad-pose", "{}: the joint '{}' has {} values, got {}", entry.joint.where, joint,
               rows.num_qpos, entry.values.size());
        for (size_t i = 0; i < rows.num_qpos; ++i) {
          pose_[rows.qpos + i] = *constant(entry.values[i]).at;
          posed_.push_back(rows.qpos + i);
        }
      }
  }

  /// "actuator 3 'knee' (a position servo of joint 'left_knee')".
  std::string described(int actuator) const {
    const char* name = mj_id2name(&model(), mjOBJ_ACTUATOR, actuator);
    const int type = model().actuator_trntype[actuator], target = model().actuator_trnid[2 * actuator];
    const mjtObj of = type == mjTRN_JOINT || type == mjTRN_JOINTINPARENT ? mjOBJ_JOINT
                      : type == mjTRN_TENDON                             ? mjOBJ_TENDON
                      : type == mjTRN_SITE                               ? mjOBJ_SITE
                                                                         : mjOBJ_BODY;
    const char* moved = mj_id2name(&model(), of, target);
    return fmt::format("actuator {} '{}' ({} of {} '{}')", actuator, name == nullptr ? "" : name,
                       is_servo(actuator, 1)                                ? "a position servo"
                       : is_servo(actuator, 2)                              ? "a velocity servo"
                       : model().actuator_biastype[actuator] == mjBIAS_NONE ? "a motor"
                                                                            : "a general one",
                       mju_type2Str(of), moved == nullptr ? "" : moved);
  }

  /// Whether its force is gain x (control - position or velocity): 1 or 2.
  bool is_servo(int actuator, int of) const {
    const mjtNum *gain = model().actuator_gainprm + mjNGAIN * actuator,
                 *bias = model().actuator_biasprm + mjNBIAS * actuator;
    return model().actuator_biastype[actuator] == mjBIAS_AFFINE && bias[of] != 0 && bias[of] == -gain[0];
  }

  /// Number `part` of an actuator's controls, and the name by which [action] knows it: its joint's or its own.
  struct Acting {
    int actuator, part;
    std::string key;
    bool target;  ///< of a servo that the task adds
  };

  /// Those which act, in the order of the action, whose memory is made.
  std::vector<Acting> choose_actuators(const TaskFile& task, const TaskModel& shared) {
    const ActionSettings& action = task.action;
    std::vector<Acting> acting;
    const auto add = [&](int actuator, const std::string& key, bool target) {
      for (int part = 0; part < model().actuator_ctrlnum[actuator]; ++part)
        acting.push_back({actuator, part, key, target});
    };
    for (size_t i = 0; i < shared.joints.size(); ++i) {
      const int joint = object_id(model(), mjOBJ_JOINT, shared.joints[i]);
      for (int actuator = 0; actuator < static_cast<int>(model().nactuator); ++actuator)
        if (model().actuator_trntype[actuator] == mjTRN_JOINT && model().actuator_trnid[2 * actuator] == joint)
          add(actuator, shared.joints[i], shared.drives[i].gains.has_value());
    }
    const std::vector<std::string> names = object_names(model(), mjOBJ_ACTUATOR);
    for (const std::string& name : chosen(action.actuators, names, "actuator"))
      add(object_id(model(), mjOBJ_ACTUATOR, name), name, false);
    if (action.actuators.empty() && action.joints.empty())
      for (int id = 0; id < static_cast<int>(model().nactuator); ++id) add(id, names[static_cast<size_t>(id)], false);
    if (acting.empty()) {
      const std::vector<std::string> joints = joint_names(shared.file);
      fail(
          Exit::usage, "no-actuators",
          "{}: the model has no actuator; [action] joints = [\"*\"] gives each of its {} joints ({}{}) a motor, and kp "
          "= 20 and kd = 0.5 beside it make that a servo",
          task.model.where, joints.size(), fmt::join(std::span(joints).first(std::min<size_t>(joints.size(), 3)), ", "),
          joints.size() > 3 ? ", ..." : "");
    }
    std::vector<std::string> keys;
    for (const Acting& one : acting) keys.push_back(one.key);
    for (const auto* setting : {&action.scale, &action.offset})
      check_names(*setting, keys, "actuator or joint that acts");
    check_names(action.range, keys, "actuator or joint that acts");
    action_.resize(acting.size());
    keep(action_);
    if (action.delay) {
      action_delay_ = delay(*action.delay);
      earlier_.resize(static_cast<size_t>(action_delay_->most) * acting.size());
      keep(earlier_);
    }
    return acting;
  }

  Control control(const TaskFile& task, const Acting& acting) {
    const int actuator = acting.actuator;
    const bool target = acting.target;
    const std::string& key = acting.key;
    const ActionSettings& action = task.action;
    Control control{.index = static_cast<size_t>(model().actuator_ctrladr[actuator] + acting.part),
                    .scale = 1,
                    .offset = 0,
                    .rests = target,
                    .low = -1,
                    .high = 1};
    if (const Formula* scale = action.scale.of(key)) {
      control.scale = *constant(*scale).at;
      if (!(control.scale > 0 && std::isfinite(control.scale)))
        fail(Exit::usage, "out-of-range", "{} is {}, want more than 0", scale->where, control.scale);
    }
    const Formula* offset = action.offset.of(key);
    if (offset == nullptr ? target : offset->text == "pose") {
      if (model().actuator_trntype[actuator] != mjTRN_JOINT ||
          joint_rows(model(), model().actuator_trnid[2 * actuator]).num_qpos != 1)
        fail(Exit::usage, "bad-action", "{}: {} has no joint of one value, from whose pose it could be counted",
             offset->where, described(actuator));
      const JointRows rows = joint_rows(model(), model().actuator_trnid[2 * actuator]);
      control.offset = pose_[rows.qpos] * model().actuator_gear[6 * model().actuator_outadr[actuator]];
      control.rests = true;
    } else if (offset != nullptr) {
      control.offset = *constant(*offset).at;
      control.rests = true;
    }
    if (const FormulaPair* range = action.range.of(key)) {
      control.low = *constant(range->first).at, control.high = *constant(range->second).at;
      if (!(control.low <= control.high && std::isfinite(control.high - control.low)))
        fail(Exit::usage, "out-of-range", "{}: got [{}, {}], want low <= high", range->first.where, control.low,
             control.high);
    } else if (model().actuator_ctrllimited[control.index]) {
      control.low = (model().actuator_ctrlrange[2 * control.index] - control.offset) / control.scale;
      control.high = (model().actuator_ctrlrange[2 * control.index + 1] - control.offset) / control.scale;
    } else if (!target) {
      refuse_unbounded(task, actuator);
    }
    return control;
  }

  [[noreturn]] void refuse_unbounded(const TaskFile& task, int actuator) const {
    const bool position = is_servo(actuator, 1);
    std::string range = "[-1, 1]";
    if (model().actuator_trntype[actuator] == mjTRN_JOINT) {
      const int joint = model().actuator_trnid[2 * actuator];
      const mjtNum* limits = position ? model().jnt_range + 2 * joint : model().jnt_actfrcrange + 2 * joint;
      const double gear = model().actuator_gear[6 * model().actuator_outadr[actuator]];
      const bool motor = model().actuator_biastype[actuator] == mjBIAS_NONE;
      if (position ? model().jnt_limited[joint] : motor && model().jnt_actfrclimited[joint] && gear > 0)
        range = fmt::format("[{:.4g}, {:.4g}]", limits[0] / (position ? 1 : gear), limits[1] / (position ? 1 : gear));
    }
    fail(Exit::usage, "no-ctrlrange",
         "{}: {} has no ctrlrange, which bounds the actions; in the model: {}; or in the task: [action] range = {}",
         task.model.where, described(actuator),
         position ? "inheritrange=\"1\" (the range of its joint)" : "ctrlrange=\"-1 1\"", range);
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
    add("pose", {pose_.data(), pose_.size(), true});
  }

  void set_commands(const TaskFile& task) {
    for (const Command& command : task.commands) {
      const double first = *constant(command.distribution.first).at, second = *constant(command.distribution.second).at;
      check_distribution(command.where, command.distribution.kind, first, second);
      const std::span<double> value = kept(1);
      if (!names_.emplace(command.name, Value{value.data(), 1}).second)
        fail(Exit::usage, "bad-name", "{}: there is another {}", command.where, command.name);
      commands_.push_back({{value.data(), command.distribution.kind, first, second},
                           command.every ? std::optional(schedule(*command.every)) : std::nullopt});
    }
  }

  /// Numbers of the task's own that are part of its state.
  std::span<double> kept(size_t size) {
    const std::span<double> values = program_.variable(size);
    keep(values);
    return values;
  }

  Schedule schedule(const FormulaPair& every) {
    const double least = *constant(every.first).at, most = *constant(every.second).at;
    if (!(least > 0 && least <= most && std::isfinite(most)))
      fail(Exit::usage, "out-of-range", "{}: got {} to {} s, want 0 < least <= most", every.first.where, least, most);
    return {least, most, kept(1)};
  }

  Delay delay(const FormulaPair& steps) {
    constexpr int kMost = 1000;
    const double least = *constant(steps.first).at, most = *constant(steps.second).at;
    if (!(least >= 0 && least <= most && most <= kMost && least == std::trunc(least) && most == std::trunc(most)))
      fail(Exit::usage, "out-of-range", "{}: got {} to {}, want whole numbers of env steps, 0 to {}", steps.first.where,
           least, most, kMost);
    delays_.push_back({static_cast<int>(least), static_cast<int>(most), kept(1)});
    return delays_.back();
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

  Value remembering(const NamedFormula& value) {
    const Program::Memory memory{value.name, compile(*value.start)};
    return program_.compile(
        value.formula.text, value.formula.where, [&](const std::string& name) { return find(name); }, &memory);
  }

  Value observed(const ObservationTerm& term) {
    Value value = compile(term.value);
    std::map<std::string, Value> parts;
    Program::Names part = [&](const std::string& name) { return name == "value" ? value : parts.at(name); };
    const auto apply = [&](const std::string& text, const Formula& where) {
      value = program_.compile(text, where.where, part);
    };
    if (term.delay) {
      const Delay steps = delay(*term.delay);
      parts["delay"] = {steps.drawn.data(), 1};
      parts["late"] = value;
      for (int k = 1; k <= steps.most; ++k) {
        apply("before(value)", term.delay->first);
        const Value earlier = value;
        if (k > steps.least) {
          parts["earlier"] = earlier;
          parts["late"] =
              program_.compile(fmt::format("where(delay == {}, earlier, late)", k), term.delay->first.where, part);
        } else {
          parts["late"] = value;
        }
      }
      value = parts["late"];
    }
    if (term.noise) {
      const double first = *constant(term.noise->first).at, second = *constant(term.noise->second).at;
      check_distribution(term.noise->second.where, term.noise->kind, first, second);
      const std::span<double> noise = kept(value.size);
      for (double& one : noise) sensor_noise_.push_back({&one, term.noise->kind, first, second});
      parts["noise"] = {noise.data(), noise.size()};
      apply("value + noise", term.noise->first);
    }
    if (term.scale) apply(fmt::format("value * {:.17g}", *constant(*term.scale).at), *term.scale);
    if (term.clip)
      apply(
          fmt::format("clip(value, {:.17g}, {:.17g})", *constant(term.clip->first).at, *constant(term.clip->second).at),
          term.clip->first);
    return value;
  }

  /// One noise for each number, the last that was given for it: of all joints, then of those named.
  std::vector<Noise> noise_of(const std::vector<JointNoise>& given) {
    std::vector<Noise> all(static_cast<size_t>(model().nq + model().nv), Noise{nullptr, {}, 0, 0});  // qpos, then qvel
    const size_t nq = qpos().size();
    const std::vector<std::string> joints = object_names(model(), mjOBJ_JOINT);
    for (const bool of_joints : {false, true})
      for (const JointNoise& noise : given) {
        if (noise.joint.empty() == of_joints) continue;
        const double first = *constant(noise.noise.first).at, second = *constant(noise.noise.second).at;
        check_distribution(noise.where, noise.noise.kind, first, second);
        const auto set = [&](size_t begin, size_t count) {
          for (size_t i = begin; i < begin + count; ++i)
            all[i] = {i < nq ? data().qpos + i : data().qvel + (i - nq), noise.noise.kind, first, second};
        };
        if (!of_joints) {
          set(noise.velocities ? nq : 0, noise.velocities ? qvel().size() : nq);
          continue;
        }
        for (const std::string& joint : chosen({{noise.joint, noise.where}}, joints, "joint")) {
          const JointRows rows = joint_rows(model(), object_id(model(), mjOBJ_JOINT, joint));
          const size_t count = noise.velocities ? rows.num_qvel : rows.num_qpos;
          const size_t from = noise.first.value_or(0), to = noise.last.value_or(count);
          if (to > count) fail(Exit::usage, "bad-name", "{}: the joint '{}' has {} values", noise.where, joint, count);
          set((noise.velocities ? nq + rows.qvel : rows.qpos) + from, to - from);
        }
      }
    std::erase_if(all, [](const Noise& noise) { return noise.value == nullptr; });
    return all;
  }

  struct Weighted {
    Value value, weight;
  };

  Program program_;
  std::map<std::string, Value> names_;
  std::vector<double> pose_;       // [nq]
  std::vector<size_t> posed_;      // of qpos: what [pose] has
  std::vector<Control> controls_;  // in the order of the action
  std::vector<double> action_, earlier_;
  std::optional<Delay> action_delay_;
  std::vector<Delay> delays_;  // all
  std::vector<DrawnCommand> commands_;
  std::vector<Value> observation_;
  std::vector<Noise> sensor_noise_;
  std::vector<Weighted> reward_;
  std::vector<Value> info_;
  std::vector<std::string> number_names_;  // of reward_, then of info_
  std::vector<double> last_, sums_;        // of these: of the last step; over the episode, then its steps
  Value terminated_{nullptr, 0};
  std::vector<Noise> noise_, push_;
  std::optional<Schedule> pushes_;
  int keyframe_ = -1;
  std::optional<DomainRandomization> randomization_;
};

/// A model beside the task's file, or one of those that come with Myriad.
ModelFile model_file(const TaskFile& task, const fs::path& file) {
  const fs::path beside = (fs::absolute(file).parent_path() / task.model.file).lexically_normal();
  ModelFile model{
      .path = beside.string(), .task_folder = fs::absolute(file).parent_path().string(), .settings = task.model};
  std::error_code missing;
  if (fs::exists(beside, missing)) return model;
  model.path = asset_path(task.model.file);
  if (model.path.empty())
    fail(Exit::usage, "no-model", "{}: there is no file {}", task.model.where,
         (file.parent_path() / task.model.file).lexically_normal().string());
  model.ours = true;
  return model;
}

EnvSpec mjcf_spec(const std::string& path) {
  std::ifstream in(path);
  if (!in) fail(Exit::usage, "no-task", "{} cannot be read", path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto task = std::make_shared<const TaskFile>(read_task(text, path));
  const ModelFile file = model_file(*task, path);
  const auto make = [task, file](const EnvOptions& options) {
    return std::make_unique<MjcfEnv>(*task, model_of(*task, file, options), options);
  };
  const auto describe = [make](EnvSpec& configured) { make(configured.options)->describe(configured); };
  EnvSpec spec{.id = path,
               .observation_space = mujoco_observation_space(1),
               .action_space = Space::box(-1, 1, {1}),
               .max_episode_steps = task->max_episode_steps,
               .reward_threshold = task->reward_threshold,
               .source = fmt::format("{}, MuJoCo {}", path, mj_versionString()),
               .options = task->options,
               .make = make,
               .configure = describe};
  describe(spec);
  return spec;
}

const RegisterEnv mjcf{EnvPrefix{.prefix = "mjcf", .names_file = true, .make_spec = mjcf_spec}};

}  // namespace
}  // namespace myriad
