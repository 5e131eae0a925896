// myriad-learner: one learner process. This thread moves messages, assembles batches and drives LearnerCore; a second
// one owns torch: it updates and writes the learner's part of a checkpoint.
//
//   runners ==fragments==> [LearnerCore + BatchAssembler] --batch k+1--> (queue of 1) --> [Learner] --weights-->
//   publish
#include <malloc.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>

#include "apps/child.hpp"
#include "apps/learner_files.hpp"
#include "env_runners/rollout_worker.hpp"
#include "learners/batch_assembler.hpp"
#include "learners/learner_core.hpp"

namespace myriad {
namespace {

/// Runs one job at a time on a thread of its own and hands the result back through an eventfd.
class Worker {
 public:
  using Job = std::function<LearnerCore::Input()>;

  Worker() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), thread_([this] { loop(); }) {}
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
    ::close(event_);
  }

  int event() const { return event_; }

  void give(Job job) {
    const std::lock_guard lock(mutex_);
    check(!job_, "the update thread has a job already");
    job_ = std::move(job);
    changed_.notify_one();
  }

  /// The result of the last job, once; rethrows what it threw.
  std::optional<LearnerCore::Input> take_result() {
    uint64_t count = 0;
    if (::read(event_, &count, sizeof count) < 0) return std::nullopt;
    const std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
    return std::exchange(result_, std::nullopt);
  }

 private:
  void loop() {
    for (;;) {
      Job job;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stopping_ || job_; });
        if (stopping_) return;
        job = std::exchange(job_, nullptr);
      }
      std::optional<LearnerCore::Input> result;
      std::exception_ptr failure;
      try {
        result = job();
      } catch (...) { failure = std::current_exception(); }
      {
        const std::lock_guard lock(mutex_);
        result_ = std::move(result);
        failure_ = failure;
      }
      const uint64_t one = 1;
      (void)!::write(event_, &one, sizeof one);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Job job_;
  std::optional<LearnerCore::Input> result_;
  std::exception_ptr failure_;
  bool stopping_ = false;
  int event_;
  std::thread thread_;  // last: it uses everything above
};

class LearnerShell {
 public:
  LearnerShell(const ChildArguments& arguments, const SocketContext& context, ControlLink& control,
               const wire::LearnerWelcomeT& welcome)
      : control_(control),
        clock_(make_system_clock()),
        files_(make_system_files(".")),
        config_(load_config(welcome.config, "config")),
        env_(configured_spec(EnvRegistry::instance().find(config_.environment.env), config_.environment.env_config)),
        data_(context, welcome.data_endpoint),  // bound before torch is set up: runners connect meanwhile
        learner_(config_, env_.observation_space, env_.action_space),
        layout_(std::make_shared<const FragmentLayout>(RolloutWorker::layout_for(config_, env_, learner_.spec()))),
        assembler_(layout_, static_cast<uint32_t>(config_.fragments_per_batch())),
        core_(options(arguments, welcome)) {}

  int run() {
    std::vector<LearnerCore::Output> outputs;
    core_.start(std::make_shared<const Weights>(learner_.weights()), clock_->now(), outputs);
    apply(outputs);
    while (!exiting_) {
      wait_readable({&data_, &control_.socket()}, worker_.event(), core_.next_timer() - clock_->now());
      while (auto message = control_.receive()) step(LearnerCore::FromDriver{std::move(*message)});
      while (auto received = data_.receive()) {
        auto decoded = decode(received->frames);
        if (auto* malformed = std::get_if<Malformed>(&decoded))
          core_.count_malformed(*malformed);
        else
          step(LearnerCore::FromRunner{received->peer, std::move(std::get<Message>(decoded))});
      }
      if (auto result = worker_.take_result()) step(*result);
      step(LearnerCore::Tick{});
    }
    return 0;
  }

 private:
  LearnerCore::Options options(const ChildArguments& arguments, const wire::LearnerWelcomeT& welcome) {
    LearnerCore::Options options;
    options.run = arguments.number("--run");
    options.epoch = arguments.number("--epoch");
    options.num_slots = static_cast<uint32_t>(config_.env_runners.num_env_runners);
    options.fragments_per_batch = static_cast<uint32_t>(config_.fragments_per_batch());
    options.steps = static_cast<uint32_t>(layout_->steps());
    options.environments = static_cast<uint32_t>(layout_->environments());
    options.spec_hash = learner_.spec().hash();
    options.fragment_hash = layout_->hash();
    options.violation = [this](const wire::FragmentHeaderT& header, std::span<const std::byte> buffer) {
      return fragment_violation(*layout_, buffer, header.final_rows, env_.action_space);
    };
    if (!welcome.checkpoint.empty()) {
      const LearnerCounters counters = load_learner(*files_, welcome.checkpoint, learner_);
      options.training_iteration = counters.training_iteration;
      options.num_env_steps_sampled_lifetime = counters.num_env_steps_sampled_lifetime;
    }
    return options;
  }

  void step(const LearnerCore::Input& input) {
    std::vector<LearnerCore::Output> outputs;
    core_.step(input, clock_->now(), outputs);
    apply(outputs);
  }

  void apply(std::vector<LearnerCore::Output>& outputs) {
    for (LearnerCore::Output& output : outputs) {
      if (auto* send = std::get_if<LearnerCore::ToDriver>(&output)) {
        control_.send_message(std::move(send->message));
      } else if (auto* send = std::get_if<LearnerCore::ToRunner>(&output)) {
        (void)data_.send(send->peer, encode(send->message));  // whoever misses it asks again
      } else if (auto* assemble = std::get_if<LearnerCore::Assemble>(&output)) {
        const auto& header = *assemble->fragment.message.as<wire::FragmentHeaderT>();
        assembler_.add(assemble->fragment.place, assemble->fragment.message.payloads[0], header.final_rows);
      } else if (std::holds_alternative<LearnerCore::Update>(output)) {
        update(assembler_.take(core_.queue().weights_version()));
      } else if (auto* write = std::get_if<LearnerCore::WriteCheckpoint>(&output)) {
        worker_.give([this, request = std::move(*write)]() -> LearnerCore::Input {
          LearnerCore::CheckpointWritten written{request.sequence, {}, ""};
          try {
            written.files = save_learner(*files_, request, learner_);
          } catch (const FileError& error) {
            written.error = fmt::format("{}: {}", error.path, std::strerror(error.error));
          }
          return written;
        });
      } else {
        exiting_ = true;
      }
    }
  }

  void update(Fragment& batch) {
    const Time waited = clock_->now() - idle_since_;
    worker_.give([this, &batch, waited]() -> LearnerCore::Input {
      const Time start = clock_->now();
      UpdateResult result = learner_.update(batch);
      auto weights = std::make_shared<const Weights>(learner_.weights());
      idle_since_ = clock_->now();
      std::map<std::string, double> metrics;
      for (const auto& [key, value] : result.metrics) metrics["learners/default_policy/" + key] = value;
      metrics["learner_update_s"] = to_seconds(idle_since_ - start);
      metrics["learner_wait_s"] = to_seconds(waited);
      return LearnerCore::Updated{std::move(weights), std::move(metrics)};
    });
  }

  ControlLink& control_;
  std::unique_ptr<Clock> clock_;
  std::unique_ptr<Files> files_;
  Config config_;
  EnvSpec env_;
  Router data_;
  Learner learner_;
  std::shared_ptr<const FragmentLayout> layout_;
  BatchAssembler assembler_;
  LearnerCore core_;
  Time idle_since_ = std::chrono::steady_clock::now().time_since_epoch();  // handed over with each job
  bool exiting_ = false;
  Worker worker_;  // last: its thread ends before what it works on
};

int body(const ChildArguments& arguments, const SocketContext& context, ControlLink& control) {
  wire::LearnerHelloT hello;
  hello.pid = static_cast<uint32_t>(::getpid());
  hello.protocol = kProtocolVersion;
  const Message welcome = control.introduce<wire::LearnerWelcomeT>(hello);
  return LearnerShell(arguments, context, control, *welcome.as<wire::LearnerWelcomeT>()).run();
}

}  // namespace
}  // namespace myriad

int main(int argc, char** argv) {
  // Freed batches go back to the heap, not to the kernel: page faults would cost more than the update's arithmetic.
  ::mallopt(M_TRIM_THRESHOLD, 512 << 20);
  ::mallopt(M_MMAP_THRESHOLD, 512 << 20);
  try {
    return myriad::run_child(myriad::ChildArguments(argc, argv), "learner-0", myriad::body);
  } catch (const myriad::Error& error) {
    std::fprintf(stderr, "%s\n", error.line().c_str());
    return static_cast<int>(error.exit_status());
  }
}
