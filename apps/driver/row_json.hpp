// A space, and a row of it, as JSON.
#pragma once

#include <boost/json.hpp>
#include <span>
#include <string>

#include "rl/space.hpp"

namespace myriad {

/// A list for a leaf, a bare number for Discrete; an object of leaves by their paths for a Dict or Tuple.
boost::json::value row_json(const Space& space, std::span<const std::byte> row);

/// spaces.json of a checkpoint, for programs that play its policy without the environment: {"observation": ...,
/// "action": ...}, each {"kind": "Box", "dtype", "shape", "low", "high"}, {"kind": "Discrete", "n", "start"}, ... as
/// in docs/protocol.md; an infinite bound is null.
std::string spaces_json(const Space& observation, const Space& action);

}  // namespace myriad
