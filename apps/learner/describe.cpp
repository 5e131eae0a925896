#include "apps/learner/describe.hpp"

#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string_view>

#include "learners/algorithm_plugin.hpp"
#include "learners/learner.hpp"
#include "rl/algorithm_facts.hpp"
#include "rl/child_call.hpp"
#include "rl/module_json.hpp"
#include "rl/run_layout.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

std::string answer_to(std::string_view question, const std::string& library) {
  if (question == "--algorithm-facts") return facts_of(open_algorithm_plugin(library));
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  const Config config = load_config_with_plugin(text, "config");
  const EnvSpec env = environment_spec(config);
  if (question == "--module") return to_json(module_of(config, env));
  (void)Learner(config, env.observation_space, env.action_space);
  return "";
}

}  // namespace

Config load_config_with_plugin(const std::string& text, const std::string& name) {
  if (const std::string library = plugin_path(algorithm_of(text, name)); !library.empty())
    open_algorithm_plugin(library);
  return load_config(text, name);
}

bool is_description(int argc, char** argv) {
  if (argc != 3) return false;
  const std::string_view question = argv[1];
  return question == "--algorithm-facts" || question == "--module" || question == "--trains";
}

int describe(char** argv) {
  std::FILE* out = ::fdopen(::dup(STDOUT_FILENO), "w");
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  const std::string library = argv[2];
  const json::object object = answer_of(library, [&] { return json::object{{"answer", answer_to(argv[1], library)}}; });
  std::fputs(json::serialize(object).c_str(), out);
  std::fclose(out);
  return 0;
}

}  // namespace myriad
