// BatchAssembler: puts fragments side by side into one [T, N] batch while the previous batch is being trained on.
//
// A batch is itself a Fragment, of N = places x B environments; place p fills columns [p*B, (p+1)*B). final_obs rows
// are merged at the end into time-major order over all environments. Owned by the learner's I/O thread; a finished
// batch is lent to the update thread and comes back when the next one is taken: fragments may be added meanwhile, as
// there are two buffers. No torch here.
#pragma once

#include <memory>
#include <vector>

#include "rl/fragment.hpp"
#include "rl/system.hpp"

namespace myriad {

class BatchAssembler {
 public:
  /// `layout`: of one fragment; a batch has `places` of them.
  BatchAssembler(std::shared_ptr<const FragmentLayout> layout, uint32_t places);

  const FragmentLayout& batch_layout() const { return *batch_layout_; }
  size_t places() const { return places_; }
  size_t environments_of_place() const { return static_cast<size_t>(layout_->environments()); }

  /// Copies a checked fragment's buffer to `place`.
  void add(uint32_t place, SharedBytes buffer, size_t final_rows);

  /// The batch under assembly, complete; assembly goes on in the other buffer. Valid until the next take(), which comes
  /// when the update thread is done with it.
  Fragment& take(uint64_t weights_version);

  /// The batch under assembly, complete, to be saved: it stays where it is.
  Fragment& pending(uint64_t weights_version);
  /// Continues with a batch that was saved: its columns and final_rows are filled in, as after pending(); then take()
  /// it.
  Fragment& set_pending();

 private:
  std::shared_ptr<const FragmentLayout> layout_, batch_layout_;
  uint32_t places_;
  std::unique_ptr<Fragment> buffers_[2];
  int filling_ = 0;
  struct Tail {
    SharedBytes buffer;
    size_t final_rows = 0;
  };
  std::vector<Tail> tails_;  // by place
  bool merged_ = false;      // final_obs rows are in the batch
};

}  // namespace myriad
