#include "apps/driver/scale.hpp"

#include <charconv>
#include <filesystem>
#include <iostream>
#include <random>

#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/transport.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr Time kPatience = std::chrono::seconds(10), kRetry = std::chrono::milliseconds(500);

uint32_t learners_of(const std::vector<std::string>& settings) {
  constexpr std::string_view kKey = "learners=";
  uint32_t learners = 0;
  const bool named = settings.size() == 1 && settings[0].starts_with(kKey);
  const char* const end = named ? settings[0].data() + settings[0].size() : nullptr;
  if (!named || std::from_chars(settings[0].data() + kKey.size(), end, learners).ptr != end || learners == 0)
    fail(Exit::usage, "usage", "got '{}', want learners=N with N at least 1", fmt::join(settings, " "));
  return learners;
}

/// The argument after `option` in run.json's "join" command; "" where it is not there.
std::string word_after(const std::string& line, const std::string& option) {
  const size_t at = line.find(" " + option + " ");
  if (at == std::string::npos) return "";
  const size_t begin = at + option.size() + 2;
  std::string word = line.substr(begin, line.find(' ', begin) - begin);
  std::erase(word, '\'');
  return word;
}

}  // namespace

int scale(const std::string& run, const std::vector<std::string>& settings) {
  wire::ScaleRequestT request;
  request.learners = learners_of(settings);
  const RunRecord record = read_run(fs::absolute(run));
  const std::string& join = record.join;
  if (join.empty()) fail(Exit::usage, "not-running", "{} does not train: its state is '{}'", run, record.state);
  if (!running_pid(fs::absolute(run)))
    fail(Exit::usage, "not-running", "{} does not train: its driver is gone, and could not say so in run.json", run);
  const std::string keys = word_after(join, "--keys");
  // On the driver's host, where the learners' key is.
  const SocketContext context(1, 16, keys.empty() ? SocketKeys{} : load_keys(keys, "learner-0"));
  Dealer driver(context, word_after(join, "--connect"), fmt::format("scale-{:08x}", std::random_device{}()));
  Message message = make_message(std::move(request));
  message.run = std::stoull(word_after(join, "--run"));
  const auto clock = make_system_clock();
  for (const Time give_up = clock->now() + kPatience; clock->now() < give_up;) {
    (void)driver.send(encode(message));
    if (!wait_readable({&driver}, -1, kRetry)) continue;
    while (auto received = driver.receive()) {
      auto decoded = decode(received->frames);
      const auto* answer = std::get_if<Message>(&decoded);
      const auto* reply = answer == nullptr ? nullptr : answer->as<wire::ScaleReplyT>();
      if (reply == nullptr) continue;
      if (reply->error) fail(Exit::usage, "impossible", "{}", reply->text);
      std::cout << reply->text << "\n";
      return 0;
    }
  }
  fail(Exit::resource, "no-driver", "the driver of {} did not answer for {:.0f} s", run, to_seconds(kPatience));
}

}  // namespace myriad
