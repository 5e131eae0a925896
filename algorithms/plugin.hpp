// Everything that an algorithm out of tree is written with; installed as <myriad/algorithm.hpp>.
// docs/howto-algorithm.md#out-of-tree
#pragma once

#include <ATen/ATen.h>

#include <array>

#include "algorithms/ops/device_targets.hpp"
#include "algorithms/ops/kl_coefficient.hpp"
#include "algorithms/ops/sample_loss.hpp"
#include "learners/algorithm_plugin.hpp"
#include "learners/module/action_distribution.hpp"
