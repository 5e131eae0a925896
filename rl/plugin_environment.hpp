// The environment of a plugin's table (sdk/include/myriad/env.h). Only processes that run it come here.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

#include "rl/environment.hpp"
#include "sdk/include/myriad/env.h"

namespace myriad {

/// The table of a library, which stays open. What an older one has not is 0. Throws Error.
myriad_plugin open_plugin(const std::string& path);

/// `options` has every option of the plugin. Throws Error("env-exception") with the plugin's own words.
std::unique_ptr<Environment> make_plugin_environment(const std::string& path, const EnvOptions& options);

/// Runs a function of the table. Throws std::runtime_error with the plugin's own words.
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
