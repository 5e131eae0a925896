// load_config(): text, then overrides, each after a zero byte. Only myriad::Error may come out; what is taken can be
// written and read again.
#include "rl/config.hpp"

#include "rl/check.hpp"
#include "tests/fuzz/fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  std::string text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> overrides;
  for (size_t zero = text.rfind('\0'); zero != std::string::npos && overrides.size() < 4; zero = text.rfind('\0')) {
    overrides.insert(overrides.begin(), text.substr(zero + 1));
    text.resize(zero);
  }
  Config config;
  try {
    config = load_config(text, "file", overrides);
  } catch (const Error& error) {
    fuzz::require(error.exit_status() == Exit::usage, "a config that is refused is the user's to change");
    return 0;
  }
  const std::string written = to_toml(config);
  Config again = load_config(written, "written");
  fuzz::require(to_toml(again) == written, "written and read, the same");
  Config described = load_config(to_toml(config, true), "described");
  fuzz::require(to_toml(described) == written, "written with comments and read, the same");
  fuzz::require(!setting_rows(config).empty(), "there are rows");
  fuzz::require(config.fragment_length() >= 1 && config.fragments_per_batch() >= 1, "a batch has fragments");
  return 0;
}
