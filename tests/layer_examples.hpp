// Every kind of layer with numbers worked out by hand: tests/layer_examples.json, which the tests of all executors
// read: torch's, EigenPolicy's and the Python Policy's.
#pragma once

#include <string>
#include <vector>

#include "rl/module_spec.hpp"

namespace myriad {

/// Layers that give `y` for the observation `x`. `spec` has them as its encoder, and the identity as its action head:
/// its action_dist_inputs are y. A value head of zeros shares the encoder.
struct LayerExample {
  std::string about;
  ModuleSpec spec;
  std::vector<float> parameters;  ///< of all of the spec
  std::vector<float> x, y;
};

/// Throws Error for a kind of layer that no example has.
std::vector<LayerExample> layer_examples();

}  // namespace myriad
