// A runner's saved environments: [mode] and a safetensors file, or the numbers of its tensors.
#include <optional>

#include "rl/check.hpp"
#include "tests/fuzz/environments.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace myriad {
namespace {

using fuzz::kEnvironments;

template <class T>
Tensor tensor_of(fuzz::Input& input, size_t count) {
  std::vector<T> values(count);
  for (T& value : values) value = input.number<T>();
  return Tensor::of(std::span<const T>(values), {count});
}

/// The tensors of VectorEnv::state() with any numbers in them.
TensorMap tensors_of(fuzz::Input& input) {
  TensorMap tensors;
  std::vector<int64_t> lengths;
  size_t total = 0;
  for (size_t b = 0; b < kEnvironments; ++b) {
    const uint8_t choice = input.u8();  // mostly the right length
    lengths.push_back(choice < 200   ? int64_t{fuzz::kStateLength}
                      : choice < 216 ? -1
                      : choice < 240 ? choice - 216
                                     : input.number<int64_t>());
    total += static_cast<size_t>(std::clamp<int64_t>(lengths.back(), 0, 64));
  }
  const std::vector<int64_t> identity{7, 3};
  tensors["env/identity"] = Tensor::of(std::span<const int64_t>(identity), {2});
  tensors["env/state_length"] = Tensor::of(std::span<const int64_t>(lengths), {kEnvironments});
  tensors["env/random_position"] = tensor_of<int64_t>(input, kEnvironments);
  tensors["env/episode_length"] = tensor_of<int64_t>(input, kEnvironments);
  tensors["env/episode_return"] = tensor_of<double>(input, kEnvironments);
  tensors["env/state"] = tensor_of<double>(input, total);
  tensors["env/curriculum"] = tensor_of<double>(input, 2 * kEnvironments);
  tensors["env/reward_filter"] = tensor_of<double>(input, 4 * kEnvironments);
  return tensors;
}

struct Environments {
  VectorEnv envs = fuzz::saved_environments();
  std::vector<std::byte> obs = std::vector<std::byte>(kEnvironments * envs.row_bytes());
};

void step(Environments& e) {
  const int32_t actions[kEnvironments] = {0, 1};
  float rewards[kEnvironments];
  uint8_t terminateds[kEnvironments], truncateds[kEnvironments];
  std::vector<std::byte> final_obs(e.obs.size());
  std::vector<EpisodeStats> episodes;
  e.envs.step(reinterpret_cast<const std::byte*>(actions),
              {e.obs.data(), rewards, terminateds, truncateds, final_obs.data(), &episodes});
}

}  // namespace
}  // namespace myriad

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  static Environments first, second;
  fuzz::Input input(data, size);
  try {
    const TensorMap tensors =
        input.u8() % 2 == 0 ? decode_safetensors(input.copy(input.size()), "runner state") : tensors_of(input);
    (void)first.envs.set_state(tensors, first.obs.data());
  } catch (const Error&) { return 0; }
  const std::vector<std::byte> file = encode_safetensors(first.envs.state());
  (void)second.envs.set_state(decode_safetensors(file, "again"), second.obs.data());
  fuzz::require(encode_safetensors(second.envs.state()) == file, "a state that was taken is given back");
  try {
    step(first);
  } catch (const Error&) {
    return 0;  // a state may lead out of the observation space
  }
  return 0;
}
