// The Arcade Learning Environment alone, for `./myriad bench simulators atari`: random actions of four frames each, and
// the grey screen after each. `bare_loop ROM SECONDS` prints steps a second, resets included.
#include <ale/ale_interface.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: bare_loop ROM SECONDS\n");
    return 2;
  }
  ale::Logger::setMode(ale::Logger::Error);
  ale::ALEInterface game;
  game.setInt("random_seed", 1);
  game.setFloat("repeat_action_probability", 0.25f);
  game.setInt("frame_skip", 4);
  game.loadROM(argv[1]);
  const ale::ActionVect actions = game.getMinimalActionSet();
  std::mt19937 random(1);
  std::vector<unsigned char> grey;
  using Clock = std::chrono::steady_clock;
  double gone = 0;
  long steps = 0;
  for (const double phase : {1.0, std::atof(argv[2])}) {
    const Clock::time_point start = Clock::now();
    for (steps = 0; gone = std::chrono::duration<double>(Clock::now() - start).count(), gone < phase; ++steps) {
      game.act(actions[random() % actions.size()]);
      game.getScreenGrayscale(grey);
      if (game.game_over()) game.reset_game();
    }
  }
  std::printf("%.0f\n", static_cast<double>(steps) / gone);
  return 0;
}
