// module_from_json(): only myriad::Error may come out; a spec that is taken fits itself, and is the same when written
// and read again.
#include "rl/module_json.hpp"

#include "rl/check.hpp"
#include "tests/fuzz/fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  ModuleSpec spec;
  try {
    spec = module_from_json({reinterpret_cast<const char*>(data), size});
  } catch (const Error& error) {
    fuzz::require(error.code() == "bad-module", "what is refused is a bad module");
    return 0;
  }
  const ModuleSpec again = module_from_json(to_json(spec));
  fuzz::require(again == spec && again.hash() == spec.hash(), "written and read, the same");
  fuzz::require(spec.num_inference_parameters() <= spec.num_parameters(), "a part is no more than all");
  fuzz::require(!spec.to_string().empty(), "there is a text");
  return 0;
}
