// Spaces: what an observation or an action looks like, in Gymnasium's vocabulary.
//
// Dict and Tuple keep their structure but are stored flat: a row is the leaves side by side in one run of bytes,
// each leaf aligned to its element and the row padded so that rows in an array stay aligned. Discrete, MultiDiscrete
// and MultiBinary elements are int32; a Box has a type of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "rl/random.hpp"

namespace myriad {

enum class DType : uint8_t { f32 = 0, f64 = 1, u8 = 2, i32 = 3, i64 = 4 };
size_t size_of(DType dtype);
std::string_view name_of(DType dtype);

/// Real vectors or tensors between `low` and `high` (one value each, or one for every element). In a Space bounds of
/// real numbers from kUnbounded on are infinite: what stands for "any", as the largest float32, is no range.
struct Box {
  std::vector<double> low, high;
  std::vector<int> shape;
  DType dtype = DType::f32;
};
inline constexpr double kUnbounded = 1e30;
/// Of element i: bounds are one, or one of each.
inline double bound_at(const std::vector<double>& bounds, size_t i) { return bounds[bounds.size() == 1 ? 0 : i]; }
/// "" or what keeps it from being a space, after its name: "has a low above its high, or no number".
std::string problem_of(const Box& box);

struct Discrete {
  int n = 0;
  int start = 0;
};  ///< one integer in [start, start + n)
struct MultiDiscrete {
  std::vector<int> nvec;
  std::vector<int> start = {};  ///< the least value of each; empty: 0
  std::vector<int> shape = {};  ///< as its owner sees it; empty: one dimension
  int start_at(size_t i) const { return start.empty() ? 0 : start[i]; }
};  ///< element i in [start_at(i), start_at(i) + nvec[i])
struct MultiBinary {
  int n = 0;
  std::vector<int> shape = {};  ///< as that of MultiDiscrete
};                              ///< n elements in {0, 1}

inline constexpr int64_t kMaxFeatures = 1 << 26;  ///< of one Space: Space::flat_size()

class Space;
struct Dict {
  std::vector<std::pair<std::string, Space>> spaces;
};
struct Tuple {
  std::vector<Space> spaces;
};

/// One leaf of a flattened space.
struct Leaf {
  std::string path;    ///< "camera/rgb", "0/velocity"; "" for a space that is itself a leaf
  const Space* space;  ///< the leaf's own space; lives as long as any copy of the Space it came from
  DType dtype;
  std::vector<int> shape;  ///< element counts; Discrete is [1]
  size_t count;            ///< product of shape
  size_t offset;           ///< bytes from the start of the row
};

class Space {
 public:
  using Kind = std::variant<Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple>;
  /// Throws Error("unsupported-space") for more than kMaxFeatures features.
  Space(Kind kind);  // NOLINT: a Space is made from any of its kinds
  template <class K>
  requires std::is_constructible_v<Kind, K> Space(K kind) : Space(Kind(std::move(kind))) {}

  /// A Box with the same bounds for every element.
  static Space box(double low, double high, std::vector<int> shape, DType dtype = DType::f32);
  static Space discrete(int n, int start = 0) { return Space(Discrete{n, start}); }

  const Kind& kind() const { return *kind_; }
  template <class K>
  const K* get_if() const {
    return std::get_if<K>(kind_.get());
  }

  std::span<const Leaf> leaves() const { return leaves_; }
  bool is_leaf() const { return leaves_.size() == 1 && leaves_[0].path.empty(); }
  size_t row_bytes() const { return row_bytes_; }

  /// The number of float32 elements after flattening: Discrete and MultiDiscrete one-hot, Box and MultiBinary as they
  /// are.
  int flat_size() const { return flat_size_; }

  /// "" when the row lies in the space, else one fact: `obs[3] = nan`, `action[0] = 7 outside [0, 2)`.
  std::string violation(std::span<const std::byte> row, std::string_view name) const;

  /// Writes a uniformly drawn element (unbounded Box sides: standard normal, as Gymnasium's sample does).
  void sample(RandomStream& random, std::span<std::byte> row) const;

  /// Gymnasium's notation, e.g. `Box(-1.0, 1.0, (6,), float32)`.
  std::string to_string() const;

 private:
  Space() = default;
  void lay_out(const Space* self);

  std::shared_ptr<const Kind> kind_;  // shared: a Space is copied often and never changes
  std::vector<Leaf> leaves_;
  size_t row_bytes_ = 0;
  int flat_size_ = 0;
};

}  // namespace myriad
