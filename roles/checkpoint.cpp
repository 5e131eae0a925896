#include "roles/checkpoint.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstring>

#include "rl/check.hpp"
#include "rl/hash.hpp"

namespace myriad {
namespace {

constexpr const char* kManifest = "MANIFEST.json";
constexpr int kFormatVersion = 1;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string manifest_text(uint64_t iteration, const std::vector<CheckpointFile>& files) {
  boost::json::array rows;
  for (const CheckpointFile& file : files)
    rows.push_back({{"name", file.name}, {"bytes", file.bytes}, {"crc32c", fmt::format("{:08x}", file.crc32c)}});
  boost::json::object manifest{{"format_version", kFormatVersion}, {"training_iteration", iteration}, {"files", rows}};
  // The manifest vouches for itself too: a flipped bit in a name or a number must not go unseen.
  manifest["manifest_crc32c"] = fmt::format("{:08x}", crc32c(bytes_of(boost::json::serialize(manifest))));
  return boost::json::serialize(manifest) + "\n";
}

}  // namespace

CheckpointFile write_checkpoint_file(Files& files, const std::string& directory, const std::string& name,
                                     std::span<const std::byte> bytes) {
  const std::string path = directory + "/" + name;
  for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
    files.make_directory(directory + "/" + name.substr(0, slash));
  files.write(path, bytes);
  files.fsync(path);
  for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
    files.fsync(directory + "/" + name.substr(0, slash));
  return {name, bytes.size(), crc32c(bytes)};
}

std::string checkpoint_violation(Files& files, const std::string& directory) {
  std::vector<std::byte> text;
  try {
    text = files.read(directory + "/" + kManifest);
  } catch (const FileError& error) { return fmt::format("{}: {}", kManifest, std::strerror(error.error)); }
  try {
    const auto manifest = boost::json::parse({reinterpret_cast<const char*>(text.data()), text.size()}).as_object();
    if (manifest.at("format_version").to_number<int>() != kFormatVersion)
      return fmt::format("format {}, this program reads {}", boost::json::serialize(manifest.at("format_version")),
                         kFormatVersion);
    const auto& rows = manifest.at("files").as_array();
    std::vector<CheckpointFile> listed;
    for (const auto& row : rows)
      listed.push_back({std::string(row.at("name").as_string()), row.at("bytes").to_number<uint64_t>(),
                        static_cast<uint32_t>(std::stoul(std::string(row.at("crc32c").as_string()), nullptr, 16))});
    const std::string want_text = manifest_text(manifest.at("training_iteration").to_number<uint64_t>(), listed);
    if (want_text != std::string_view(reinterpret_cast<const char*>(text.data()), text.size()))
      return fmt::format("{}: it does not match its checksum", kManifest);
    for (const auto& row : rows) {
      const std::string name(row.at("name").as_string());
      if (name.starts_with('/') || name.find("..") != std::string::npos)
        return fmt::format("{}: file name {}", kManifest, name);
      std::vector<std::byte> bytes;
      try {
        bytes = files.read(directory + "/" + name);
      } catch (const FileError& error) { return fmt::format("{}: {}", name, std::strerror(error.error)); }
      const auto want = row.at("bytes").to_number<uint64_t>();
      if (bytes.size() != want) return fmt::format("{} has {} bytes, want {}", name, bytes.size(), want);
      const std::string sum = fmt::format("{:08x}", crc32c(bytes));
      if (row.at("crc32c").as_string() != sum)
        return fmt::format("{} has checksum {}, want {}", name, sum, std::string(row.at("crc32c").as_string()));
    }
  } catch (const std::exception& error) { return fmt::format("{}: {}", kManifest, error.what()); }
  return "";
}

std::vector<std::string> valid_checkpoints(Files& files, const std::string& root, std::vector<std::string>* broken) {
  std::vector<std::string> valid;
  for (const std::string& name : files.list(root)) {
    if (name.starts_with('.')) continue;
    const std::string violation = checkpoint_violation(files, root + "/" + name);
    if (violation.empty())
      valid.push_back(root + "/" + name);
    else if (broken != nullptr)
      broken->push_back(fmt::format("{}/{}: {}", root, name, violation));
  }
  return valid;
}

std::string CheckpointWriter::partial() const {
  return fmt::format("{}/.{:09}.{}.partial", root_, iteration_, attempt_);
}

CheckpointWriter::Output CheckpointWriter::step(const Input& input, Time) {
  try {
    if (const auto* prepare = std::get_if<Prepare>(&input)) {
      iteration_ = prepare->training_iteration;
      ++attempt_;
      for (const std::string& name : files_.list(root_))
        if (name.starts_with('.')) files_.remove(root_ + "/" + name);  // what a crash left
      files_.make_directory(partial());
      return Prepared{partial()};
    }
    if (std::holds_alternative<Abandon>(input)) {
      files_.remove(partial());
      return Failed{"the learner could not write its part"};
    }
    return commit(std::get<Commit>(input));
  } catch (const FileError& error) {
    try {
      files_.remove(partial());
    } catch (const FileError&) {
      // The next Prepare removes it; the error that matters is the first one.
    }
    return Failed{fmt::format("{}: {}", error.path, std::strerror(error.error))};
  }
}

CheckpointWriter::Committed CheckpointWriter::commit(const Commit& input) {
  std::vector<CheckpointFile> listed = input.files;
  for (const auto& [name, text] : input.extra)
    listed.push_back(write_checkpoint_file(files_, partial(), name, bytes_of(text)));
  const std::string manifest = manifest_text(iteration_, listed);
  write_checkpoint_file(files_, partial(), kManifest, bytes_of(manifest));
  files_.fsync(partial());
  const std::string target = fmt::format("{}/{:09}", root_, iteration_);
  if (checkpoint_violation(files_, target).empty()) {
    files_.remove(partial());  // this iteration was saved before: the same state
    return {target, iteration_};
  }
  files_.remove(target);
  files_.rename(partial(), target);
  files_.fsync(root_);
  const std::string violation = checkpoint_violation(files_, target);
  if (!violation.empty()) throw FileError{EIO, target + " read back: " + violation};
  std::set<std::string> keep;
  for (const uint64_t iteration : input.keep) keep.insert(fmt::format("{}/{:09}", root_, iteration));
  std::vector<std::string> valid = valid_checkpoints(files_, root_);
  for (; valid.size() > num_to_keep_ && valid.front() != target; valid.erase(valid.begin()))
    if (!keep.contains(valid.front())) files_.remove(valid.front());
  return {target, iteration_};
}

}  // namespace myriad
