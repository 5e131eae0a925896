#include "apps/driver/live_view.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <sstream>

namespace myriad {
namespace {

Snapshot half_cheetah() {
  Snapshot s;
  s.run_name = "0007-calm-heron", s.env = "HalfCheetah-v5", s.algorithm = "PPO", s.seed = 1;
  s.elapsed_s = 58, s.iteration = 142, s.steps = 583680, s.steps_per_s = 12310.4, s.eta_s = 34;
  s.stop = {{"episode_return_mean", "", 3604, 4800}, {"num_env_steps_sampled_lifetime", "env steps", 583680, 1e6}};
  s.return_mean = 3604, s.return_best = 3981;
  s.learner = {{"kl", 0.0113}, {"clip", 0.12}, {"entropy", 4.2}, {"expl.var", 0.83}, {"grad", 0.41}};
  s.lag_mean = 0.8, s.lag_max = 2, s.dropped = 0;
  s.sampling_share = 0.49, s.wait_share = 0.02, s.learner_busy_share = 0.97;
  s.runners_alive = 8, s.runners_total = 8, s.envs = 128;
  s.events = {"12:01:00 start", "12:03:58 runner 3 restarted: SIGSEGV", "12:04:11 checkpoint 560,000 (best)"};
  s.directory = "runs/0007-calm-heron";
  return s;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

}  // namespace

TEST_SUITE("apps/live_view") {
  TEST_CASE("panel_lines: the panel of a run on a wide terminal") {
    CHECK(joined(panel_lines(half_cheetah(), 100)) ==
          "run 0007-calm-heron   HalfCheetah-v5   PPO   seed 1                                     elapsed 0:58\n"
          "[################------------]  58 %   583,680 / 1,000,000 env steps   12,310 steps/s   eta 0:34\n"
          "return   train 3,604   best 3,981   goal 4,800   iteration 142\n"
          "learn    kl 0.0113  clip 0.12  entropy 4.2  expl.var 0.83  grad 0.41\n"
          "time     sampling 49 %  waiting 2 %  |  learner 97 % busy                        bottleneck: learner\n"
          "fleet    runners 8/8   envs 128   lag 0.8 (max 2)   dropped 0\n"
          "events   12:03:58 runner 3 restarted: SIGSEGV\n"
          "         12:04:11 checkpoint 560,000 (best)\n"
          "runs/0007-calm-heron\n");
  }

  TEST_CASE("panel_lines: on an 80-column terminal the bar gives way to the numbers") {
    const std::vector<std::string> lines = panel_lines(half_cheetah(), 79);
    CHECK(lines.size() == 9);
    CHECK(lines[1] == "[######-----]  58 %   583,680 / 1,000,000 env steps   12,310 steps/s   eta 0:34");
    CHECK(lines[4].ends_with("bottleneck: learner"));
  }

  TEST_CASE("panel_lines: below that three short lines") {
    CHECK(joined(panel_lines(half_cheetah(), 60)) ==
          "0007-calm-heron  HalfCheetah-v5  0:58\n"
          "58 %  583,680 steps  12,310/s  eta 0:34\n"
          "return 3,604  best 3,981\n");
  }

  TEST_CASE("panel_lines: at most 12 lines, none wider than asked, at any width") {
    for (int width = 1; width <= 240; ++width) {
      const std::vector<std::string> lines = panel_lines(half_cheetah(), width);
      CHECK(lines.size() <= (width < 79 ? 3 : 12));
      for (const std::string& line : lines) CHECK(line.size() <= static_cast<size_t>(width));
    }
  }

  TEST_CASE("panel_lines: a run that has just started says so") {
    Snapshot s;
    s.run_name = "0001-brisk-otter", s.env = "CartPole-v1", s.algorithm = "PPO";
    const std::vector<std::string> lines = panel_lines(s, 100);
    CHECK(lines[1] == "0 env steps");
    CHECK(lines[2] == "return   train -   iteration 0");
    CHECK(lines[3] == "learn    nothing learned yet");
    CHECK(lines[4] == "time     not measured yet");
    CHECK(joined(lines).find("nan") == std::string::npos);
  }

  TEST_CASE("panel_lines: hosts where there can be several, and why messages were dropped") {
    Snapshot s = half_cheetah();
    s.hosts_alive = 1, s.hosts_total = 2;
    s.dropped = 1203, s.dropped_by = {{"duplicate", 3}, {"too_old", 1200}};
    CHECK(panel_lines(s, 120)[5] ==
          "fleet    hosts 1/2   runners 8/8   envs 128   lag 0.8 (max 2)   dropped 1,203 (duplicate 3, too_old 1,200)");
    CHECK(plain_line(s).find(" hosts_alive=1 hosts_total=2 ") != std::string::npos);
    CHECK(plain_line(half_cheetah()).find("hosts") == std::string::npos);
  }

  TEST_CASE("panel_lines: the bar shows the budget nearest its end; a return only where there is none") {
    Snapshot s = half_cheetah();
    s.stop.push_back({"time_total_s", "s", 58, 60});
    CHECK(panel_lines(s, 120)[1].find(" 97 %   0:58 / 1:00   583,680 env steps") != std::string::npos);
    s.stop = {{"episode_return_mean", "", 237.5, 475}};
    CHECK(panel_lines(s, 120)[1].find(" 50 %   238 / 475 return   583,680 env steps") != std::string::npos);
    const StopProgress standstill{"evaluations_without_improvement", "evaluations without improvement", 4, 5};
    s.stop.push_back(standstill);  // it goes back to 0
    CHECK(panel_lines(s, 120)[1].find(" 50 %   238 / 475 return") != std::string::npos);
    s.stop = {standstill};
    CHECK(panel_lines(s, 120)[1].find(" 80 %   4 / 5 evaluations without improvement   583,680") != std::string::npos);
    s.stop = {{"training_iteration", "iterations", 300, 200}};  // past it: the bar is full, not longer
    CHECK(panel_lines(s, 120)[1].starts_with("[" + std::string(28, '#') + "] 100 %   300 / 200 iterations"));
  }

  TEST_CASE("panel_lines: what evaluations came to, once there was one") {
    Snapshot s = half_cheetah();
    CHECK(joined(panel_lines(s, 120)).find("evaluated") == std::string::npos);
    s.evaluation_return = 3550, s.evaluation_best = 3701;
    CHECK(panel_lines(s, 120)[2].starts_with("return   train 3,604   best 3,981   evaluated 3,550 (best 3,701)"));
    CHECK(plain_line(s).find(" evaluation_return=3550 evaluation_best=3701 ") != std::string::npos);
  }

  TEST_CASE("panel_lines: no message steers the terminal, no character is cut in two") {
    Snapshot s = half_cheetah();
    s.events = {
        "\x1b[2J\r\nowned\x07 \xc2\x9b"
        "5A",
        std::string(60, 'x') + "\xc3\xa9\xc3\xa9\xc3\xa9"};
    const std::string text = joined(panel_lines(s, 100));
    CHECK(text.find("?[2J??owned? ?5A") != std::string::npos);
    CHECK(std::ranges::none_of(text, [](unsigned char c) { return c < 0x20 && c != '\n'; }));
    s.events = {std::string(68, 'x') + "\xc3\xa9\xc3\xa9\xc3\xa9"};  // 9 + 68 columns, then three of two bytes each
    CHECK(panel_lines(s, 79)[6] == "events   " + std::string(68, 'x') + "\xc3\xa9\xc3\xa9");
  }

  TEST_CASE("bottleneck: who holds the run back, in words") {
    Snapshot s = half_cheetah();
    const auto said = [&](double busy, double wait) {
      s.learner_busy_share = busy, s.wait_share = wait;
      return bottleneck(s);
    };
    CHECK(said(0.97, 0.5) == "learner");
    CHECK(said(0.2, 0.05) == "environments");
    CHECK(said(0.6, 0.6) == "taking turns");
    CHECK(said(0.1, 0.8) == "elsewhere");
    CHECK(said(Snapshot::kUnknown, 0.8).empty());
    s.runners_alive = 0;
    CHECK(said(0.1, 0.8) == "no runner is alive");
  }

  TEST_CASE("grouped and duration: numbers as people read them") {
    CHECK(grouped(0) == "0");
    CHECK(grouped(999) == "999");
    CHECK(grouped(1000) == "1,000");
    CHECK(grouped(-1234567.8) == "-1,234,568");
    CHECK(grouped(212.49) == "212");
    CHECK(grouped(21.349) == "21.3");
    CHECK(grouped(0.01134) == "0.0113");
    CHECK(grouped(-0.5) == "-0.5");
    CHECK(grouped(1e18) == "1e+18");
    CHECK(duration(0) == "0:00");
    CHECK(duration(58.9) == "0:58");
    CHECK(duration(3599) == "59:59");
    CHECK(duration(3661) == "1:01:01");
    CHECK(duration(Snapshot::kUnknown) == "-");
    CHECK(duration(-1) == "-");
  }

  TEST_CASE("plain_line: key=value, what is unknown left out") {
    Snapshot s;
    s.iteration = 3, s.steps = 24576, s.elapsed_s = 1.23456, s.return_mean = 212.34567, s.learner = {{"kl", 0.0113}};
    CHECK(plain_line(s) ==
          "iteration=3 env_steps=24576 elapsed_s=1.235 return_mean=212.346 kl=0.0113 dropped=0 runners_alive=0 "
          "runners_total=0 envs=0");
    s.steps = 123456789;
    CHECK(plain_line(s).find("env_steps=123456789 ") != std::string::npos);
  }

  TEST_CASE("json_line: one object, what is unknown null") {
    Snapshot s = half_cheetah();
    s.return_best = Snapshot::kUnknown;
    s.env = "a \"quoted\" env";
    const boost::json::value json = boost::json::parse(json_line(s));
    CHECK(json.at("env").as_string() == "a \"quoted\" env");
    CHECK(json.at("env_steps").as_int64() == 583680);
    CHECK(json.at("kl").as_double() == 0.0113);
    CHECK(json.at("return_best").is_null());
    CHECK(json.at("directory").as_string() == "runs/0007-calm-heron");
  }

  TEST_CASE("view_mode: a panel only on a terminal that can redraw one") {
    CHECK(view_mode(false, true, "xterm-256color") == ViewMode::panel);
    CHECK(view_mode(false, true, "dumb") == ViewMode::plain);
    CHECK(view_mode(false, true, "") == ViewMode::plain);
    CHECK(view_mode(false, false, "xterm") == ViewMode::plain);
    CHECK(view_mode(true, true, "xterm") == ViewMode::json);
  }

  TEST_CASE("LiveView: the panel is redrawn in place, a note stays above it") {
    std::ostringstream out;
    LiveView view(out, ViewMode::panel, false);
    view.update(half_cheetah(), 60);
    CHECK(out.str().find("A\r") == std::string::npos);  // nothing to go up over yet
    CHECK(std::ranges::count(out.str(), '\n') == 3);
    out.str("");
    view.update(half_cheetah(), 101);
    CHECK(out.str().starts_with("\x1b[3A\rrun 0007-calm-heron"));
    CHECK(out.str().ends_with("\x1b[J"));
    out.str("");
    view.note("checkpoint saved");
    CHECK(out.str().starts_with("\x1b[9A\r\x1b[Jcheckpoint saved\nrun 0007-calm-heron"));
    out.str("");
    view.finish();
    view.note("done");
    CHECK(out.str().starts_with("done\n"));
    CHECK(out.str().find("run 0007") == std::string::npos);
  }

  TEST_CASE("LiveView: colour only where asked for; plain and JSON lines have no escape codes") {
    std::ostringstream coloured, plain, json;
    LiveView(coloured, ViewMode::panel, true).update(half_cheetah(), 101);
    CHECK(coloured.str().find("\x1b[1mreturn\x1b[0m   train") != std::string::npos);
    LiveView lines(plain, ViewMode::plain, true), objects(json, ViewMode::json, true);
    lines.update(half_cheetah(), 101);
    lines.note("checkpoint saved");
    objects.update(half_cheetah(), 101);
    objects.note("checkpoint saved");
    CHECK(plain.str() == plain_line(half_cheetah()) + "\ncheckpoint saved\n");
    CHECK(json.str() == json_line(half_cheetah()) + "\n");
  }
}

}  // namespace myriad
