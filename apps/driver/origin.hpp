// Origin: where a run was begun and out of what: origin.json of its folder. A run that goes on or is evaluated from
// another folder finds by it what its commands name with relative paths, and says when files have changed.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "rl/config.hpp"

namespace myriad {

struct Origin {
  std::string folder;       ///< the working directory of `train`; "": not known
  std::string python_path;  ///< PYTHONPATH then, absolute
  std::string python;       ///< MYRIAD_PYTHON then
  std::map<std::string, std::string> hashes =
      {};  ///< of the files that a setting names: "environment.env" -> 16 digits

  /// Of this process, and of the files that `config` names.
  static Origin here(const Config& config);
  /// Of a run's folder; an empty one where it has none (runs of older versions).
  static Origin of_run(const std::filesystem::path& run);
  void save(const std::filesystem::path& run) const;
};

/// Plugins, tasks with their models, the words of a process: command that are files. Where they lie does not count.
std::map<std::string, std::string> hashes_of(const Config& config);

struct Revisited {
  Origin origin;                                     ///< with the hashes of now
  std::vector<std::string> same = {}, changed = {};  ///< settings, by the files that they name
};
/// Before anything of a run's config, as `overrides` have changed it, is opened again: from here on this process, and
/// those it starts, look up relative paths where the run was begun, and Python's packages there, too. What an override
/// names is looked up here first, `config` having it absolute; a process: command that names a file of this folder
/// makes it the run's. Warns of files that have changed. Throws Error("no-file") for one that is gone, with the setting
/// that says where it is now.
Revisited revisit(const std::filesystem::path& run, Config& config, const std::vector<std::string>& overrides);

}  // namespace myriad
