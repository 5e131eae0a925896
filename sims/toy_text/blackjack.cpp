// Blackjack-v1: get closer to 21 than the dealer, and not beyond.
//
// Sutton and Barto 2018, "Reinforcement Learning: An Introduction", Example 5.1; Gymnasium's Blackjack-v1. Cards are
// drawn with replacement; an ace counts 11 where that does not go beyond 21.
#include <algorithm>

#include "rl/check.hpp"
#include "rl/environment.hpp"
#include "sims/classic/canvas.hpp"

namespace myriad {
namespace {

/// What the rules need of a hand.
struct Hand {
  int sum = 0;  // aces as 1
  int cards = 0;
  bool ace = false;

  void add(int card) { sum += card, ++cards, ace |= card == 1; }
  bool usable_ace() const { return ace && sum + 10 <= 21; }
  int total() const { return usable_ace() ? sum + 10 : sum; }
  int score() const { return total() > 21 ? 0 : total(); }
  bool natural() const { return cards == 2 && ace && sum == 11; }
};

int draw_card(RandomStream& random) { return std::min(static_cast<int>(random.below(13)) + 1, 10); }

/// Two digits as on a pocket calculator, each 0.6 x 1 and the first at `left`, `bottom`.
void draw_number(Canvas& canvas, int number, double left, double bottom, Colour colour) {
  // Segments that are lit: top, upper left, upper right, middle, lower left, lower right, bottom.
  constexpr const char* kSegments[]{"1110111", "0010010", "1011101", "1011011", "0111010",
                                    "1101011", "1101111", "1010010", "1111111", "1111011"};
  struct Segment {
    double left, right, bottom, top;
  };
  constexpr double t = 0.14;  // thickness
  constexpr Segment kBoxes[]{
      {0, 0.6, 1 - t, 1}, {0, t, 0.5, 1},         {0.6 - t, 0.6, 0.5, 1}, {0, 0.6, 0.5 - t / 2, 0.5 + t / 2},
      {0, t, 0, 0.5},     {0.6 - t, 0.6, 0, 0.5}, {0, 0.6, 0, t}};
  for (const int digit : {number / 10 % 10, number % 10}) {
    for (size_t s = 0; s < std::size(kBoxes); ++s)
      if (kSegments[digit][s] == '1')
        canvas.box(kBoxes[s].left, kBoxes[s].right, kBoxes[s].bottom, kBoxes[s].top, 0, {left, bottom}, colour);
    left += 0.8;
  }
}

class Blackjack final : public Environment {
 public:
  Blackjack(bool natural, bool sab, Space space) : natural_(natural), sab_(sab), space_(std::move(space)) {}

  void reset(RandomStream& random, Row observation) override {
    dealer_ = player_ = {};
    dealer_.add(showing_ = draw_card(random));
    dealer_.add(draw_card(random));
    player_.add(draw_card(random));
    player_.add(draw_card(random));
    observe(observation);
  }

  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    StepResult result;
    if (action.i32()[0] == kHit) {
      player_.add(draw_card(random));
      const bool bust = player_.total() > 21;
      result = {.reward = bust ? -1.0 : 0.0, .terminated = bust};
    } else {
      while (dealer_.total() < 17) dealer_.add(draw_card(random));
      result = {.reward = stick_reward(), .terminated = true};
    }
    observe(observation);
    return result;
  }

  std::optional<std::vector<double>> state() const override {
    std::vector<double> state{static_cast<double>(showing_)};
    for (const Hand& hand : {dealer_, player_})
      for (const int value : {hand.sum, hand.cards, static_cast<int>(hand.ace)}) state.push_back(value);
    return state;
  }

  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("Blackjack-v1", state.size(), 7);
    for (const double value : state)
      if (!(value >= 0 && value <= 31))  // 21 and one card more
        fail(Exit::usage, "env-state-value", "a state of Blackjack-v1 holds {}, want 0 to 31", value);
    const auto hand = [&](size_t at) {
      return Hand{static_cast<int>(state[at]), static_cast<int>(state[at + 1]), state[at + 2] >= 1};
    };
    showing_ = std::min(static_cast<int>(state[0]), 10), dealer_ = hand(1), player_ = hand(4);
    observe(observation);
  }

  /// Above, the card that the dealer shows, an ace as 1; below, the player's total, with a disc for an ace that
  /// counts 11.
  std::optional<Frame> render(int width, int height) override {
    constexpr Colour kTable{30, 110, 60}, kCard{250, 250, 245}, kGold{240, 190, 60};
    Canvas canvas(width, height, 4, 4);
    canvas.box(0, 4, 0, 4, 0, {0, 0}, kTable);
    canvas.box(1, 3, 2.3, 3.7, 0, {0, 0}, kCard);
    draw_number(canvas, showing_, 1.3, 2.5, kBlack);
    draw_number(canvas, player_.total(), 1.3, 0.6, kCard);
    if (player_.usable_ace()) canvas.circle({3.3, 1.1}, 0.25, kGold);
    return canvas.take();
  }
  double render_fps() const override { return 1; }

 private:
  static constexpr int kHit = 1;

  double stick_reward() const {
    const int player = player_.score(), dealer = dealer_.score();
    if (sab_ && player_.natural() && !dealer_.natural()) return 1.0;
    if (!sab_ && natural_ && player_.natural() && player > dealer) return 1.5;
    return (player > dealer) - (player < dealer);
  }

  void observe(Row observation) const {
    const int values[]{player_.total(), showing_, player_.usable_ace()};
    for (size_t i = 0; i < 3; ++i) observation.leaf(space_.leaves()[i]).i32()[0] = values[i];
  }

  bool natural_, sab_;
  Space space_;
  Hand dealer_, player_;
  int showing_ = 0;  // the dealer's first card
};

const Space observation_space = Tuple{{Space::discrete(32), Space::discrete(11), Space::discrete(2)}};

const RegisterEnv blackjack{{
    .id = "Blackjack-v1",
    .observation_space = observation_space,
    .action_space = Space::discrete(2),
    .source = "Gymnasium 1.2.2 Blackjack-v1",
    .options = {{"natural", 0}, {"sab", 1}},
    .state_names = {"dealer_shows", "dealer_sum", "dealer_cards", "dealer_ace", "player_sum", "player_cards",
                    "player_ace"},
    .make =
        [](const EnvOptions& options) {
          return std::make_unique<Blackjack>(options.at("natural") != 0, options.at("sab") != 0, observation_space);
        },
}};

}  // namespace
}  // namespace myriad
