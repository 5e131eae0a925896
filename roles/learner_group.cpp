#include "roles/learner_group.hpp"

#include <algorithm>
#include <csignal>
#include <numeric>

#include "rl/wire/process_error.hpp"
#include "roles/iteration_metrics.hpp"

namespace myriad {
namespace {

using wire::LearnerStage;

bool counts_since_start(std::string_view metric) {
  return metric.starts_with("dropped/") || metric.ends_with("_since_start");
}

bool adds_up(std::string_view metric) {
  return counts_since_start(metric) || metric.starts_with("policy_lag_hist/") || metric == "num_fragments" ||
         metric == "num_episodes_left_out" || metric.starts_with(kEnvFailures) || metric == kOutside ||
         (metric.starts_with(kNumbers) && (metric.ends_with("/episodes") || metric.ends_with("_sum")));
}

constexpr size_t kMedianOf = 15;  // updates
constexpr uint32_t kNobody = UINT32_MAX;

bool is_a_maximum(std::string_view metric) { return metric.ends_with("_max") || metric.ends_with("_max_s"); }

bool is_a_minimum(std::string_view metric) { return metric.starts_with(kNumbers) && metric.ends_with("_min"); }

wire::RendezvousT entries_of(const std::map<std::string, std::vector<uint8_t>>& values) {
  wire::RendezvousT message;
  for (const auto& [key, value] : values) {
    auto entry = std::make_unique<wire::RendezvousEntryT>();
    entry->key = key;
    entry->value = value;
    message.entries.push_back(std::move(entry));
  }
  return message;
}

}  // namespace

LearnerGroup::LearnerGroup(Options options)
    : options_(std::move(options)),
      target_(options_.num_learners),
      size_(options_.num_learners),
      members_(options_.num_learners),
      iteration_(options_.training_iteration) {}

uint32_t LearnerGroup::num_processes() const {
  return static_cast<uint32_t>(std::ranges::count_if(members_, [](const Member& m) { return m.alive; }));
}

bool LearnerGroup::connected() const {
  return std::ranges::all_of(members_, [](const Member& m) { return !m.alive || !m.peer.empty(); });
}

bool LearnerGroup::computes() const {
  return stage_ == Stage::formed && std::all_of(members_.begin(), members_.begin() + size_,
                                                [](const Member& m) { return m.status.busy_s > 0.0f; });
}

std::string LearnerGroup::endpoint(uint32_t shard) const {
  return shard < members_.size() ? members_[shard].endpoint : "";
}

Time LearnerGroup::next_timer() const {
  if (stopping_) return Time::max();
  return new_keys_.empty() ? last_sent_ + kRetry : Time::zero();
}

LearnerGroup::Member* LearnerGroup::member_of(const std::string& peer) {
  const auto it = std::ranges::find_if(members_, [&](const Member& m) { return m.alive && m.peer == peer; });
  return it == members_.end() ? nullptr : &*it;
}

void LearnerGroup::start(Time now, Outputs& outputs) {
  last_sent_ = broken_at_ = now;
  spawn_missing(target_, now, outputs);
}

/// Of the first `count` shards, those that are not alive.
void LearnerGroup::spawn_missing(uint32_t count, Time now, Outputs& outputs) {
  if (members_.size() < count) members_.resize(count);
  for (uint32_t shard = 0; shard < count; ++shard)
    if (!members_[shard].alive) spawn(shard, now, outputs);
}

void LearnerGroup::spawn(uint32_t shard, Time now, Outputs& outputs) {
  if (shard >= starts_.size()) starts_.resize(shard + 1);
  Member& member = members_[shard];
  member = {};
  member.incarnation = starts_[shard]++;
  member.alive = true;
  member.heard = member.moved = now;
  outputs.push_back(SpawnLearner{shard, member.incarnation});
}

bool LearnerGroup::received(const std::string& peer, const std::string& user, const Message& message, Time now,
                            Outputs& outputs) {
  const bool may_learn = user.empty() || user.starts_with("learner-");
  if (const auto* hello = message.as<wire::LearnerHelloT>()) {
    if (may_learn) this->hello(peer, *hello, now, outputs);
    return true;
  }
  Member* member = member_of(peer);
  if (member == nullptr) return false;
  member->heard = now;
  if (const auto* status = message.as<wire::LearnerStatusT>()) {
    this->status(*member, message.epoch, *status, now, outputs);
  } else if (const auto* found = message.as<wire::RendezvousT>()) {
    if (message.epoch != epoch_) return true;
    bool repeated = false;
    for (const auto& entry : found->entries) {
      const bool is_new = rendezvous_.emplace(entry->key, entry->value).second;
      if (is_new) new_keys_.insert(entry->key);
      repeated |= !is_new;
    }
    if (!repeated) return true;
    outputs.push_back(ToLearner{peer, make_message(entries_of(rendezvous_))});  // it lacks an entry
  } else if (const auto* report = message.as<wire::IterationReportT>()) {
    this->report(shard_index(*member), *report, outputs);
  } else if (const auto* done = message.as<wire::CheckpointDoneT>()) {
    if (message.epoch == epoch_) checkpoint_done(shard_index(*member), *done, outputs);
  } else if (const auto* error = message.as<wire::ProcessErrorT>()) {
    member->error = *error;  // its exit follows, or its status: an update failed
  } else {
    return false;
  }
  return true;
}

void LearnerGroup::hello(const std::string& peer, const wire::LearnerHelloT& hello, Time now, Outputs& outputs) {
  if (hello.shard >= members_.size()) return;
  Member& member = members_[hello.shard];
  if (!member.alive || hello.incarnation != member.incarnation) return;  // a late one of a process that ended
  if (!member.peer.empty() && member.peer != peer) return;  // another peer cannot take its place while it lives
  if (hello.protocol != kProtocolVersion) {
    outputs.push_back(Over{Exit::usage,
                           fmt::format("learner speaks protocol {}, this driver {}: install the same version",
                                       hello.protocol, kProtocolVersion),
                           "version-skew"});
    return;
  }
  member.peer = peer;
  member.heard = now;
  if (!hello.data_endpoint.empty())
    member.endpoint = hello.data_endpoint;
  else if (member.endpoint.empty())
    welcome(member, outputs);
}

void LearnerGroup::welcome(const Member& member, Outputs& outputs) const {
  wire::LearnerWelcomeT welcome;
  welcome.shard = shard_index(member);
  welcome.config = options_.config_toml;
  welcome.data_endpoint = options_.endpoint(welcome.shard, member.incarnation);
  // Later it may be pruned, and its peers have what is newer.
  if (iteration_ == options_.training_iteration) welcome.checkpoint = options_.checkpoint;
  outputs.push_back(ToLearner{member.peer, make_message(std::move(welcome))});
}

void LearnerGroup::status(Member& member, uint64_t epoch, const wire::LearnerStatusT& status, Time now,
                          Outputs& outputs) {
  if (status.incarnation != member.incarnation) return;
  if (status.operations != member.operations || status.busy_s <= 0.0f || epoch != member.status_epoch)
    member.moved = now;
  member.operations = status.operations;
  member.status = status;
  member.status_epoch = epoch;
  if (stopping_) return;
  if (shard_index(member) >= size_) {  // it waits to be called, or its Stop is on the way
    if (stage_ == Stage::formed && shard_index(member) >= target_) dismiss(member, outputs);
    return;
  }
  if (epoch != epoch_) {
    send_order(member, outputs);
    return;
  }
  if (!status.broken.empty()) {
    call(member.error ? "" : fmt::format("learner {} cannot go on: {}", shard_index(member), status.broken), now,
         outputs);
    return;
  }
  advance(now, outputs);
}

void LearnerGroup::dismiss(const Member& member, Outputs& outputs) const {
  if (!member.alive) return;
  wire::StopT stop;
  stop.reason = "the group is smaller now";
  outputs.push_back(ToLearner{member.peer, make_message(std::move(stop))});
}

bool LearnerGroup::next_shards_are_ready() const {
  return target_ > size_ && members_.size() >= target_ &&
         std::all_of(members_.begin(), members_.begin() + target_,
                     [](const Member& m) { return m.alive && m.status_epoch.has_value(); });
}

/// The group does not shrink while a shard lacks state: a new shard has none yet.
uint32_t LearnerGroup::next_size() const {
  if (!ever_formed_ || target_ >= formed_size_) return target_;
  for (uint32_t shard = 0; shard < formed_size_; ++shard)
    if (shard >= members_.size() || !members_[shard].alive || !members_[shard].veteran) return formed_size_;
  return options_.sharded ? formed_size_ - 1 : target_;  // one at a time: its neighbour has what it has
}

/// Ends the epoch and begins the next one.
void LearnerGroup::call(const std::string& why, Time now, Outputs& outputs) {
  if (stopping_) return;
  if (stage_ == Stage::formed) broken_at_ = now;
  if (!why.empty()) outputs.push_back(Event{"group-broken", fmt::format("epoch {}: {}", epoch_, why)});
  ++epoch_;
  stage_ = Stage::calling;
  size_ = cutting_ && ever_formed_ ? formed_size_ : next_size();
  spawn_missing(size_, now, outputs);
  rendezvous_.clear();
  new_keys_.clear();
  done_.clear();
  for (auto& [key, value] : now_) before_[key] = value;
  send_orders(now, outputs);
}

wire::GroupOrderT LearnerGroup::order_for(uint32_t shard) const {
  wire::GroupOrderT order;
  order.form = stage_ != Stage::calling;
  if (!order.form) return order;
  order = order_;
  order.rank = shard;
  order.size = size_;
  order.first_slot = static_cast<uint32_t>(slots_before(shard));
  order.num_slots = static_cast<uint32_t>(slots_before(shard + 1)) - order.first_slot;
  order.first_place = std::accumulate(shares_.begin(), shares_.begin() + shard, 0u);
  order.num_places = shares_[shard];
  order.state = std::make_unique<wire::GroupStateT>(to_wire(state_));
  return order;
}

/// Of the runners of all shards before it.
uint64_t LearnerGroup::slots_before(uint32_t shard) const {
  // The least place with shard_of(place) == shard.
  const uint64_t first_agent = (uint64_t{shard} * options_.num_agents + size_ - 1) / size_;
  return first_agent * options_.num_slots / options_.num_agents;
}

/// A batch among the shards; one whose agents are all given up gets nothing.
void LearnerGroup::divide(Time now) {
  std::vector<uint64_t> slots;
  for (uint32_t shard = 0; shard < size_; ++shard)
    slots.push_back(is_fed(shard) ? slots_before(shard + 1) - slots_before(shard) : 0);
  shares_ = shares_by_.divide(options_.fragments_per_batch, slots);
  shares_by_.begin(shares_, now);
}

bool LearnerGroup::is_fed(uint32_t shard) const {
  bool any = false, none = true;
  for (uint32_t place = 0; place < options_.num_agents; ++place) {
    none &= given_up_.contains(place);
    any |= shard_of(place) == shard && !given_up_.contains(place);
  }
  return any || none;
}

void LearnerGroup::set_given_up(std::set<uint32_t> places, Time now, Outputs& outputs) {
  if (places == given_up_) return;
  std::vector<bool> fed;
  for (uint32_t shard = 0; shard < size_; ++shard) fed.push_back(is_fed(shard));
  given_up_ = std::move(places);
  if (stage_ == Stage::calling) return;
  for (uint32_t shard = 0; shard < size_; ++shard)
    if (is_fed(shard) != fed[shard]) {
      call(fmt::format("the agents of learner {} are {}", shard,
                       fed[shard] ? "given up: the others take its share" : "back"),
           now, outputs);
      return;
    }
}

void LearnerGroup::send_order(const Member& member, Outputs& outputs) const {
  if (!member.alive || member.peer.empty()) return;
  outputs.push_back(ToLearner{member.peer, make_message(order_for(shard_index(member)))});
}

void LearnerGroup::send_orders(Time now, Outputs& outputs) {
  last_sent_ = now;
  for (uint32_t shard = 0; shard < size_ && shard < members_.size(); ++shard) {
    const Member& member = members_[shard];
    if (member.alive && !member.peer.empty() && member.endpoint.empty()) welcome(member, outputs);
    const LearnerStage want = stage_ == Stage::calling ? LearnerStage::called : LearnerStage::formed;
    if (member.status_epoch != epoch_ || member.status.stage != want) send_order(member, outputs);
  }
}

bool LearnerGroup::all_at(LearnerStage stage) const {
  return size_ <= members_.size() && std::all_of(members_.begin(), members_.begin() + size_, [&](const Member& m) {
           return m.alive && !m.endpoint.empty() && m.status_epoch == epoch_ && m.status.stage == stage;
         });
}

void LearnerGroup::advance(Time now, Outputs& outputs) {
  if (stage_ == Stage::calling && all_at(LearnerStage::called)) {
    if (!cutting_ && end_failed(outputs)) return;
    if (!form(now, outputs)) return;
    stage_ = Stage::forming;
    send_orders(now, outputs);
  }
  if (stage_ != Stage::forming || !all_at(LearnerStage::formed)) return;
  stage_ = Stage::formed;
  // A shard outside the group misses updates from now on, so its state counts no more, also if it is called again.
  for (uint32_t shard = 0; shard < members_.size(); ++shard) members_[shard].veteran = shard < size_;
  if (epoch_ > 1 && !cutting_)
    outputs.push_back(Event{"group-formed", fmt::format("epoch {}: {} learners go on from weights {} after {:.2f} s{}",
                                                        epoch_, size_, version_, to_seconds(now - broken_at_),
                                                        order_.everybody ? "" : ", state taken from their peers")});
  ever_formed_ = true;
  for (uint32_t shard = std::max(size_, target_); shard < members_.size(); ++shard) dismiss(members_[shard], outputs);
  if (state_.training_iteration > iteration_) close_iteration(outputs);  // a report died with its shard
  formed_size_ = size_;
  outputs.push_back(Formed{});
}

/// Where the updates of all shards fail, the run is over. The process of one whose update failed alone ends, and its
/// next one has what its peers have; where that update fails again, the run is over, too. False: none failed.
bool LearnerGroup::end_failed(Outputs& outputs) {
  const auto group = std::span(members_).first(size_);
  const auto failed = [](const Member& member) { return member.error.has_value(); };
  const auto first = std::ranges::find_if(group, failed);
  if (first == group.end()) return false;
  if (std::ranges::any_of(group, [&](const Member& m) { return failed(m) && m.killed; })) return true;  // it ends
  uint64_t version = 0;
  for (const Member& member : group) version = std::max(version, member.status.version);
  if (std::exchange(failed_update_, version) == version || std::ranges::all_of(group, failed)) {
    const wire::ProcessErrorT& error = *first->error;
    outputs.push_back(Over{static_cast<Exit>(error.exit), error.message, error.code, true});
    return true;
  }
  for (Member& member : group)
    if (failed(member)) {
      member.killed = true;
      outputs.push_back(KillLearner{shard_index(member), member.incarnation, SIGKILL});
    }
  return true;
}

/// Decides the version the epoch begins with, and its holders. False when no shard has the state any more.
bool LearnerGroup::form(Time now, Outputs& outputs) {
  const auto members = std::span(members_).first(size_);
  bool all_prepared = true, veterans = false;
  uint64_t version = 0;
  for (const Member& member : members_) {
    if (!member.alive || !member.veteran || member.status_epoch != epoch_) continue;
    version = std::max(version, member.status.version);
    veterans = true;
  }
  if (!veterans && ever_formed_) {
    outputs.push_back(Over{Exit::internal, "every learner was lost", "learner-lost"});
    return false;
  }
  if (!veterans)
    for (const Member& member : members) version = std::max(version, member.status.version);
  for (const Member& member : members)
    if (member.veteran) all_prepared &= member.status.prepared && member.status.version == version;
  if (veterans && all_prepared) ++version;
  // Whether a shard has that version, committed or prepared.
  const auto has = [&](const Member& m) {
    return (m.veteran || !veterans) &&
           (m.status.version == version || (m.status.prepared && m.status.version + 1 == version));
  };
  order_ = {};
  order_.form = true;
  order_.version = version_ = version;
  order_.everybody = true;
  std::map<uint32_t, std::vector<uint32_t>> holders;  // by the number of parts: a join that broke leaves two
  for (uint32_t rank = size_; rank-- > 0;) {
    const wire::LearnerStatusT& status = members[rank].status;
    order_.everybody &= has(members[rank]) && status.num_parts == 1;
    if (!has(members[rank])) continue;
    order_.root = rank;
    // A member's `state` is that of its prepared version, if it has one.
    if (status.version + (status.prepared ? 1 : 0) == version) state_ = from_wire(status.state.get());
    for (const auto& [parts, count] :
         {std::pair(&status.parts, status.num_parts), std::pair(&status.parts_before, status.num_parts_before)})
      for (const uint32_t part : *parts)
        if (part < count) holders.try_emplace(count, count, kNobody).first->second[part] = rank;
  }
  const auto whole = std::ranges::find_if(
      holders, [](const auto& layout) { return std::ranges::find(layout.second, kNobody) == layout.second.end(); });
  if (whole == holders.end()) {
    outputs.push_back(
        Over{Exit::internal,
             "learners were lost that alone had a part of the optimizer's state: neighbours at the same time",
             "learner-lost"});
    return false;
  }
  order_.holders = whole->second;
  if (!ever_formed_) env_steps_ = state_.num_env_steps_sampled_lifetime;
  if (cutting_)  // asynchronous updates of an iteration that has not ended
    state_.training_iteration =
        std::max(state_.training_iteration, iteration_ + (state_.num_env_steps_sampled_lifetime > env_steps_ ? 1 : 0));
  divide(now);
  return true;
}

void LearnerGroup::exited(uint32_t shard, uint32_t incarnation, const std::string& cause, Time now, Outputs& outputs) {
  if (shard >= members_.size() || members_[shard].incarnation != incarnation) return;
  Member& member = members_[shard];
  member.alive = false;
  member.peer.clear();
  if (stopping_) return;
  if (shard >= target_ && shard >= size_) {  // it was told to
    while (members_.size() > std::max(target_, size_) && !members_.back().alive) members_.pop_back();
    return;
  }
  const auto error = member.error;
  lost(now, fmt::format("learner {}", shard), error ? error->message : cause, error, outputs);
}

void LearnerGroup::lost(Time now, const std::string& shard, const std::string& cause,
                        const std::optional<wire::ProcessErrorT>& error, Outputs& outputs) {
  ++failures_in_a_row_;
  const bool survivors = std::ranges::any_of(members_, [](const Member& m) { return m.alive && m.veteran; });
  const bool hopeless = error && (!ever_formed_ || error->exit == static_cast<int32_t>(Exit::usage));
  if (hopeless || (ever_formed_ && !survivors) ||
      failures_in_a_row_ > uint64_t{options_.max_failures_in_a_row} * size_) {
    outputs.push_back(error ? Over{static_cast<Exit>(error->exit), error->message, error->code}
                            : Over{Exit::internal, fmt::format("{} ended: {}", shard, cause), "learner-lost"});
    return;
  }
  call(fmt::format("{} ended: {}", shard, cause), now, outputs);
}

void LearnerGroup::spawn_failed(uint32_t shard, uint32_t incarnation, const std::string& cause, Time now,
                                Outputs& outputs) {
  if (shard < members_.size()) members_[shard].error = process_error(Error(Exit::resource, "spawn-failed", cause));
  exited(shard, incarnation, cause, now, outputs);
}

Time LearnerGroup::deadline() const {
  std::vector<double> sorted(update_s_.begin(), update_s_.end());
  std::ranges::sort(sorted);
  return sorted.empty() ? kMinDeadline : std::max(kMinDeadline, 10 * seconds(sorted[sorted.size() / 2]));
}

void LearnerGroup::look_for_hangs(Time now, Outputs& outputs) {
  const auto end = [&](Member& member, const std::string& why) {
    if (std::exchange(member.killed, true)) return;
    outputs.push_back(Event{"learner-hung", fmt::format("learner {} {}: killed", shard_index(member), why)});
    outputs.push_back(KillLearner{shard_index(member), member.incarnation, SIGKILL});
  };
  for (Member& member : members_) {
    if (!member.alive) continue;
    const Time patience = member.peer.empty() || !member.status_epoch ? kStart : kSilence;
    if (now >= member.heard + patience)
      end(member, fmt::format("said nothing for {:.0f} s", to_seconds(now - member.heard)));
  }
  if (stage_ != Stage::formed || size_ < 2) return;
  // No shard makes progress, and at least one waits in a collective: the shards that are behind are hung.
  uint64_t least = UINT64_MAX;
  bool somebody_waits = false;
  for (uint32_t shard = 0; shard < size_; ++shard) {
    const Member& member = members_[shard];
    if (now < member.moved + deadline()) return;
    somebody_waits |= member.status.inside;
    least = std::min(least, member.operations);
  }
  if (!somebody_waits) return;
  for (uint32_t shard = 0; shard < size_; ++shard) {
    Member& member = members_[shard];
    if (member.operations == least && !member.status.inside)
      end(member, fmt::format("computes for {:.0f} s", to_seconds(now - member.moved)));
  }
  if (std::none_of(members_.begin(), members_.begin() + size_, [](const Member& m) { return m.killed; }))
    call("all wait for each other", now, outputs);
}

void LearnerGroup::tick(Time now, Outputs& outputs) {
  flush(outputs);
  if (stopping_ || now < next_timer()) return;
  look_for_hangs(now, outputs);
  const bool may_change = stage_ == Stage::formed && !cutting_;
  if (may_change && (target_ < size_ || next_shards_are_ready())) call("", now, outputs);
  if (may_change && stage_ == Stage::formed && options_.shares_by_speed && size_ > 1 && shares_by_.improve(now)) {
    outputs.push_back(Event{"shares", "the learners' shares of a batch are measured anew"});
    call("", now, outputs);
  }
  send_orders(now, outputs);
  last_sent_ = now;
}

void LearnerGroup::flush(Outputs& outputs) {
  if (new_keys_.empty()) return;
  std::map<std::string, std::vector<uint8_t>> fresh;
  for (const std::string& key : std::exchange(new_keys_, {})) fresh[key] = rendezvous_.at(key);
  for (uint32_t shard = 0; shard < size_ && shard < members_.size(); ++shard) {
    if (!members_[shard].peer.empty())
      outputs.push_back(ToLearner{members_[shard].peer, make_message(entries_of(fresh))});
  }
}

std::string LearnerGroup::resize(uint32_t learners, Time now, Outputs& outputs) {
  if (learners == 0) return "a run has at least one learner";
  if (learners > options_.num_agents)
    return fmt::format("{} learners want as many host agents, and this run has {}: start it with hosts.num_hosts = {}",
                       learners, options_.num_agents, learners);
  if (learners > options_.fragments_per_batch)
    return fmt::format("a batch has {} fragments, fewer than {} learners", options_.fragments_per_batch, learners);
  if (stopping_ || learners == target_) return "";
  outputs.push_back(Event{"scale", fmt::format("from {} learners to {}", target_, learners)});
  target_ = learners;
  spawn_missing(target_, now, outputs);
  if (target_ < size_) call("", now, outputs);  // new shards: when they are there
  return "";
}

void LearnerGroup::cut(Time now, Outputs& outputs) {
  cutting_ = true;
  call("", now, outputs);
}

void LearnerGroup::stop(const std::string& reason, Outputs& outputs) {
  if (std::exchange(stopping_, true)) return;
  for (const Member& member : members_) {
    if (member.peer.empty()) continue;
    wire::StopT stop;
    stop.reason = reason;
    outputs.push_back(ToLearner{member.peer, make_message(std::move(stop))});
  }
}

void LearnerGroup::send_all(const Message& message, Outputs& outputs) const {
  if (stage_ != Stage::formed) return;  // the driver's command is repeated
  for (uint32_t shard = 0; shard < size_; ++shard) outputs.push_back(ToLearner{members_[shard].peer, message});
}

// --- reports and checkpoints of all shards ---

void LearnerGroup::report(uint32_t shard, const wire::IterationReportT& report, Outputs& outputs) {
  if (report.training_iteration != iteration_ + 1 || shard >= formed_size_) return;  // a repeat
  reports_.insert_or_assign(shard, report);
  if (reports_.size() == formed_size_) close_iteration(outputs);
}

/// All shards have finished the iteration, though some reports may have been lost with their shard.
void LearnerGroup::close_iteration(Outputs& outputs) {
  wire::IterationReportT all;
  all.training_iteration = iteration_ + 1;
  std::map<std::string, double> sums;
  std::map<std::string, uint64_t> counts;
  for (auto& [shard, report] : reports_) {
    all.num_env_steps_sampled_lifetime = report.num_env_steps_sampled_lifetime;
    all.weights_version = report.weights_version;
    all.episodes.insert(all.episodes.end(), report.episodes.begin(), report.episodes.end());
    const auto metric = [&](std::string_view key) {
      const auto row = std::ranges::find_if(report.metrics, [&](const auto& r) { return r->key == key; });
      return row == report.metrics.end() ? 0.0 : (*row)->value;
    };
    shares_by_.add(shard, metric("num_updates"), metric("learner_update_s") - metric("learner_collective_s"),
                   metric("learner_wait_s"));
    for (const auto& row : report.metrics) {
      auto [it, is_new] = sums.try_emplace(row->key, row->value);
      ++counts[row->key];
      if (is_new) continue;
      it->second = is_a_maximum(row->key)   ? std::max(it->second, row->value)
                   : is_a_minimum(row->key) ? std::min(it->second, row->value)
                                            : it->second + row->value;
    }
  }
  if (reports_.size() < formed_size_) {
    all.num_env_steps_sampled_lifetime = state_.num_env_steps_sampled_lifetime;
    all.weights_version = version_;
    if (!cutting_)
      outputs.push_back(Event{"report-lost", fmt::format("iteration {} is reported by {} of its learners",
                                                         all.training_iteration, reports_.size())});
  }
  for (auto& [key, value] : sums) {
    if (!adds_up(key) && !is_a_maximum(key) && !is_a_minimum(key)) value /= static_cast<double>(counts[key]);
    const auto before = before_.find(key);
    // Runners that contributed are known to the cores that follow.
    if (counts_since_start(key) && before != before_.end() && !key.starts_with("num_env_runners_contributed"))
      value += before->second;
    if (counts_since_start(key)) now_[key] = value;
    auto row = std::make_unique<wire::KeyValueT>();
    row->key = key;
    row->value = value;
    all.metrics.push_back(std::move(row));
  }
  if (const auto seconds = sums.find("learner_update_s"), updates = sums.find("num_updates");
      seconds != sums.end() && updates != sums.end() && updates->second > 0) {
    update_s_.push_back(seconds->second / updates->second);
    if (update_s_.size() > kMedianOf) update_s_.pop_front();
  }
  iteration_ = all.training_iteration;
  failures_in_a_row_ = 0;
  env_steps_ = all.num_env_steps_sampled_lifetime;
  reports_.clear();
  outputs.push_back(Reported{std::move(all)});
}

void LearnerGroup::checkpoint_done(uint32_t shard, const wire::CheckpointDoneT& done, Outputs& outputs) {
  if (stage_ != Stage::formed || shard >= size_) return;
  if (!done_.empty() && done_.begin()->second.sequence != done.sequence) {
    if (done.sequence < done_.begin()->second.sequence) return;
    done_.clear();
  }
  if (!done_.try_emplace(shard, done).second) return;
  if (!done.error.empty()) {
    outputs.push_back(Saved{done});
    return;
  }
  if (done_.size() < size_) return;
  wire::CheckpointDoneT all = done;
  all.files.clear();
  for (const auto& [from, part] : done_)
    for (const auto& file : part.files) all.files.push_back(std::make_unique<wire::FileEntryT>(*file));
  outputs.push_back(Saved{std::move(all)});
}

}  // namespace myriad
