// ActionMask: the part of an observation by which the environment says which actions are possible.
//
//   Dict{"observation": Box(...), "action_mask": Box(0, 1, (n,), uint8)}      PettingZoo's and RLlib's convention
//
// n is that of a Discrete action, the sum of a MultiDiscrete's nvec, or 2 for each element of a MultiBinary: the
// choices of its elements, side by side. Of a Dict or Tuple of actions those of all its leaves; a Box of floats has
// none. A number other than 0 allows its choice. The mask is a MultiBinary, a Box of any type within [0, 1], or a Tuple
// or Dict of these.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rl/random.hpp"
#include "rl/space.hpp"

namespace myriad {

/// An element of an action that is one of [start, start + n).
struct Choice {
  int n, start;
  size_t offset;     ///< bytes from the start of a row of actions, where it is an int32
  std::string name;  ///< "action[1]", "action.move[0]"
};
/// Of all Discrete, MultiDiscrete and MultiBinary leaves, in order.
std::vector<Choice> choices_of(const Space& action);

class ActionMask {
 public:
  static constexpr std::string_view kKey = "action_mask";
  /// Of error[no-action].
  static constexpr std::string_view kNoAction =
      "obs.action_mask allows no action, want at least one in a state that does not end its episode";

  /// Nothing where the observations are no Dict that has the key. Throws Error("unsupported-space") for a mask that
  /// does not fit the actions.
  static std::optional<ActionMask> of(const Space& observation, const Space& action);

  int offset() const { return offset_; }  ///< of the mask in the observation's flat features
  int size() const { return size_; }      ///< features: n
  /// The observation without it: the one other part, or a Dict of several; nothing where it is all there is.
  const std::optional<Space>& rest() const { return rest_; }

  /// Whether some action can be taken at this observation: each element has a choice.
  bool allows_any(std::span<const std::byte> observation) const;

  /// "" for an action that the observation allows, else "action[1] = 3 is masked". The action lies in its space.
  std::string violation(std::span<const std::byte> observation, std::span<const std::byte> action) const;

  /// Draws an action that the observation allows, each as likely; real numbers as Space::sample.
  void sample(RandomStream& random, std::span<const std::byte> observation, std::span<std::byte> action) const;

 private:
  struct Part {
    DType dtype;
    size_t offset, count;  ///< bytes from the start of the row; elements
  };
  explicit ActionMask(const Space& action) : action_(action) {}
  template <class F>
  void each(std::span<const std::byte> observation, F f) const;
  std::vector<float> values(std::span<const std::byte> observation) const;

  std::vector<Part> parts_;
  std::vector<Choice> choices_;
  Space action_;
  int offset_ = 0, size_ = 0;
  bool all_choices_ = true;  ///< no leaf of real numbers
  std::optional<Space> rest_;
};

/// Dict{"observation", "action_mask"} with a mask of the observation's element type: a row is the observation's
/// elements, then the mask's. `observation` is one leaf. Throws Error("unsupported-space") for actions without choices.
Space with_action_mask(const Space& observation, const Space& action);

/// For each choice, whose options lie side by side in `mask`, draws one with a mask other than 0, each as likely.
/// Writes it into a row of the action space and returns the log probability. Throws Error where a choice has no option.
double sample_allowed(RandomStream& random, std::span<const Choice> choices, const float* mask,
                      std::span<std::byte> action);

}  // namespace myriad
