// checkpoint_violation(): [mode] and the text of a MANIFEST.json; mode 1 gives it the checksum it wants.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <cerrno>

#include "rl/hash.hpp"
#include "roles/checkpoint.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace myriad {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

/// A checkpoint's directory with two files beside the manifest.
class OneCheckpoint : public Files {
 public:
  explicit OneCheckpoint(std::string manifest) : manifest_(std::move(manifest)) {}
  void make_directory(const std::string&) override { fuzz::require(false, "a reader makes no directory"); }
  void write(const std::string&, std::span<const std::byte>) override {
    fuzz::require(false, "a reader does not write");
  }
  void fsync(const std::string&) override {}
  void rename(const std::string&, const std::string&) override { fuzz::require(false, "a reader renames nothing"); }
  void remove(const std::string&) override { fuzz::require(false, "a reader removes nothing"); }
  std::vector<std::string> list(const std::string&) override { return {"1"}; }
  std::vector<std::byte> read(const std::string& path) override {
    fuzz::require(path.starts_with("root/1/") && !path.starts_with("root/1//") && path.find("..") == std::string::npos,
                  "only files inside the checkpoint are read");
    const std::string name = path.substr(7);
    const std::string text = name == "MANIFEST.json" ? manifest_ : name == "a" ? "123456789" : "";
    if (text.empty() && name != "b/c") throw FileError{ENOENT, path};
    const auto bytes = bytes_of(text);
    return {bytes.begin(), bytes.end()};
  }

 private:
  std::string manifest_;
};

/// The text as manifest_text() would have written it; as it is when it is not a JSON object.
std::string with_sum(const std::string& text) {
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(text, error);
  if (error || !value.is_object()) return text;
  boost::json::object manifest = value.get_object();
  manifest.erase("manifest_crc32c");
  manifest["manifest_crc32c"] = fmt::format("{:08x}", crc32c(bytes_of(boost::json::serialize(manifest))));
  return boost::json::serialize(manifest) + "\n";
}

}  // namespace
}  // namespace myriad

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  fuzz::Input input(data, size);
  const bool repaired = input.u8() % 2 == 1;
  const std::string text = input.text(input.size());
  OneCheckpoint files(repaired ? with_sum(text) : text);
  std::vector<std::string> broken;
  const bool valid = valid_checkpoints(files, "root", &broken).size() == 1;
  fuzz::require(valid == broken.empty(), "a checkpoint is valid or has a reason not to be");
  return 0;
}
