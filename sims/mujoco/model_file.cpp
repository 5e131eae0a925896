#include "sims/mujoco/model_file.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <string_view>

#include "rl/check.hpp"
#include "sims/mujoco/guarded.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

// --- XML, as far as a URDF has to be changed ---

/// A start tag: text[begin, end) is "<mesh filename='a.stl'/>".
struct Tag {
  std::string_view name;
  size_t begin, end;
};

/// Calls f(tag) for each start tag and each end tag (its name begins with /), comments left out.
template <class F>
void each_tag(std::string_view text, F&& f) {
  size_t at = 0;
  while ((at = text.find('<', at)) != std::string_view::npos) {
    const auto skip_to = [&](std::string_view end) {
      at = text.find(end, at);
      at = at == std::string_view::npos ? text.size() : at + end.size();
    };
    if (text.substr(at).starts_with("<!--")) {
      skip_to("-->");
      continue;
    }
    if (text.substr(at).starts_with("<![CDATA[")) {
      skip_to("]]>");
      continue;
    }
    size_t end = at + 1;
    for (char quote = '\0'; end < text.size() && (quote != '\0' || text[end] != '>'); ++end)
      if (quote != '\0')
        quote = text[end] == quote ? '\0' : quote;
      else if (text[end] == '"' || text[end] == '\'')
        quote = text[end];
    end = std::min(end + 1, text.size());
    const size_t name_end = std::min(text.find_first_of(" \t\r\n/>", at + 2), end);
    f(Tag{text.substr(at + 1, name_end - at - 1), at, end});
    at = end;
  }
}

/// Where in the text the value of a tag's attribute is: [begin, end).
std::optional<std::pair<size_t, size_t>> attribute(std::string_view text, const Tag& tag, std::string_view name) {
  for (size_t at = tag.begin + 1 + tag.name.size(); (at = text.find(name, at)) < tag.end; at += name.size()) {
    const size_t equals = text.find_first_not_of(" \t\r\n", at + name.size());
    if (std::strchr(" \t\r\n", text[at - 1]) == nullptr || equals >= tag.end || text[equals] != '=') continue;
    const size_t quote = text.find_first_of("\"'", equals);
    if (quote >= tag.end) break;
    const size_t end = text.find(text[quote], quote + 1);
    if (end >= tag.end) break;
    return std::pair(quote + 1, end);
  }
  return std::nullopt;
}

std::string value_of(std::string_view text, const Tag& tag, std::string_view name) {
  const auto place = attribute(text, tag, name);
  return place ? std::string(text.substr(place->first, place->second - place->first)) : "";
}

std::string escaped(std::string_view value) {
  std::string result;
  for (const char c : value) result += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '"' ? "&quot;" : std::string(1, c);
  return result;
}

/// An edit of a text: [begin, end) becomes `text`.
struct Edit {
  size_t begin, end;
  std::string text;
};

std::string edited(std::string text, std::vector<Edit> edits) {
  std::ranges::stable_sort(edits, std::greater{}, &Edit::begin);
  for (const Edit& edit : edits) text.replace(edit.begin, edit.end - edit.begin, edit.text);
  return text;
}

// --- URDF ---

struct Mimic {
  std::string joint, of;
  double multiplier = 1, offset = 0;
};

struct Urdf {
  std::string text;  // as MuJoCo gets it
  std::vector<Mimic> mimics;
  std::map<std::string, std::string> renamed;  // mesh files by the names that they have in the text
  std::string lost;                            // a mesh that was not found; "": none
};

bool exists(const fs::path& path) {
  std::error_code missing;
  return fs::exists(path, missing);
}

/// Where a mesh of the URDF lies; nullopt where it is not found.
std::optional<fs::path> mesh_path(const std::string& name, const ModelFile& file) {
  const fs::path urdf = file.path, task_folder = file.task_folder;
  const ModelSettings& settings = file.settings;
  std::vector<fs::path> places;
  std::string rest = name;
  if (rest.starts_with("file://")) rest = rest.substr(7);
  const size_t scheme = rest.find("://");
  const bool in_package = scheme != std::string::npos;
  if (in_package) {
    rest = rest.substr(scheme + 3);
    const std::string package = rest.substr(0, rest.find('/'));
    const fs::path inside = rest.substr(std::min(package.size() + 1, rest.size()));
    for (const auto& [known, folder] : settings.packages)
      if (known == package) places.push_back(task_folder / folder.text / inside);
    for (fs::path above = urdf.parent_path();; above = above.parent_path()) {
      places.push_back(above / rest);
      places.push_back(above / inside);
      if (above == above.root_path()) break;
    }
  }
  if (settings.meshes) {
    const fs::path folder = task_folder / settings.meshes->text;
    if (!in_package) places.insert(places.begin(), folder / rest);
    places.insert(places.begin() + !in_package, folder / fs::path(rest).filename());
  }
  if (!in_package) places.push_back(urdf.parent_path() / rest);
  const auto found = std::ranges::find_if(places, exists);
  return found == places.end() ? std::nullopt : std::optional(found->lexically_normal());
}

/// Adds to `edits` what puts `attributes` into the element <`name`> of the <mujoco> in the text: over those it has.
void set_attributes(std::string_view text, std::vector<Edit>& edits, const std::optional<Tag>& element, size_t inside,
                    std::string_view name, const std::vector<std::pair<std::string, std::string>>& attributes) {
  std::string added;
  for (const auto& [key, value] : attributes) {
    if (const auto place = element ? attribute(text, *element, key) : std::nullopt)
      edits.push_back({place->first, place->second, escaped(value)});
    else
      added += fmt::format(" {}=\"{}\"", key, escaped(value));
  }
  if (element && !added.empty())
    edits.push_back({element->begin + 1 + element->name.size(), element->begin + 1 + element->name.size(), added});
  else if (!added.empty())
    edits.push_back({inside, inside, fmt::format("<{}{}/>", name, added)});
}

Urdf read_urdf(const std::string& text, const ModelFile& file) {
  const fs::path path = file.path;
  const ModelSettings& settings = file.settings;
  Urdf urdf;
  std::vector<Edit> edits;
  std::optional<Tag> robot, mujoco, compiler, option;
  bool visual = false, keeps_visuals = false, left_out = false;
  size_t collision = 0;  // where the last one begins
  std::string joint;
  std::map<std::string, std::string> meshes;  // MuJoCo knows them by the stem of their file's name alone
  for (const auto& [key, value] : settings.compiler) keeps_visuals |= key == "discardvisual" && value == "false";
  each_tag(text, [&](const Tag& tag) {
    if (tag.name == "robot" && !robot) robot = tag;
    if (tag.name == "mujoco") mujoco = tag;
    if (tag.name == "compiler") compiler = tag, keeps_visuals |= value_of(text, tag, "discardvisual") == "false";
    if (tag.name == "option") option = tag;
    if (tag.name.starts_with("xacro:"))
      fail(Exit::usage, "mujoco-model", "{} is a xacro file: xacro {} > robot.urdf makes a URDF of it", path.string(),
           path.filename().string());
    if (tag.name == "visual" || tag.name == "/visual") visual = tag.name == "visual";
    if (tag.name == "collision") collision = tag.begin, left_out = false;
    if (tag.name == "/collision" && left_out) edits.push_back({collision, tag.end, ""});
    if (tag.name == "joint" && attribute(text, tag, "name")) joint = value_of(text, tag, "name");
    if (tag.name == "mimic") {
      Mimic mimic{.joint = joint, .of = value_of(text, tag, "joint")};
      if (const std::string given = value_of(text, tag, "multiplier"); !given.empty())
        mimic.multiplier = std::strtod(given.c_str(), nullptr);
      if (const std::string given = value_of(text, tag, "offset"); !given.empty())
        mimic.offset = std::strtod(given.c_str(), nullptr);
      urdf.mimics.push_back(mimic);
    }
    const auto place = tag.name == "mesh" ? attribute(text, tag, "filename") : std::nullopt;
    if (!place) return;
    const std::string name = value_of(text, tag, "filename");
    if (!visual && std::ranges::any_of(settings.leave_out, [&](const Formula& one) { return fits(one.text, name); })) {
      left_out = true;
      return;
    }
    const std::optional<fs::path> mesh = mesh_path(name, file);
    if (!mesh) {
      if (urdf.lost.empty() && (!visual || keeps_visuals)) urdf.lost = name;
      return;
    }
    std::string stem = mesh->stem().string();
    for (int i = 2; meshes.emplace(stem, mesh->string()).first->second != mesh->string(); ++i)
      stem = fmt::format("{}-{}", mesh->stem().string(), i);
    fs::path shown = *mesh;
    if (stem != mesh->stem()) shown.replace_filename(stem + mesh->extension().string());
    if (shown != *mesh) urdf.renamed[shown.string()] = mesh->string();
    edits.push_back({place->first, place->second, escaped(shown.string())});
  });
  check(robot.has_value(), "{}: no <robot>", path.string());
  std::vector<std::pair<std::string, std::string>> attributes = settings.compiler;
  if (!std::ranges::any_of(attributes, [](const auto& one) { return one.first == "strippath"; }))
    attributes.emplace_back("strippath", "false");  // meshes have their whole paths
  const bool closed = mujoco && text[mujoco->end - 2] == '/';
  if (!mujoco || closed) {
    std::vector<Edit> own;
    set_attributes(text, own, std::nullopt, 0, "compiler", attributes);
    set_attributes(text, own, std::nullopt, 0, "option", settings.option);
    std::string element = "<mujoco>";
    for (const Edit& edit : own) element += edit.text;
    edits.push_back({closed ? mujoco->begin : robot->end, closed ? mujoco->end : robot->end, element + "</mujoco>"});
  } else {
    set_attributes(text, edits, compiler, mujoco->end, "compiler", attributes);
    set_attributes(text, edits, option, mujoco->end, "option", settings.option);
  }
  urdf.text = edited(text, std::move(edits));
  return urdf;
}

// --- a model before it is compiled ---

struct FreeSpec {
  void operator()(mjSpec* spec) const { mj_deleteSpec(spec); }
};

struct Draft {
  std::unique_ptr<mjSpec, FreeSpec> spec;
  std::vector<Mimic> mimics;
  std::string lost;  // a mesh of a URDF that was not found
  bool urdf = false;
};

/// What may help where MuJoCo refuses a model: a URDF cannot be changed by hand each time it is generated.
std::string advice(std::string_view words, const Draft& draft) {
  const auto says = [&](std::string_view part) { return words.find(part) != std::string_view::npos; };
  if (says("Schema violation"))
    return fmt::format("; MuJoCo {} does not know it: take it out of the file", mj_versionString());
  if (!draft.urdf) return "";
  if (!draft.lost.empty() && says("Error opening file"))
    return fmt::format(
        "; no {}: [model] {} says where it lies", draft.lost,
        draft.lost.find("://") == std::string::npos ? "meshes = \"FOLDER\"" : "packages = { NAME = \"FOLDER\" }");
  if (says("balanceinertia") || says("eigenvalues")) return "; in the task: [model] mend_inertia = true";
  if (says("mass and inertia")) return "; in the task: [model] compiler = { boundmass = 0.001, boundinertia = 1e-6 }";
  if (says("content type") || says("unknown file type") || says("decoder"))
    return "; MuJoCo reads STL, OBJ and MSH: convert it, or leave such collision shapes out: [model] leave_out = "
           "[\"*.dae\"]";
  return "";
}

[[noreturn]] void refuse(const std::string& path, std::string words, const std::string& advice) {
  std::ranges::replace(words, '\n', ' ');
  fail(Exit::environment, "mujoco-model", "MuJoCo cannot load {}: {}{}", path, words, advice);
}

/// The elements of a kind, in the model's order.
template <class F>
void each_element(mjSpec& spec, mjtObj type, F&& f) {
  for (mjsElement* element = mjs_firstElement(&spec, type); element != nullptr;
       element = mjs_nextElement(&spec, element))
    f(element);
}

std::string name_of(mjsElement* element) { return mjs_getString(mjs_getName(element)); }

Draft draft_of(const ModelFile& file) {
  const std::string& path = file.path;
  const ModelSettings& settings = file.settings;
  Draft draft;
  std::ifstream in(path);
  if (!in) fail(Exit::usage, "no-model", "{}: {} cannot be read", settings.where, path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::string_view root;
  each_tag(text, [&](const Tag& tag) {
    if (root.empty() && tag.name != "?xml" && !tag.name.starts_with('!') && !tag.name.starts_with('?')) root = tag.name;
  });
  const bool urdf = draft.urdf = root == "robot";
  char error[1000] = "";
  if (urdf) {
    Urdf read = read_urdf(text, file);
    draft.spec.reset(mj_parseXMLString(read.text.c_str(), nullptr, error, sizeof error));
    draft.mimics = std::move(read.mimics), draft.lost = std::move(read.lost);
    if (draft.spec)
      each_element(*draft.spec, mjOBJ_MESH, [&](mjsElement* element) {
        mjsMesh* mesh = mjs_asMesh(element);
        const auto real = read.renamed.find(mjs_getString(mesh->file));
        if (real != read.renamed.end()) mjs_setString(mesh->file, real->second.c_str());
      });
  } else {
    if (!settings.packages.empty() || !settings.leave_out.empty() || !settings.compiler.empty() ||
        !settings.option.empty())
      fail(Exit::usage, "bad-model",
           "{}: packages, leave_out, compiler and option are for a URDF; {} is MJCF, and has elements of its own for "
           "them",
           settings.where, path);
    draft.spec.reset(mj_parseXML(path.c_str(), nullptr, error, sizeof error));
  }
  if (!draft.spec) refuse(path, error, advice(error, draft));
  mjSpec& spec = *draft.spec;
  if (urdf)
    mjs_setString(spec.modelfiledir, (fs::path(path).parent_path() / "").c_str());
  else if (settings.meshes)
    mjs_setString(spec.compiler.meshdir, fs::absolute(fs::path(file.task_folder) / settings.meshes->text).c_str());
  const auto has = [&](const std::string& joint) {
    return mjs_findElement(&spec, mjOBJ_JOINT, joint.c_str()) != nullptr;
  };
  for (const Mimic& mimic : draft.mimics) {
    if (!has(mimic.joint)) continue;  // it is fixed
    mjsEquality* equality = mjs_addEquality(&spec, nullptr);
    equality->type = mjEQ_JOINT;
    equality->objtype = mjOBJ_JOINT;
    mjs_setString(equality->name1, mimic.joint.c_str());
    if (has(mimic.of)) mjs_setString(equality->name2, mimic.of.c_str());
    std::ranges::fill(equality->data, 0.0);
    equality->data[0] = mimic.offset, equality->data[1] = mimic.multiplier;
  }
  return draft;
}

bool moves_one_way(const mjsJoint& joint) { return joint.type == mjJNT_HINGE || joint.type == mjJNT_SLIDE; }

/// Inertia tensors that no body can have lose their products of inertia; moments of none become a small one.
void mend_inertia(mjSpec& spec) {
  constexpr double kLeast = 1e-6;  // kg m^2
  spec.compiler.balanceinertia = true;
  each_element(spec, mjOBJ_BODY, [&](mjsElement* element) {
    double* full = mjs_asBody(element)->fullinertia;  // xx, yy, zz, xy, xz, yz
    if (!std::isfinite(full[0])) return;
    const mjtNum matrix[9] = {full[0], full[3], full[4], full[3], full[1], full[5], full[4], full[5], full[2]};
    mjtNum eigenvalues[3], vectors[9], quaternion[4];
    mju_eig3(eigenvalues, vectors, quaternion, matrix);
    if (eigenvalues[2] > 1e-9 * eigenvalues[0] && eigenvalues[2] > mjMINVAL) return;  // the least, the greatest
    for (int i = 0; i < 3; ++i) full[i] = std::max(full[i], kLeast), full[3 + i] = 0;
  });
}

/// A free root, the floor.
void add_scene(mjSpec& spec, const ModelFile& file) {
  mjsBody* world = mjs_findBody(&spec, "world");
  const ModelSettings& settings = file.settings;
  if (settings.mend_inertia) mend_inertia(spec);
  if (settings.base_height) {
    mjsElement* root = mjs_firstChild(world, mjOBJ_BODY, 0);
    if (root == nullptr || mjs_nextChild(world, root, 0) != nullptr)
      fail(Exit::usage, "bad-model", "{}: base_height is for a model with one body at its root", settings.where);
    if (mjsElement* joint = mjs_firstChild(mjs_asBody(root), mjOBJ_JOINT, 0))
      fail(Exit::usage, "bad-model",
           "{}: base_height is for a root without joints; this one has '{}': [pose] says where it begins",
           settings.where, name_of(joint));
    mjs_setName(mjs_addFreeJoint(mjs_asBody(root))->element, "root");
    mjs_asBody(root)->pos[2] = *settings.base_height;
  }
  if (settings.floor) {
    mjsGeom* floor = mjs_addGeom(world, nullptr);
    floor->type = mjGEOM_PLANE;
    floor->size[0] = floor->size[1] = 0, floor->size[2] = 0.05;  // m: without end; the grid that is drawn
    mjs_setName(floor->element, "floor");
  }
}

/// The drive's actuator: the one that the joint has, changed, or a new one with the joint's name.
void add_drive(mjSpec& spec, const JointDrive& drive, const std::string& path) {
  const mjsJoint& joint = *mjs_asJoint(mjs_findElement(&spec, mjOBJ_JOINT, drive.joint.c_str()));
  mjsActuator* actuator = nullptr;
  each_element(spec, mjOBJ_ACTUATOR, [&](mjsElement* element) {
    mjsActuator* one = mjs_asActuator(element);
    if (one->trntype != mjTRN_JOINT || mjs_getString(one->target) != drive.joint) return;
    if (actuator != nullptr)
      fail(Exit::usage, "bad-model",
           "{}: the joint '{}' has two actuators, '{}' and '{}': name in [action] actuators the ones that act", path,
           drive.joint, name_of(actuator->element), name_of(element));
    actuator = one;
  });
  std::optional<double> force = drive.force;
  if (actuator == nullptr) {
    actuator = mjs_addActuator(&spec, nullptr);
    actuator->trntype = mjTRN_JOINT;
    mjs_setString(actuator->target, drive.joint.c_str());
    if (mjs_setName(actuator->element, drive.joint.c_str()) != 0)
      fail(Exit::usage, "bad-model", "{}: an actuator of another joint has the name of the joint '{}'", path,
           drive.joint);
    if (!drive.gains) mjs_setToMotor(actuator);
  } else if (drive.gains && !force && actuator->ctrlrange[0] < actuator->ctrlrange[1] &&
             actuator->biastype == mjBIAS_NONE) {
    force = std::max(std::abs(actuator->ctrlrange[0]), std::abs(actuator->ctrlrange[1])) *
            std::abs(actuator->gainprm[0] * actuator->gear[0]);  // what the motor that it replaces can do
  }
  if (drive.gains) {
    actuator->gear[0] = 1;
    double damping = drive.gains->second;
    mjs_setToPosition(actuator, drive.gains->first, &damping, nullptr, nullptr, 0);
    actuator->ctrllimited = mjLIMITED_FALSE;
    actuator->ctrlrange[0] = actuator->ctrlrange[1] = 0;
  } else if (const double most = force ? *force : joint.actfrcrange[1];
             actuator->biastype == mjBIAS_NONE && actuator->ctrlrange[0] >= actuator->ctrlrange[1] && most > 0) {
    actuator->ctrllimited = mjLIMITED_TRUE;
    actuator->ctrlrange[0] = -most, actuator->ctrlrange[1] = most;
  }
  if (force) {
    actuator->forcelimited = mjLIMITED_TRUE;
    actuator->forcerange[0] = -*force, actuator->forcerange[1] = *force;
  }
}

/// Keyframes say the controls of all actuators: those of new ones are 0.
void extend_keyframes(mjSpec& spec) {
  int actuators = 0;
  each_element(spec, mjOBJ_ACTUATOR, [&](mjsElement*) { ++actuators; });
  each_element(spec, mjOBJ_KEY, [&](mjsElement* element) {
    mjsKey* key = mjs_asKey(element);
    int size = 0;
    const double* controls = mjs_getDouble(key->ctrl, &size);
    if (size == 0 || size >= actuators) return;
    std::vector<double> all(controls, controls + size);
    all.resize(static_cast<size_t>(actuators), 0.0);
    mjs_setDouble(key->ctrl, all.data(), actuators);
  });
}

/// What a model differs by from others of the process.
std::string key_of(const ModelFile& file) {
  const ModelSettings& settings = file.settings;
  std::string key = fmt::format("{}\n{}\n{}\n{}", file.path,
                                settings.meshes ? fmt::format("{}/{}", file.task_folder, settings.meshes->text) : "",
                                settings.base_height.value_or(-1e9), 2 * settings.floor + settings.mend_inertia);
  for (const auto& [name, folder] : settings.packages)
    key += fmt::format("\n{} {}/{}", name, file.task_folder, folder.text);
  for (const Formula& pattern : settings.leave_out) key += "\n-" + pattern.text;
  for (const auto* attributes : {&settings.compiler, &settings.option})
    for (const auto& [name, value] : *attributes) key += fmt::format("\n{} {}", name, value);
  return key;
}

std::mutex mutex;  // of what this file remembers, and of MuJoCo's handlers while it compiles

}  // namespace

std::vector<std::string> joint_names(const ModelFile& file) {
  static std::map<std::string, std::vector<std::string>> known;
  prepare_mujoco();
  const std::scoped_lock lock(mutex);
  const auto [found, is_new] = known.try_emplace(key_of(file));
  if (!is_new) return found->second;
  try {
    const Draft draft = draft_of(file);
    each_element(*draft.spec, mjOBJ_JOINT, [&](mjsElement* element) {
      const std::string name = name_of(element);
      const bool mimics = std::ranges::any_of(draft.mimics, [&](const Mimic& mimic) { return mimic.joint == name; });
      if (moves_one_way(*mjs_asJoint(element)) && !name.empty() && !mimics) found->second.push_back(name);
    });
  } catch (...) {
    known.erase(found);
    throw;
  }
  return found->second;
}

std::shared_ptr<const mjModel> build_model(const ModelFile& file, const std::vector<JointDrive>& drives) {
  static std::map<std::string, std::shared_ptr<const mjModel>> models;
  std::string key = key_of(file);
  for (const JointDrive& drive : drives)
    key += fmt::format("\n{} {} {} {}", drive.joint, drive.gains ? drive.gains->first : -1,
                       drive.gains ? drive.gains->second : -1, drive.force.value_or(-1));
  prepare_mujoco();
  const std::scoped_lock lock(mutex);
  std::shared_ptr<const mjModel>& model = models[key];
  if (model) return model;
  const auto warn = mju_user_warning;
  if (file.ours) mju_user_warning = [](const char*) {};
  Draft draft;
  mjModel* compiled = nullptr;
  try {
    draft = draft_of(file);
    add_scene(*draft.spec, file);
    for (const JointDrive& drive : drives) add_drive(*draft.spec, drive, file.path);
    extend_keyframes(*draft.spec);
    guarded(file.path, [&] { compiled = mj_compile(draft.spec.get(), nullptr); });
  } catch (...) {
    mju_user_warning = warn;
    throw;
  }
  mju_user_warning = warn;
  if (compiled == nullptr) {
    const std::string words = mjs_getError(draft.spec.get());
    refuse(file.path, words, advice(words, draft));
  }
  model.reset(compiled, [](const mjModel* m) { mj_deleteModel(const_cast<mjModel*>(m)); });
  return model;
}

}  // namespace myriad
