#include "sims/mujoco/named_fields.hpp"

#include <mujoco/mjxmacro.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <type_traits>

#include "rl/check.hpp"

namespace myriad {
namespace {

using Count = decltype(mjModel::nbody) mjModel::*;

/// Rows [begin, begin + count) of an array.
struct Rows {
  size_t begin, count;
};

size_t size_at(int value) { return static_cast<size_t>(value); }

/// What the rows of arrays of one size belong to.
struct Owner {
  Count size;
  mjtObj type;
  Rows (*rows)(const mjModel& m, int id);  // of object `id`
};

Rows own_row(const mjModel&, int id) { return {size_at(id), 1}; }

/// In an array of `size` rows; nullopt: its rows have no names.
std::optional<Owner> owner_of(Count size) {
  static const Owner owners[] = {
      {&mjModel::nbody, mjOBJ_BODY, own_row},
      {&mjModel::njnt, mjOBJ_JOINT, own_row},
      {&mjModel::ngeom, mjOBJ_GEOM, own_row},
      {&mjModel::nsite, mjOBJ_SITE, own_row},
      {&mjModel::ncam, mjOBJ_CAMERA, own_row},
      {&mjModel::ntendon, mjOBJ_TENDON, own_row},
      {&mjModel::nactuator, mjOBJ_ACTUATOR, own_row},
      {&mjModel::nq, mjOBJ_JOINT,
       [](const mjModel& m, int id) {
         return Rows{joint_rows(m, id).qpos, joint_rows(m, id).num_qpos};
       }},
      {&mjModel::nv, mjOBJ_JOINT,
       [](const mjModel& m, int id) {
         return Rows{joint_rows(m, id).qvel, joint_rows(m, id).num_qvel};
       }},
      {&mjModel::nu, mjOBJ_ACTUATOR,
       [](const mjModel& m, int id) {
         return Rows{size_at(m.actuator_ctrladr[id]), size_at(m.actuator_ctrlnum[id])};
       }},
      {&mjModel::nout, mjOBJ_ACTUATOR,
       [](const mjModel& m, int id) {
         return Rows{size_at(m.actuator_outadr[id]), size_at(m.actuator_outnum[id])};
       }},
      {&mjModel::na, mjOBJ_ACTUATOR,
       [](const mjModel& m, int id) {
         const bool has = m.actuator_actadr[id] >= 0;
         return has ? Rows{size_at(m.actuator_actadr[id]), size_at(m.actuator_actnum[id])} : Rows{0, 0};
       }},
      {&mjModel::nsensordata, mjOBJ_SENSOR,
       [](const mjModel& m, int id) {
         return Rows{size_at(m.sensor_adr[id]), size_at(m.sensor_dim[id])};
       }},
      {&mjModel::nmocap, mjOBJ_BODY,
       [](const mjModel& m, int id) {
         return m.body_mocapid[id] >= 0 ? Rows{size_at(m.body_mocapid[id]), 1} : Rows{0, 0};
       }},
  };
  const auto found = std::ranges::find(owners, size, &Owner::size);
  return found == std::end(owners) ? std::nullopt : std::optional(*found);
}

/// The arrays of mjData that hold numbers of the simulation.
const std::map<std::string, MujocoField>& data_fields() {
  static const std::map<std::string, MujocoField> fields = [] {
    std::map<std::string, MujocoField> all;
    const auto add = [&]<class T>(const char* name, T mjData::*values, Count rows, size_t width) {
      if constexpr (std::is_same_v<T, mjtNum*>) all[name] = {values, rows, width};
    };
#undef XNV
#define XNV(type, name, rows, width)
#define X(type, name, rows, width) add(#name, &mjData::name, &mjModel::rows, width);
    MJDATA_POINTERS
#undef X
#undef XNV
    all["sensor"] = all.at("sensordata");
    return all;
  }();
  return fields;
}

/// The arrays of mjModel that [randomize] may change. Others follow from these (mj_setConst), decide which shortcuts
/// MuJoCo takes, or have sizes and meshes behind them.
std::span<double> model_array(mjModel& model, const std::string& name, Count& rows, size_t& width) {
  struct Array {
    mjtNum* mjModel::*values;
    Count rows;
    size_t width;
  };
#define ARRAY(name, rows, width)                     \
  {                                                  \
#name, { &mjModel::name, &mjModel::rows, width } \
  }
  static const std::map<std::string, Array> arrays = {
      ARRAY(body_mass, nbody, 1),
      ARRAY(body_inertia, nbody, 3),
      ARRAY(body_pos, nbody, 3),
      ARRAY(body_gravcomp, nbody, 1),
      ARRAY(jnt_stiffness, njnt, 1),
      ARRAY(jnt_range, njnt, 2),
      ARRAY(jnt_margin, njnt, 1),
      ARRAY(qpos_spring, nq, 1),
      ARRAY(dof_damping, nv, 1),
      ARRAY(dof_armature, nv, 1),
      ARRAY(dof_frictionloss, nv, 1),
      ARRAY(geom_friction, ngeom, 3),
      ARRAY(geom_solref, ngeom, mjNREF),
      ARRAY(geom_solimp, ngeom, mjNIMP),
      ARRAY(geom_margin, ngeom, 1),
      ARRAY(tendon_stiffness, ntendon, 1),
      ARRAY(tendon_damping, ntendon, 1),
      ARRAY(tendon_frictionloss, ntendon, 1),
      ARRAY(tendon_range, ntendon, 2),
      ARRAY(actuator_gear, nout, 6),
      ARRAY(actuator_gainprm, nactuator, mjNGAIN),
      ARRAY(actuator_biasprm, nactuator, mjNBIAS),
      ARRAY(actuator_dynprm, nactuator, mjNDYN),
      ARRAY(actuator_forcerange, nactuator, 2),
  };
#undef ARRAY
  const std::map<std::string, std::span<double>> options = {
      {"opt.gravity", {model.opt.gravity, 3}},      {"opt.wind", {model.opt.wind, 3}},
      {"opt.magnetic", {model.opt.magnetic, 3}},    {"opt.density", {&model.opt.density, 1}},
      {"opt.viscosity", {&model.opt.viscosity, 1}}, {"opt.impratio", {&model.opt.impratio, 1}},
  };
  if (const auto option = options.find(name); option != options.end()) {
    width = option->second.size();
    rows = nullptr;
    return option->second;
  }
  const auto found = arrays.find(name);
  if (found == arrays.end()) {
    std::vector<std::string> known;
    for (const auto& [key, array] : arrays) known.push_back(key);
    for (const auto& [key, values] : options) known.push_back(key);
    fail(Exit::usage, "unknown-field", "no field {} of mjModel that can be randomised{}", name,
         suggestion(name, known));
  }
  const Array& array = found->second;
  rows = array.rows;
  width = array.width;
  return {model.*array.values, size_at(static_cast<int>(model.*array.rows)) * width};
}

/// "geom_friction:floor[0]" in parts.
struct Name {
  std::string field, object;
  std::optional<size_t> index;
};

Name parts_of(const std::string& name) {
  Name parts;
  std::string rest = name;
  if (const size_t bracket = rest.rfind('['); bracket != std::string::npos && rest.ends_with(']')) {
    size_t index = 0;
    const char* last = rest.data() + rest.size() - 1;
    const auto [end, error] = std::from_chars(rest.data() + bracket + 1, last, index);
    if (error == std::errc() && end == last) {
      parts.index = index;
      rest.resize(bracket);
    }
  }
  const size_t colon = rest.find(':');
  parts.field = rest.substr(0, colon);
  if (colon != std::string::npos) parts.object = rest.substr(colon + 1);
  return parts;
}

Rows rows_of(const mjModel& model, const std::string& field, Count size, const std::string& object) {
  const std::optional<Owner> owner = size == nullptr ? std::nullopt : owner_of(size);
  if (!owner) fail(Exit::usage, "unknown-object", "{} has no rows with names: write it without :{}", field, object);
  const Rows rows = owner->rows(model, object_id(model, owner->type, object));
  if (rows.count == 0) fail(Exit::usage, "unknown-object", "{} has no row of {}", field, object);
  return rows;
}

}  // namespace

std::vector<std::string> object_names(const mjModel& model, mjtObj type) {
  std::vector<std::string> names;
  for (const Count size : {&mjModel::nbody, &mjModel::njnt, &mjModel::ngeom, &mjModel::nsite, &mjModel::ncam,
                           &mjModel::ntendon, &mjModel::nactuator, &mjModel::nsensor, &mjModel::nkey}) {
    const bool sensors = size == &mjModel::nsensor, keys = size == &mjModel::nkey;
    if ((sensors ? mjOBJ_SENSOR : keys ? mjOBJ_KEY : owner_of(size)->type) != type) continue;
    for (int id = 0; id < static_cast<int>(model.*size); ++id) {
      const char* name = mj_id2name(&model, type, id);
      names.emplace_back(name == nullptr ? "" : name);
    }
  }
  return names;
}

int object_id(const mjModel& model, mjtObj type, const std::string& name) {
  const int id = mj_name2id(&model, type, name.c_str());
  if (id < 0) {
    std::vector<std::string> names = object_names(model, type);
    std::erase(names, "");
    fail(Exit::usage, "unknown-object", "the model has no {} '{}'{}", mju_type2Str(type), name,
         names.empty() ? ": none has a name" : suggestion(name, names));
  }
  return id;
}

JointRows joint_rows(const mjModel& model, int joint) {
  const int type = model.jnt_type[joint];
  const size_t num_qpos = type == mjJNT_FREE ? 7 : type == mjJNT_BALL ? 4 : 1;
  const size_t num_qvel = type == mjJNT_FREE ? 6 : type == mjJNT_BALL ? 3 : 1;
  return {size_at(model.jnt_qposadr[joint]), num_qpos, size_at(model.jnt_dofadr[joint]), num_qvel};
}

std::vector<std::string> data_field_names() {
  std::vector<std::string> names;
  for (const auto& [name, field] : data_fields()) names.push_back(name);
  return names;
}

DataField data_field(const mjModel& model, const mjData& data, const std::string& name) {
  const Name parts = parts_of(name);
  const auto found = data_fields().find(parts.field);
  if (found == data_fields().end() || parts.index)
    fail(Exit::usage, "unknown-field", "mjData has no field {}{}", name, suggestion(parts.field, data_field_names()));
  const MujocoField& field = found->second;
  Rows rows{0, static_cast<size_t>(model.*field.rows)};
  if (name.find(':') != std::string::npos) rows = rows_of(model, parts.field, field.rows, parts.object);
  return {{data.*field.values + rows.begin * field.width, rows.count * field.width}, field};
}

std::vector<std::span<double>> model_field(mjModel& model, const std::string& name) {
  const Name parts = parts_of(name);
  Count size = nullptr;
  size_t width = 0;
  const std::span<double> all = model_array(model, parts.field, size, width);
  std::vector<std::span<double>> chosen;
  if (parts.object == "*" && size != nullptr) {
    for (size_t row = 0; row < all.size() / width; ++row) chosen.push_back(all.subspan(row * width, width));
  } else if (!parts.object.empty()) {
    const Rows rows = rows_of(model, parts.field, size, parts.object);
    chosen.push_back(all.subspan(rows.begin * width, rows.count * width));
  } else if (parts.index && size != nullptr) {
    fail(Exit::usage, "unknown-field", "{}: [{}] of which row? {}:NAME[{}], or {}:*[{}] for each", name, *parts.index,
         parts.field, *parts.index, parts.field, *parts.index);
  } else {
    chosen.push_back(all);
  }
  for (std::span<double>& values : chosen) {
    if (!parts.index) continue;
    if (*parts.index >= values.size())
      fail(Exit::usage, "unknown-field", "{}: there are {} values", name, values.size());
    values = values.subspan(*parts.index, 1);
  }
  return chosen;
}

}  // namespace myriad
