#include "learners/device/nccl_group.hpp"

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "learners/device/device_support.hpp"
#include "learners/group/rendezvous_store.hpp"

namespace myriad {

std::unique_ptr<DeviceGroup> make_nccl_group(const std::shared_ptr<Rendezvous>& rendezvous, c10::Device device,
                                             uint32_t rank, uint32_t size, std::chrono::milliseconds deadline) {
  struct Meeting {
    explicit Meeting(const std::shared_ptr<Rendezvous>& at)
        : rendezvous(at), link(std::make_shared<RendezvousLink>(*at)) {}
    Meeting(const Meeting&) = delete;
    Meeting& operator=(const Meeting&) = delete;
    ~Meeting() { link->cut(); }
    std::shared_ptr<Rendezvous> rendezvous;
    std::shared_ptr<RendezvousLink> link;
  };
  const auto meeting = std::make_shared<Meeting>(rendezvous);
  const auto backend = make_nccl_backend(device, make_rendezvous_store(meeting->link, deadline), static_cast<int>(rank),
                                         static_cast<int>(size), deadline);
  return make_backend_group(backend, kOverlapFloats, meeting);
}

}  // namespace myriad
