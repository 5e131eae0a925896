#include "apps/driver/recorder.hpp"

#include "apps/driver/row_json.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

}  // namespace

void Film::write(Environment& env) {
  if (!frames_) frames_ = open_frames(target_, size_, env.render_fps());
  frames_->write(render_frame(env, id_, size_));
}

void Film::finish() {
  if (frames_) frames_->finish();
}

RunRecorder::RunRecorder(fs::path run, std::string checkpoint, const EvaluationConfig& settings, const EnvSpec& env)
    : run_(std::move(run)), checkpoint_(std::move(checkpoint)), settings_(settings), env_(env) {}

std::string RunRecorder::file(const char* folder, size_t episode, const char* ending) const {
  std::error_code error;
  fs::create_directories(run_ / folder, error);
  if (error) fail(Exit::resource, "cannot-write", "{}: {}", (run_ / folder).string(), error.message());
  return (run_ / folder / fmt::format("{}-{}.{}", checkpoint_, episode, ending)).string();
}

/// What cannot be recorded does not end the evaluation.
template <class F>
void RunRecorder::attempt(F&& f) {
  if (!failure_.empty()) return;
  try {
    f();
  } catch (const Error& error) {
    failure_ = error.line();
    videos_.clear();
    lines_.clear();
  }
}

void RunRecorder::began(size_t episode, Environment& env, ConstRow observation) {
  attempt([&] {
    if (static_cast<int64_t>(episode) < settings_.record_video) {
      const Frame frame = render_frame(env, env_.id, size());
      auto& video = videos_[episode];
      video = open_frames(file("videos", episode, "webm"), size(), env.render_fps());
      video->write(frame);
    }
    if (static_cast<int64_t>(episode) < settings_.record_episodes) {
      const std::string name = file("episodes", episode, "jsonl");
      std::ofstream& lines = lines_[episode];
      lines.open(name);
      lines << json::object{{"t", 0}, {"observation", row_json(env_.observation_space, observation.bytes())}} << "\n";
    }
  });
}

void RunRecorder::stepped(size_t episode, Environment& env, const SeenStep& step) {
  const bool ended = step.result.terminated || step.result.truncated;
  attempt([&] {
    if (const auto video = videos_.find(episode); video != videos_.end()) {
      video->second->write(render_frame(env, env_.id, size()));
      if (ended) {
        video->second->finish();
        videos_.erase(video);
        ++num_videos_;
      }
    }
    if (const auto lines = lines_.find(episode); lines != lines_.end()) {
      lines->second << json::object{{"t", step.t},
                                    {"observation", row_json(env_.observation_space, step.observation.bytes())},
                                    {"action", row_json(env_.action_space, step.action.bytes())},
                                    {"reward", step.result.reward},
                                    {"terminated", step.result.terminated},
                                    {"truncated", step.result.truncated}}
                    << "\n";
      if (!lines->second.flush())
        fail(Exit::resource, "cannot-write", "{} cannot be written", file("episodes", episode, "jsonl"));
      if (ended) lines_.erase(lines);
    }
  });
}

void RunRecorder::failed(size_t episode) {
  attempt([&] {
    if (const auto video = videos_.find(episode); video != videos_.end()) {
      video->second->finish();
      videos_.erase(video);
      ++num_videos_;
    }
    lines_.erase(episode);
  });
}

}  // namespace myriad
