// What the tests of rl/wire share: frames from text, a private directory, waiting for a message.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "rl/wire/transport.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {

struct PrivateDirectory {
  TemporaryFolder folder;
  std::string path = folder.path.string();
  std::string endpoint(const std::string& name = "a") const { return "ipc://" + path + "/" + name; }
};

inline SharedBytes bytes(const std::string& text) {
  std::vector<std::byte> out(text.size());
  if (!text.empty()) std::memcpy(out.data(), text.data(), text.size());
  return SharedBytes::of(std::move(out));
}

inline std::string text(const SharedBytes& frame) {
  return {reinterpret_cast<const char*>(frame.view.data()), frame.view.size()};
}

/// Waits, at most 10 s, for the next message.
inline Received next(Socket& socket) {
  for (int i = 0; i < 10; ++i) {
    if (auto received = socket.receive()) return std::move(*received);
    wait_readable({&socket}, -1, std::chrono::seconds(1));
  }
  FAIL("no message within 10 s");
  return {};
}

}  // namespace myriad
