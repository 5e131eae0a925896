// A real save on a real disk, by a process that is killed at its n-th file operation, for every n there is.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <numeric>

#include "roles/checkpoint.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace {

/// Real files, but the process dies by SIGKILL just before operation `fatal`.
class DeadlyFiles final : public Files {
 public:
  DeadlyFiles(std::string root, int fatal) : files_(make_system_files(std::move(root))), left_(fatal) {}
  void make_directory(const std::string& path) override { die(), files_->make_directory(path); }
  void write(const std::string& path, std::span<const std::byte> bytes) override {
    if (left_ == 0) files_->write(path, bytes.first(bytes.size() / 2));  // torn: half of it reached the disk
    die(), files_->write(path, bytes);
  }
  void fsync(const std::string& path) override { die(), files_->fsync(path); }
  void rename(const std::string& from, const std::string& to) override { die(), files_->rename(from, to); }
  std::vector<std::byte> read(const std::string& path) override { return files_->read(path); }
  std::vector<std::string> list(const std::string& path) override { return files_->list(path); }
  void remove(const std::string& path) override { die(), files_->remove(path); }

 private:
  void die() {
    if (left_-- == 0) ::kill(::getpid(), SIGKILL);
  }
  std::unique_ptr<Files> files_;
  int left_;
};

/// One whole save as learner and driver make it: the content says which iteration it is.
bool save(Files& files, uint64_t iteration) {
  CheckpointWriter writer(files, "checkpoints", 2);
  const auto prepared = writer.step(CheckpointWriter::Prepare{iteration}, Time{});
  const std::string directory = std::get<CheckpointWriter::Prepared>(prepared).directory;
  const std::vector<std::byte> weights(5000, static_cast<std::byte>(iteration));
  CheckpointWriter::Commit commit;
  commit.files.push_back(
      write_checkpoint_file(files, directory, "learner_group/modules/default_policy.safetensors", weights));
  commit.files.push_back(write_checkpoint_file(files, directory, "learner_group/optimizer.safetensors", weights));
  commit.extra["driver.json"] = "{}";
  return std::holds_alternative<CheckpointWriter::Committed>(writer.step(commit, Time{}));
}

TEST_SUITE("roles/checkpoint") {
  TEST_CASE("a save killed at every file operation leaves the old checkpoint or the new one") {
    const TemporaryFolder folder;
    const std::string root = folder.path.string();
    int killed = 0;
    for (int fatal = 0;; ++fatal) {
      std::filesystem::remove_all(root + "/checkpoints");
      const auto files = make_system_files(root);
      for (uint64_t iteration : {1, 2}) REQUIRE(save(*files, iteration));  // so that the third save prunes, too
      const pid_t child = ::fork();
      if (child == 0) {
        DeadlyFiles deadly(root, fatal);
        ::_exit(save(deadly, 3) ? 0 : 1);
      }
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      const auto valid = valid_checkpoints(*files, "checkpoints");
      REQUIRE_MESSAGE(!valid.empty(), "killed at operation ", fatal);
      const std::string newest = valid.back();
      REQUIRE((newest == "checkpoints/000000002" || newest == "checkpoints/000000003"));
      const auto bytes = files->read(newest + "/learner_group/modules/default_policy.safetensors");
      CHECK(bytes == std::vector<std::byte>(5000, static_cast<std::byte>(newest.back() - '0')));
      REQUIRE(save(*files, 4));  // and the next save goes on from whatever was left
      CHECK(valid_checkpoints(*files, "checkpoints").back() == "checkpoints/000000004");
      if (WIFEXITED(status)) {
        CHECK(WEXITSTATUS(status) == 0);
        break;  // every operation of the save was survived
      }
      ++killed;
    }
    CHECK(killed >= 20);
  }
}

}  // namespace
}  // namespace myriad
