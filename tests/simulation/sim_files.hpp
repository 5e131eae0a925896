// SimFiles: a disk in memory that forgets what was not synced, as a crash does.
//
// Every change is an operation in a journal: a directory entry made, moved or removed, or a file's bytes. fsync of a
// file makes its bytes durable, fsync of a directory its entries: no more than POSIX promises. A crash keeps the
// durable operations and any subset of the others.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rl/system.hpp"

namespace myriad::simulation {

class SimFiles : public Files {
 public:
  struct Node {
    bool directory = false;
    std::map<std::string, uint32_t> entries;
    std::shared_ptr<const std::vector<std::byte>> bytes;  // null: nothing was written
  };
  using Tree = std::map<uint32_t, Node>;  // inode 1 is the root
  struct Operation {
    enum class Kind { link, bytes, rename, unlink } kind;
    uint32_t parent = 0, inode = 0;
    std::string name = {}, to = {};
    bool directory = false;
    std::shared_ptr<const std::vector<std::byte>> bytes = nullptr;
    size_t durable_at = SIZE_MAX;  ///< number of operations there were when the fsync came that covers this one
  };
  /// Called before each call that changes something; an errno other than 0 makes it fail.
  using Fault = std::function<int(const char* call, const std::string& path)>;

  SimFiles() { live_[1].directory = base_[1].directory = true; }
  explicit SimFiles(Tree tree) : live_(tree), base_(std::move(tree)) {
    for (const auto& [inode, node] : live_) next_inode_ = std::max(next_inode_, inode + 1);
  }

  void make_directory(const std::string& path) override;
  void write(const std::string& path, std::span<const std::byte> bytes) override;
  void fsync(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  std::vector<std::byte> read(const std::string& path) override;
  std::vector<std::string> list(const std::string& path) override;
  void remove(const std::string& path) override;

  /// Loses each operation that is not durable unless `keep` says otherwise.
  void crash(const std::function<bool(const Operation&)>& keep);
  static void apply(Tree& tree, const Operation& operation);

  const std::vector<Operation>& journal() const { return journal_; }
  const Tree& base() const { return base_; }
  bool keep_journal = false;  ///< for tests that replay it; else durable operations are folded into the base
  bool ignores_file_fsync = false, ignores_directory_fsync = false;  // planted bugs
  Fault fault;
  uint64_t calls = 0;

 private:
  uint32_t find(const std::string& path) const;  // 0: not there
  uint32_t parent_of(const std::string& path, std::string& name) const;
  void record(Operation operation);
  void remove_node(uint32_t parent, const std::string& name);
  void before(const char* call, const std::string& path);

  Tree live_, base_;
  std::vector<Operation> journal_;
  uint32_t next_inode_ = 2;
};

}  // namespace myriad::simulation
