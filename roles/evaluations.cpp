#include "roles/evaluations.hpp"

#include <fmt/format.h>

#include <utility>

namespace myriad {

Evaluations::Evaluations(const Options& options) : options_(options), best_(options.best), returns_(options.returns) {
  if (best_ && best_->of_training != options.scores_training) best_.reset();  // another measure
}

void Evaluations::reported(uint64_t iteration, Outputs& outputs) {
  if (!due(iteration) || !running()) return;
  if (num_skipped_++ == 0)
    outputs.push_back(Event{"evaluation-skipped",
                            fmt::format("iteration {} is not evaluated: the evaluation of iteration {} still runs. "
                                        "Others that are skipped are counted in evaluation/num_skipped",
                                        iteration, running_->training_iteration)});
}

void Evaluations::saved(uint64_t iteration, const std::string& directory, double return_mean, bool last, Time now,
                        Outputs& outputs) {
  if (options_.scores_training) judge(iteration, directory, return_mean, outputs);
  const bool at_end = last && options_.at_end && options_.interval > 0;
  if (stopped_ || !(due(iteration) || at_end)) return;
  if (!running_)
    begin({iteration, directory}, now, outputs);
  else if (at_end)
    waiting_ = Begin{iteration, directory};
}

void Evaluations::begin(Begin next, Time now, Outputs& outputs) {
  running_ = std::move(next);
  deadline_ = now + options_.timeout;
  outputs.push_back(*running_);
}

void Evaluations::evaluated(uint64_t iteration, double return_mean, const std::string& failure, Time now,
                            Outputs& outputs) {
  if (!running_ || running_->training_iteration != iteration) return;  // it was killed
  if (!failure.empty()) return failed(failure, now, outputs);
  const std::string directory = running_->directory;
  last_failure_.clear();
  returns_.add(return_mean);
  if (!options_.scores_training) judge(iteration, directory, return_mean, outputs);
  ended(now, outputs);
}

void Evaluations::failed(const std::string& failure, Time now, Outputs& outputs) {
  ++num_failed_;
  if (failure != last_failure_)  // the same again is counted
    outputs.push_back(Event{"evaluation-failed",
                            fmt::format("iteration {} was not evaluated: {}", running_->training_iteration, failure)});
  last_failure_ = failure;
  ended(now, outputs);
}

void Evaluations::ended(Time now, Outputs& outputs) {
  running_.reset();
  if (auto next = std::exchange(waiting_, std::nullopt)) begin(std::move(*next), now, outputs);
}

void Evaluations::judge(uint64_t iteration, const std::string& directory, double score, Outputs& outputs) {
  if (std::isnan(score) || (best_ && score <= best_->score)) return;
  best_ = Best{iteration, score, options_.scores_training};
  outputs.push_back(NewBest{iteration, directory});
}

void Evaluations::tick(Time now, Outputs& outputs) {
  if (!running_ || now < deadline_) return;
  outputs.push_back(Kill{});
  failed(fmt::format("it had not ended after {:g} s", to_seconds(options_.timeout)), now, outputs);
}

void Evaluations::stop(Outputs& outputs) {
  stopped_ = true;
  waiting_.reset();
  if (running_) outputs.push_back(Kill{});
  running_.reset();
}

std::set<uint64_t> Evaluations::kept() const {
  std::set<uint64_t> kept;
  if (best_) kept.insert(best_->training_iteration);
  if (running_) kept.insert(running_->training_iteration);
  if (waiting_) kept.insert(waiting_->training_iteration);
  return kept;
}

}  // namespace myriad
