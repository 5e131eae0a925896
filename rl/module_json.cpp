#include "rl/module_json.hpp"

#include <boost/json.hpp>
#include <limits>

#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

constexpr std::string_view kInitializers[] = {"orthogonal", "xavier_uniform", "kaiming_uniform"};  // as Initializer

template <class Variant>
json::value to_value(const Variant& variant);

struct WriteField {
  json::object& object;
  void operator()(std::string_view name, int value) { object[name] = value; }
  void operator()(std::string_view name, float value) { object[name] = static_cast<double>(value); }
  void operator()(std::string_view name, bool value) { object[name] = value; }
  void operator()(std::string_view name, Activation value) { object[name] = name_of(value); }
  void operator()(std::string_view name, Initializer value) {
    object[name] = kInitializers[static_cast<size_t>(value)];
  }
  void operator()(std::string_view name, const std::vector<int>& value) {
    object[name] = json::array(value.begin(), value.end());
  }
  void operator()(std::string_view name, const std::vector<PartDistribution>& value) {
    json::array list;
    for (const PartDistribution& part : value) list.push_back(to_value(part));
    object[name] = std::move(list);
  }
};

template <class... Args>
[[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) {
  fail(Exit::usage, "bad-module", format, std::forward<Args>(args)...);
}

/// What a value is, for "got".
std::string text_of(const json::value& value) {
  std::string text = json::serialize(value);
  return text.size() > 40 ? text.substr(0, 40) + "..." : text;
}

/// `what`: a layer, a distribution; `where`: which of them.
template <class Variant>
Variant from_value(const json::value& value, std::string_view what, const std::string& where);

/// Takes an object's fields out, each by its name; what is left at the end is unknown.
class ReadField {
 public:
  ReadField(const json::value& value, std::string where) : where_(std::move(where)) {
    if (!value.is_object()) bad("{} is {}, want an object", where_, text_of(value));
    object_ = value.as_object();
  }

  void operator()(std::string_view name, int& value) { value = integer(take(name), name); }
  void operator()(std::string_view name, float& value) {
    const json::value got = take(name);
    if (!got.is_number()) wrong(name, got, "a number");
    value = static_cast<float>(got.to_number<double>());
  }
  void operator()(std::string_view name, bool& value) {
    const json::value got = take(name);
    if (!got.is_bool()) wrong(name, got, "true or false");
    value = got.get_bool();
  }
  void operator()(std::string_view name, Activation& value) {
    const std::string got = string(name);
    try {
      value = activation_from(got);
    } catch (const Error& error) { bad("{}: {}", where_, error.what()); }
  }
  void operator()(std::string_view name, Initializer& value) {
    const std::string got = string(name);
    const auto* found = std::ranges::find(kInitializers, got);
    if (found == std::end(kInitializers)) bad("{} has {} '{}'{}", where_, name, got, one_of(kInitializers, got));
    value = static_cast<Initializer>(found - std::begin(kInitializers));
  }
  void operator()(std::string_view name, std::vector<int>& value) {
    for (const json::value& item : array(name)) value.push_back(integer(item, name));
  }
  void operator()(std::string_view name, std::vector<PartDistribution>& value) {
    for (const json::value& item : array(name))
      value.push_back(
          from_value<PartDistribution>(item, "distribution", fmt::format("{}.{}.{}", where_, name, value.size())));
  }

  bool has(std::string_view name) const { return object_.contains(name); }
  std::string string(std::string_view name) {
    const json::value got = take(name);
    if (!got.is_string()) wrong(name, got, "a string");
    return std::string(got.get_string());
  }
  json::array array(std::string_view name) {
    const json::value got = take(name);
    if (!got.is_array()) wrong(name, got, "a list");
    return got.get_array();
  }
  std::vector<std::string> strings(std::string_view name) {
    std::vector<std::string> list;
    for (const json::value& item : array(name)) {
      if (!item.is_string()) wrong(name, item, "strings");
      list.emplace_back(item.get_string());
    }
    return list;
  }
  json::value take(std::string_view name) {
    const auto found = object_.find(name);
    if (found == object_.end()) bad("{} has no {}", where_, name);
    json::value value = found->value();
    object_.erase(found);
    taken_.emplace_back(name);
    return value;
  }
  void end() const {
    if (!object_.empty())
      bad("{} has {}{}", where_, std::string_view(object_.begin()->key()),
          suggestion(std::string_view(object_.begin()->key()), taken_));
  }

  static std::string one_of(std::span<const std::string_view> known, std::string_view got) {
    const std::vector<std::string> names(known.begin(), known.end());
    return suggestion(got, names);
  }

 private:
  int integer(const json::value& value, std::string_view name) const {
    if (!value.is_int64() || !std::in_range<int>(value.get_int64())) wrong(name, value, "an integer of 32 bits");
    return static_cast<int>(value.get_int64());
  }
  [[noreturn]] void wrong(std::string_view name, const json::value& got, std::string_view want) const {
    bad("{} has {} {}, want {}", where_, name, text_of(got), want);
  }

  std::string where_;
  json::object object_;
  std::vector<std::string> taken_;
};

/// A Layer or an ActionDistribution.
template <class Variant>
json::value to_value(const Variant& variant) {
  return std::visit(
      []<class T>(const T& alternative) {
        json::object object{{"kind", T::kKind}};
        T::fields(alternative, WriteField{object});
        return json::value(std::move(object));
      },
      variant);
}

json::array layers_json(const std::vector<Layer>& layers) {
  json::array list;
  for (const Layer& layer : layers) list.push_back(to_value(layer));
  return list;
}

/// The alternative that is called `kind`.
template <class Variant, size_t I = 0>
Variant alternative(std::string_view what, const std::string& kind, ReadField& read) {
  if constexpr (I == std::variant_size_v<Variant>) {
    const auto kinds = []<size_t... J>(std::index_sequence<J...>) {
      return std::array{std::variant_alternative_t<J, Variant>::kKind...};
    }
    (std::make_index_sequence<I>());
    bad("unknown kind of {} '{}'{}", what, kind, ReadField::one_of(kinds, kind));
  } else {
    using T = std::variant_alternative_t<I, Variant>;
    if (kind != T::kKind) return alternative<Variant, I + 1>(what, kind, read);
    T value{};
    T::fields(value, [&](std::string_view name, auto& field) { read(name, field); });
    return value;
  }
}

template <class Variant>
Variant from_value(const json::value& value, std::string_view what, const std::string& where) {
  ReadField read(value, where);
  Variant variant = alternative<Variant>(what, read.string("kind"), read);
  read.end();
  return variant;
}

/// `part`: what the layers are of.
std::vector<Layer> layers_from(const json::array& list, const std::string& part) {
  std::vector<Layer> layers;
  for (const json::value& item : list)
    layers.push_back(from_value<Layer>(item, "layer", fmt::format("{}.{}", part, layers.size())));
  return layers;
}

json::value to_value(const Network& network) {
  return json::object{{"name", network.name},
                      {"inputs", json::array(network.inputs.begin(), network.inputs.end())},
                      {"acts", network.acts},
                      {"layers", layers_json(network.layers)}};
}

Network network_from(const json::value& value, size_t index) {
  ReadField read(value, fmt::format("networks.{}", index));
  Network network;
  network.name = read.string("name");
  network.inputs = read.strings("inputs");
  read("acts", network.acts);
  network.layers = layers_from(read.array("layers"), network.name);
  read.end();
  return network;
}

/// Of what was written before networks had names: encoder, action_head, and what the value has.
std::vector<Network> unnamed_networks(ReadField& read, bool has_value) {
  const auto layers = [&](const char* part) { return layers_from(read.array(part), part); };
  const auto head = [&](const char* part) { return std::vector{from_value<Layer>(read.take(part), "layer", part)}; };
  std::vector<Network> networks{{"encoder", {"obs"}, layers("encoder"), true},
                                {"pi", {"encoder"}, head("action_head"), true}};
  if (!has_value) return networks;
  bool shared = false;
  read("shares_encoder", shared);
  Network encoder{"vf_encoder", {"obs"}, layers("value_encoder")};
  if (shared && !encoder.layers.empty())
    bad("the value shares the encoder and has {} layers of its own", encoder.layers.size());
  if (!shared) networks.push_back(std::move(encoder));
  networks.push_back({"vf", {shared ? "encoder" : "vf_encoder"}, head("value_head")});
  return networks;
}

}  // namespace

std::string to_json(const ModuleSpec& spec) {
  check_module(spec);
  json::array networks;
  for (const Network& network : spec.networks) networks.push_back(to_value(network));
  json::object module{{"obs_size", spec.obs_size},
                      {"networks", std::move(networks)},
                      {"distribution", to_value(spec.distribution)},
                      {"log_std_init", static_cast<double>(spec.log_std_init)},
                      {"log_std_clip", static_cast<double>(spec.log_std_clip)}};
  if (spec.mask_offset >= 0) module["mask_offset"] = spec.mask_offset;
  return json::serialize(module);
}

ModuleSpec module_from_json(std::string_view text) {
  boost::system::error_code error;
  const json::value value = json::parse(json::string_view(text.data(), text.size()), error);
  if (error) bad("a module is no JSON: {}", error.message());
  ReadField read(value, "a module");
  ModuleSpec spec;
  read("obs_size", spec.obs_size);
  spec.distribution = from_value<ActionDistribution>(read.take("distribution"), "distribution", "distribution");
  read("log_std_init", spec.log_std_init), read("log_std_clip", spec.log_std_clip);
  if (read.has("encoder"))
    spec.networks = unnamed_networks(read, !spec.is_q_network());
  else
    for (const json::value& item : read.array("networks"))
      spec.networks.push_back(network_from(item, spec.networks.size()));
  if (read.has("mask_offset")) read("mask_offset", spec.mask_offset);
  read.end();
  check_module(spec);
  return spec;
}

}  // namespace myriad
