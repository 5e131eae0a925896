#include "apps/child.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "rl/machine.hpp"
#include "rl/wire/process_error.hpp"

namespace myriad {

ChildArguments::ChildArguments(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; i += 2) values_[argv[i]] = argv[i + 1];
  if (!values_.contains("--control"))
    fail(Exit::usage, "not-a-command", "this program is started by myriad: try `myriad train CONFIG`");
}

const std::string& ChildArguments::text(const std::string& name) const {
  const auto it = values_.find(name);
  if (it == values_.end()) fail(Exit::usage, "missing-argument", "{} is missing", name);
  return it->second;
}
uint64_t ChildArguments::number(const std::string& name) const { return std::stoull(text(name)); }

ControlLink::ControlLink(const SocketContext& context, const ChildArguments& arguments, const std::string& routing_id)
    : endpoint_(arguments.text("--control")),
      run_(arguments.number("--run")),
      // The same process of the run before may still be connected: its id is not to be taken twice.
      dealer_(context, arguments.text("--control"), fmt::format("{}-{:016x}", routing_id, run_)) {}

void ControlLink::send_message(Message message) {
  message.run = run_;
  message.epoch = epoch_;
  (void)dealer_.send(encode(message));  // the driver asks again for what it misses
}

std::optional<Message> ControlLink::receive() {
  while (auto received = dealer_.receive()) {
    auto decoded = decode(received->frames);
    auto* message = std::get_if<Message>(&decoded);
    if (message == nullptr || message->run != run_) continue;
    if (const auto* stop = message->as<wire::StopT>(); stop != nullptr && next_run_ != nullptr)
      *next_run_ = stop->next_run;
    return std::move(*message);
  }
  return std::nullopt;
}

wire::ProcessErrorT last_word(const std::exception& thrown) {
  const Error error = as_error(thrown);
  std::fprintf(stderr, "%s\n", error.line().c_str());
  return process_error(error);
}

std::string exit_cause(int status) {
  if (!WIFSIGNALED(status)) return fmt::format("exit status {}", WEXITSTATUS(status));
  const char* name = ::sigabbrev_np(WTERMSIG(status));
  return name == nullptr ? fmt::format("signal {}", WTERMSIG(status)) : fmt::format("SIG{}", name);
}

bool bind_to_parent(const ChildArguments& arguments) {
  const auto parent = static_cast<pid_t>(arguments.number("--parent"));
  if (parent == 0) return true;
  ::signal(SIGINT, SIG_IGN);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  return ::getppid() == parent;
}

int run_child(const ChildArguments& arguments, const std::string& process, const std::string& routing_id,
              const std::function<int(const SocketContext&, ControlLink&)>& body) {
  const SocketContext context(1, kMaxSockets,
                              arguments.has("--keys") ? load_keys(arguments.text("--keys"), process) : SocketKeys{});
  ControlLink link(context, arguments, routing_id);
  try {
    return body(context, link);
  } catch (const std::exception& thrown) {
    wire::ProcessErrorT error = last_word(thrown);
    const int exit = error.exit;
    link.send(std::move(error));
    return exit;
  }
}

}  // namespace myriad
