#include "learners/device/recorded_work.hpp"

#include "learners/group/collective.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

std::vector<const void*> addresses_of(std::span<const at::Tensor> tensors) {
  std::vector<const void*> addresses;
  for (const at::Tensor& tensor : tensors) addresses.push_back(tensor.const_data_ptr());
  return addresses;
}

}  // namespace

void RecordedWork::run(const std::string& shape, std::span<const at::Tensor> tensors,
                       const std::function<void()>& work) {
  if (record_ && pieces_.size() >= kShapes && !pieces_.contains(shape)) {
    ++counts_["too_many_shapes"];
    work();
    return;
  }
  Piece& piece = pieces_[shape];
  if (record_ && piece.graph == nullptr && piece.runs++ >= kWarmUps) record(piece, tensors, work);
  if (piece.graph == nullptr) {
    ++counts_[reason_to_run(piece)];
    work();
    return;
  }
  check(addresses_of(tensors) == piece.addresses, "the tensors of '{}' moved after it was recorded", shape);
  ++counts_["replayed"];
  piece.graph->replay();
}

void RecordedWork::forget(const std::string& why) {
  if (pieces_.empty()) return;
  ++counts_["forgotten_" + why];
  pieces_.clear();
}

void RecordedWork::record(Piece& piece, std::span<const at::Tensor> tensors, const std::function<void()>& work) {
  try {
    piece.graph = support_.record(work);
    piece.addresses = addresses_of(tensors);
    if (piece.graph == nullptr) failure_ = "the device records nothing";
  } catch (const GroupBroken& error) {  // a peer died, or the group's sums cannot be recorded
    if (broken_++ > 0) failure_ = error.what();
    record_ = failure_.empty();
    throw;
  } catch (const std::exception& error) { failure_ = error.what(); }
  record_ = piece.graph != nullptr;  // what failed once is not tried again
}

const char* RecordedWork::reason_to_run(const Piece& piece) const {
  if (!failure_.empty()) return "not_recorded";
  return record_ && piece.runs <= kWarmUps ? "warm_up" : "off";
}

}  // namespace myriad
