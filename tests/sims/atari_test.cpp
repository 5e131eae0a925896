// Atari: the picture by hand and as OpenCV makes it; whole episodes of Gymnasium's AtariPreprocessing on the same
// random stream (tests/golden/atari, written by scripts/align_atari.py), where `./myriad plugin ale` has built the
// plugin.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "rl/check.hpp"
#include "rl/environment.hpp"
#include "sims/ale/picture.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;
using atari::kSide, atari::PictureMaker;

/// CRC-32 of zlib and PNG.
uint32_t crc32(std::span<const uint8_t> bytes) {
  uint32_t crc = ~0u;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1u)));
  }
  return ~crc;
}

fs::path goldens() {
  const char* given = std::getenv("MYRIAD_ATARI_GOLDENS");
  return given != nullptr ? fs::path(given) : fs::path(MYRIAD_SOURCE_ROOT) / "tests/golden/atari";
}

/// Says so, and is true, where the plugin has not been built.
bool skipped() {
  try {
    EnvRegistry::instance().find("ale:Pong");
    return false;
  } catch (const Error& error) {
    REQUIRE(error.code() == "no-plugin");
    CHECK(std::string(error.what()).find("./myriad plugin ale") != std::string::npos);
    std::printf("SKIPPED: Atari's plugin is not built here: ./myriad plugin ale\n");
    return true;
  }
}

class Play {
 public:
  Play(const std::string& id, const EnvOptions& options)
      : spec_(configured_spec(EnvRegistry::instance().find(id), options)), env_(make_environment(spec_, options)) {}

  void reset(uint64_t seed) {
    random_ = RandomStream(seed, StreamPurpose::environment, 0);
    env_->reset(random_, row());
  }
  StepResult step(int32_t action) { return env_->step(ConstRow(std::as_bytes(std::span(&action, 1))), random_, row()); }
  /// Goes on in another environment, from this one's state.
  void move_to_another(const EnvOptions& options) {
    const std::vector<double> state = *env_->state();
    env_ = make_environment(spec_, options);
    const std::vector<uint8_t> seen = observation_;
    std::ranges::fill(observation_, uint8_t{0});
    env_->set_state(state, row());
    CHECK(observation_ == seen);
  }

  const EnvSpec& spec() const { return spec_; }
  Environment& env() { return *env_; }
  const std::vector<uint8_t>& observation() const { return observation_; }

 private:
  Row row() { return Row(std::as_writable_bytes(std::span(observation_))); }
  EnvSpec spec_;
  std::unique_ptr<Environment> env_;
  std::vector<uint8_t> observation_ = std::vector<uint8_t>(size_t{kSide} * kSide);
  RandomStream random_{0, StreamPurpose::environment, 0};
};

void check_file(const fs::path& path) {
  INFO(path.filename().string());
  std::ifstream file(path);
  std::string line, id, word;
  EnvOptions options;
  int actions = 0, steps = 0;
  uint32_t crc = 0;
  std::optional<Play> play;
  while (std::getline(file, line)) {
    std::istringstream in(line);
    if (line[0] == '#' || line.starts_with("episode")) continue;
    if (line.starts_with("id")) in >> word >> id;
    if (line.starts_with("actions")) in >> word >> actions;
    if (line.starts_with("option")) {
      in >> word >> word;
      in >> options[word];
    }
    if (line.starts_with("stream")) {
      uint64_t seed = 0;
      in >> word >> seed;
      if (!play) play.emplace(id, options);
      REQUIRE(play->spec().action_space.get_if<Discrete>()->n == actions);
      play->reset(seed);
    }
    if (line.starts_with("observation")) {
      in >> word >> std::hex >> crc;
      REQUIRE(crc32(play->observation()) == crc);
    }
    if (std::isdigit(static_cast<unsigned char>(line[0])) == 0) continue;
    int action = 0, terminated = 0, truncated = 0;
    double reward = 0;
    char bar;
    in >> action >> bar >> reward >> terminated >> truncated >> bar >> std::hex >> crc;
    INFO("step ", steps, ": ", line);
    if (++steps % 97 == 0) play->move_to_another(options);
    const StepResult result = play->step(action);
    REQUIRE(result.reward == reward);
    REQUIRE(result.terminated == (terminated != 0));
    REQUIRE(result.truncated == (truncated != 0));
    REQUIRE(crc32(play->observation()) == crc);
  }
  REQUIRE(steps > 0);
}

}  // namespace

TEST_SUITE("sims/atari") {
  TEST_CASE("Atari: an output pixel is the mean of the 2.5 rows and 1.9 columns that it covers") {
    std::array<uint8_t, 256> grey;
    for (size_t i = 0; i < grey.size(); ++i) grey[i] = static_cast<uint8_t>(i);
    PictureMaker maker(210, 160, grey);
    std::vector<uint8_t> screen(210 * 160), picture(size_t{kSide} * kSide);
    const auto at = [&](size_t y, size_t x) -> uint8_t& { return screen[y * 160 + x]; };
    const auto seen = [&](size_t y, size_t x) { return picture[y * kSide + x]; };
    // Rows 0, 1 and half of row 2 make row 0: (10 + 20 + 40 / 2) / 2.5 = 20; the other half of row 2, 3 and 4 make
    // row 1.
    for (size_t x = 0; x < 160; ++x) at(0, x) = 10, at(1, x) = 20, at(2, x) = 40, at(3, x) = 100, at(4, x) = 200;
    maker.make(screen.data(), nullptr, picture.data());
    for (size_t x = 0; x < kSide; ++x) {
      CHECK(seen(0, x) == 20);
      CHECK(seen(1, x) == 128);
      CHECK(seen(2, x) == 0);
    }
    // Columns are 40/21 wide: the first covers column 0 and 19/21 of column 1, the second 2/21 of it, 2 and 17/21 of 3.
    std::ranges::fill(screen, uint8_t{0});
    for (size_t y = 0; y < 210; ++y) at(y, 1) = 200;
    maker.make(screen.data(), nullptr, picture.data());
    CHECK(seen(50, 0) == 95);  // 200 * 19 / 40
    CHECK(seen(50, 1) == 10);  // 200 * 2 / 40
    CHECK(seen(50, 2) == 0);
  }

  TEST_CASE("Atari: two screens are pooled after their colours became grey") {
    std::array<uint8_t, 256> grey{};
    grey[1] = 90, grey[2] = 30;  // the larger colour is the darker one
    PictureMaker maker(210, 160, grey);
    std::vector<uint8_t> now(210 * 160, 1), before(210 * 160, 2), picture(size_t{kSide} * kSide);
    std::fill_n(now.begin() + 100 * 160, 5 * 160, uint8_t{0});  // rows 100 to 104: black now, 30 before
    maker.make(now.data(), before.data(), picture.data());
    CHECK(picture[39 * kSide] == 90);
    CHECK(picture[40 * kSide] == 30);
    CHECK(picture[41 * kSide] == 30);
    CHECK(picture[42 * kSide] == 90);
    maker.make(now.data(), nullptr, picture.data());
    CHECK(picture[40 * kSide] == 0);
    CHECK_THROWS_WITH(PictureMaker(300, 160, grey), "a screen of 300 pixels, want 84 to 257");
  }

  TEST_CASE("Atari: aligned pictures, OpenCV's INTER_AREA to the bit") {
    std::ifstream file(fs::path(MYRIAD_SOURCE_ROOT) / "tests/golden/atari/pictures.txt");
    std::string line;
    int pictures = 0;
    while (std::getline(file, line)) {
      if (line[0] == '#') continue;
      std::istringstream in(line);
      int height = 0;
      uint64_t seed = 0, values = 0;
      size_t equal = 0;
      uint32_t crc = 0;
      in >> height >> seed >> values >> equal >> std::hex >> crc;
      RandomStream random(seed, StreamPurpose::environment, 0);
      std::array<uint8_t, 256> grey;
      for (size_t i = 0; i < grey.size(); ++i) grey[i] = static_cast<uint8_t>(i);
      std::vector<uint8_t> screen(static_cast<size_t>(height) * 160), picture(size_t{kSide} * kSide);
      for (size_t y = 0; y < static_cast<size_t>(height); ++y)
        for (size_t x = 0; x < 160; ++x)
          screen[y * 160 + x] =
              y % equal == 0 ? static_cast<uint8_t>(random.below(values) * (256 / values)) : screen[(y - 1) * 160 + x];
      PictureMaker(height, 160, grey).make(screen.data(), nullptr, picture.data());
      CHECK(crc32(picture) == crc);
      ++pictures;
    }
    CHECK(pictures == 6);
  }

  TEST_CASE("Atari: aligned with Gymnasium's AtariPreprocessing, and from saved states") {
    if (skipped()) return;
    for (const auto& entry : fs::directory_iterator(goldens()))
      if (entry.path().filename() != "pictures.txt") check_file(entry.path());
  }

  TEST_CASE("Atari: an episode does not depend on the one before") {
    if (skipped()) return;
    Play fresh("ale:TimePilot", {}), used("ale:TimePilot", {});
    used.reset(9);
    for (int t = 0; t < 30; ++t) used.step(t % 10);
    fresh.reset(5), used.reset(5);
    for (int t = 0; t < 60; ++t) {
      REQUIRE(fresh.observation() == used.observation());
      fresh.step(t % 10), used.step(t % 10);
    }
  }

  TEST_CASE("Atari: frames show the screen in its colours, as large as fits") {
    if (skipped()) return;
    Play play("ale:Pong", {});
    play.reset(1);
    const Frame frame = *play.env().render(640, 480);  // 160 x 210 becomes 366 x 480, in the middle
    const auto pixel = [&](int x, int y) {
      const uint8_t* at = frame.row(y) + 3 * x;
      return std::array<int, 3>{at[0], at[1], at[2]};
    };
    CHECK(pixel(136, 240) == std::array{0, 0, 0});
    CHECK(pixel(138, 240) == std::array{144, 72, 17});  // Pong's brown
    CHECK(pixel(501, 240) == std::array{144, 72, 17});
    CHECK(pixel(504, 240) == std::array{0, 0, 0});
    CHECK(pixel(320, 470) == std::array{236, 236, 236});  // its lower wall
    CHECK(play.env().render_fps() == 15);
  }

  TEST_CASE("Atari: wrong games and options are errors that name what there is") {
    if (skipped()) return;
    CHECK(error_of([] { EnvRegistry::instance().find("ale:Breakuot"); }).find("did you mean Breakout?") !=
          std::string::npos);
    const auto made = [](const EnvOptions& options) {
      return error_of([&] { configured_spec(EnvRegistry::instance().find("ale:Breakout"), options); });
    };
    CHECK(made({{"frame_skip", 0}}).find("frame_skip is 0.000000, want a whole number of 1 to 1000") !=
          std::string::npos);
    CHECK(made({{"mode", 7}}).find("this game has no mode 7; it has 0 4 8 12 16 20 24 28 32 36 40 44") !=
          std::string::npos);
    CHECK(made({{"difficulty", 3}}).find("this game has no difficulty 3") != std::string::npos);
    CHECK(made({{"repeat_action_probability", 1.5}}).find("want 0 to 1") != std::string::npos);
    CHECK(made({{"stickiness", 1}}).find("has no option stickiness") != std::string::npos);
  }
}

}  // namespace myriad
