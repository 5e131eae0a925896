#include "rl/child_call.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>

#include "rl/check.hpp"

namespace myriad {
namespace json = boost::json;
namespace {

constexpr std::chrono::seconds kPatience(30);  // to open a library and answer
constexpr size_t kMaxAnswer = 64 << 20;

}  // namespace

json::object answer_of(const std::string& library, const std::function<json::object()>& f) {
  const auto failed = [](Exit exit, const std::string& code, const std::string& text) {
    return json::object{{"exit", static_cast<int>(exit)}, {"code", code}, {"error", text}};
  };
  try {
    return f();
  } catch (const Error& error) {
    return failed(error.exit_status(), error.code(), error.what());
  } catch (const std::exception& error) {
    return failed(Exit::environment, "plugin-broken", fmt::format("{}: {}", library, error.what()));
  } catch (...) { return failed(Exit::environment, "plugin-broken", library + ": it threw what is no std::exception"); }
}

json::object answer_from(int child, int fd, const std::string& library, std::chrono::seconds patience) {
  std::string text;
  bool in_time = true;
  for (std::array<char, 4096> part; text.size() <= kMaxAnswer;) {
    pollfd wait{fd, POLLIN, 0};
    const int ready = ::poll(&wait, 1, static_cast<int>(std::chrono::milliseconds(patience).count()));
    if (ready < 0 && errno == EINTR) continue;
    in_time = ready > 0;
    const ssize_t got = in_time ? ::read(fd, part.data(), part.size()) : 0;
    if (got <= 0) break;
    text.append(part.data(), static_cast<size_t>(got));
  }
  ::close(fd);
  ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  boost::system::error_code malformed;
  const json::value answer = json::parse(text, malformed);
  if (text.size() > kMaxAnswer)
    fail(Exit::environment, "plugin-broken", "{} says more than {} MiB of itself", library, kMaxAnswer >> 20);
  if (malformed || !answer.is_object())
    fail(Exit::environment, "plugin-broken", "{} {} while it was loaded", library,
         !in_time              ? fmt::format("gave no answer for {} s", patience.count())
         : WIFSIGNALED(status) ? fmt::format("ended with {}", ::strsignal(WTERMSIG(status)))
                               : fmt::format("ended with exit status {}", WEXITSTATUS(status)));
  const json::object& object = answer.as_object();
  if (const auto* error = object.if_contains("error")) {
    const auto* code = object.if_contains("code");
    if (!error->is_string() || code == nullptr || !code->is_string())
      fail(Exit::environment, "plugin-broken", "{} gave an error without words", library);
    const auto* exit = object.if_contains("exit");
    const bool usage = exit != nullptr && *exit == json::value(static_cast<int>(Exit::usage));
    throw Error(usage ? Exit::usage : Exit::environment, std::string(code->as_string()),
                std::string(error->as_string()));
  }
  return object;
}

json::object call_in_child(const std::string& library, const Sandbox::Options& options,
                           const std::function<json::object()>& f) {
  const Sandbox sandbox(options);
  int ends[2];
  check(::pipe2(ends, O_CLOEXEC) == 0, "pipe2: {}", std::strerror(errno));
  const pid_t parent = ::getpid(), child = ::fork();
  check(child >= 0, "fork: {}", std::strerror(errno));
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    const json::object answer = answer_of(library, [&] {
      close_descriptors_but({ends[1], sandbox.fd()});
      sandbox.enter();
      return f();
    });
    const std::string text = json::serialize(answer);
    for (size_t at = 0; at < text.size();) {
      const ssize_t wrote = ::write(ends[1], text.data() + at, text.size() - at);
      if (wrote <= 0) break;
      at += static_cast<size_t>(wrote);
    }
    ::_exit(0);
  }
  ::close(ends[1]);
  return answer_from(child, ends[0], library, kPatience);
}

}  // namespace myriad
