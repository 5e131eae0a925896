#include "apps/driver/watched_evaluation.hpp"

#include <poll.h>

#include <cstring>
#include <utility>

#include "apps/driver/evaluation_process.hpp"
#include "rl/check.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace {

constexpr Time kSlow = std::chrono::seconds(5);
constexpr Time kGrace = std::chrono::seconds(60);  // beyond its time: for a start, or a step that does not end
constexpr int kLookMs = 500;

}  // namespace

WatchedEvaluation watch_evaluation(const Config& config, const std::filesystem::path& run,
                                   const std::string& checkpoint, EndSignals& signals,
                                   const std::function<void()>& slow) {
  try {
    EvaluationProcess process(run, checkpoint, false);
    const auto clock = make_system_clock();
    const Time start = clock->now(), allowed = seconds(config.evaluation.evaluation_sample_timeout_s) + kGrace;
    for (bool told = false;;) {
      pollfd wait{signals.fd(), POLLIN, 0};
      ::poll(&wait, 1, kLookMs);
      const int signal = signals.take().value_or(0);
      if (auto ended = process.ended()) return {std::move(ended->result), std::move(ended->failure), signal};
      if (signal != 0) return {std::nullopt, fmt::format("SIG{} came", ::sigabbrev_np(signal)), signal};
      const Time spent = clock->now() - start;
      if (spent >= allowed)
        return {std::nullopt, fmt::format("it did not end {:.0f} s after its time", to_seconds(kGrace))};
      if (spent >= kSlow && !std::exchange(told, true)) slow();
    }
  } catch (const Error& error) { return {std::nullopt, error.line()}; }
}

}  // namespace myriad
