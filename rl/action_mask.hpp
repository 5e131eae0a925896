// ActionMask: the part of an observation by which the environment says which actions are possible.
//
//   Dict{"observation": Box(...), "action_mask": Box(0, 1, (n,), uint8)}      PettingZoo's and RLlib's convention
//
// n is that of a Discrete action, or the sum of a MultiDiscrete's nvec: the choices of its elements, side by side. A
// number other than 0 allows its choice. The mask is a MultiBinary, a Box of any type within [0, 1], or a Tuple or Dict
// of these.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rl/random.hpp"
#include "rl/space.hpp"

namespace myriad {

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

  /// Draws an action that the observation allows, each as likely.
  void sample(RandomStream& random, std::span<const std::byte> observation, std::span<std::byte> action) const;

 private:
  struct Part {
    DType dtype;
    size_t offset, count;  ///< bytes from the start of the row; elements
  };
  ActionMask() = default;
  template <class F>
  void each(std::span<const std::byte> observation, F f) const;
  std::vector<float> values(std::span<const std::byte> observation) const;

  std::vector<Part> parts_;
  std::vector<int> groups_;
  int start_ = 0, offset_ = 0, size_ = 0;
  std::optional<Space> rest_;
};

/// Dict{"observation", "action_mask"} with a mask of the observation's element type: a row is the observation's
/// elements, then the mask's. `observation` is one leaf. Throws Error("unsupported-space") for other actions.
Space with_action_mask(const Space& observation, const Space& action);

/// Choices of each element of a Discrete or MultiDiscrete; none of another space.
std::vector<int> choices_of(const Space& action);

/// For each element, whose n choices lie side by side in `mask`, draws one with a mask other than 0, each as likely.
/// Writes start + choice as int32 and returns the log probability. Throws Error where an element has no choice.
double sample_allowed(RandomStream& random, std::span<const int> groups, int start, const float* mask,
                      std::span<std::byte> action);

}  // namespace myriad
