// What a role gave back: how many outputs of a kind, and the first of them.
#pragma once

#include <variant>
#include <vector>

namespace myriad {

template <class T, class Output>
size_t count(const std::vector<Output>& outputs) {
  size_t n = 0;
  for (const auto& output : outputs) n += std::holds_alternative<T>(output) ? 1 : 0;
  return n;
}

template <class T, class Output>
const T* find(const std::vector<Output>& outputs) {
  for (const auto& output : outputs)
    if (const T* found = std::get_if<T>(&output)) return found;
  return nullptr;
}

}  // namespace myriad
