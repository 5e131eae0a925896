// Calls of a plugin's table (sdk/include/myriad/env.h): its arguments and its errors.
#pragma once

#include <stdexcept>

#include "rl/random.hpp"
#include "sdk/include/myriad/env.h"

namespace myriad {

/// A RandomStream as a plugin sees it.
struct PluginRandom : myriad_random {
  explicit PluginRandom(RandomStream* of) : stream(of) {
    bits = [](const myriad_random* r) { return stream_of(r).next_u64(); };
    uniform = [](const myriad_random* r, double low, double high) { return stream_of(r).uniform(low, high); };
    normal = [](const myriad_random* r) { return stream_of(r).normal(); };
  }
  RandomStream* stream;

 private:
  static RandomStream& stream_of(const myriad_random* random) {
    return *static_cast<const PluginRandom*>(random)->stream;
  }
};

/// Runs a function of the table. Throws std::runtime_error with the plugin's message.
template <class Call>
void call_plugin(Call f) {
  myriad_error error{};
  if (f(&error) == 0) return;
  error.text[sizeof error.text - 1] = '\0';
  for (char& c : error.text)
    if (c < 0) c = '?';  // it need not be UTF-8, and may end in the middle of a character
  throw std::runtime_error(error.text[0] != '\0' ? error.text : "the plugin gave no reason");
}

}  // namespace myriad
