// Levels: at which level of its curriculum a run is. It goes up by one when the mean return of the last `episodes`
// episodes that began at the present one reaches `advance_at`. Owned by DriverCore.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>

namespace myriad {

class Levels {
 public:
  struct Options {
    uint32_t count = 1;
    double advance_at = 0.0;
    uint32_t episodes = 100;
    uint32_t level = 0;               ///< of the checkpoint, as what follows
    std::deque<double> returns = {};  ///< of the last episodes of that level
  };
  explicit Levels(const Options& options) : options_(options) {}

  uint32_t level() const { return options_.level; }
  uint32_t count() const { return options_.count; }
  bool last() const { return options_.level + 1 >= options_.count; }
  const std::deque<double>& returns() const { return options_.returns; }

  void add(double episode_return, uint32_t level) {
    if (level != options_.level) return;  // it began before the level changed
    options_.returns.push_back(episode_return);
    if (options_.returns.size() > options_.episodes) options_.returns.pop_front();
  }

  /// NaN before the last `episodes` are there.
  double return_mean() const {
    if (options_.returns.size() < options_.episodes) return std::numeric_limits<double>::quiet_NaN();
    double sum = 0.0;
    for (const double value : options_.returns) sum += value;
    return sum / static_cast<double>(options_.returns.size());
  }

  /// Whether the level has gone up; counting begins anew.
  bool advance() {
    if (last() || !(return_mean() >= options_.advance_at)) return false;
    ++options_.level;
    options_.returns.clear();
    return true;
  }

 private:
  Options options_;
};

}  // namespace myriad
