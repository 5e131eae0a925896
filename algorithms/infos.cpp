// For programs without torch: the algorithms whose settings and AlgorithmInfo are in their header.
#include "algorithms/a2c.hpp"
