#include "rl/signals.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace myriad {

void ignore_ending_signals() {
  for (const int each : kEndingSignals) ::signal(each, SIG_IGN);
}

void make_writes_fail() {
  for (const int each : {SIGPIPE, SIGXFSZ}) ::signal(each, SIG_IGN);
}

void open_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) (void)!::open("/dev/null", O_RDWR);  // the lowest that is free
}

bool asked_to_end() {
  sigset_t pending;
  ::sigpending(&pending);
  return std::ranges::any_of(kEndingSignals, [&](int each) { return ::sigismember(&pending, each) == 1; });
}

}  // namespace myriad
