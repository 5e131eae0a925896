// Parcels: many small messages from an agent to a learner as few large ones, each delivered once and in order.
//
// The sender numbers its messages; what the receiver's cumulative count does not cover in time is sent again; the
// receiver takes only the number it expects. ZeroMQ loses messages when a connection breaks: this is what makes that
// harmless. The sender keeps what was received until it is released, for a receiver that takes over. State machines:
// one thread, time comes in.
#pragma once

#include <deque>

#include "rl/wire/messages.hpp"

namespace myriad {

class ParcelSender {
 public:
  static constexpr size_t kParcelBytes = size_t{1} << 20;  ///< a parcel is closed when it is this large
  static constexpr Time kRetry = std::chrono::milliseconds(250);

  ParcelSender(uint32_t agent, uint32_t incarnation) : agent_(agent), incarnation_(incarnation) {}

  /// Appends one packed message.
  void add(std::span<const std::byte> packed);
  void add(const Message& message);

  /// Everything added since, as parcels to send now; and what was sent kRetry ago without an answer.
  void flush(Time now, std::vector<Message>& outputs);

  /// The receiver has the messages below `received`.
  void acknowledge(uint64_t received);
  /// Nobody will ever need the messages below `released` again.
  void release(uint64_t released);
  /// Another receiver begins at the first message that is not released.
  void restart();

  uint64_t sent() const { return next_; }
  bool idle() const { return received_ == next_; }  ///< nothing waits for an acknowledgement
  uint64_t resent() const { return resent_; }

 private:
  struct Kept {
    uint64_t first;
    uint32_t count;
    SharedBytes payload;
    Time sent_at;
  };
  void close();
  Message parcel(const Kept& kept) const;

  uint32_t agent_, incarnation_;
  size_t first_unreceived() const;

  uint64_t next_ = 0, received_ = 0, resent_ = 0;
  std::vector<std::byte> open_;
  uint32_t open_count_ = 0;
  std::deque<Kept> kept_;    // sent, not released
  std::deque<Kept> closed_;  // not sent yet
};

class ParcelReceiver {
 public:
  ParcelReceiver() = default;
  explicit ParcelReceiver(uint64_t first) : next_(first) {}  ///< the message it begins with

  /// The new messages of `parcel`, in order; none when it is old, ahead of a gap, or not made of whole messages.
  std::vector<Frames> accept(const Message& parcel);
  uint64_t received() const { return next_; }
  uint64_t gaps() const { return gaps_; }
  uint64_t malformed() const { return malformed_; }

 private:
  uint64_t next_ = 0, gaps_ = 0, malformed_ = 0;
};

}  // namespace myriad
