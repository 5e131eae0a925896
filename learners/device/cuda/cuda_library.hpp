// The door of libmyriad_cuda.so: one struct of functions, found by one name. learners/device/device_support.cpp opens
// it.
#pragma once

#include "learners/device/device_support.hpp"

namespace myriad {

/// Changes with DeviceSupport or this struct: a library left over from another build is refused.
constexpr uint32_t kCudaLibraryVersion = 1;

struct CudaLibrary {
  uint32_t version;
  int (*num_devices)();                ///< that the driver shows; 0 without one
  DeviceSupport* (*open)(int device);  ///< the caller owns it; throws std::exception, as the next
  c10::intrusive_ptr<c10d::Backend> (*make_nccl)(int device, const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                                 int size, std::chrono::milliseconds timeout);
};

constexpr const char* kCudaLibraryFile = "libmyriad_cuda.so";
constexpr const char* kCudaLibrarySymbol = "myriad_cuda_library";  ///< extern "C" const CudaLibrary

}  // namespace myriad
