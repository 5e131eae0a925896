#include "learners/algorithm.hpp"

#include "rl/check.hpp"

namespace myriad {
namespace {

std::map<std::string, MakeAlgorithm>& registry() {
  static std::map<std::string, MakeAlgorithm> algorithms;
  return algorithms;
}

}  // namespace

RegisterAlgorithm::RegisterAlgorithm(std::string name, MakeAlgorithm make) {
  const bool fresh = registry().emplace(name, make).second;
  check(fresh, "two algorithms are called {}", name);
}

std::unique_ptr<Algorithm> make_algorithm(const Config& config) {
  const auto found = registry().find(config.algorithm);
  if (found != registry().end()) return found->second(config);
  std::vector<std::string> known;
  for (const auto& [name, make] : registry()) known.push_back(name);
  fail(Exit::usage, "unknown-algorithm", "unknown algorithm '{}'{}", config.algorithm,
       suggestion(config.algorithm, known));
}

}  // namespace myriad
