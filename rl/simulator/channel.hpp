// Channel: a connection to a simulator's process, as frames. Blocking, with a deadline on every wait.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "rl/simulator/messages.hpp"
#include "rl/system.hpp"

namespace myriad::simulator {

/// Text of a peer, for people: 4,096 bytes at most, without control characters but newlines.
std::string readable(const std::string& text);

Clock& system_clock();  ///< the system's: deadlines of channels are its times

class Channel {
 public:
  /// Takes over `fd`, a connected stream socket; `name`: the peer's, for messages.
  /// `takes_descriptors`: one may come with a message; `alive` is called every second while receive() waits.
  Channel(int fd, std::string name, bool takes_descriptors = false, std::function<void()> alive = {});
  ~Channel();
  Channel(Channel&& other) noexcept;
  Channel& operator=(Channel&& other) noexcept;

  /// Writes a frame; `passed`: a descriptor that goes with it (unix sockets), or -1. Throws Error("simulator-gone").
  void send(std::span<const std::byte> frame, int passed = -1);

  /// The next message. Throws Error("simulator-gone" | "simulator-silent" | "simulator-malformed"), and
  /// Error("simulator-failed") with the simulator's own message when it reports a failure.
  MessageT receive(Time deadline);

  /// The descriptor that came with the newest message. Throws Error when none did.
  int take_descriptor();

  bool has_more() const { return filled_ > 0; }  ///< bytes of a next message are here
  int fd() const { return fd_; }
  const std::string& name() const { return name_; }

 private:
  void fill(size_t size, Time until, Time deadline);
  ssize_t receive_some(std::byte* to, size_t size);
  int fd_, passed_ = -1;
  bool takes_descriptors_;
  std::string name_;
  std::function<void()> alive_;
  std::vector<std::byte> bytes_;  // what came: its first filled_
  size_t filled_ = 0;
};

}  // namespace myriad::simulator
