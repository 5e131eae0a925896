#include "learners/algorithm_plugin.hpp"

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr const char* kDocs = "docs/howto-algorithm.md";

}  // namespace

const AlgorithmInfo& open_algorithm_plugin(const std::string& path) {
  const auto& plugin = *static_cast<const AlgorithmPlugin*>(plugin_table(path, "myriad_algorithm_plugin", kDocs));
  check_build(path, plugin.build, MYRIAD_PLUGIN_BUILD(TORCH_VERSION));
  AlgorithmInfo info = plugin.info();
  if (info.name.empty() || !info.make_config || !info.module || info.sampling.empty())
    fail(Exit::environment, "plugin-broken",
         "the algorithm '{}' of {} wants name, make_config, module and at least one mode in sampling; see {}",
         info.name, path, kDocs);
  info.library = path;
  const std::string id = info.id();
  RegisterAlgorithm(id, plugin.make);
  register_plugin_info(std::move(info));
  return find_algorithm(id);
}

}  // namespace myriad
