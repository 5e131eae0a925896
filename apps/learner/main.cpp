// myriad-learner: one shard of the learner group. This thread moves messages, assembles batches and drives GroupMember
// and LearnerCore; a second one owns torch and the collectives: it forms the group, updates and writes the shard's part
// of a checkpoint.
//
//   host agents ==parcels==> [LearnerCore + BatchAssembler] --batch--> [Learner] --weights--> host agents
//                                       |                              <== all-reduce ==> the other shards
//                                       | MYRIAD_LEDGER=DIR: the end of each fragment, in DIR/learner-RUN-SHARD.bin
#include <malloc.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>

#include "apps/child.hpp"
#include "apps/learner/describe.hpp"
#include "apps/learner/learner_files.hpp"
#include "learners/algorithm_calls.hpp"
#include "learners/batch_assembler.hpp"
#include "learners/device/device_support.hpp"
#include "learners/device/nccl_group.hpp"
#include "learners/group/gloo_collective.hpp"
#include "learners/group/rendezvous.hpp"
#include "learners/group/shared_collective.hpp"
#include "rl/curriculum.hpp"
#include "rl/machine.hpp"
#include "rl/run_layout.hpp"
#include "rl/signals.hpp"
#include "rl/wrappers.hpp"
#include "roles/group_member.hpp"
#include "roles/learner_core.hpp"

namespace myriad {
namespace {

/// Runs one job at a time on a thread of its own. What a job returns is called by the thread that takes results.
class Worker {
 public:
  using Result = std::function<void()>;
  using Job = std::function<Result()>;

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
    check(!job_ && !busy_, "the update thread has a job already");
    job_ = std::move(job);
    busy_ = true;
    changed_.notify_one();
  }

  bool busy() {
    const std::lock_guard lock(mutex_);
    return busy_;
  }

  /// From any thread: makes event() readable.
  void wake() {
    const uint64_t one = 1;
    (void)!::write(event_, &one, sizeof one);
  }

  /// The result of the last job, once; rethrows what it threw.
  std::optional<Result> take_result() {
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
      std::optional<Result> result;
      std::exception_ptr failure;
      try {
        result = job();
      } catch (...) { failure = std::current_exception(); }
      {
        const std::lock_guard lock(mutex_);
        result_ = std::move(result);
        failure_ = failure;
        busy_ = false;
      }
      wake();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Job job_;
  std::optional<Result> result_;
  std::exception_ptr failure_;
  bool stopping_ = false, busy_ = false;
  int event_;
  std::thread thread_;  // last: it uses everything above
};

/// For tests of whole clusters: one record for each fragment whose end was settled here.
class Ledger {
 public:
  Ledger(uint64_t run, uint32_t shard) {
    const char* directory = std::getenv("MYRIAD_LEDGER");
    if (directory == nullptr) return;
    const std::string path = fmt::format("{}/learner-{}-{}.bin", directory, run, shard);
    file_.reset(std::fopen(path.c_str(), "ab"));
    if (file_ == nullptr) fail(Exit::environment, "no-ledger", "{}: {}", path, std::strerror(errno));
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

wire::LearnerHelloT hello(const ChildArguments& arguments) {
  wire::LearnerHelloT hello;
  hello.shard = static_cast<uint32_t>(arguments.number("--shard"));
  hello.incarnation = static_cast<uint32_t>(arguments.number("--incarnation"));
  hello.pid = static_cast<uint32_t>(::getpid());
  hello.protocol = kProtocolVersion;
  return hello;
}

/// Null on a CPU.
std::unique_ptr<DeviceSupport> device_of(const Config& config, uint32_t shard) {
  return config.learners.device == "cpu" ? nullptr : open_device(config.learners.device, shard);
}

class LearnerShell {
 public:
  LearnerShell(const ChildArguments& arguments, const SocketContext& context, ControlLink& control,
               const wire::LearnerWelcomeT& welcome)
      : context_(context),
        control_(control),
        clock_(make_system_clock()),
        files_(make_system_files(".")),
        hello_(hello(arguments)),
        run_(arguments.number("--run")),
        checkpoint_(welcome.checkpoint),
        config_(load_config_with_plugin(welcome.config, "config")),
        algorithm_calls_(find_algorithm(config_.algorithm)),
        env_(environment_spec(config_)),
        curriculum_(config_.curriculum, env_, EnvContext::of(config_)),
        data_(context, welcome.data_endpoint),
        learner_(algorithm_calls_([this] {
          return Learner(config_, env_.observation_space, env_.action_space, device_of(config_, hello_.shard));
        })),
        layout_(std::make_shared<const FragmentLayout>(fragment_layout(config_, env_, learner_.spec()))),
        member_(member_options()),
        ledger_(run_, hello_.shard) {}

  ~LearnerShell() { leave(); }

  int run() {
    if (const auto& server = context_.keys().server)
      require_strangers_refused(data_.endpoint(), server->public_key, kSelfTest);
    hello_.data_endpoint = data_.endpoint();
    control_.send(hello_);
    while (!exiting_) {
      Time next = member_.next_timer();
      if (core_) next = std::min(next, core_->next_timer());
      wait_readable({&data_, &control_.socket()}, worker_.event(), next - clock_->now());
      while (auto message = control_.receive()) from_driver(std::move(*message));
      // A bounded number, so that results do not wait: agents may fill the socket as fast as it is read.
      for (int i = 0; i < kMessagesAtOnce; ++i) {
        auto received = data_.receive();
        if (!received) break;
        from_agent(std::move(*received));
      }
      if (auto result = worker_.take_result()) (*result)();
      send_found();
      tick();
    }
    ledger_.flush();
    leave();
    wait_for_worker();
    return 0;
  }

 private:
  static constexpr int kMessagesAtOnce = 64;
  static constexpr Time kSelfTest = std::chrono::seconds(10);
  static constexpr Time kAbort = std::chrono::seconds(5);  // for a collective to give up
  static constexpr std::chrono::milliseconds kCollective =
      std::chrono::minutes(30);  // the driver ends a hung shard long before

  // --- the group ---

  GroupMember::Options member_options() {
    GroupMember::Options options;
    options.run = run_;
    options.shard = hello_.shard;
    options.incarnation = hello_.incarnation;
    options.fragment_steps = static_cast<uint64_t>(layout_->steps()) * static_cast<uint64_t>(layout_->environments());
    if (!checkpoint_.empty()) {
      const LearnerCounters counters = load_learner(*files_, checkpoint_, learner_);
      options.state = {counters.training_iteration, counters.num_env_steps_sampled_lifetime, {}};
    } else if (!config_.rl_module.init_from.empty()) {
      load_parameters(*files_, config_, env_.observation_space, learner_);
    }
    options.version = start_version_ = learner_.version();
    return options;
  }

  void from_driver(Message message) {
    if (const auto* stop = message.as<wire::StopT>(); stop != nullptr) {
      exiting_ = true;
    } else if (message.as<wire::LearnerWelcomeT>() != nullptr) {
      control_.send(hello_);  // the driver lacks the endpoint that agents connect to
    } else if (message.as<wire::GroupOrderT>() != nullptr || message.as<wire::RendezvousT>() != nullptr) {
      step_member(GroupMember::FromDriver{std::move(message)});
    } else if (core_) {
      step(LearnerCore::FromDriver{std::move(message)});
    }
  }

  void step_member(const GroupMember::Input& input) {
    std::vector<GroupMember::Output> outputs;
    member_.step(input, clock_->now(), outputs);
    control_.set_epoch(member_.epoch());
    for (GroupMember::Output& output : outputs) {
      if (auto* send = std::get_if<GroupMember::ToDriver>(&output)) {
        control_.send_message(std::move(send->message));
      } else if (std::holds_alternative<GroupMember::Leave>(output)) {
        leave();
      } else if (const auto* join = std::get_if<GroupMember::Join>(&output)) {
        join_group(join->part);
      } else if (const auto* begin = std::get_if<GroupMember::Begin>(&output)) {
        begin_core(begin->part);
      } else if (auto* put = std::get_if<GroupMember::Put>(&output)) {
        if (rendezvous_) rendezvous_->put(put->key, std::move(put->value));
      }
    }
  }

  /// Ends the epoch: its core at once, its collectives as soon as the update thread sees the abort.
  void leave() {
    core_.reset();
    if (rendezvous_) rendezvous_->abort();
    const std::lock_guard lock(collective_mutex_);
    if (collective_) collective_->abort();
    if (device_group_) device_group_->abort();
    left_at_ = clock_->now();
  }

  void join_group(const GroupPart& part) {
    {
      const std::lock_guard lock(found_mutex_);
      found_.clear();
      unsent_ = 0;
    }
    rendezvous_ = std::make_shared<Rendezvous>([this](const std::string& key, const Rendezvous::Value& value) {
      const std::lock_guard lock(found_mutex_);
      found_.emplace_back(key, value);
      ++unsent_;
      worker_.wake();
    });
    worker_.give([this, part, rendezvous = rendezvous_]() -> Worker::Result {
      GroupMember::Ended ended;
      try {
        if (learner_.standing() != Standing::settled) learner_.settle(part.order.version == learner_.version() + 1);
        std::shared_ptr<Collective> collective;
        if (part.order.size > 1) collective = make_collective(*rendezvous, part.order.rank, part.order.size);
        std::shared_ptr<DeviceGroup> gradients;
        if (collective && config_.learners.collective == "nccl")
          gradients = make_nccl_group(rendezvous, learner_.device(), part.order.rank, part.order.size, kCollective);
        {
          const std::lock_guard lock(collective_mutex_);
          collective_ = collective;
          device_group_ = gradients;
        }
        if (rendezvous->over()) throw GroupBroken("the epoch is over");
        learner_.join(collective, {part.order.root, part.order.holders, part.order.everybody}, gradients);
        remember(std::make_shared<const Weights>(learner_.weights()));
        if (collective && mode_of(config_) == SamplingMode::lag1) share_previous(*collective, part.order.root);
      } catch (const GroupBroken& broken) { ended.broken = broken.what(); }
      return report_parts(std::move(ended));
    });
  }

  std::shared_ptr<Collective> make_collective(Rendezvous& rendezvous, uint32_t rank, uint32_t size) const {
    std::shared_ptr<Collective> collective;
    if (config_.learners.collective != "gloo") collective = make_shared_collective(rendezvous, rank, size, kCollective);
    if (!collective) collective = make_gloo_collective(rendezvous, rank, size, host_of(data_.endpoint()), kCollective);
    return collective;
  }

  /// On the update thread: the newest two versions.
  void remember(WeightsPtr weights) {
    if (newest_ != nullptr && weights->version == newest_->version + 1)
      previous_ = newest_;
    else if (newest_ == nullptr || weights->version != newest_->version)
      previous_ = nullptr;
    newest_ = std::move(weights);
  }

  /// lag1: a round that is collected again is sampled with the version before the newest, which a new process lacks.
  void share_previous(Collective& collective, uint32_t root) {
    Weights weights = previous_ != nullptr ? *previous_ : *newest_;
    weights.version = newest_->version - 1;
    std::array<std::byte, 1> has{std::byte{previous_ != nullptr}};
    collective.broadcast(has, root);
    collective.broadcast(std::as_writable_bytes(std::span(weights.values)), root);
    collective.broadcast(std::as_writable_bytes(std::span(weights.filter)), root);
    previous_ = has[0] == std::byte{0} ? nullptr : std::make_shared<const Weights>(std::move(weights));
  }

  /// `ended` with the parts of the state that the learner holds now, for the driver.
  Worker::Result report_parts(GroupMember::Ended ended) {
    const std::vector<Parts::Holding> holdings = learner_.holdings();
    ended.parts = holdings[0].parts;
    ended.num_parts = holdings[0].num_parts;
    if (holdings.size() > 1) {
      ended.parts_before = holdings[1].parts;
      ended.num_parts_before = holdings[1].num_parts;
    }
    return [this, ended = std::move(ended)] { step_member(ended); };
  }

  /// The host Gloo listens on: that of the agents' endpoint, or the loopback.
  static std::string host_of(const std::string& endpoint) {
    if (!endpoint.starts_with("tcp://")) return "127.0.0.1";
    const std::string host = endpoint.substr(6, endpoint.rfind(':') - 6);
    return host.starts_with('[') ? host.substr(1, host.size() - 2) : host;
  }

  /// Sends the driver what the update thread put into the rendezvous; all of it again while others may lack it.
  void send_found() {
    const std::lock_guard lock(found_mutex_);
    if (unsent_ == 0) return;
    wire::RendezvousT found;
    for (size_t i = found_.size() - std::min(unsent_, found_.size()); i < found_.size(); ++i) {
      auto entry = std::make_unique<wire::RendezvousEntryT>();
      entry->key = found_[i].first;
      entry->value = found_[i].second;
      found.entries.push_back(std::move(entry));
    }
    unsent_ = 0;
    control_.send(std::move(found));
  }

  void tick() {
    const Time now = clock_->now();
    if (core_) step(LearnerCore::Tick{});
    if (now < member_.next_timer()) return;
    if (member_.stage() == wire::LearnerStage::joining) {
      const std::lock_guard lock(found_mutex_);
      unsent_ = found_.size();
    }
    GroupMember::Tick tick;
    {
      const std::lock_guard lock(collective_mutex_);
      if (collective_) tick = {collective_->operations(), collective_->inside()};
    }
    if (member_.stage() == wire::LearnerStage::leaving && tick.inside && now >= left_at_ + kAbort)
      fail(Exit::internal, "abort-hangs", "a collective operation did not end {} s after it was aborted",
           to_seconds(kAbort));
    step_member(tick);
  }

  /// The process ends even when an aborted operation does not.
  void wait_for_worker() {
    for (const Time give_up = clock_->now() + kAbort; worker_.busy();) {
      if (clock_->now() >= give_up) std::_Exit(0);
      wait_readable({}, worker_.event(), std::chrono::milliseconds(50));
      try {
        (void)worker_.take_result();
      } catch (const std::exception&) {}  // the run is over: nothing reads the result
    }
  }

  // --- agents ---

  void from_agent(Received received) {
    const std::string& who = received.user.empty() ? received.peer : received.user;
    if (budget_.refused(who, clock_->now())) return;
    auto decoded = decode(received.frames);
    if (const auto* malformed = std::get_if<Malformed>(&decoded)) {
      if (core_) core_->count_malformed(*malformed);
      (void)budget_.malformed(who, clock_->now());
    } else if (core_) {
      step(LearnerCore::FromAgent{received.peer, std::move(std::get<Message>(decoded)), received.user});
    }
  }

  // --- the core of this epoch ---

  /// What every epoch's core is told of the run.
  LearnerCore::Options run_options() {
    const TrainingConfig& training = config_.training;
    LearnerCore::Options options;
    options.run = run_;
    options.mode = mode_of(config_);
    options.num_agents = static_cast<uint32_t>(config_.num_hosts());
    options.steps = static_cast<uint32_t>(layout_->steps());
    options.environments = static_cast<uint32_t>(layout_->environments());
    options.fragment_bytes = layout_->capacity_bytes();
    options.spec_hash = learner_.spec().hash();
    options.fragment_hash = layout_->hash();
    options.env_steps_per_update = static_cast<uint64_t>(training.train_batch_size);
    if (config_.async()) {
      options.learner_queue_size = static_cast<uint32_t>(training.learner_queue_size);
      options.broadcast_interval = static_cast<uint32_t>(training.broadcast_interval);
      if (training.max_policy_lag) options.max_policy_lag = static_cast<uint64_t>(*training.max_policy_lag);
      options.min_time_per_iteration = seconds(config_.reporting.min_time_s_per_iteration);
    }
    if (const auto epsilon = find_algorithm(config_.algorithm).epsilon; curriculum_.size() > 0 || epsilon != nullptr)
      options.published = [this, epsilon](uint64_t env_steps, uint32_t level) {
        std::vector<double> numbers = curriculum_.at(env_steps, level);
        if (epsilon != nullptr) numbers.push_back(epsilon(config_).at(static_cast<double>(env_steps)));
        return numbers;
      };
    options.violation = [this](const wire::FragmentHeaderT& header, std::span<const std::byte> buffer) {
      return fragment_violation(*layout_, buffer, header.final_rows, env_.action_space);
    };
    return options;
  }

  void begin_core(const GroupPart& part) {
    LearnerCore::Options options = in_epoch(run_options(), part, start_version_);
    options.previous_weights = previous_;
    part_ = part;
    assembler_.emplace(layout_, part.order.num_places);
    if (!checkpoint_.empty() && options.at_start && options.mode == SamplingMode::lag1)
      options.restored_batch = load_pending_batch(*files_, checkpoint_, part.order.first_place,
                                                  static_cast<size_t>(config_.fragments_per_batch()), *assembler_);
    core_.emplace(std::move(options));
    idle_since_ = clock_->now();
    std::vector<LearnerCore::Output> outputs;
    core_->start(newest_, clock_->now(), outputs);
    apply(outputs);
  }

  void step(const LearnerCore::Input& input) {
    std::vector<LearnerCore::Output> outputs;
    core_->step(input, clock_->now(), outputs);
    apply(outputs);
  }

  void apply(std::vector<LearnerCore::Output>& outputs) {
    for (LearnerCore::Output& output : outputs) {
      if (auto* send = std::get_if<LearnerCore::ToDriver>(&output)) {
        control_.send_message(std::move(send->message));
      } else if (auto* send = std::get_if<LearnerCore::ToAgent>(&output)) {
        if (auto* weights = send->message.body.AsWeightsHeader())
          weights->published_ns = static_cast<uint64_t>(clock_->now().count());
        (void)data_.send(send->peer, encode(send->message));  // lost ones are repeated, or asked for again by Join
      } else if (auto* assemble = std::get_if<LearnerCore::Assemble>(&output)) {
        const auto& header = *assemble->fragment.message.as<wire::FragmentHeaderT>();
        assembler_->add(assemble->fragment.place, assemble->fragment.message.payloads[0], header.final_rows);
      } else if (auto* batch = std::get_if<LearnerCore::Update>(&output)) {
        update(batch->with_batch ? &assembler_->take(batch->weights_version) : nullptr, std::move(batch->tally));
      } else if (const auto* consumed = std::get_if<LearnerCore::Consumed>(&output)) {
        ledger_.add(*consumed);
      } else if (auto* write = std::get_if<LearnerCore::WriteCheckpoint>(&output)) {
        save(std::move(*write));
      } else {
        exiting_ = true;
      }
    }
  }

  /// Drops results that belong to an earlier epoch.
  void tell_core(uint64_t epoch, const LearnerCore::Input& input) {
    if (core_ && part_.epoch == epoch) step(input);
  }

  void save(LearnerCore::WriteCheckpoint write) {
    step_member(GroupMember::Began{});
    worker_.give([this, epoch = part_.epoch, request = std::move(write)]() -> Worker::Result {
      LearnerCore::CheckpointWritten written{request.sequence, {}, ""};
      GroupMember::Ended ended;
      try {
        written.files = save_learner(*files_, request, learner_, part_.order.first_place, *assembler_);
      } catch (const FileError& error) {
        written.error = fmt::format("{}: {}", error.path, std::strerror(error.error));
      } catch (const GroupBroken& broken) {
        ended.broken = broken.what();
      } catch (const std::exception& error) {  // out of memory: this save fails, and the learner goes on
        written.error = as_error(error).what();
      }
      return [this, epoch, written, broken = ended.broken, result = report_parts(std::move(ended))] {
        result();
        if (broken.empty()) tell_core(epoch, written);
      };
    });
  }

  void update(Fragment* batch, std::vector<double> tally) {
    step_member(GroupMember::Began{});
    const Time waited = clock_->now() - idle_since_;
    worker_.give([this, batch, waited, tally = std::move(tally), epoch = part_.epoch]() mutable -> Worker::Result {
      const Time start = clock_->now();
      LearnerCore::Updated updated;
      GroupMember::Ended ended;
      std::optional<wire::ProcessErrorT> failed;
      const uint64_t version = learner_.version();
      const double collective_before = learner_.collective_seconds();
      try {
        const UpdateResult result = algorithm_calls_([&] { return learner_.update(batch, tally); });
        for (const auto& [key, value] : result.metrics) updated.metrics["learners/default_policy/" + key] = value;
        if (learner_.version() > version) {
          remember(std::make_shared<const Weights>(learner_.weights()));
          updated.weights = newest_;
        }
      } catch (const ShardsDisagree& disagree) {
        // The majority's parameters count: a shard of the minority fails here, and its new process gets theirs.
        const auto& wrong = disagree.minority;
        if (wrong.empty() || std::ranges::find(wrong, part_.order.rank) != wrong.end())
          fail(Exit::internal, "shards-disagree", "{}", disagree.what());
        ended.broken = disagree.what();
        ended.prepared = learner_.standing() == Standing::prepared;
      } catch (const GroupBroken& broken) {
        ended.broken = broken.what();
        ended.prepared = learner_.standing() == Standing::prepared;
      } catch (const std::exception& error) {  // diverged, out of memory, a plugin's: what it has can still be saved
        failed = last_word(error);
        ended.broken = failed->message;
      }
      ended.settled = learner_.version() > version;
      if (ended.settled || ended.prepared) ended.tally = UpdateTally::decode(tally);
      const Time end = clock_->now();
      updated.metrics["learner_update_s"] = to_seconds(end - start);
      updated.metrics["learner_wait_s"] = to_seconds(waited);
      updated.metrics["learner_collective_s"] = learner_.collective_seconds() - collective_before;
      updated.tally = std::move(tally);
      return [this, epoch, end, failed, updated = std::move(updated), broken = ended.broken,
              result = report_parts(std::move(ended))] {
        idle_since_ = end;
        if (failed) control_.send(*failed);
        result();
        if (broken.empty()) tell_core(epoch, updated);
        ledger_.flush();
      };
    });
  }

  const SocketContext& context_;
  ControlLink& control_;
  std::unique_ptr<Clock> clock_;
  std::unique_ptr<Files> files_;
  wire::LearnerHelloT hello_;
  uint64_t run_;
  std::string checkpoint_;
  Config config_;
  AlgorithmCalls algorithm_calls_;
  EnvSpec env_;
  Curriculum curriculum_;
  Router data_;
  Learner learner_;  // only the update thread touches it while it has a job
  std::shared_ptr<const FragmentLayout> layout_;
  uint64_t start_version_ = 0;
  GroupMember member_;
  GroupPart part_;  // of core_
  std::optional<BatchAssembler> assembler_;
  std::optional<LearnerCore> core_;
  WeightsPtr newest_, previous_;  // only the update thread touches them while it has a job
  std::shared_ptr<Rendezvous> rendezvous_;
  std::mutex collective_mutex_;
  std::shared_ptr<Collective> collective_;
  std::shared_ptr<DeviceGroup> device_group_;
  std::mutex found_mutex_;
  std::vector<std::pair<std::string, Rendezvous::Value>> found_;  // this shard's entries of the rendezvous
  size_t unsent_ = 0;                                             // the last of them
  Ledger ledger_;
  PeerBudget budget_;
  Time idle_since_{}, left_at_{};
  bool exiting_ = false;
  Worker worker_;  // last: its thread ends before what it works on
};

int run(const ChildArguments& arguments) {
  if (!bind_to_parent(arguments)) return static_cast<int>(Exit::interrupted);
  ignore_ending_signals();  // its weights are to be saved first: the driver tells it to
  const std::string id = fmt::format("learner-{}.{}", arguments.number("--shard"), arguments.number("--incarnation"));
  // All shards run on the driver's host and share one key.
  return run_child(arguments, "learner-0", id, [&](const SocketContext& context, ControlLink& control) {
    const Message welcome = control.introduce<wire::LearnerWelcomeT>(hello(arguments));
    return LearnerShell(arguments, context, control, *welcome.as<wire::LearnerWelcomeT>()).run();
  });
}

}  // namespace
}  // namespace myriad

int main(int argc, char** argv) {
  // Freed batches go back to the heap, not to the kernel: page faults would cost more than the update's arithmetic.
  ::mallopt(M_TRIM_THRESHOLD, 512 << 20);
  ::mallopt(M_MMAP_THRESHOLD, 512 << 20);
  myriad::make_writes_fail();  // Gloo may write to a peer that died
  if (myriad::is_description(argc, argv)) return myriad::describe(argv);
  try {
    return myriad::run(myriad::ChildArguments(argc, argv));
  } catch (const std::exception& thrown) {
    const myriad::Error error = myriad::as_error(thrown);
    std::fprintf(stderr, "%s\n", error.line().c_str());
    return static_cast<int>(error.exit_status());
  }
}
