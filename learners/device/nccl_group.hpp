// The sums of a group over NCCL, one shard a GPU.
#pragma once

#include <chrono>
#include <memory>

#include "learners/group/device_group.hpp"
#include "learners/group/rendezvous.hpp"

namespace myriad {

/// A backend group whose members meet through `rendezvous` at the first sum. `device` is an open CUDA device.
std::unique_ptr<DeviceGroup> make_nccl_group(const std::shared_ptr<Rendezvous>& rendezvous, c10::Device device,
                                             uint32_t rank, uint32_t size, std::chrono::milliseconds deadline);

}  // namespace myriad
