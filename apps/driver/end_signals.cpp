#include "apps/driver/end_signals.hpp"

#include <sys/signalfd.h>
#include <unistd.h>

#include "rl/signals.hpp"

namespace myriad {
namespace {

bool ignored(int signal) {
  struct sigaction action {};
  ::sigaction(signal, nullptr, &action);
  return action.sa_handler == SIG_IGN;
}

}  // namespace

EndSignals::EndSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  for (const int each : kEndingSignals)
    if (each != SIGHUP || !ignored(each)) ::sigaddset(&signals, each);
  if (!ignored(SIGPIPE)) ::sigaddset(&signals, SIGPIPE);
  ::signal(SIGXFSZ, SIG_IGN);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  fd_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

EndSignals::~EndSignals() { ::close(fd_); }

std::optional<int> EndSignals::take() {
  for (signalfd_siginfo info; ::read(fd_, &info, sizeof info) == sizeof info;)
    if (info.ssi_signo != SIGCHLD) return static_cast<int>(info.ssi_signo);
  return std::nullopt;
}

bool EndSignals::may_hurry(int signal) { return signal == SIGINT || signal == SIGTERM || signal == SIGQUIT; }

int EndSignals::exit_status(int signal) { return 128 + (signal == SIGINT ? SIGINT : SIGTERM); }

}  // namespace myriad
