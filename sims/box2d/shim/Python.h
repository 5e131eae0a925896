// Stands in for Python's header, which pybox2d's Box2D includes for its assertions: here they throw in C++.
#pragma once

#include <stdexcept>

#define PyErr_SetString(type, text) throw std::logic_error("Box2D: " text)
