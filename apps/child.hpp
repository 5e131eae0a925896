// What a learner and a host agent share: their arguments, the control link to the driver, the error they end with.
#pragma once

#include <exception>
#include <functional>
#include <map>
#include <string>

#include "rl/check.hpp"
#include "rl/signals.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/transport.hpp"

namespace myriad {

/// --control ENDPOINT --run N --parent PID [--keys DIR] [--agent N | --shard N] [--incarnation N], as the driver writes
/// them.
/// --parent 0: started by hand, not by a driver.
class ChildArguments {
 public:
  ChildArguments(int argc, char** argv);  ///< throws Error(usage)
  const std::string& text(const std::string& name) const;
  uint64_t number(const std::string& name) const;
  bool has(const std::string& name) const { return values_.contains(name); }

 private:
  std::map<std::string, std::string> values_;
};

/// The DEALER to the driver, with this run's number and the newest epoch this process was told of on every message.
class ControlLink {
 public:
  ControlLink(const SocketContext& context, const ChildArguments& arguments, const std::string& routing_id);

  template <class T>
  void send(T body) {
    send_message(make_message(std::move(body)));
  }
  void send_message(Message message);
  void set_epoch(uint64_t epoch) { epoch_ = epoch; }
  /// `next_run` becomes that of a Stop.
  void tell_next_run(uint64_t& next_run) { next_run_ = &next_run; }
  std::optional<Message> receive();  ///< messages of other runs and malformed ones are dropped
  const Socket& socket() const { return dealer_; }

  /// Sends `hello` until a T comes; returns that message. Throws Error without an answer for 60 s.
  template <class T, class Hello>
  Message introduce(const Hello& hello) {
    const auto clock = make_system_clock();
    for (const Time give_up = clock->now() + std::chrono::seconds(60); clock->now() < give_up;) {
      send(hello);
      if (asked_to_end()) fail(Exit::interrupted, "stopped", "told to stop before the driver answered");
      if (!wait_readable({&dealer_}, -1, std::chrono::milliseconds(200))) continue;
      while (auto message = receive()) {
        if (message->as<T>() != nullptr) return std::move(*message);
        if (message->as<wire::StopT>() != nullptr) fail(Exit::interrupted, "stopped", "the run ended before it began");
      }
    }
    fail(Exit::resource, "no-driver",
         "the driver at {} did not answer for 60 s: its run is over, or all of its places are taken, or this host "
         "cannot "
         "reach that address (network.bind, a firewall), or the keys are another run's",
         endpoint_);
  }

 private:
  std::string endpoint_;
  uint64_t run_, epoch_ = 0;
  uint64_t* next_run_ = nullptr;
  Dealer dealer_;
};

/// An error for the driver; also printed.
wire::ProcessErrorT last_word(const std::exception& thrown);

/// How a process ended, from waitpid's status: "SIGSEGV", "exit status 3".
std::string exit_cause(int status);

/// The kernel kills this process when its parent dies, and the terminal's Ctrl-C is left to the driver. False when the
/// parent is gone already.
[[nodiscard]] bool bind_to_parent(const ChildArguments& arguments);

/// Runs `body` with the control link of `process` ("learner-0", "agent-3"); an Error is sent to the driver and printed.
/// Returns main()'s exit status.
int run_child(const ChildArguments& arguments, const std::string& process, const std::string& routing_id,
              const std::function<int(const SocketContext&, ControlLink&)>& body);

}  // namespace myriad
