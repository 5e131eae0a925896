// Checkpoints on disk, written so that a crash at any moment leaves the old one or the new one.
//
//   checkpoints/.000000012.3.partial/ files written and fsynced one by one (by the learner, then by the driver)
//     MANIFEST.json                last: name, bytes and CRC-32C of every file
//   checkpoints/000000012/          the same directory after rename and fsync of its parent
//
// A directory is a checkpoint only if its manifest verifies. Older ones are removed after the new one was read back.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "rl/system.hpp"

namespace myriad {

// What the learners write of the policy; apps/learner/learner_files.hpp has all of theirs.
inline constexpr const char* kModuleFile = "learner_group/modules/default_policy.safetensors";
inline constexpr const char* kModuleSpecFile = "learner_group/module.json";  ///< older checkpoints have none
inline constexpr const char* kConnectorsFile = "learner_group/connectors.safetensors";

struct CheckpointFile {
  std::string name;  ///< relative to the checkpoint's directory
  uint64_t bytes = 0;
  uint32_t crc32c = 0;
};

/// Writes one file of a checkpoint durably (file and, later, directory are fsynced). Throws FileError.
CheckpointFile write_checkpoint_file(Files& files, const std::string& directory, const std::string& name,
                                     std::span<const std::byte> bytes);

/// "" when `directory` holds a complete checkpoint, else the first thing that does not hold. Throws FileError for the
/// disk's own faults.
std::string checkpoint_violation(Files& files, const std::string& directory);

/// Directories under `root` that verify, oldest first. Broken ones are left out and, if asked, described.
std::vector<std::string> valid_checkpoints(Files& files, const std::string& root,
                                           std::vector<std::string>* broken = nullptr);

/// The driver's writer: prepare -> (learner writes its part) -> commit. A state machine over Files.
class CheckpointWriter {
 public:
  CheckpointWriter(Files& files, std::string root, uint32_t num_to_keep)
      : files_(files), root_(std::move(root)), num_to_keep_(num_to_keep) {}

  // --- inputs ---
  struct Prepare {
    uint64_t training_iteration;
  };  ///< makes an empty partial directory
  /// The learner's files are in place; `extra` are the driver's own, written now; then manifest, rename, verify, prune.
  struct Commit {
    std::vector<CheckpointFile> files;
    std::map<std::string, std::string> extra;
    std::set<uint64_t> keep = {};  ///< iterations whose checkpoints stay, beside the newest ones
  };
  struct Abandon {};  ///< the learner could not; the partial directory goes
  using Input = std::variant<Prepare, Commit, Abandon>;

  // --- outputs ---
  struct Prepared {
    std::string directory;
  };
  struct Committed {
    std::string directory;
    uint64_t training_iteration;
  };
  struct Failed {
    std::string reason;
  };  ///< the last good checkpoint stands
  using Output = std::variant<Prepared, Committed, Failed>;

  Output step(const Input& input, Time now);

 private:
  std::string partial() const;
  Committed commit(const Commit& input);

  Files& files_;
  std::string root_;
  uint32_t num_to_keep_;
  uint64_t iteration_ = 0;
  uint64_t attempt_ = 0;  ///< a learner may still write into the last one's directory
};

}  // namespace myriad
