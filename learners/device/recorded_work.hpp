// RecordedWork: device work that comes again and again in a few shapes. The first times it runs as it is, which warms
// up what torch and its libraries allocate; then it is recorded, and from then on replayed. Owned by TorchTrainer; one
// thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "learners/device/device_support.hpp"

namespace myriad {

class RecordedWork {
 public:
  /// `record`: false runs everything as it is.
  RecordedWork(DeviceSupport& support, bool record) : support_(support), record_(record) {}

  /// Inside DeviceSupport::run(). `shape` names what `work` does and every size in it; `tensors` are those it shares
  /// with the rest: they must lie where they lay when it was recorded. Throws Error when they do not.
  void run(const std::string& shape, std::span<const at::Tensor> tensors, const std::function<void()>& work);

  /// Forgets the recordings, counted as "forgotten_" + why: memory moved, shapes changed, a group is gone.
  void forget(const std::string& why);

  /// Runs so far: "replayed", and those that were not by reason: "warm_up", "off", "too_many_shapes", "not_recorded".
  const std::map<std::string, int64_t>& counts() const { return counts_; }
  const std::string& failure() const { return failure_; }  ///< why recording failed, "" if it did not

 private:
  static constexpr int64_t kWarmUps = 2;
  static constexpr size_t kShapes = 16;  ///< each holds memory of its own

  struct Piece {
    int64_t runs = 0;
    std::unique_ptr<DeviceGraph> graph;
    std::vector<const void*> addresses;
  };
  void record(Piece& piece, std::span<const at::Tensor> tensors, const std::function<void()>& work);
  const char* reason_to_run(const Piece& piece) const;

  DeviceSupport& support_;
  bool record_;
  std::map<std::string, Piece> pieces_;
  std::map<std::string, int64_t> counts_;
  std::string failure_;
  int64_t broken_ = 0;  ///< groups, amid recordings
};

}  // namespace myriad
