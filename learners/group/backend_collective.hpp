// BackendCollective: a Collective over any c10d backend (Gloo; NCCL for CUDA tensors).
//
//   caller's span -> own tensor -> backend's thread -> own tensor -> caller's span
//
// A backend cannot be relied on to end an operation whose peer is silent. So an operation runs on a tensor of the
// collective's own while the caller waits for its end, for abort() or for the deadline. In the last two cases
// operation, tensor and backend are left to a thread that waits for them: nothing they still do can reach memory that
// lives on.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "learners/group/collective.hpp"

namespace myriad {

/// `deadline` of each operation. `disconnect` is called once when the group breaks, by a thread of its own: it lets
/// peers know early; may be empty.
std::unique_ptr<Collective> make_backend_collective(c10::intrusive_ptr<c10d::Backend> backend, at::Device device,
                                                    std::chrono::milliseconds deadline,
                                                    std::function<void()> disconnect, size_t overlap_floats);

}  // namespace myriad
