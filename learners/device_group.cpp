#include "learners/device_group.hpp"

#include <ATen/ATen.h>

#include <atomic>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "learners/device_support.hpp"
#include "learners/rendezvous_store.hpp"

namespace myriad {
namespace {

class BackendGroup : public DeviceGroup {
 public:
  BackendGroup(const c10::intrusive_ptr<c10d::Backend>& backend, size_t overlap_floats)
      : backend_(backend), overlap_floats_(overlap_floats) {}
  void all_reduce(const at::Tensor& tensor) override {
    begin_all_reduce(tensor);
    finish();
  }
  size_t overlap_floats() const override { return overlap_floats_; }
  void begin_all_reduce(const at::Tensor& tensor) override {
    require_alive();
    std::vector<at::Tensor> tensors{tensor};
    try {
      works_.push_back(backend_->allreduce(tensors));
    } catch (const std::exception& error) { throw GroupBroken(error.what()); }
  }
  void finish() override {
    try {
      for (const auto& work : std::exchange(works_, {})) work->wait();  // on a GPU only the stream waits
    } catch (const std::exception& error) { throw GroupBroken(error.what()); }
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
  c10::intrusive_ptr<c10d::Backend> backend_;
  size_t overlap_floats_;
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
  std::atomic<bool> over_{false};
};

class HostGroup final : public DeviceGroup {
 public:
  explicit HostGroup(Collective& collective) : collective_(collective) {}
  void all_reduce(const at::Tensor& tensor) override {
    const at::Tensor host = tensor.is_cpu() ? tensor : tensor.cpu();
    collective_.all_reduce(std::span<float>(host.mutable_data_ptr<float>(), static_cast<size_t>(host.numel())));
    if (!tensor.is_cpu()) tensor.copy_(host);
  }
  void begin_all_reduce(const at::Tensor& tensor) override { all_reduce(tensor); }
  void finish() override {}
  size_t overlap_floats() const override { return 0; }
  int64_t rank() const override { return collective_.rank(); }
  int64_t size() const override { return collective_.size(); }
  bool recordable() const override { return false; }
  void abort() noexcept override { collective_.abort(); }
  void require_alive() const override {}  // the collective throws

 private:
  Collective& collective_;
};

}  // namespace

std::unique_ptr<DeviceGroup> make_backend_group(const c10::intrusive_ptr<c10d::Backend>& backend,
                                                size_t overlap_floats) {
  return std::make_unique<BackendGroup>(backend, overlap_floats);
}

std::unique_ptr<DeviceGroup> make_nccl_group(const std::shared_ptr<Rendezvous>& rendezvous, c10::Device device,
                                             uint32_t rank, uint32_t size, std::chrono::milliseconds deadline) {
  struct NcclGroup final : BackendGroup {
    NcclGroup(const c10::intrusive_ptr<c10d::Backend>& backend, std::shared_ptr<Rendezvous> meeting,
              std::shared_ptr<RendezvousLink> way)
        : BackendGroup(backend, kOverlapFloats), rendezvous(std::move(meeting)), link(std::move(way)) {}
    ~NcclGroup() override { link->cut(); }
    std::shared_ptr<Rendezvous> rendezvous;
    std::shared_ptr<RendezvousLink> link;
  };
  auto link = std::make_shared<RendezvousLink>(*rendezvous);
  const auto backend = make_nccl_backend(device, make_rendezvous_store(link, deadline), static_cast<int>(rank),
                                         static_cast<int>(size), deadline);
  return std::make_unique<NcclGroup>(backend, rendezvous, std::move(link));
}

std::unique_ptr<DeviceGroup> make_host_group(Collective& collective) { return std::make_unique<HostGroup>(collective); }

}  // namespace myriad
