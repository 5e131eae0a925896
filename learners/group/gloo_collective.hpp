// A Collective between CPU shards: torch's Gloo process group, whose members find each other through a Rendezvous.
// No torch in this header.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "learners/group/collective.hpp"
#include "learners/group/rendezvous.hpp"

namespace myriad {

/// Joins the group of `size` shards as `rank` and returns when it is connected to all others. `host`: this machine's
/// address for them. `deadline`: of forming the group, and of each operation. Throws GroupBroken when the group does
/// not form in time, or the rendezvous ends. One thread works for the group and one for its sockets.
/// `overlap_floats`: Collective's; by default nothing overlaps on the loopback, where a sum is work of the same cores.
std::unique_ptr<Collective> make_gloo_collective(Rendezvous& rendezvous, uint32_t rank, uint32_t size,
                                                 const std::string& host, std::chrono::milliseconds deadline,
                                                 std::optional<size_t> overlap_floats = std::nullopt);

}  // namespace myriad
