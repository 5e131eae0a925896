#pragma once
#include <chrono>
#include <memory>
#include "learners/rendezvous.hpp"
namespace myriad {
inline std::unique_ptr<Collective> make_gloo_collective(Rendezvous&, uint32_t, uint32_t, const std::string&, std::chrono::milliseconds) { throw GroupBroken("stub"); }
}
