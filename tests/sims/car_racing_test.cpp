// CarRacing-v3 against Gymnasium's on the same random stream: how the car moves, to the float, and pictures
// (tests/golden/car_racing, written by scripts/align_car_racing.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "rl/check.hpp"
#include "sims/box2d/box2d_env.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

constexpr int kSide = 96;  // pixels
constexpr size_t kValues = kSide * kSide * 3;
constexpr double kTolerance =
    1e-5;  // m, rad, m/s; exact where the goldens were made, other processors' libm may differ
constexpr double kPictureTolerance = 0.6;  // the mean absolute difference of a picture's 27,648 values, of 0 to 255

std::vector<float> floats_of(std::string_view text) {
  std::istringstream in{std::string(text)};
  return {std::istream_iterator<float>(in), {}};
}

/// As the goldens have it: the hull's position, angle and velocities, the angles of the wheels.
std::vector<float> car_of(const Environment& env) {
  const b2Body* body = static_cast<const Box2dEnv&>(env).world().GetBodyList();  // the wheels, the last one first
  float wheels[4];
  for (int w = 3; w >= 0; --w, body = body->GetNext()) wheels[w] = body->GetAngle();
  const b2Vec2 at = body->GetPosition(), velocity = body->GetLinearVelocity();
  return {at.x,      at.y,      body->GetAngle(), velocity.x, velocity.y, body->GetAngularVelocity(),
          wheels[0], wheels[1], wheels[2],        wheels[3]};
}

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

std::vector<uint8_t> read_picture(std::istream& in) {
  std::vector<uint8_t> picture;
  std::string line;
  for (int row = 0; row < kSide; ++row) {
    std::getline(in, line);
    std::istringstream runs(line);
    unsigned length, colour;
    for (char x; runs >> std::dec >> length >> x >> std::hex >> colour;)
      for (unsigned i = 0; i < length; ++i)
        for (const int shift : {16, 8, 0}) picture.push_back(static_cast<uint8_t>(colour >> shift));
  }
  REQUIRE(picture.size() == kValues);
  return picture;
}

struct Tally {
  size_t steps = 0, terminations = 0, pictures = 0, far = 0;
  double car = 0;                                 // the largest difference of its numbers
  double difference = 0, largest_difference = 0;  // of pictures, each the mean of its values
};

class Replay {
 public:
  explicit Replay(const EnvOptions& options)
      : spec_(configured_spec(EnvRegistry::instance().find("CarRacing-v3"), options)),
        env_(make_environment(spec_, options)),
        observation_(kValues),
        action_(spec_.action_space.row_bytes()) {}

  void begin(uint64_t seed) {
    random_ = RandomStream(seed, StreamPurpose::environment, 0);
    env_->reset(random_, row());
  }
  StepResult step(const std::vector<float>& action) {
    if (action.size() == 1)
      Row(std::as_writable_bytes(std::span(action_))).i32()[0] = static_cast<int32_t>(action[0]);
    else
      std::ranges::copy(action, Row(std::as_writable_bytes(std::span(action_))).f32().begin());
    return env_->step(ConstRow(std::as_bytes(std::span(action_))), random_, row());
  }
  std::vector<float> car() const { return car_of(*env_); }

  void compare(const std::vector<uint8_t>& picture, Tally& tally) const {
    double sum = 0;
    for (size_t i = 0; i < kValues; ++i) {
      const int by = std::abs(observation_[i] - picture[i]);
      sum += by;
      tally.far += by > 16;
    }
    ++tally.pictures;
    tally.difference += sum / kValues;
    tally.largest_difference = std::max(tally.largest_difference, sum / kValues);
    CHECK(sum / kValues <= kPictureTolerance);
  }

  Row row() { return Row(std::as_writable_bytes(std::span(observation_))); }
  const std::vector<uint8_t>& observation() const { return observation_; }
  const EnvSpec& spec() const { return spec_; }
  Environment& env() { return *env_; }

 private:
  EnvSpec spec_;
  std::unique_ptr<Environment> env_;
  RandomStream random_{1, StreamPurpose::environment, 0};
  std::vector<uint8_t> observation_;
  std::vector<uint8_t> action_;
};

Tally replay(const std::filesystem::path& file) {
  std::ifstream in(file);
  REQUIRE(in.good());
  Tally tally;
  EnvOptions options;
  std::optional<Replay> played;
  const auto compare_car = [&](const std::string& want) {
    tally.car = std::max<double>(tally.car, largest_difference(played->car(), floats_of(want)));
    REQUIRE(tally.car <= kTolerance);
  };
  for (std::string line; std::getline(in, line);) {
    INFO(file.filename().string(), ", step ", tally.steps, ": ", line.substr(0, 60));
    const size_t blank = line.find(' '), bar = line.find('|'), last_bar = line.rfind('|');
    const std::string key = line.substr(0, blank), rest = blank < line.size() ? line.substr(blank + 1) : "";
    if (key == "option") {
      options[rest.substr(0, rest.find(' '))] = std::stod(rest.substr(rest.find(' ')));
    } else if (key == "stream") {
      if (!played) played.emplace(options);
      played->begin(std::stoull(rest));
    } else if (key == "car") {
      compare_car(rest);
    } else if (key == "picture") {
      played->compare(read_picture(in), tally);
    } else if (bar != std::string::npos) {
      const StepResult got = played->step(floats_of(line.substr(0, bar)));
      std::istringstream outcome(line.substr(bar + 1, last_bar - bar - 1));
      double reward;
      bool terminated;
      REQUIRE(bool(outcome >> reward >> terminated));
      REQUIRE(std::abs(got.reward - reward) <= kTolerance);
      REQUIRE(got.terminated == terminated);
      compare_car(line.substr(last_bar + 1));
      ++tally.steps;
      tally.terminations += terminated;
    }
  }
  return tally;
}

}  // namespace

TEST_SUITE("sims/car_racing") {
  TEST_CASE("CarRacing-v3: aligned with Gymnasium, step by step; pictures within 0.6 levels on average") {
    const char* other = std::getenv("MYRIAD_CAR_RACING_GOLDENS");
    const std::string folder = other != nullptr ? other : MYRIAD_SOURCE_ROOT "/tests/golden/car_racing";
    Tally all;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const Tally tally = replay(entry.path());
      all.steps += tally.steps, all.terminations += tally.terminations, all.pictures += tally.pictures;
      all.car = std::max(all.car, tally.car), all.far += tally.far, all.difference += tally.difference;
      all.largest_difference = std::max(all.largest_difference, tally.largest_difference);
    }
    const double pictures = static_cast<double>(all.pictures);
    MESSAGE(all.steps, " steps, ", all.terminations, " terminations, cars differ by at most ", all.car, "; ",
            all.pictures, " pictures, mean difference ", all.difference / pictures, ", at most ",
            all.largest_difference, "; of their values ", 100.0 * static_cast<double>(all.far) / (pictures * kValues),
            " % differ by more than 16");
    CHECK(all.pictures > 0);
    if (other == nullptr) CHECK(all.terminations == 3);  // a lap, the end of the field, the first tile of lap.txt
  }

  TEST_CASE("CarRacing-v3: the spec is Gymnasium's, continuous or not") {
    const EnvSpec& spec = EnvRegistry::instance().find("CarRacing-v3");
    CHECK(spec.observation_space.to_string() == "Box(0, 255, (96, 96, 3), uint8)");
    CHECK(spec.action_space.to_string() == "Box([-1.0 0.0 0.0], 1.0, (3,), float32)");
    CHECK(configured_spec(spec, {{"continuous", 0}}).action_space.to_string() == "Discrete(5)");
    CHECK(spec.max_episode_steps == 1000);
    CHECK(spec.reward_threshold == 900.0);
    CHECK(error_of([&] {
            make_environment(spec, {{"lap_complete_percent", 95}});
          }) == "error[env-option] lap_complete_percent is 95, want 0 to 1");
  }

  TEST_CASE("CarRacing-v3: a frame is the observation's picture, in any size") {
    Replay play({});
    play.begin(1);
    for (int t = 0; t < 60; ++t) play.step({0, 0, 0});
    CHECK(play.env().render(kSide, kSide)->rgb == play.observation());
    for (const auto& [width, height] : {std::pair{600, 400}, {2000, 1600}}) {
      const Frame frame = *play.env().render(width, height);
      REQUIRE(frame.rgb.size() == static_cast<size_t>(width) * static_cast<size_t>(height) * 3);
      const auto pixel = [&](double x, double y) {  // shares of the frame
        const uint8_t* at = frame.row(static_cast<int>(y * height)) + 3 * static_cast<int>(x * width);
        return std::array<int, 3>{at[0], at[1], at[2]};
      };
      CHECK(pixel(0.5, 0.75) == std::array{202, 0, 0});      // the car, 2 levels darker as all that smoothscale leaves
      CHECK(pixel(0.5, 0.95) == std::array{0, 0, 0});        // between the indicators
      CHECK(pixel(0.5, 0.65) == std::array{105, 105, 105});  // the road ahead, a tile of another shade
      CHECK(pixel(0.056, 0.932) == std::array{253, 253, 253});  // the return's digits
    }
  }
}

}  // namespace myriad
