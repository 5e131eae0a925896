#include "rl/observation_parts.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <numeric>

#include "rl/check.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

/// The features of a leaf as rl/space.hpp flattens it.
int features_of(const json::object& leaf) {
  const std::string_view kind = leaf.at("kind").as_string();
  const auto all = [&](const char* key, auto join, int begin) {
    const json::value& value = leaf.at(key);
    if (!value.is_array()) return value.to_number<int>();
    const json::array& numbers = value.as_array();
    return std::accumulate(numbers.begin(), numbers.end(), begin,
                           [&](int so_far, const json::value& n) { return join(so_far, n.to_number<int>()); });
  };
  if (kind == "Box") return all("shape", std::multiplies<>(), 1);
  if (kind == "Discrete") return all("n", std::plus<>(), 0);
  if (kind == "MultiDiscrete") return all("nvec", std::plus<>(), 0);
  if (kind == "MultiBinary") return all("n", std::multiplies<>(), 1);
  throw std::invalid_argument(fmt::format("a space of kind {}", kind));
}

void collect(const json::object& space, const std::string& path, std::vector<ObservationPart>& parts) {
  if (!space.contains("spaces")) return parts.push_back({path, features_of(space)});
  const json::array& spaces = space.at("spaces").as_array();
  for (size_t i = 0; i < spaces.size(); ++i) {
    const std::string name =
        space.contains("names") ? std::string(space.at("names").as_array().at(i).as_string()) : std::to_string(i);
    collect(spaces[i].as_object(), path.empty() ? name : path + "/" + name, parts);
  }
}

std::string names_of(std::span<const ObservationPart> parts) {
  if (parts.size() == 1 && parts[0].path.empty()) return "no parts";
  std::vector<std::string_view> names;
  for (const ObservationPart& part : parts) names.push_back(part.path);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::vector<ObservationPart> observation_parts(const Space& space) {
  std::vector<ObservationPart> parts;
  for (const Leaf& leaf : space.leaves()) parts.push_back({leaf.path, leaf.space->flat_size()});
  return parts;
}

std::vector<ObservationPart> saved_observation_parts(std::string_view spaces_json, std::string_view file) {
  std::vector<ObservationPart> parts;
  try {
    const json::value spaces = json::parse(json::string_view(spaces_json.data(), spaces_json.size()));
    collect(spaces.at("observation").as_object(), "", parts);
  } catch (const std::exception& error) { fail(Exit::usage, "corrupt-file", "{}: {}", file, error.what()); }
  return parts;
}

std::vector<int> features_by_path(std::span<const ObservationPart> from, std::span<const ObservationPart> to) {
  std::vector<int> features;
  bool any = false;
  for (const ObservationPart& part : to) {
    int begin = 0;
    const auto found = std::ranges::find(from, part.path, &ObservationPart::path);
    for (auto before = from.begin(); found != from.end() && before != found; ++before) begin += before->size;
    if (found != from.end() && found->size != part.size)
      fail(Exit::usage, "foreign-checkpoint", "{} {} features in the checkpoint's observations, this run's {}",
           part.path.empty() ? std::string("there are") : fmt::format("'{}' has", part.path), found->size, part.size);
    any |= found != from.end();
    for (int i = 0; i < part.size; ++i) features.push_back(found == from.end() ? -1 : begin + i);
  }
  if (!any)
    fail(Exit::usage, "foreign-checkpoint",
         "no part of the observations has the same name in the checkpoint ({}) and in this run ({})", names_of(from),
         names_of(to));
  return features;
}

}  // namespace myriad
