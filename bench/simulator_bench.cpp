// Steps a second of vectors of environments with random actions, in several processes at once, as env runners step
// them: `simulator_bench ENV ENVS PROCESSES SECONDS [FRAME_STACK]` prints {"steps_per_s", "p50_us", "p99_us"}: of all
// together, and of one vector's step.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "env_runners/vector_env.hpp"
#include "rl/check.hpp"
#include "rl/config.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

constexpr size_t kActions = 512;  // vectors of them, drawn beforehand
constexpr size_t kMaxTimes = 1 << 20;
constexpr double kWarmUp = 1.0;  // s: processes start, caches fill

struct Result {
  double steps = 0;               // a second
  double p50_us = 0, p99_us = 0;  // of a vector's step
};

Result run(const EnvSpec& spec, int num_envs, uint64_t process, double seconds) {
  VectorEnv envs(spec, {.num_envs = num_envs,
                        .first_env_index = process * static_cast<uint64_t>(num_envs),
                        .seed = 1,
                        .max_episode_steps = spec.max_episode_steps});
  const size_t n = static_cast<size_t>(num_envs), row = spec.action_space.row_bytes();
  std::vector<std::byte> actions(kActions * n * row), obs(n * envs.row_bytes()), final_obs(n * envs.row_bytes());
  RandomStream random(1, StreamPurpose::action, process);
  for (size_t i = 0; i < kActions * n; ++i) spec.action_space.sample(random, std::span(actions).subspan(i * row, row));
  std::vector<float> rewards(n);
  std::vector<uint8_t> terminateds(n), truncateds(n);
  std::vector<EpisodeStats> episodes;
  std::vector<float> times;
  times.reserve(kMaxTimes);
  envs.reset(obs.data());
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  const bool timed = spec.isolated;  // a clock costs more than a step of CartPole
  Clock::time_point begin = Clock::now();
  bool warm = false;
  uint64_t vectors = 0;
  for (size_t i = 0;; i = (i + 1) % kActions) {
    const Clock::time_point start = timed ? Clock::now() : begin;
    (void)envs.step(actions.data() + i * n * row,
                    {obs.data(), rewards.data(), terminateds.data(), truncateds.data(), final_obs.data(), &episodes});
    episodes.clear();
    ++vectors;
    if (timed && warm && times.size() < kMaxTimes) times.push_back(static_cast<float>(1e6 * since(start)));
    if (!timed && vectors % 64 != 0) continue;
    const double gone = since(begin);
    if (!warm && gone >= kWarmUp) {
      warm = true;
      begin = Clock::now();
      vectors = 0;
    } else if (warm && gone >= seconds) {
      std::ranges::sort(times);
      const auto at = [&](double share) {
        return times.empty() ? 0.0 : double{times[static_cast<size_t>(share * static_cast<double>(times.size() - 1))]};
      };
      return {static_cast<double>(vectors * n) / gone, at(0.5), at(0.99)};
    }
  }
}

}  // namespace
}  // namespace myriad

int main(int argc, char** argv) {
  using namespace myriad;  // NOLINT
  if (argc != 5 && argc != 6) {
    std::fprintf(stderr, "usage: simulator_bench ENV ENVS PROCESSES SECONDS [FRAME_STACK]\n");
    return 2;
  }
  try {
    EnvironmentConfig wrappers;
    wrappers.frame_stack = argc == 6 ? std::atoi(argv[5]) : 1;
    const EnvSpec spec = wrapped_spec(EnvRegistry::instance().find(argv[1]), wrappers);
    const int envs = std::atoi(argv[2]), processes = std::atoi(argv[3]);
    int ends[2];
    check(::pipe(ends) == 0, "no pipe");
    for (int p = 0; p < processes; ++p) {
      if (::fork() != 0) continue;
      try {
        const Result result = run(spec, envs, static_cast<uint64_t>(p), std::atof(argv[4]));
        (void)!::write(ends[1], &result, sizeof result);
      } catch (const Error& error) { std::fprintf(stderr, "%s\n", error.line().c_str()); }
      ::_exit(0);
    }
    ::close(ends[1]);
    Result sum, one;
    int ended = 0;
    for (; ::read(ends[0], &one, sizeof one) == sizeof one; sum.steps += one.steps, ++ended) {
      sum.p50_us = std::max(sum.p50_us, one.p50_us);
      sum.p99_us = std::max(sum.p99_us, one.p99_us);
    }
    while (::wait(nullptr) > 0) {}
    check(ended == processes, "{} of {} processes ended before they had measured", processes - ended, processes);
    std::printf("{\"steps_per_s\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", sum.steps, sum.p50_us, sum.p99_us);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.line().c_str());
    return static_cast<int>(error.exit_status());
  }
  return 0;
}
