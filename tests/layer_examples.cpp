#include "tests/layer_examples.hpp"

#include <boost/json.hpp>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "rl/check.hpp"
#include "rl/module_json.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

std::vector<float> floats_of(const json::object& example, std::string_view name) {
  std::vector<float> values;
  if (const json::value* list = example.if_contains(name))
    for (const json::value& value : list->as_array()) values.push_back(static_cast<float>(value.to_number<double>()));
  return values;
}

json::object linear(size_t inputs, size_t outputs) {
  return {{"kind", "linear"}, {"inputs", inputs}, {"outputs", outputs}, {"initializer", "orthogonal"}, {"gain", 1.0}};
}

json::object network(std::string_view name, std::string_view input, const json::value& layers) {
  return {{"name", name}, {"inputs", json::array{input}}, {"acts", name != "vf"}, {"layers", layers}};
}

LayerExample example_of(const json::object& said) {
  LayerExample example{std::string(said.at("about").as_string()),
                       {},
                       floats_of(said, "parameters"),
                       floats_of(said, "x"),
                       floats_of(said, "y")};
  const size_t outputs = example.y.size();
  example.spec = module_from_json(json::serialize(json::object{
      {"obs_size", example.x.size()},
      {"networks",
       {network("encoder", "obs", said.at("layers")), network("pi", "encoder", json::array{linear(outputs, outputs)}),
        network("vf", "encoder", json::array{linear(outputs, 1)})}},
      {"distribution", {{"kind", "categorical"}, {"n", outputs}}},
      {"log_std_init", 0.0},
      {"log_std_clip", 20.0}}));
  for (size_t i = 0; i < outputs; ++i)
    for (size_t j = 0; j < outputs; ++j) example.parameters.push_back(i == j ? 1.0f : 0.0f);
  example.parameters.resize(example.parameters.size() + outputs + outputs + 1, 0.0f);  // biases, the value head
  check(example.parameters.size() == example.spec.num_parameters(), "{}: {} parameters, want {}", example.about,
        example.parameters.size(), example.spec.num_parameters());
  return example;
}

template <size_t... I>
std::set<std::string_view> all_kinds(std::index_sequence<I...>) {
  return {std::variant_alternative_t<I, Layer>::kKind...};
}

}  // namespace

std::vector<LayerExample> layer_examples() {
  std::ifstream file(MYRIAD_SOURCE_ROOT "/tests/layer_examples.json");
  std::stringstream text;
  text << file.rdbuf();
  std::set<std::string_view> missing = all_kinds(std::make_index_sequence<std::variant_size_v<Layer>>());
  std::vector<LayerExample> examples;
  const json::value all = json::parse(text.str());
  for (const json::value& said : all.as_array()) {
    examples.push_back(example_of(said.as_object()));
    for (const Layer& layer : examples.back().spec.network("encoder").layers) missing.erase(kind_of(layer));
  }
  check(missing.empty(), "tests/layer_examples.json has no example of {}", fmt::join(missing, ", "));
  return examples;
}

}  // namespace myriad
