// Observers of an evaluation's episodes that record them: `evaluate --video`, evaluation.record_video and
// evaluation.record_episodes.
//
//   runs/0007-calm-heron/videos/000000123-0.webm       iteration 123, episode 0
//   runs/0007-calm-heron/episodes/000000123-0.jsonl    the same, step by step, as `play --json` prints it
#pragma once

#include <filesystem>
#include <fstream>
#include <map>

#include "apps/driver/frames.hpp"
#include "apps/driver/policy_file.hpp"

namespace myriad {

/// Every episode into one writer, one after the other: for an Evaluator with one environment.
class Film final : public EpisodeObserver {
 public:
  /// `target` as open_frames takes it, `id` the environment's.
  Film(std::string target, FrameSize size, std::string id)
      : target_(std::move(target)), size_(size), id_(std::move(id)) {}
  void began(size_t, Environment& env, ConstRow) override { write(env); }
  void stepped(size_t, Environment& env, const SeenStep&) override { write(env); }
  void finish();

 private:
  void write(Environment& env);
  std::string target_;
  FrameSize size_;
  std::string id_;
  std::unique_ptr<FrameWriter> frames_;
};

/// The first episodes of an evaluation, each into files of its own.
class RunRecorder final : public EpisodeObserver {
 public:
  /// Of the evaluation of `checkpoint`, "000000123", of the run in `run`; `settings` has the numbers of episodes.
  RunRecorder(std::filesystem::path run, std::string checkpoint, const EvaluationConfig& settings, const EnvSpec& env);

  void began(size_t episode, Environment& env, ConstRow observation) override;
  void stepped(size_t episode, Environment& env, const SeenStep& step) override;
  void failed(size_t episode) override;

  /// Why recording ended early, while the evaluation went on; "" where nothing went wrong.
  const std::string& failure() const { return failure_; }
  int64_t num_videos() const { return num_videos_; }

 private:
  template <class F>
  void attempt(F&& f);
  FrameSize size() const { return {static_cast<int>(settings_.video_width), static_cast<int>(settings_.video_height)}; }
  std::string file(const char* folder, size_t episode, const char* ending) const;

  std::filesystem::path run_;
  std::string checkpoint_;
  EvaluationConfig settings_;
  EnvSpec env_;
  std::map<size_t, std::unique_ptr<FrameWriter>> videos_;  // of the episodes that run
  std::map<size_t, std::ofstream> lines_;
  std::string failure_;
  int64_t num_videos_ = 0;
};

}  // namespace myriad
