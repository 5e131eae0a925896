#include "learners/group/device_group.hpp"

#include <ATen/ATen.h>

#include <atomic>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace myriad {
namespace {

class BackendGroup final : public DeviceGroup {
 public:
  BackendGroup(const c10::intrusive_ptr<c10d::Backend>& backend, size_t overlap_floats, std::shared_ptr<void> meeting)
      : backend_(backend), overlap_floats_(overlap_floats), meeting_(std::move(meeting)) {}
  void all_reduce(const at::Tensor& tensor) override {
    begin_all_reduce(tensor);
    finish();
  }
  size_t overlap_floats() const override { return overlap_floats_; }
  void begin_all_reduce(const at::Tensor& tensor) override {
    std::vector<at::Tensor> tensors{tensor};
    begin([&] { return backend_->allreduce(tensors); });
  }
  void finish() override {
    try {
      for (const auto& work : std::exchange(works_, {})) work->wait();  // on a GPU only the stream waits
    } catch (const std::exception& error) { throw GroupBroken(error.what()); }
  }
  void broadcast(const at::Tensor& tensor, uint32_t root) override {
    std::vector<at::Tensor> tensors{tensor};
    begin([&] { return backend_->broadcast(tensors, with_root<c10d::BroadcastOptions>(root)); });
    finish();
  }
  void reduce(const at::Tensor& tensor, uint32_t root) override {
    std::vector<at::Tensor> tensors{tensor};
    begin([&] { return backend_->reduce(tensors, with_root<c10d::ReduceOptions>(root)); });
    finish();
  }
  void all_gather(const at::Tensor& all) override {
    at::Tensor result = all, own = all.chunk(size())[static_cast<size_t>(rank())];
    begin([&] { return backend_->_allgather_base(result, own); });
    finish();
  }
  void require_alive() const override {
    if (over_) throw GroupBroken("aborted");
  }
  void abort() noexcept override {
    over_ = true;  // first: what the abort ends is not to be believed
    try {
      backend_->abort();
    } catch (const std::exception&) {}  // it has none, or is gone
  }
  int64_t rank() const override { return backend_->getRank(); }
  int64_t size() const override { return backend_->getSize(); }
  bool recordable() const override { return true; }

 private:
  template <class Options>
  static Options with_root(uint32_t root) {
    Options options;
    options.rootRank = root;
    return options;
  }
  template <class F>
  void begin(F&& operation) {
    require_alive();
    try {
      works_.push_back(operation());
    } catch (const std::exception& error) { throw GroupBroken(error.what()); }
  }

  c10::intrusive_ptr<c10d::Backend> backend_;
  size_t overlap_floats_;
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
  std::atomic<bool> over_{false};
  std::shared_ptr<void> meeting_;  // it ends before the backend does
};

class HostGroup final : public DeviceGroup {
 public:
  explicit HostGroup(Collective& collective) : collective_(collective) {}
  void all_reduce(const at::Tensor& tensor) override {
    on_host(tensor, true, true, [this](std::span<float> values) { collective_.all_reduce(values); });
  }
  void broadcast(const at::Tensor& tensor, uint32_t root) override {
    const bool mine = root == collective_.rank();
    on_host(tensor, mine, !mine,
            [&](std::span<float> values) { collective_.broadcast(std::as_writable_bytes(values), root); });
  }
  void reduce(const at::Tensor& tensor, uint32_t root) override {
    on_host(tensor, true, root == collective_.rank(),
            [&](std::span<float> values) { collective_.reduce(values, root); });
  }
  void all_gather(const at::Tensor& all) override {
    const auto own = [this](const at::Tensor& x) { return x.chunk(collective_.size())[collective_.rank()]; };
    const at::Tensor host = all.is_cpu() ? all : at::empty(all.sizes(), at::kFloat);
    if (!all.is_cpu()) own(host).copy_(own(all));
    collective_.all_gather(std::as_writable_bytes(floats_of(host)), own(host).nbytes());
    if (!all.is_cpu()) all.copy_(host);
  }
  void begin_all_reduce(const at::Tensor& tensor) override {
    if (!tensor.is_cpu()) return all_reduce(tensor);
    collective_.begin_all_reduce(floats_of(tensor));
  }
  void finish() override { collective_.finish(); }
  size_t overlap_floats() const override { return collective_.overlap_floats(); }
  int64_t rank() const override { return collective_.rank(); }
  int64_t size() const override { return collective_.size(); }
  bool recordable() const override { return false; }
  void abort() noexcept override { collective_.abort(); }
  void require_alive() const override {}  // the collective throws

 private:
  static std::span<float> floats_of(const at::Tensor& host) {
    return {host.mutable_data_ptr<float>(), static_cast<size_t>(host.numel())};
  }
  /// `gives`, `takes`: whether this shard's values matter to the operation, and what it makes of them to this shard.
  template <class F>
  static void on_host(const at::Tensor& tensor, bool gives, bool takes, F&& operation) {
    if (tensor.is_cpu()) return operation(floats_of(tensor));
    const at::Tensor host = gives ? tensor.cpu() : at::empty(tensor.sizes(), at::kFloat);
    operation(floats_of(host));
    if (takes) tensor.copy_(host);
  }

  Collective& collective_;
};

}  // namespace

std::unique_ptr<DeviceGroup> make_backend_group(const c10::intrusive_ptr<c10d::Backend>& backend, size_t overlap_floats,
                                                std::shared_ptr<void> meeting) {
  return std::make_unique<BackendGroup>(backend, overlap_floats, std::move(meeting));
}

std::unique_ptr<DeviceGroup> make_host_group(Collective& collective) { return std::make_unique<HostGroup>(collective); }

}  // namespace myriad
