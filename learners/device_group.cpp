#include "learners/device_group.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace myriad {
namespace {

class BackendGroup final : public DeviceGroup {
 public:
  explicit BackendGroup(const c10::intrusive_ptr<c10d::Backend>& backend) : backend_(backend) {}
  void all_reduce(const at::Tensor& tensor) override {
    std::vector<at::Tensor> tensors{tensor};
    backend_->allreduce(tensors)->wait();  // on a GPU only the stream waits
  }
  int64_t rank() const override { return backend_->getRank(); }
  int64_t size() const override { return backend_->getSize(); }
  bool recordable() const override { return true; }

 private:
  c10::intrusive_ptr<c10d::Backend> backend_;
};

class HostGroup final : public DeviceGroup {
 public:
  explicit HostGroup(Collective& collective) : collective_(collective) {}
  void all_reduce(const at::Tensor& tensor) override {
    const at::Tensor host = tensor.is_cpu() ? tensor : tensor.cpu();
    collective_.all_reduce(std::span<float>(host.mutable_data_ptr<float>(), static_cast<size_t>(host.numel())));
    if (!tensor.is_cpu()) tensor.copy_(host);
  }
  int64_t rank() const override { return collective_.rank(); }
  int64_t size() const override { return collective_.size(); }
  bool recordable() const override { return false; }

 private:
  Collective& collective_;
};

}  // namespace

std::unique_ptr<DeviceGroup> make_backend_group(const c10::intrusive_ptr<c10d::Backend>& backend) {
  return std::make_unique<BackendGroup>(backend);
}
std::unique_ptr<DeviceGroup> make_host_group(Collective& collective) { return std::make_unique<HostGroup>(collective); }

}  // namespace myriad
