// A simulator or a game in a process of its own, in C++17: see client.h.
//
//   int main(int argc, char** argv) { return myriad::serve<Mine>(argc, argv); }   // Mine as in env.hpp
//
//   myriad::Client client("127.0.0.1:7000", myriad::Space::box(-10, 10, {4}), myriad::Space::discrete(2));
//   int32_t action;
//   client.begin(observation, &action);
//   while (playing) client.act(observation, reward, &action);
//   client.end(observation, reward, MYRIAD_TERMINATED);
#pragma once

#include <myriad/client.h>
#include <myriad/env.hpp>

namespace myriad {

/// The run has given the episode up: begin another.
struct EpisodeLost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws std::runtime_error.
class Client {
 public:
  Client(const std::string& address, Space observation, Space action, const std::string& token = "",
         const std::string& name = "", double patience_s = 60) {
    myriad_space spaces[2];
    detail::write_space(observation, spaces[0]);
    detail::write_space(action, spaces[1]);
    myriad_error error;
    client_ =
        myriad_client_connect(address.c_str(), &spaces[0], &spaces[1], token.c_str(), name.c_str(), patience_s, &error);
    if (client_ == nullptr) throw std::runtime_error(error.text);
  }
  ~Client() { myriad_client_close(client_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void begin(const void* observation, void* action) {
    call([&](myriad_error* e) { return myriad_client_begin(client_, observation, action, e); });
  }
  void act(const void* observation, double reward, void* action) {
    call([&](myriad_error* e) { return myriad_client_act(client_, observation, reward, action, e); });
  }
  void log_reward(double reward) {
    call([&](myriad_error* e) { return myriad_client_log_reward(client_, reward, e); });
  }
  void end(const void* observation, double reward, int ended) {
    call([&](myriad_error* e) { return myriad_client_end(client_, observation, reward, ended, e); });
  }

 private:
  template <class Call>
  void call(Call f) {
    myriad_error error;
    const int result = f(&error);
    if (result == MYRIAD_EPISODE_LOST) throw EpisodeLost(error.text);
    if (result != MYRIAD_OK) throw std::runtime_error(error.text);
  }
  myriad_client* client_ = nullptr;
};

/// Serves a class of env.hpp: `program` when Myriad starts it, `program --listen ADDRESS` otherwise. An exit status.
template <class Environment>
int serve(int argc, char** argv) {
  const char* listen = argc == 3 && std::string(argv[1]) == "--listen" ? argv[2] : nullptr;
  myriad_error error;
  if (myriad_serve(detail::Plugin<Environment>::table(), listen, &error) == 0) return 0;
  std::fprintf(stderr, "%s\n", error.text);
  return 1;
}

}  // namespace myriad
