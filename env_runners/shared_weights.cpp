#include "env_runners/shared_weights.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kLine = 64;
constexpr size_t padded(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

/// version << 8 | buffer index + 1; 0 = none yet.
using Newest = std::atomic<uint64_t>;

Newest& newest_of(std::byte* region) { return *reinterpret_cast<Newest*>(region); }
const Newest& newest_of(const std::byte* region) { return *reinterpret_cast<const Newest*>(region); }
uint32_t index_of(uint64_t newest) { return static_cast<uint32_t>(newest & 0xff) - 1; }

size_t buffer_offset(const SharedWeightsLayout& layout, uint32_t index) {
  return kLine + index * layout.buffer_bytes();
}

}  // namespace

size_t SharedWeightsLayout::buffer_bytes() const { return values_offset() + padded(num_values * sizeof(float)); }
size_t SharedWeightsLayout::values_offset() const { return padded((num_filter + num_published) * sizeof(double)); }
size_t SharedWeightsLayout::bytes() const { return kLine + kBuffers * buffer_bytes(); }

bool SharedWeightsWriter::publish(const Weights& weights, const std::function<bool(uint32_t buffer)>& pinned) {
  check(weights.values.size() == layout_.num_values && weights.filter.size() == layout_.num_filter &&
            weights.published.size() == layout_.num_published,
        "weights of {} values, {} of the filter and {} published numbers, want {}, {} and {}", weights.values.size(),
        weights.filter.size(), weights.published.size(), layout_.num_values, layout_.num_filter, layout_.num_published);
  const uint64_t newest = newest_of(region_).load(std::memory_order_seq_cst);
  for (uint32_t i = 0; i < SharedWeightsLayout::kBuffers; ++i) {
    if ((newest != 0 && index_of(newest) == i) || pinned(i)) continue;
    std::byte* buffer = region_ + buffer_offset(layout_, i);
    std::byte* end = std::ranges::copy(std::as_bytes(std::span(weights.filter)), buffer).out;
    std::ranges::copy(std::as_bytes(std::span(weights.published)), end);
    std::memcpy(buffer + layout_.values_offset(), weights.values.data(), weights.values.size() * sizeof(float));
    versions_[i] = weights.version;
    newest_of(region_).store(weights.version << 8 | (i + 1), std::memory_order_seq_cst);
    return true;
  }
  return false;
}

std::optional<WeightsView> SharedWeightsReader::acquire() {
  for (;;) {
    const uint64_t newest = look();
    if (newest == 0) return std::nullopt;
    if (const auto view = pin(newest)) return view;
  }
}

uint64_t SharedWeightsReader::look() const { return newest_of(region_).load(std::memory_order_seq_cst); }

std::optional<WeightsView> SharedWeightsReader::pin(uint64_t newest) {
  page_.pinned.store(index_of(newest) + 1, std::memory_order_seq_cst);
  if (look() != newest) return std::nullopt;  // it may be written to already
  const std::byte* buffer = region_ + buffer_offset(layout_, index_of(newest));
  const auto* filter = reinterpret_cast<const double*>(buffer);
  const auto* values = reinterpret_cast<const float*>(buffer + layout_.values_offset());
  return WeightsView(newest >> 8, {values, layout_.num_values}, {filter, layout_.num_filter},
                     {filter + layout_.num_filter, layout_.num_published});
}

}  // namespace myriad
