// ale:Pong, ale:Breakout, ...: the games of the Arcade Learning Environment, once `./myriad plugin ale` has built their
// plugin (plugin.cpp in this folder). ALE is under GPL-2.0: nothing of it is in this tree, nor in the programs.
#include <filesystem>

#include "rl/check.hpp"
#include "rl/environment.hpp"
#include "rl/plugin.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

/// Throws Error("no-plugin").
std::string ale_library(const std::string& game) {
  const fs::path program = program_directory();
  for (const char* folder : {"../plugins/ale", "../../plugins/ale", "../lib/myriad/plugins/ale"}) {
    const fs::path library = program / folder / "libmyriad_ale.so";
    if (fs::exists(library)) return fs::weakly_canonical(library).string();
  }
  fail(Exit::usage, "no-plugin",
       "ale:{} needs the Arcade Learning Environment, which is not built here; ./myriad plugin ale fetches and builds "
       "it, "
       "in about a minute, once",
       game);
}

const RegisterEnv games{EnvPrefix{
    .prefix = "ale",
    .names_file = false,
    .make_spec = [](const std::string& game,
                    const EnvContext& context) { return plugin_spec(ale_library(game) + "#" + game, context); },
}};

}  // namespace
}  // namespace myriad
