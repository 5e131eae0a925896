// Evaluations: when a run is evaluated while it trains, which of its checkpoints is the best, and since when there was
// no better one. It runs none: the shell does, in a process of its own, one at a time, and says what came of it. Owned
// by DriverCore.
//
//   saved, due -> Begin -> evaluated -> better than any before? -> NewBest
//                       -> out of time -> Kill
#pragma once

#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "rl/system.hpp"

namespace myriad {

/// The best of a series of numbers, and how many came since.
struct Improvement {
  std::optional<double> best = {};
  uint64_t since = 0;

  /// Whether it is the best so far. NaN is no number of the series.
  bool add(double value) {
    if (std::isnan(value)) return false;
    const bool better = !best || value > *best;
    if (better) best = value;
    since = better ? 0 : since + 1;
    return better;
  }
  bool operator==(const Improvement&) const = default;
};

class Evaluations {
 public:
  struct Best {
    uint64_t training_iteration;
    double score;
    bool of_training = false;  ///< as Options::scores_training
    bool operator==(const Best&) const = default;
  };
  struct Options {
    uint64_t interval = 0;  ///< iterations between two; 0: none while it trains
    bool at_end = false;    ///< the last checkpoint, too, where there is an interval
    bool parallel = true;   ///< training goes on meanwhile
    Time timeout = std::chrono::minutes(10);
    bool scores_training = false;   ///< a checkpoint's score is the training's mean return, not an evaluation's
    std::optional<Best> best = {};  ///< of the checkpoint that the run goes on from, as the next one
    Improvement returns = {};       ///< of evaluations
  };
  explicit Evaluations(const Options& options);

  // --- outputs ---
  struct Begin {
    uint64_t training_iteration;
    std::string directory;  ///< the checkpoint
  };
  struct Kill {};  ///< the one that runs; what comes of it no longer counts
  struct NewBest {
    uint64_t training_iteration;
    std::string directory;
  };
  struct Event {
    std::string kind, text;
  };
  using Output = std::variant<Begin, Kill, NewBest, Event>;
  using Outputs = std::vector<Output>;

  /// Whether the checkpoint of an iteration is wanted for an evaluation.
  bool wants(uint64_t iteration) const { return due(iteration) && !running(); }
  /// An iteration was reported: it is skipped where it is due and another evaluation still runs.
  void reported(uint64_t iteration, Outputs& outputs);

  /// A checkpoint is on the disk. `return_mean`: of the training, NaN where too few episodes have ended. `last`: of the
  /// run.
  void saved(uint64_t iteration, const std::string& directory, double return_mean, bool last, Time now,
             Outputs& outputs);

  /// What the shell says of the evaluation that it ran: `failure` "" and its mean return, or why there is none.
  void evaluated(uint64_t iteration, double return_mean, const std::string& failure, Time now, Outputs& outputs);

  void tick(Time now, Outputs& outputs);
  Time next_timer() const { return running_ ? deadline_ : Time::max(); }
  /// Ends what runs, and begins nothing more.
  void stop(Outputs& outputs);

  bool running() const { return running_.has_value(); }
  /// Training is to wait.
  bool holds() const { return running() && !options_.parallel; }
  /// Iterations whose checkpoints are needed, however old they are.
  std::set<uint64_t> kept() const;
  const std::optional<Best>& best() const { return best_; }
  std::optional<uint64_t> best_iteration() const {
    return best_ ? std::optional(best_->training_iteration) : std::nullopt;
  }
  const Improvement& returns() const { return returns_; }
  uint64_t num_skipped() const { return num_skipped_; }
  uint64_t num_failed() const { return num_failed_; }

 private:
  bool due(uint64_t iteration) const { return options_.interval > 0 && iteration % options_.interval == 0; }
  void judge(uint64_t iteration, const std::string& directory, double score, Outputs& outputs);
  void begin(Begin next, Time now, Outputs& outputs);
  void failed(const std::string& failure, Time now, Outputs& outputs);
  void ended(Time now, Outputs& outputs);

  Options options_;
  std::optional<Best> best_;
  Improvement returns_;
  std::optional<Begin> running_, waiting_;  // waiting_: the run's last one, for the one that runs
  Time deadline_{};
  bool stopped_ = false;
  uint64_t num_skipped_ = 0, num_failed_ = 0;
  std::string last_failure_;  // that was told
};

}  // namespace myriad
