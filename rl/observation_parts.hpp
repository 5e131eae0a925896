// Parts of an observation by name, for a run that begins with the parameters of one with other observations.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rl/space.hpp"

namespace myriad {

/// A leaf of an observation space, as its features lie in a flat observation.
struct ObservationPart {
  std::string path;  ///< "camera/rgb"; "" for a space that is itself a leaf
  int size;          ///< features
  bool operator==(const ObservationPart&) const = default;
};
std::vector<ObservationPart> observation_parts(const Space& space);

/// Of the observations of a checkpoint, from its spaces.json. Throws Error("corrupt-file").
std::vector<ObservationPart> saved_observation_parts(std::string_view spaces_json, std::string_view file);

/// For each feature of `to`, that of `from` in the part of the same path; -1 where there is none. Throws
/// Error("foreign-checkpoint") where a part has another size, and where no path is the same.
std::vector<int> features_by_path(std::span<const ObservationPart> from, std::span<const ObservationPart> to);

}  // namespace myriad
