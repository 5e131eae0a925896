#include "apps/learner/describe.hpp"

#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string_view>

#include "learners/algorithm_plugin.hpp"
#include "rl/algorithm_facts.hpp"
#include "rl/check.hpp"
#include "rl/module_json.hpp"
#include "rl/run_layout.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

std::string answer(int argc, char** argv) {
  if (argc == 3) return facts_of(open_algorithm_plugin(argv[2]));
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  const Config config = load_config_with_plugin(text, "config");
  return to_json(module_of(config, environment_spec(config)));
}

json::object said(Exit exit, const std::string& code, const std::string& text) {
  return {{"exit", static_cast<int>(exit)}, {"code", code}, {"error", text}};
}

}  // namespace

Config load_config_with_plugin(const std::string& text, const std::string& name) {
  if (const std::string library = plugin_path(algorithm_of(text, name)); !library.empty())
    open_algorithm_plugin(library);
  return load_config(text, name);
}

bool is_description(int argc, char** argv) {
  return (argc == 3 && std::string_view(argv[1]) == "--algorithm-facts") ||
         (argc == 2 && std::string_view(argv[1]) == "--module");
}

int describe(int argc, char** argv) {
  std::FILE* out = ::fdopen(::dup(STDOUT_FILENO), "w");
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  json::object object;
  try {
    object = {{"answer", answer(argc, argv)}};
  } catch (const Error& error) {
    object = said(error.exit_status(), error.code(), error.what());
  } catch (const std::exception& error) {
    object = said(Exit::environment, "plugin-broken", error.what());
  } catch (...) { object = said(Exit::environment, "plugin-broken", "the library threw what is no std::exception"); }
  std::fputs(json::serialize(object).c_str(), out);
  std::fclose(out);
  return 0;
}

}  // namespace myriad
