// What the settings given to a resume change in the run: decided by the driver, before any process starts and before
// the run's record is touched.
#pragma once

#include <string>
#include <vector>

#include "apps/driver/resume.hpp"
#include "rl/config.hpp"
#include "rl/environment.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

/// "training.lr", ...: the settings whose values differ, but for what plugins say of themselves.
std::vector<std::string> changed_settings(Config& before, Config& now);

/// Throws Error("foreign-checkpoint") unless a policy of `module`, as it was saved, can act in `env` as `config` has
/// it.
void check_policy_fits(const ModuleSpec& module, const Config& config, const EnvSpec& env,
                       const std::string& checkpoint);

/// Throws Error("foreign-checkpoint") where `overrides` change the algorithm that the checkpoint's config.toml, `text`,
/// names. Its settings are not those of another, so this comes before they are read. A plugin may have moved.
void refuse_other_algorithm(const std::string& text, const std::string& checkpoint,
                            const std::vector<std::string>& overrides);

/// Of a resume from `saved` with the settings `now`, whose environment is `env`: throws Error("foreign-checkpoint")
/// where a setting has changed that the checkpoint cannot follow, naming it. Where the environments are others than
/// those it holds, takes their states out of `saved` and notes it there.
void prepare_resume(Files& files, SavedRun& saved, Config& now, const EnvSpec& env, const Revisited& files_now);

}  // namespace myriad
