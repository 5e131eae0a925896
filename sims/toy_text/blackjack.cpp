// Blackjack-v1: get closer to 21 than the dealer, and not beyond.
//
// Sutton and Barto 2018, "Reinforcement Learning: An Introduction", Example 5.1; Gymnasium's Blackjack-v1. Cards are
// drawn with replacement; an ace counts 11 where that does not go beyond 21.
#include <algorithm>

#include "rl/check.hpp"
#include "rl/environment.hpp"

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
