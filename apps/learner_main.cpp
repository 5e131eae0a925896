// myriad-learner: one learner process. This thread moves messages, assembles batches and drives LearnerCore; a second
// one owns torch: it updates and writes the learner's part of a checkpoint.
//
//   host agents ==parcels==> [LearnerCore + BatchAssembler] --batch--> [Learner] --weights--> host agents
//                                       | MYRIAD_LEDGER=DIR: what became of every fragment, DIR/learner.bin
#include <malloc.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
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

/// For tests of whole clusters: one record for each fragment that came to its end here.
class Ledger {
 public:
  Ledger() {
    const char* directory = std::getenv("MYRIAD_LEDGER");
    if (directory != nullptr) file_.reset(std::fopen((std::string(directory) + "/learner.bin").c_str(), "ab"));
    if (directory != nullptr && file_ == nullptr)
      fail(Exit::environment, "no-ledger", "{}/learner.bin: {}", directory, std::strerror(errno));
  }
  void add(const LearnerCore::Consumed& consumed) {
    if (file_ == nullptr) return;
    Record record{consumed.id.slot, consumed.id.incarnation, consumed.id.seq, 0};
    for (size_t i = 0; i < static_cast<size_t>(Drop::count); ++i)
      if (name_of(static_cast<Drop>(i)) == consumed.dropped) record.reason = 1 + i;
    std::fwrite(&record, sizeof record, 1, file_.get());
  }
  void flush() {
    if (file_ != nullptr) std::fflush(file_.get());
  }

 private:
  struct Record {
    uint32_t slot, incarnation;
    uint64_t seq;
    uint64_t reason;  // 0: in a batch; else 1 + index of Drop
  };
  static_assert(sizeof(Record) == 24);
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
};

SamplingMode mode_of(const Config& config) {
  if (config.training.sampling == "lag1") return SamplingMode::lag1;
  return config.async() ? SamplingMode::async : SamplingMode::sync;
}

wire::LearnerHelloT hello() {
  wire::LearnerHelloT hello;
  hello.pid = static_cast<uint32_t>(::getpid());
  hello.protocol = kProtocolVersion;
  return hello;
}

class LearnerShell {
 public:
  LearnerShell(const ChildArguments& arguments, const SocketContext& context, ControlLink& control,
               const wire::LearnerWelcomeT& welcome)
      : context_(context),
        control_(control),
        clock_(make_system_clock()),
        files_(make_system_files(".")),
        config_(load_config(welcome.config, "config")),
        env_(configured_spec(EnvRegistry::instance().find(config_.environment.env), config_.environment.env_config)),
        data_(context, welcome.data_endpoint),
        learner_(config_, env_.observation_space, env_.action_space),
        layout_(std::make_shared<const FragmentLayout>(RolloutWorker::layout_for(config_, env_, learner_.spec()))),
        assembler_(layout_, static_cast<uint32_t>(config_.fragments_per_batch())),
        core_(options(arguments, welcome)) {}

  int run() {
    std::vector<LearnerCore::Output> outputs;
    core_.start(std::make_shared<const Weights>(learner_.weights()), clock_->now(), outputs);
    apply(outputs);
    if (const auto& server = context_.keys().server)
      require_strangers_refused(data_.endpoint(), server->public_key, kSelfTest);
    while (!exiting_) {
      say_where();
      wait_readable({&data_, &control_.socket()}, worker_.event(), core_.next_timer() - clock_->now());
      while (auto message = control_.receive()) {
        heard_of_agents_ |= message->as<wire::AgentStateT>() != nullptr;
        step(LearnerCore::FromDriver{std::move(*message)});
      }
      // Results do not wait for the sockets to be empty: agents may fill them as fast as they are read.
      for (int i = 0; i < kMessagesAtOnce; ++i) {
        auto received = data_.receive();
        if (!received) break;
        from_agent(std::move(*received));
      }
      if (auto result = worker_.take_result()) step(*result);
      step(LearnerCore::Tick{});
    }
    ledger_.flush();
    return 0;
  }

 private:
  static constexpr int kMessagesAtOnce = 64;
  static constexpr Time kSelfTest = std::chrono::seconds(10);
  static constexpr Time kSayEvery = std::chrono::milliseconds(200);

  /// The driver welcomes no agent before it knows where fragments go; an agent it speaks of shows that it does.
  void say_where() {
    if (heard_of_agents_ || clock_->now() < say_at_) return;
    say_at_ = clock_->now() + kSayEvery;
    wire::LearnerHelloT where = hello();
    where.data_endpoint = data_.endpoint();
    control_.send(std::move(where));
  }

  void from_agent(Received received) {
    const std::string& who = received.user.empty() ? received.peer : received.user;
    if (budget_.refused(who, clock_->now())) return;
    auto decoded = decode(received.frames);
    if (const auto* malformed = std::get_if<Malformed>(&decoded)) {
      core_.count_malformed(*malformed);
      (void)budget_.malformed(who, clock_->now());
    } else {
      step(LearnerCore::FromAgent{received.peer, std::move(std::get<Message>(decoded)), received.user});
    }
  }

  LearnerCore::Options options(const ChildArguments& arguments, const wire::LearnerWelcomeT& welcome) {
    LearnerCore::Options options;
    const TrainingConfig& training = config_.training;
    options.run = arguments.number("--run");
    options.epoch = arguments.number("--epoch");
    options.mode = mode_of(config_);
    options.learner_queue_size = static_cast<uint32_t>(training.learner_queue_size);
    options.broadcast_interval = static_cast<uint32_t>(training.broadcast_interval);
    if (training.max_policy_lag) options.max_policy_lag = static_cast<uint64_t>(*training.max_policy_lag);
    options.min_time_per_iteration = seconds(config_.reporting.min_time_s_per_iteration);
    options.num_slots = static_cast<uint32_t>(config_.env_runners.num_env_runners);
    options.fragments_per_batch = static_cast<uint32_t>(config_.fragments_per_batch());
    options.steps = static_cast<uint32_t>(layout_->steps());
    options.environments = static_cast<uint32_t>(layout_->environments());
    options.fragment_bytes = layout_->capacity_bytes();
    options.spec_hash = learner_.spec().hash();
    options.fragment_hash = layout_->hash();
    options.violation = [this](const wire::FragmentHeaderT& header, std::span<const std::byte> buffer) {
      return fragment_violation(*layout_, buffer, header.final_rows, env_.action_space);
    };
    if (!welcome.checkpoint.empty()) {
      const LearnerCounters counters = load_learner(*files_, welcome.checkpoint, learner_);
      options.training_iteration = counters.training_iteration;
      options.num_env_steps_sampled_lifetime = counters.num_env_steps_sampled_lifetime;
      if (options.mode == SamplingMode::lag1)
        if (auto episodes = load_pending_batch(*files_, welcome.checkpoint, assembler_)) {
          options.resumes_with_batch = true;
          options.batch_episodes = std::move(*episodes);
        }
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
        if (send->message.as<wire::IterationReportT>() != nullptr) ledger_.flush();
        control_.send_message(std::move(send->message));
      } else if (auto* send = std::get_if<LearnerCore::ToAgent>(&output)) {
        if (auto* weights = send->message.body.AsWeightsHeader())
          weights->published_ns = static_cast<uint64_t>(clock_->now().count());
        (void)data_.send(send->peer, encode(send->message));  // whoever misses it asks again
      } else if (auto* assemble = std::get_if<LearnerCore::Assemble>(&output)) {
        const auto& header = *assemble->fragment.message.as<wire::FragmentHeaderT>();
        assembler_.add(assemble->fragment.place, assemble->fragment.message.payloads[0], header.final_rows);
      } else if (const auto* batch = std::get_if<LearnerCore::Update>(&output)) {
        update(assembler_.take(batch->weights_version));
      } else if (const auto* consumed = std::get_if<LearnerCore::Consumed>(&output)) {
        ledger_.add(*consumed);
      } else if (auto* write = std::get_if<LearnerCore::WriteCheckpoint>(&output)) {
        worker_.give([this, request = std::move(*write)]() -> LearnerCore::Input {
          LearnerCore::CheckpointWritten written{request.sequence, {}, ""};
          try {
            written.files = save_learner(*files_, request, learner_, assembler_);
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
      UpdateResult result = learner_.update(&batch);
      auto weights = std::make_shared<const Weights>(learner_.weights());
      idle_since_ = clock_->now();
      std::map<std::string, double> metrics;
      for (const auto& [key, value] : result.metrics) metrics["learners/default_policy/" + key] = value;
      metrics["learner_update_s"] = to_seconds(idle_since_ - start);
      metrics["learner_wait_s"] = to_seconds(waited);
      return LearnerCore::Updated{std::move(weights), std::move(metrics)};
    });
  }

  const SocketContext& context_;
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
  Ledger ledger_;
  PeerBudget budget_;
  bool heard_of_agents_ = false;
  Time say_at_{};
  Time idle_since_ = std::chrono::steady_clock::now().time_since_epoch();  // handed over with each job
  bool exiting_ = false;
  Worker worker_;  // last: its thread ends before what it works on
};

int run(const ChildArguments& arguments) {
  if (!bind_to_parent(arguments)) return static_cast<int>(Exit::interrupted);
  return run_child(arguments, "learner-0", "learner-0", [&](const SocketContext& context, ControlLink& control) {
    const Message welcome = control.introduce<wire::LearnerWelcomeT>(hello());
    return LearnerShell(arguments, context, control, *welcome.as<wire::LearnerWelcomeT>()).run();
  });
}

}  // namespace
}  // namespace myriad

int main(int argc, char** argv) {
  // Freed batches go back to the heap, not to the kernel: page faults would cost more than the update's arithmetic.
  ::mallopt(M_TRIM_THRESHOLD, 512 << 20);
  ::mallopt(M_MMAP_THRESHOLD, 512 << 20);
  try {
    return myriad::run(myriad::ChildArguments(argc, argv));
  } catch (const myriad::Error& error) {
    std::fprintf(stderr, "%s\n", error.line().c_str());
    return static_cast<int>(error.exit_status());
  }
}
