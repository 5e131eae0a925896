// Weights: a version of a module's parameters and of the connectors' statistics, as it travels and rests.
//
// Published by each learner shard to its agents, when a round begins (sync, lag1) or every broadcast_interval updates
// (async); read by runners at fragment boundaries. The file form is safetensors:
// 8 bytes of header length, a JSON header, the tensors; no code, with readers in every language.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rl/module_spec.hpp"

namespace myriad {

struct Weights {
  uint64_t version = 0;        ///< number of updates published so far; 0 = initial
  uint64_t layout_hash = 0;    ///< ModuleSpec::hash()
  std::vector<float> values;   ///< the inference part (or all), in ModuleSpec's order
  std::vector<double> filter;  ///< MeanStdFilter::state(), empty without one
  /// How to sample with them: Curriculum::at(), then the epsilon of an epsilon-greedy policy; empty without both.
  std::vector<double> published = {};
};
using WeightsPtr = std::shared_ptr<const Weights>;

/// Weights wherever they lie: in a Weights, or in memory shared by a host's runners.
struct WeightsView {
  WeightsView(const Weights& weights)  // NOLINT: a Weights is a view of itself
      : version(weights.version), values(weights.values), filter(weights.filter), published(weights.published) {}
  WeightsView(uint64_t v, std::span<const float> p, std::span<const double> f, std::span<const double> n = {})
      : version(v), values(p), filter(f), published(n) {}
  uint64_t version;
  std::span<const float> values;
  std::span<const double> filter;
  std::span<const double> published;
};

/// Named tensors of a safetensors file.
struct Tensor {
  DType dtype = DType::f32;
  std::vector<size_t> shape;
  std::vector<std::byte> bytes;
  static Tensor of(std::span<const float> values, std::vector<size_t> shape);
  static Tensor of(std::span<const double> values, std::vector<size_t> shape);
  static Tensor of(std::span<const int64_t> values, std::vector<size_t> shape);
  std::vector<float> f32() const;  ///< throws Error("corrupt-file") when the dtype differs
  std::vector<double> f64() const;
  std::vector<int64_t> i64() const;
};
using TensorMap = std::map<std::string, Tensor>;
using Metadata = std::map<std::string, std::string>;

std::vector<std::byte> encode_safetensors(const TensorMap& tensors, const Metadata& metadata = {});

/// Throws Error("corrupt-file") naming `name` and the first thing that does not hold: header length (at most 8 MiB),
/// JSON, dtypes, offsets without holes or overlaps, sizes that match shapes. Nothing is mapped before it is checked.
TensorMap decode_safetensors(std::span<const std::byte> file, std::string_view name, Metadata* metadata = nullptr);

/// The module's parameters under their names, and back. Throws Error("foreign-checkpoint") when names or shapes differ.
TensorMap named_parameters(const ModuleSpec& spec, std::span<const float> values);
std::vector<float> flat_parameters(const ModuleSpec& spec, const TensorMap& tensors, std::string_view name);

}  // namespace myriad
