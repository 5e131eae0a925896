#include "apps/driver/launcher.hpp"

#include <algorithm>

#include "apps/driver/launchers/local.hpp"
#include "rl/check.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace {

std::unique_ptr<Launcher> make_local(Janitor& janitor) {
  return std::make_unique<LocalLauncher>(janitor, program_directory());
}

}  // namespace

const std::vector<LauncherInfo>& launchers() {
  static const std::vector<LauncherInfo> all{
      {.name = "local", .starts_agents = true, .make = make_local},
      {.name = "none", .starts_agents = false, .make = make_local},
  };
  return all;
}

const LauncherInfo& find_launcher(std::string_view name) {
  const auto found = std::ranges::find(launchers(), name, &LauncherInfo::name);
  if (found != launchers().end()) return *found;
  std::vector<std::string> names;
  for (const LauncherInfo& info : launchers()) names.push_back(info.name);
  fail(Exit::usage, "unknown-launcher", "hosts.launcher is {}{}", name, suggestion(name, names));
}

std::optional<DriverCore::Input> carry_out(const DriverCore::Output& output, Launcher& launcher) {
  using Role = RunProcess::Role;
  if (const auto* kill = std::get_if<DriverCore::KillLearner>(&output)) {
    launcher.kill({Role::learner, kill->shard, kill->incarnation}, kill->signal);
  } else if (const auto* kill = std::get_if<DriverCore::KillAgent>(&output)) {
    launcher.kill({Role::agent, kill->agent, kill->incarnation}, kill->signal);
  } else if (std::holds_alternative<DriverCore::KillAll>(output)) {
    launcher.kill_all();
  } else if (const auto* learner = std::get_if<DriverCore::SpawnLearner>(&output)) {
    try {
      launcher.start({Role::learner, learner->shard, learner->incarnation});
    } catch (const Error& error) {
      return DriverCore::SpawnFailed{std::nullopt, learner->shard, learner->incarnation, error.what()};
    }
  } else if (const auto* agent = std::get_if<DriverCore::SpawnAgent>(&output)) {
    try {
      launcher.start({Role::agent, agent->agent, agent->incarnation});
    } catch (const Error& error) {
      return DriverCore::SpawnFailed{agent->agent, agent->agent, agent->incarnation, error.what()};
    }
  }
  return std::nullopt;
}

DriverCore::Input input_of(const Launcher::Ended& ended) {
  const RunProcess& process = ended.process;
  if (process.role == RunProcess::Role::agent)
    return DriverCore::AgentExited{process.index, process.incarnation, ended.cause, ended.drained};
  return DriverCore::LearnerExited{process.index, process.incarnation, ended.cause};
}

}  // namespace myriad
