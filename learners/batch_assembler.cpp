#include "learners/batch_assembler.hpp"

#include <cstring>

#include "rl/check.hpp"

namespace myriad {
namespace {

std::shared_ptr<const FragmentLayout> wide_layout(const FragmentLayout& layout, uint32_t places) {
  auto wide = std::make_shared<FragmentLayout>(layout.steps(), layout.environments() * static_cast<int>(places),
                                               layout.frame_stack());
  for (const Column& column : layout.columns()) wide->add(column.name, column.rows, column.dtype, column.shape);
  return wide;
}

}  // namespace

BatchAssembler::BatchAssembler(std::shared_ptr<const FragmentLayout> layout, uint32_t places)
    : layout_(std::move(layout)), batch_layout_(wide_layout(*layout_, places)), places_(places), tails_(places) {
  for (auto& buffer : buffers_) buffer = std::make_unique<Fragment>(batch_layout_);
}

void BatchAssembler::add(uint32_t place, SharedBytes buffer, size_t final_rows) {
  check(place < places_, "place {} of {}", place, places_);
  check(buffer.view.size() == layout_->used_bytes(final_rows), "a fragment of {} bytes, want {}", buffer.view.size(),
        layout_->used_bytes(final_rows));
  Fragment& batch = *buffers_[filling_];
  for (size_t c = 0; c < layout_->columns().size(); ++c) {
    const Column& from = layout_->columns()[c];
    if (from.rows == Rows::final_step) continue;
    const Column& to = batch_layout_->columns()[c];
    const size_t run = static_cast<size_t>(layout_->environments()) * from.row_bytes;  // one time step of this fragment
    const size_t times = layout_->rows(from) / static_cast<size_t>(layout_->environments());
    const std::byte* source = buffer.view.data() + from.offset;
    std::byte* target = batch.buffer().data() + to.offset + place * run;
    for (size_t t = 0; t < times; ++t) std::memcpy(target + t * run * places_, source + t * run, run);
  }
  tails_[place] = {std::move(buffer), final_rows};
}

Fragment& BatchAssembler::take(uint64_t weights_version) {
  Fragment& batch = pending(weights_version);
  filling_ = 1 - filling_;
  merged_ = false;
  return batch;
}

Fragment& BatchAssembler::set_pending() {
  merged_ = true;
  return *buffers_[filling_];
}

Fragment& BatchAssembler::pending(uint64_t weights_version) {
  Fragment& batch = *buffers_[filling_];
  batch.weights_version = weights_version;
  if (std::exchange(merged_, true)) return batch;
  batch.final_rows = 0;
  const Column* tail = layout_->find("final_obs");
  if (tail != nullptr) {
    const Column& target = batch_layout_->column("final_obs");
    const Column& terminateds = batch_layout_->column("terminateds");
    const Column& truncateds = batch_layout_->column("truncateds");
    const size_t environments = static_cast<size_t>(layout_->environments());
    std::vector<size_t> next(places_, 0);
    for (size_t i = 0; i < batch_layout_->rows(truncateds); ++i) {
      if (*batch.row(truncateds, i) == std::byte{0} || *batch.row(terminateds, i) != std::byte{0}) continue;
      const size_t place = i / environments % places_;
      const Tail& source = tails_[place];
      check(next[place] < source.final_rows, "place {} lacks final_obs row {}", place, next[place]);
      std::memcpy(batch.row(target, batch.final_rows++),
                  source.buffer.view.data() + tail->offset + next[place]++ * tail->row_bytes, tail->row_bytes);
    }
  }
  for (Tail& t : tails_) t = {};
  return batch;
}

}  // namespace myriad
