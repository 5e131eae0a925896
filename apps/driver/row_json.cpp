#include "apps/driver/row_json.hpp"

namespace myriad {

namespace json = boost::json;

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
