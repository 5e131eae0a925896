// ClientDoor: where the clients of a host come in (env = "clients:FILE"): part of the host agent.
//
//   connect -> Hello -> looked at -> a runner with a place -> the connection is handed over -> Welcome from the runner
//
// Nothing a client sends later passes through here. A connection that sends nothing, too much, or no Hello is
// sent away; there is room for a bounded number of those that wait. A client that comes again with its session goes
// back to its runner. One thread, nothing blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rl/simulator/clients.hpp"
#include "rl/system.hpp"

namespace myriad {

class ClientDoor {
 public:
  static constexpr size_t kMaxWaiting = 256;
  static constexpr size_t kMaxHelloBytes = size_t{1} << 20;
  static constexpr Time kPatience = std::chrono::seconds(10);  ///< for a Hello; and reconnect_s more for a free place
  static constexpr Time kMissing = std::chrono::seconds(5);    ///< a runner without a client; then it is told

  /// Listens. `number`: of the agent, added to the port. Throws Error("no-port").
  ClientDoor(const simulator::ClientsFile& file, uint32_t number, std::function<void(const std::string& text)> say);
  ~ClientDoor();
  ClientDoor(const ClientDoor&) = delete;

  int fd() const { return epoll_; }  ///< readable when step() has something to do
  const std::string& address() const { return address_; }

  /// A runner begins: returns its end of the way by which clients reach it; the caller passes it on and closes it.
  int add_runner(uint32_t slot);
  void remove_runner(uint32_t slot);
  void step(Time now);

 private:
  struct Waiting {
    int fd;
    std::string from;
    Time until;
    std::vector<std::byte> bytes;
    std::string name;
    simulator::Session session;
    bool greeted = false, acts = false;
  };
  struct Runner {
    int fd;
    bool free = true;
    simulator::Session session;
  };
  void accept_all(Time now);
  void read(Waiting& client);
  void greet(Waiting& client, std::span<const std::byte> message);
  bool hand_over(Waiting& client, uint32_t slot, Runner& runner);
  void hear(uint32_t slot, Runner& runner);
  void refuse(Waiting& client, const std::string& code, const std::string& text);
  void drop(Waiting& client);
  void tell_who_waits(Time now);
  void watch(int fd, uint64_t tag) const;
  bool place(Waiting& client);

  simulator::ClientsFile file_;
  std::function<void(const std::string& text)> say_;
  std::string address_;
  int epoll_, listener_ = -1;
  std::map<int, std::unique_ptr<Waiting>> waiting_;  // by descriptor
  std::map<uint32_t, Runner> runners_;               // by slot
  std::vector<uint32_t> free_, told_free_;           // slots without a client: now; when it was told
  Time free_since_{};
  uint64_t sent_away_ = 0;
  std::map<std::string, uint64_t> refused_;  // by code; the first twenty of each are reported, then every thousandth
};

}  // namespace myriad
