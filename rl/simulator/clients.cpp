#include "rl/simulator/clients.hpp"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/descriptors.hpp"
#include "rl/env_context.hpp"
#include "rl/module_spec.hpp"
#include "rl/simulator/channel.hpp"
#include "rl/toml.hpp"

namespace myriad::simulator {
namespace {

using myriad::Dict, myriad::DType, myriad::Space;  // not the messages

constexpr const char* kPrefix = "clients";
constexpr Time kFrame = std::chrono::seconds(10);  // from a message's first byte to its last
constexpr int kMostInteger = 1 << 26;
constexpr double kMostSeconds = 1e9;

// ---- the file ----

double number_in(const TomlValue& value, std::string_view what) {
  if (value.number() == nullptr) value.wrong_type(what, "a number");
  return *value.number();
}

double seconds_in(const TomlValue& value, std::string_view what) {
  const double number = number_in(value, what);
  if (!(number >= 0 && number <= kMostSeconds))
    value.wrong_type(what, fmt::format("a number of seconds from 0 to {:.0f}", kMostSeconds));
  return number;
}

int integer_in(const TomlValue& value, std::string_view what, int least) {
  const double number = number_in(value, what);
  if (number != std::trunc(number) || number < least || number > kMostInteger)
    value.wrong_type(what, fmt::format("an integer of {} to {}", least, kMostInteger));
  return static_cast<int>(number);
}

std::vector<int> integers_in(const TomlValue& value, std::string_view what, int least) {
  std::vector<int> all;
  if (value.array() == nullptr) value.wrong_type(what, "an array of integers");
  for (const TomlValue& item : *value.array()) all.push_back(integer_in(item, what, least));
  return all;
}

std::vector<double> bounds_in(const TomlValue* value, double otherwise, std::string_view what) {
  if (value == nullptr) return {otherwise};
  if (value->array() == nullptr) return {number_in(*value, what)};
  std::vector<double> all;
  for (const TomlValue& item : *value->array()) all.push_back(number_in(item, what));
  return all;
}

/// {shape = [4], low = -1, high = 1, dtype = "float32"} | {n = 2, start = 0} | {nvec = [2, 3], start = [0, 0]} |
/// {binary = 4} | a table of these by name.
Space space_in(const TomlValue& value, const std::string& what) {
  if (value.table() == nullptr || value.table()->empty())
    value.wrong_type(what, "a space: {shape = [4]}, {n = 2}, {nvec = [2, 3]}, {binary = 4}, or a table of spaces");
  if (const TomlValue* shape = value.find("shape")) {
    value.allow_keys(what, {"shape", "low", "high", "dtype"});
    DType dtype = DType::f32;
    if (const TomlValue* name = value.find("dtype")) {
      bool known = false;
      for (const DType each : {DType::f32, DType::f64, DType::u8, DType::i32, DType::i64})
        if (name->text() != nullptr && name_of(each) == *name->text()) dtype = each, known = true;
      if (!known) name->wrong_type(what + ".dtype", "float32, float64, uint8, int32 or int64");
    }
    Box box{bounds_in(value.find("low"), dtype == DType::u8 ? 0 : -INFINITY, what + ".low"),
            bounds_in(value.find("high"), dtype == DType::u8 ? 255 : INFINITY, what + ".high"),
            integers_in(*shape, what + ".shape", 1), dtype};
    if (const std::string problem = problem_of(box); !problem.empty())
      fail(Exit::usage, "wrong-type", "{}: {} {}", value.place, what, problem);
    return box;
  }
  if (const TomlValue* n = value.find("n")) {
    value.allow_keys(what, {"n", "start"});
    const TomlValue* start = value.find("start");
    return Space::discrete(integer_in(*n, what + ".n", 1),
                           start == nullptr ? 0 : integer_in(*start, what + ".start", -kMostInteger));
  }
  if (const TomlValue* nvec = value.find("nvec")) {
    value.allow_keys(what, {"nvec", "start"});
    MultiDiscrete multi{integers_in(*nvec, what + ".nvec", 1)};
    const TomlValue* start = value.find("start");
    if (start != nullptr) multi.start = integers_in(*start, what + ".start", -kMostInteger);
    if (start != nullptr && multi.start.size() != multi.nvec.size())
      start->wrong_type(what + ".start", fmt::format("{} integers, as nvec has", multi.nvec.size()));
    return multi;
  }
  if (const TomlValue* n = value.find("binary")) {
    value.allow_keys(what, {"binary"});
    return MultiBinary{integer_in(*n, what + ".binary", 1)};
  }
  Dict dict;
  for (const TomlEntry& entry : *value.table())
    dict.spaces.emplace_back(entry.key, space_in(entry.value, what + "." + entry.key));
  return dict;
}

std::string text_in(const TomlValue& value, std::string_view what) {
  if (value.text() == nullptr) value.wrong_type(what, "a string");
  return *value.text();
}

bool is_loopback(const std::string& bind) {
  return bind.starts_with("127.") || bind == "localhost" || bind == "::1" || bind == "[::1]" ||
         bind.find('/') != std::string::npos;
}

// ---- the environment ----

class ClientEnvironment final : public Environment {
 public:
  ClientEnvironment(ClientsFile file, EnvContext context)
      : file_(std::move(file)),
        context_(std::move(context)),
        mask_(ActionMask::of(file_.observation, file_.action)),
        num_inputs_(static_cast<size_t>(inputs_size(distribution_for(file_.action, false)))) {
    if (context_.door < 0)
      fail(Exit::usage, "no-clients",
           "clients come to the env runners of a run alone: what evaluates or checks here has none");
    tell(DoorMessage::Kind::free);
  }

  /// Where the client's episode goes on (a time limit cut ours), it goes on.
  void reset(RandomStream&, Row observation) override {
    if (!in_episode_) {
      if (!next_) next_ = first_observation();
      episode_ = next_->episode;
      t_ = 0;
      in_episode_ = true;
      row_ = std::move(next_->observation);
      next_.reset();
    }
    copy(observation);
  }

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    send_weights();
    const auto answer = [&] {
      if (acts_) return;
      ActionT chosen;
      chosen.episode = episode_;
      chosen.t = t_;
      chosen.action = bytes_of(action.bytes());
      send(frame_of(std::move(chosen)));
    };
    answer();
    while (channel_ || comes_back()) {
      const std::optional<ObservationT> seen = receive();
      if (!seen) continue;
      if (seen->episode == episode_ && seen->t == t_) {  // it has not had the answer
        answer();
      } else if (seen->episode == episode_ && seen->t == t_ + 1) {
        if (acts_ && !take_action(*seen)) continue;
        ++t_;
        row_ = seen->observation;
        copy(observation);
        in_episode_ = !seen->terminated && !seen->truncated;
        return {.reward = seen->reward,
                .terminated = seen->terminated,
                .truncated = seen->truncated,
                .own = acts_ ? &own_ : nullptr};
      } else if (seen->episode > episode_ && seen->t == 0) {
        next_ = *seen;
        return cut(observation, "it began another one");
      } else {
        drop(fmt::format("it sent step {} of episode {} after step {} of episode {}", seen->t, seen->episode, t_,
                         episode_));
      }
    }
    return cut(observation, why_lost_);
  }

  /// Its client is told, and the next one to come begins.
  bool renew(std::string_view why) override {
    drop(std::string(why));
    tell(DoorMessage::Kind::lost, why);
    tell(DoorMessage::Kind::free);
    session_ = {};
    in_episode_ = false;
    next_.reset();
    return true;
  }

 private:
  void copy(Row observation) const { std::memcpy(observation.bytes().data(), row_.data(), row_.size()); }

  /// The episode ends where it was: nobody knows what the last action did.
  StepResult cut(Row observation, const std::string& why) {
    std::fprintf(stderr, "client %s: episode %llu is cut at step %u: %s\n", name_.c_str(),
                 static_cast<unsigned long long>(episode_), t_, why.c_str());
    tell(DoorMessage::Kind::lost, why);
    if (!channel_) tell(DoorMessage::Kind::free), session_ = {};
    in_episode_ = false;
    copy(observation);
    return {.truncated = true, .abandoned = true};
  }

  /// What the client says it did; a client that says what cannot be is dropped.
  bool take_action(const ObservationT& seen) {
    const auto bytes = std::as_bytes(std::span(seen.action));
    std::string wrong = action_violation(bytes);
    if (wrong.empty() && mask_) wrong = mask_->violation(std::as_bytes(std::span(row_)), bytes);
    const std::vector<float>& inputs = seen.action_dist_inputs;
    if (wrong.empty() && !inputs.empty() &&
        (inputs.size() != num_inputs_ || !std::ranges::all_of(inputs, [](float x) { return std::isfinite(x); })))
      wrong = fmt::format("its action_dist_inputs are not {} finite numbers, or none", num_inputs_);
    if (!wrong.empty()) {
      drop(wrong);
      return false;
    }
    action_.assign(bytes.begin(), bytes.end());
    inputs_ = inputs;
    own_ = {action_, inputs_, std::nullopt};
    // Newer ones are of before the run went back to a checkpoint.
    const std::optional<uint64_t> newest = context_.policy == nullptr ? std::nullopt : context_.policy->version;
    if (seen.weights_version >= 0 && newest && static_cast<uint64_t>(seen.weights_version) <= *newest)
      own_.version = static_cast<uint64_t>(seen.weights_version);
    return true;
  }

  /// Of an action as it is drawn: the numbers of a Box may lie outside it, and are finite.
  std::string action_violation(std::span<const std::byte> row) const {
    if (row.size() != file_.action.row_bytes()) return file_.action.violation(row, "its action");
    const auto finite = [row]<class T>(const myriad::Leaf& leaf, T value) {
      bool all = true;
      for (size_t i = 0; i < leaf.count; ++i) {
        std::memcpy(&value, &row[leaf.offset + i * sizeof value], sizeof value);
        all &= std::isfinite(value);
      }
      return all;
    };
    for (const myriad::Leaf& leaf : file_.action.leaves()) {
      const std::string dot = leaf.path.empty() ? "" : ".";
      if (leaf.space->get_if<myriad::Box>() == nullptr) {
        const auto own = row.subspan(leaf.offset, leaf.count * size_of(leaf.dtype));
        if (std::string wrong = leaf.space->violation(own, "its action" + dot + leaf.path); !wrong.empty())
          return wrong;
      } else if (leaf.dtype == DType::f64 ? !finite(leaf, double{}) : !finite(leaf, float{})) {
        return fmt::format("its action{}{} is not finite", dot, leaf.path);
      }
    }
    return "";
  }

  void send_weights() {
    const PolicySource* source = context_.policy;
    if (!acts_ || !channel_ || source == nullptr || !source->version || source->version == sent_version_) return;
    sent_version_ = source->version;
    send(frame_of(source->weights()));
  }

  ObservationT first_observation() {
    for (;;) {
      while (!channel_) wait(-1);
      send_weights();
      if (!channel_) continue;
      std::optional<ObservationT> seen = receive();
      if (seen && seen->t == 0 && !seen->terminated && !seen->truncated) return std::move(*seen);
      if (seen) drop("an episode begins with step 0");
      if (!channel_) tell(DoorMessage::Kind::free), session_ = {};
    }
  }

  bool comes_back() {
    if (refused_) return false;
    const Time until = system_clock().now() + seconds(file_.reconnect_s);
    while (!channel_ && system_clock().now() < until) wait(-1);
    return channel_.has_value();
  }

  /// A second at most, until `fd` has something or the door has a connection, which is taken.
  bool wait(int fd) {
    std::array<pollfd, 2> poll{pollfd{context_.door, POLLIN, 0}, pollfd{fd, POLLIN, 0}};
    const int ready = ::poll(poll.data(), poll.size(), 1000);
    if (context_.alive) context_.alive();
    if (ready > 0 && poll[0].revents != 0) take();
    return ready > 0 && poll[1].revents != 0;
  }

  void take() {
    DoorMessage message{};
    const iovec part{&message, sizeof message};
    int fd = -1;
    const ssize_t got = receive_with_descriptors(context_.door, {&part, 1}, {&fd, 1});
    if (got == 0) ::_exit(0);  // the agent is gone
    if (got != sizeof message || fd < 0) return;
    name_ = message.name;
    channel_.emplace(fd, fmt::format("client {}", name_), false, context_.alive);
    WelcomeT welcome;
    welcome.protocol = kProtocol;
    welcome.session.assign(message.session.begin(), message.session.end());
    welcome.num_envs = 1;
    welcome.observation_bytes = static_cast<uint32_t>(file_.observation.row_bytes());
    welcome.action_bytes = static_cast<uint32_t>(file_.action.row_bytes());
    welcome.taken = message.session == session_ && in_episode_;
    welcome.episode = episode_;
    welcome.t = t_;
    session_ = message.session;
    refused_ = false;
    acts_ = message.acts != 0;
    sent_version_.reset();
    send(frame_of(std::move(welcome)));
    send_weights();
  }

  void send(std::span<const std::byte> frame) {
    try {
      if (channel_) channel_->send(frame);
    } catch (const Error& error) { broke(error); }
  }

  /// What the client says next; none when it is gone, or another connection has taken its place.
  std::optional<ObservationT> receive() {
    const bool limited = in_episode_ && file_.silence_s > 0;
    const Time until = limited ? system_clock().now() + seconds(file_.silence_s) : Time::max();
    while (!channel_->has_more()) {
      const int fd = channel_->fd();
      if (wait(fd)) break;
      if (!channel_ || channel_->fd() != fd) return std::nullopt;
      if (system_clock().now() >= until) {
        drop(fmt::format("it said nothing for {:g} s amid an episode (silence_s of the run's file)", file_.silence_s),
             "silent");
        return std::nullopt;
      }
    }
    try {
      MessageT message = channel_->receive(kFrame);
      auto* seen = as<ObservationT>(message);
      if (seen == nullptr)
        drop(fmt::format("it sent a {}, want an Observation", EnumNameBody(message.body.type)));
      else if (seen->observation.size() != file_.observation.row_bytes())
        drop(fmt::format("it sent an observation of {} bytes, want {}", seen->observation.size(),
                         file_.observation.row_bytes()));
      else
        return std::move(*seen);
    } catch (const Error& error) { broke(error); }
    return std::nullopt;
  }

  /// A connection that ended may be made again; one that carried what cannot be is not waited for.
  void broke(const Error& error) {
    if (error.code() != "simulator-gone") return drop(error.what());
    why_lost_ = error.what();
    channel_.reset();
  }

  void drop(const std::string& why, const char* code = "bad-message") {
    why_lost_ = why;
    refused_ = true;
    if (!channel_) return;
    RefusedT refused;
    refused.code = code;
    refused.text = why;
    try {
      channel_->send(frame_of(std::move(refused)));
    } catch (const Error&) {}  // it is gone
    channel_.reset();
  }

  void tell(DoorMessage::Kind kind, std::string_view why = "") const {
    DoorMessage message{
        .kind = kind, .session = session_, .name = {}, .episode = episode_, .steps = t_, .acts = 0, .why = {}};
    name_.copy(message.name, sizeof message.name - 1);
    why.copy(message.why, sizeof message.why - 1);
    (void)!::send(context_.door, &message, sizeof message, MSG_NOSIGNAL);
  }

  ClientsFile file_;
  EnvContext context_;
  std::optional<Channel> channel_;
  Session session_{};
  std::string name_, why_lost_;
  bool refused_ = false;              // the last client, with a message: it does not come back
  std::vector<uint8_t> row_;          // S_t
  std::optional<ObservationT> next_;  // S_0 of an episode that has not begun here
  uint64_t episode_ = 0;
  uint32_t t_ = 0;
  bool in_episode_ = false;

  std::optional<ActionMask> mask_;
  size_t num_inputs_;
  bool acts_ = false;
  std::optional<uint64_t> sent_version_;
  std::vector<std::byte> action_;  // A_t of a client that acts itself
  std::vector<float> inputs_;
  OwnAction own_;
};

EnvSpec clients_spec(const std::string& path) {
  const ClientsFile file = read_clients_file(path);
  for (const myriad::Leaf& leaf : file.action.leaves())
    if (leaf.space->get_if<Box>() != nullptr && leaf.dtype != DType::f32 && leaf.dtype != DType::f64)
      fail(Exit::usage, "unsupported-space",
           "{}: action{}{} is {}: whole numbers of a client are choices: write {{nvec = [...], start = [...]}}", path,
           leaf.path.empty() ? "" : ".", leaf.path, leaf.space->to_string());
  (void)distribution_for(file.action, false);  // a client gets its actions as they are drawn
  return {.id = "",
          .observation_space = file.observation,
          .action_space = file.action,
          .max_episode_steps = static_cast<int>(file.max_episode_steps),
          .reward_threshold = file.reward_threshold,
          .source = fmt::format("clients of {}", path),
          .isolated = true,
          .make = [file](const EnvOptions&, const EnvContext& context) {
            return std::make_unique<ClientEnvironment>(file, context);
          }};
}

const RegisterEnv clients{EnvPrefix{.prefix = kPrefix, .names_file = true, .make_spec = clients_spec}};

}  // namespace

ClientsFile read_clients_file(const std::string& path) {
  std::ifstream stream(path);
  std::stringstream text;
  text << stream.rdbuf();
  if (!stream) fail(Exit::usage, "no-file", "{} cannot be read: {}", path, std::strerror(errno));
  const TomlValue file = read_toml(text.str(), std::filesystem::path(path).filename().string());
  file.allow_keys("the file", {"observation", "action", "bind", "port", "token", "reconnect_s", "silence_s",
                               "max_episode_steps", "reward_threshold"});
  for (const char* key : {"observation", "action", "port"})
    if (file.find(key) == nullptr) fail(Exit::usage, "missing-key", "{}: it has no {}", path, key);
  ClientsFile read{.observation = space_in(*file.find("observation"), "observation"),
                   .action = space_in(*file.find("action"), "action")};
  if (const TomlValue* bind = file.find("bind")) read.bind = text_in(*bind, "bind");
  const int port = integer_in(*file.find("port"), "port", 0);
  if (port > 65'000) file.find("port")->wrong_type("port", "at most 65000");
  read.port = static_cast<uint16_t>(port);
  if (const TomlValue* token = file.find("token")) read.token = text_in(*token, "token");
  if (const TomlValue* wait = file.find("reconnect_s")) read.reconnect_s = seconds_in(*wait, "reconnect_s");
  if (const TomlValue* wait = file.find("silence_s")) read.silence_s = seconds_in(*wait, "silence_s");
  if (const TomlValue* limit = file.find("max_episode_steps"))
    read.max_episode_steps = integer_in(*limit, "max_episode_steps", 0);
  if (const TomlValue* solved = file.find("reward_threshold"))
    read.reward_threshold = number_in(*solved, "reward_threshold");
  if (!is_loopback(read.bind) && read.token.size() < 16)
    fail(Exit::usage, "impossible", "{}: bind is {}: beyond loopback clients need a token of 16 characters or more",
         path, read.bind);
  return read;
}

Session new_session() {
  Session session;
  check(::getrandom(session.data(), session.size(), 0) == std::ssize(session), "getrandom: {}", std::strerror(errno));
  return session;
}

}  // namespace myriad::simulator
