#include "tests/simulation/sim_files.hpp"

#include <cerrno>

namespace myriad::simulation {

void SimFiles::before(const char* call, const std::string& path) {
  ++calls;
  if (!fault) return;
  if (const int error = fault(call, path)) throw FileError{error, path};
}

uint32_t SimFiles::find(const std::string& path) const {
  uint32_t inode = 1;
  for (size_t start = 0; start < path.size();) {
    const size_t slash = std::min(path.find('/', start), path.size());
    const auto node = live_.find(inode);
    if (node == live_.end()) return 0;
    const auto entry = node->second.entries.find(path.substr(start, slash - start));
    if (entry == node->second.entries.end()) return 0;
    inode = entry->second;
    start = slash + 1;
  }
  return inode;
}

uint32_t SimFiles::parent_of(const std::string& path, std::string& name) const {
  const size_t slash = path.rfind('/');
  name = slash == std::string::npos ? path : path.substr(slash + 1);
  const uint32_t parent = slash == std::string::npos ? 1 : find(path.substr(0, slash));
  if (parent == 0) throw FileError{ENOENT, path};
  return parent;
}

void SimFiles::apply(Tree& tree, const Operation& operation) {
  using enum Operation::Kind;
  switch (operation.kind) {
    case link:
      tree[operation.parent].directory = true;
      tree[operation.parent].entries[operation.name] = operation.inode;
      tree[operation.inode].directory = operation.directory;
      break;
    case bytes:
      tree[operation.inode].bytes = operation.bytes;
      break;
    case rename: {
      auto& entries = tree[operation.parent].entries;
      if (const auto it = entries.find(operation.name); it != entries.end() && it->second == operation.inode)
        entries.erase(it);
      entries[operation.to] = operation.inode;
      break;
    }
    case unlink: {
      auto& entries = tree[operation.parent].entries;
      if (const auto it = entries.find(operation.name); it != entries.end() && it->second == operation.inode)
        entries.erase(it);
      break;
    }
  }
}

void SimFiles::record(Operation operation) {
  apply(live_, operation);
  journal_.push_back(std::move(operation));
}

void SimFiles::make_directory(const std::string& path) {
  before("make_directory", path);
  for (size_t slash = path.find('/');; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (!part.empty() && find(part) == 0) {
      Operation made{.kind = Operation::Kind::link, .inode = next_inode_++, .directory = true};
      made.parent = parent_of(part, made.name);
      record(std::move(made));
    }
    if (slash == std::string::npos) return;
  }
}

void SimFiles::write(const std::string& path, std::span<const std::byte> bytes) {
  const auto put = [&](size_t count) {
    uint32_t inode = find(path);
    if (inode == 0) {
      Operation made{.kind = Operation::Kind::link, .inode = next_inode_++};
      made.parent = parent_of(path, made.name);
      inode = made.inode;
      record(std::move(made));
    }
    Operation data{.kind = Operation::Kind::bytes, .inode = inode};
    data.bytes =
        std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(count));
    record(std::move(data));
  };
  try {
    before("write", path);
  } catch (const FileError&) {
    std::string name;
    if (parent_of(path, name) != 0) put(bytes.size() / 2);  // a full disk takes the first part
    throw;
  }
  put(bytes.size());
}

void SimFiles::fsync(const std::string& path) {
  before("fsync", path);
  const uint32_t inode = find(path);
  if (inode == 0) throw FileError{ENOENT, path};
  const bool directory = live_[inode].directory;
  if (directory ? ignores_directory_fsync : ignores_file_fsync) return;
  for (Operation& operation : journal_) {
    const bool of_this = directory ? operation.kind != Operation::Kind::bytes && operation.parent == inode
                                   : operation.kind == Operation::Kind::bytes && operation.inode == inode;
    if (of_this && operation.durable_at == SIZE_MAX) operation.durable_at = journal_.size();
  }
  if (keep_journal) return;
  size_t done = 0;
  while (done < journal_.size() && journal_[done].durable_at != SIZE_MAX) apply(base_, journal_[done++]);
  journal_.erase(journal_.begin(), journal_.begin() + static_cast<ptrdiff_t>(done));
}

void SimFiles::rename(const std::string& from, const std::string& to) {
  before("rename", to);
  Operation moved{.kind = Operation::Kind::rename, .inode = find(from)};
  if (moved.inode == 0) throw FileError{ENOENT, from};
  moved.parent = parent_of(from, moved.name);
  if (parent_of(to, moved.to) != moved.parent) throw FileError{EXDEV, to};  // not what this disk is for
  if (const uint32_t there = find(to); there != 0 && !live_[there].entries.empty()) throw FileError{ENOTEMPTY, to};
  record(std::move(moved));
}

std::vector<std::byte> SimFiles::read(const std::string& path) {
  const uint32_t inode = find(path);
  if (inode == 0) throw FileError{ENOENT, path};
  const Node& node = live_[inode];
  if (node.directory) throw FileError{EISDIR, path};
  return node.bytes == nullptr ? std::vector<std::byte>{} : *node.bytes;
}

std::vector<std::string> SimFiles::list(const std::string& path) {
  std::vector<std::string> names;
  if (const uint32_t inode = find(path))
    for (const auto& [name, child] : live_[inode].entries) names.push_back(name);
  return names;
}

void SimFiles::remove_node(uint32_t parent, const std::string& name) {
  const uint32_t inode = live_[parent].entries.at(name);
  std::vector<std::string> names;
  for (const auto& [child, child_inode] : live_[inode].entries) names.push_back(child);
  for (const std::string& child : names) remove_node(inode, child);
  record({.kind = Operation::Kind::unlink, .parent = parent, .inode = inode, .name = name});
}

void SimFiles::remove(const std::string& path) {
  before("remove", path);
  if (find(path) == 0) return;
  std::string name;
  const uint32_t parent = parent_of(path, name);
  remove_node(parent, name);
}

void SimFiles::crash(const std::function<bool(const Operation&)>& keep) {
  for (const Operation& operation : journal_)
    if (operation.durable_at != SIZE_MAX || keep(operation)) apply(base_, operation);
  journal_.clear();
  live_ = base_;
}

}  // namespace myriad::simulation
