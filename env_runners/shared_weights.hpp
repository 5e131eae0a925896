// Shared weights: one copy a host. The agent writes versions into buffers of one memfd; every runner maps them
// read-only and infers on them in place.
//
//   memfd, sealed:     [newest][buffer 0: filter, published, values][buffer 1] ...       writable by the agent alone
//   a page a runner:   [pinned buffer][progress][environments made][that start]        shared by it and the agent alone
//
// A runner pins the newest buffer for a fragment (hazard pointers: Michael 2004): it writes the pin, then sees that the
// buffer is still the newest. The agent writes only to buffers without a pin. What a runner writes to its page can
// delay new weights, never break them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>

#include "rl/shared_memory.hpp"
#include "rl/weights.hpp"

namespace myriad {

/// Of one runner; zeros at first.
struct RunnerPage {
  std::atomic<uint32_t> pinned{0};    ///< index of the buffer in use + 1
  std::atomic<uint64_t> progress{0};  ///< grows while it starts and steps
  std::atomic<uint32_t> made{0};      ///< environments of its simulators; while they start
  std::atomic<uint32_t> starts{0};    ///< environments that start; `progress` grows after each change
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

struct SharedWeightsLayout {
  static constexpr uint32_t kBuffers = 8;
  size_t num_values = 0, num_filter = 0, num_published = 0;
  size_t buffer_bytes() const;
  size_t values_offset() const;
  size_t bytes() const;  ///< of the whole region
};

class SharedWeightsWriter {
 public:
  SharedWeightsWriter(const SharedWeightsLayout& layout, std::byte* region) : layout_(layout), region_(region) {}
  /// Makes `weights` the newest. False when every other buffer is pinned: try again later. `pinned(i)` says whether
  /// some runner's page names buffer i + 1.
  bool publish(const Weights& weights, const std::function<bool(uint32_t buffer)>& pinned);
  uint64_t version_in(uint32_t buffer) const { return versions_[buffer]; }

 private:
  std::array<uint64_t, SharedWeightsLayout::kBuffers> versions_{};
  SharedWeightsLayout layout_;
  std::byte* region_;
};

class SharedWeightsReader {
 public:
  SharedWeightsReader(const SharedWeightsLayout& layout, const std::byte* region, RunnerPage& page)
      : layout_(layout), region_(region), page_(page) {}
  /// The newest weights, in place until release(); nullopt before the first.
  std::optional<WeightsView> acquire();
  void release() { page_.pinned.store(0, std::memory_order_release); }

 protected:                                         // the steps of acquire(): a test lets the writer in between
  uint64_t look() const;                            ///< which buffer is the newest, of which version; 0: none yet
  std::optional<WeightsView> pin(uint64_t newest);  ///< nullopt where that is not the newest any more

 private:
  SharedWeightsLayout layout_;
  const std::byte* region_;
  RunnerPage& page_;
};

}  // namespace myriad
