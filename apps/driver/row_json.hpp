// A row of a space as JSON.
#pragma once

#include <boost/json.hpp>
#include <span>

#include "rl/space.hpp"

namespace myriad {

/// A list for a leaf, a bare number for Discrete; an object of leaves by their paths for a Dict or Tuple.
boost::json::value row_json(const Space& space, std::span<const std::byte> row);

}  // namespace myriad
