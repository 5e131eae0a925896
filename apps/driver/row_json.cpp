#include "apps/driver/row_json.hpp"

#include <cmath>

namespace myriad {

namespace json = boost::json;

namespace {

json::array bounds_json(const std::vector<double>& bounds) {
  json::array values;
  for (const double bound : bounds) values.push_back(std::isfinite(bound) ? json::value(bound) : json::value());
  return values;
}

json::object space_json(const Space& space) {
  if (const auto* box = space.get_if<Box>())
    return {{"kind", "Box"},
            {"dtype", name_of(box->dtype)},
            {"shape", json::value_from(box->shape)},
            {"low", bounds_json(box->low)},
            {"high", bounds_json(box->high)}};
  if (const auto* one = space.get_if<Discrete>()) return {{"kind", "Discrete"}, {"n", one->n}, {"start", one->start}};
  if (const auto* multi = space.get_if<MultiDiscrete>()) {
    json::object said{{"kind", "MultiDiscrete"}, {"nvec", json::value_from(multi->nvec)}};
    if (!multi->start.empty()) said["start"] = json::value_from(multi->start);
    if (!multi->shape.empty()) said["shape"] = json::value_from(multi->shape);
    return said;
  }
  if (const auto* binary = space.get_if<MultiBinary>()) {
    json::object said{{"kind", "MultiBinary"}, {"n", binary->n}};
    if (!binary->shape.empty()) said["shape"] = json::value_from(binary->shape);
    return said;
  }
  json::array names, spaces;
  if (const auto* dict = space.get_if<Dict>())
    for (const auto& [name, part] : dict->spaces)
      names.push_back(json::value(name)), spaces.push_back(space_json(part));
  if (const auto* tuple = space.get_if<Tuple>())
    for (const Space& part : tuple->spaces) spaces.push_back(space_json(part));
  if (names.empty()) return {{"kind", "Tuple"}, {"spaces", spaces}};
  return {{"kind", "Dict"}, {"names", names}, {"spaces", spaces}};
}

}  // namespace

std::string spaces_json(const Space& observation, const Space& action) {
  return json::serialize(json::object{{"observation", space_json(observation)}, {"action", space_json(action)}}) + "\n";
}

json::value row_json(const Space& space, std::span<const std::byte> row) {
  json::object leaves;
  json::value only;
  for (const Leaf& leaf : space.leaves()) {
    json::array values;
    for (size_t i = 0; i < leaf.count; ++i) {
      const std::byte* at = row.data() + leaf.offset + i * size_of(leaf.dtype);
      switch (leaf.dtype) {
        case DType::f32:
          values.push_back(static_cast<double>(*reinterpret_cast<const float*>(at)));
          break;
        case DType::f64:
          values.push_back(*reinterpret_cast<const double*>(at));
          break;
        case DType::u8:
          values.push_back(*reinterpret_cast<const uint8_t*>(at));
          break;
        case DType::i32:
          values.push_back(*reinterpret_cast<const int32_t*>(at));
          break;
        case DType::i64:
          values.push_back(*reinterpret_cast<const int64_t*>(at));
          break;
      }
    }
    only = leaf.space->get_if<Discrete>() != nullptr ? values[0] : json::value(values);
    leaves[leaf.path] = only;
  }
  return space.is_leaf() ? only : json::value(leaves);
}

}  // namespace myriad
