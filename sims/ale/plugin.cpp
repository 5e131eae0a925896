// The games of the Arcade Learning Environment, one environment each: a plugin (sdk/include/myriad/env.h) that
// `./myriad plugin ale` builds on the machine where it is to run. No part of the programs.
//
// Bellemare et al. 2013, "The Arcade Learning Environment"; the defaults are those of Machado et al. 2018, "Revisiting
// the Arcade Learning Environment", with the minimal action set, as Gymnasium has them. Stacking frames and clipping
// rewards are settings of [environment].
#include <ale/ale_interface.hpp>
#include <ale/emucore/Console.hxx>

#include <dlfcn.h>

#include <array>
#include <filesystem>
#include <myriad/env.hpp>
#include <optional>
#include <utility>

#include "sims/ale/picture.hpp"

namespace myriad::atari {
namespace {

namespace fs = std::filesystem;
using ::ale::Action, ::ale::ALEInterface, ::ale::ALEScreen, ::ale::ALEState, ::ale::Logger;

const bool quiet = (Logger::setMode(Logger::Error), true);  // before the first interface greets

/// A game as Gymnasium names it, and the stem of its ROM file.
struct Game {
  const char *name, *rom;
};
constexpr Game kGames[] = {
#include <games.inc>
};
constexpr size_t kNumGames = std::size(kGames), kPicture = size_t{kSide} * kSide;

/// ROMs lie beside the library.
fs::path rom_of(const Game& game) {
  Dl_info library{};
  if (dladdr(&kGames, &library) == 0) throw std::runtime_error("dladdr does not know this library");
  const fs::path path = fs::path(library.dli_fname).parent_path() / "roms" / (std::string(game.rom) + ".bin");
  if (!fs::exists(path))
    throw std::runtime_error("there is no ROM " + path.string() + ": run ./myriad plugin ale again");
  return path;
}

/// Bytes as doubles and back, six in one: each is an integer below 2^48, which a double holds exactly.
struct Packed {
  static constexpr size_t kBytes = 6;
  static constexpr size_t size(size_t bytes) { return (bytes + kBytes - 1) / kBytes; }

  static void put(const void* data, size_t size, double* to) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    for (size_t i = 0; i < size; i += kBytes) {
      uint64_t value = 0;
      std::memcpy(&value, bytes + i, std::min(kBytes, size - i));
      *to++ = static_cast<double>(value);
    }
  }
  static void get(const double* from, void* data, size_t size) {
    auto* bytes = static_cast<uint8_t*>(data);
    for (size_t i = 0; i < size; i += kBytes, ++from) {
      if (!(*from >= 0 && *from < 0x1p48)) throw std::runtime_error("this is no state of an Atari game");
      const auto value = static_cast<uint64_t>(*from);
      std::memcpy(bytes + i, &value, std::min(kBytes, size - i));
    }
  }
};

class Atari {
 public:
  static constexpr double render_fps = 15;  // of the machine's 60 frames a second, one in four
  static std::vector<Option> options() {
    return {{"frame_skip", 4},        {"repeat_action_probability", 0.25},     {"noop_max", 30},
            {"full_action_space", 0}, {"max_num_frames_per_episode", 108'000}, {"mode", -1},
            {"difficulty", 0}};
  }
  static Space observation_space(const Options&) { return Space::box(0, 255, {kSide, kSide}, MYRIAD_U8); }

  Atari(const Game& game, const Options& options)
      : frame_skip_(whole(options, "frame_skip", 1, 1000)),
        noop_max_(whole(options, "noop_max", 0, 10'000)),
        repeat_action_probability_(options["repeat_action_probability"]) {
    if (!(repeat_action_probability_ >= 0 && repeat_action_probability_ <= 1))
      throw std::runtime_error("repeat_action_probability is " + std::to_string(repeat_action_probability_) +
                               ", want 0 to 1");
    ale_.setInt("random_seed", 0);  // of the action repeats, which are drawn here instead
    ale_.setFloat("repeat_action_probability", 0);
    ale_.setInt("max_num_frames_per_episode", whole(options, "max_num_frames_per_episode", 0, 1'000'000'000));
    ale_.loadROM(rom_of(game));
    const int mode = whole(options, "mode", -1, 255), difficulty = whole(options, "difficulty", 0, 3);
    if (mode >= 0) ale_.setMode(one_of(ale_.getAvailableModes(), mode, "mode"));
    if (difficulty > 0) ale_.setDifficulty(one_of(ale_.getAvailableDifficulties(), difficulty, "difficulty"));
    actions_ = whole(options, "full_action_space", 0, 1) != 0 ? ale_.getLegalActionSet() : ale_.getMinimalActionSet();
    switched_on_ = ale_.cloneState();
    // For colour 255 ALE reads past the end of its palette, where it finds the black that the next one begins with.
    std::array<uint8_t, 256> colours{}, grey{};
    for (size_t i = 0; i < 255; ++i) colours[i] = static_cast<uint8_t>(i);
    ale_.theOSystem->colourPalette().applyPaletteGrayscale(grey.data(), colours.data(), 255);
    maker_.emplace(static_cast<int>(screen().height()), static_cast<int>(screen().width()), grey);
    before_.resize(screen().arraySize());
  }

  int num_actions() const { return static_cast<int>(actions_.size()); }

  void reset(Random& random, uint8_t* observation) {
    reset_machine();
    const int noops = noop_max_ > 0 ? 1 + static_cast<int>(random.uniform(0, noop_max_)) : 0;
    for (int i = 0; i < noops; ++i) {
      ale_.act(::ale::PLAYER_A_NOOP);
      if (ale_.game_over()) reset_machine();
    }
    last_action_ = ::ale::PLAYER_A_NOOP;
    look(nullptr, observation);
  }

  Step step(const int32_t* action, Random& random, uint8_t* observation) {
    const Action wanted = actions_[static_cast<size_t>(*action)];
    int reward = 0, frames = 0;
    bool over = false;
    while (frames < frame_skip_ && !over) {
      const bool repeats = repeat_action_probability_ > 0 && random.uniform(0, 1) < repeat_action_probability_;
      if (!repeats) last_action_ = wanted;
      reward += ale_.act(last_action_);
      over = ale_.game_over();
      if (++frames == frame_skip_ - 1) std::copy_n(screen().getArray(), before_.size(), before_.begin());
    }
    // A game that ends earlier shows its last frame alone.
    look(frames == frame_skip_ && frame_skip_ > 1 ? before_.data() : nullptr, observation);
    return {static_cast<double>(reward), ale_.game_over(false), ale_.game_truncated()};
  }

  /// The last action; the emulator; what the agent sees; both screens, which keep old pixels where none is drawn.
  static constexpr size_t kMaxMachine = 12'288, kMaxScreen = 160 * 257;  // bytes
  static constexpr size_t kSeenAt = 2 + Packed::size(kMaxMachine);
  static constexpr size_t kScreenAt[]{kSeenAt + Packed::size(kPicture),
                                      kSeenAt + Packed::size(kPicture) + Packed::size(kMaxScreen)};
  static constexpr size_t num_state = kScreenAt[1] + Packed::size(kMaxScreen);

  void save(double* state) const {
    const std::string machine = ale_.environment->cloneState(false).serialize();
    if (machine.size() > kMaxMachine)
      throw std::runtime_error("the emulator's state has " + std::to_string(machine.size()) + " bytes");
    std::fill_n(state, num_state, 0.0);
    state[0] = last_action_, state[1] = static_cast<double>(machine.size());
    Packed::put(machine.data(), machine.size(), state + 2);
    Packed::put(seen_.data(), kPicture, state + kSeenAt);
    Packed::put(tia().currentFrameBuffer(), before_.size(), state + kScreenAt[0]);
    Packed::put(tia().previousFrameBuffer(), before_.size(), state + kScreenAt[1]);
  }

  void load(const double* state, uint8_t* observation) {
    if (!(state[0] >= 0 && state[0] < ::ale::PLAYER_B_NOOP) || !(state[1] >= 0 && state[1] <= kMaxMachine))
      throw std::runtime_error("this is no state of an Atari game");
    last_action_ = static_cast<Action>(state[0]);
    std::string machine(static_cast<size_t>(state[1]), '\0');
    Packed::get(state + 2, machine.data(), machine.size());
    ale_.restoreState(ALEState(machine));
    Packed::get(state + kSeenAt, seen_.data(), kPicture);
    Packed::get(state + kScreenAt[0], tia().currentFrameBuffer(), before_.size());
    Packed::get(state + kScreenAt[1], tia().previousFrameBuffer(), before_.size());
    std::copy_n(tia().currentFrameBuffer(), before_.size(), screen().getArray());
    std::copy_n(seen_.data(), kPicture, observation);
  }

  /// The whole screen in its colours, as large as fits, in the middle of black.
  void render(int width, int height, uint8_t* rgb) const {
    const int rows = static_cast<int>(screen().height()), columns = static_cast<int>(screen().width());
    const double scale = std::min(static_cast<double>(width) / columns, static_cast<double>(height) / rows);
    const double left = (width - scale * columns) / 2, top = (height - scale * rows) / 2;
    const auto source = [scale](int pixel, double start, int size) {
      const double at = std::floor((pixel + 0.5 - start) / scale);
      return at >= 0 && at < size ? static_cast<int>(at) : -1;
    };
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x, rgb += 3) {
        const int row = source(y, top, rows), column = source(x, left, columns);
        const uint32_t colour =
            row < 0 || column < 0 ? 0 : ale_.theOSystem->colourPalette().getRGB(screen().get(row, column));
        rgb[0] = static_cast<uint8_t>(colour >> 16), rgb[1] = static_cast<uint8_t>(colour >> 8),
        rgb[2] = static_cast<uint8_t>(colour);
      }
  }

 private:
  static int whole(const Options& options, const char* name, int low, int high) {
    const double value = options[name];
    if (!(value >= low && value <= high) || value != std::floor(value))
      throw std::runtime_error(std::string(name) + " is " + std::to_string(value) + ", want a whole number of " +
                               std::to_string(low) + " to " + std::to_string(high));
    return static_cast<int>(value);
  }

  static unsigned one_of(const std::vector<unsigned>& known, int value, const char* name) {
    std::string all;
    for (const unsigned one : known) {
      if (one == static_cast<unsigned>(value)) return one;
      all += " " + std::to_string(one);
    }
    throw std::runtime_error("this game has no " + std::string(name) + " " + std::to_string(value) + "; it has" + all);
  }

  const ALEScreen& screen() const { return ale_.getScreen(); }
  ::ale::stella::MediaSource& tia() const { return ale_.theOSystem->console().mediaSource(); }  // its video chip

  /// As after loading the ROM, whatever was played before. ALE's own reset_game() keeps some of it, and goes on in the
  /// emulator's random numbers, which fill its memory.
  void reset_machine() {
    ale_.restoreState(switched_on_);
    ale_.reset_game();
  }

  void look(const uint8_t* before, uint8_t* observation) {
    maker_->make(screen().getArray(), before, seen_.data());
    std::copy_n(seen_.data(), kPicture, observation);
  }

  int frame_skip_, noop_max_;
  double repeat_action_probability_;
  ALEInterface ale_;
  ::ale::ActionVect actions_;
  ALEState switched_on_;
  std::optional<PictureMaker> maker_;
  Action last_action_ = ::ale::PLAYER_A_NOOP;
  std::vector<uint8_t> before_;           // the screen one frame ago
  std::array<uint8_t, kPicture> seen_{};  // S_t
};

template <size_t I>
struct GameEnv : Atari {
  static constexpr const char* id = kGames[I].name;
  explicit GameEnv(const Options& options) : Atari(kGames[I], options) {}
  static Space action_space(const Options& options) { return Space::discrete(GameEnv(options).num_actions()); }
};

template <size_t... I>
const myriad_plugin* game_at(size_t index, std::index_sequence<I...>) {
  return detail::plugin_at<GameEnv<I>...>(index);
}

}  // namespace
}  // namespace myriad::atari

extern "C" MYRIAD_EXPORT const myriad_plugin* myriad_env_plugin_at(size_t index) {
  return myriad::atari::game_at(index, std::make_index_sequence<myriad::atari::kNumGames>());
}
extern "C" MYRIAD_EXPORT const myriad_plugin* myriad_env_plugin(void) { return myriad_env_plugin_at(0); }
