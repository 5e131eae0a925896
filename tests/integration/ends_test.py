"""Every way a run can end: `ends_test.py BUILD [CASE ...]`. What its learners have is saved, the last lines say where and
how to go on, the exit status is as documented, and nothing is left.

The ends are met by runs in step, without steps and with two learners, side by side; each waits for what it needs to see.
"""
import fcntl
import json
import os
import pathlib
import pty
import resource
import signal
import subprocess
import sys
import termios
import time

import run_test
from run_test import AGENT, LEARNER, RUNNER, json_lines

MODES = {"sync": run_test.CARTPOLE, "async": run_test.IMPALA,
         "two": run_test.CARTPOLE.replace("num_threads = 1", "num_threads = 1\nnum_learners = 2")}


def children(pid: int) -> list[int]:
    """All living ones below, parents first."""
    below: dict[int, list[int]] = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            below.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(int(entry.name))
        except (OSError, ValueError):
            continue
    found = list(below.get(pid, []))
    for child in found:
        found += below.get(child, [])
    return found


def name_of(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class Ends(run_test.Case):
    def start_runs(self, *overrides: str, modes=tuple(MODES)) -> dict[str, tuple[subprocess.Popen, pathlib.Path]]:
        """A run of each mode that has made its first reports."""
        runs = {}
        for mode in modes:
            run = self.root / f"run-{len(self.started)}"
            runs[mode] = self.start("train", self.file(f"{mode}.toml", MODES[mode]), "--out", run, *overrides), run
        for driver, run in runs.values():
            self.wait_for(lambda: len(json_lines(run / "results.jsonl")) >= 2, "two reports", driver=driver)
        return runs

    def simulator(self, *lines: str) -> str:
        """The setting of one whose step ends with these lines."""
        script = self.file("simulator.py", """
from myriad_client import Box, Discrete, serve

class Env:
    steps = 0
    def __init__(self, options):
        pass
    def reset(self, seed=None):
        self.t = 0
        return [0.0], {}
    def step(self, action):
        self.t += 1
        Env.steps += 1
        """ + "\n        ".join(lines) + """

serve(Env, Box(-1, 1, (1,)), Discrete(2))
""")
        return f"environment.env='process:{sys.executable} {script}'"

    def send(self, signal_number: int, *pids: int) -> None:
        for pid in pids:
            try:
                os.kill(pid, signal_number)
            except ProcessLookupError:
                continue

    def of(self, driver: subprocess.Popen, name: str) -> list[int]:
        return [pid for pid in children(driver.pid) if name_of(pid) == name]

    def assert_saved(self, driver: subprocess.Popen, run: pathlib.Path, status: int, state: str) -> str:
        """It ended so, and its newest iteration is a checkpoint, which the last lines name."""
        result = self.finish(driver, status)
        said = result.stderr if state == "failed" else result.stdout
        record = json.loads((run / "run.json").read_text())
        self.assertEqual(state, record["state"])
        self.assertNotEqual([], self.checkpoints(run), f"{result.stdout}{result.stderr}")
        newest = self.checkpoints(run)[-1]
        self.assertEqual([record["last_iteration"]] * 2, [int(newest.name), len(json_lines(run / "results.jsonl"))], said)
        self.assertEqual(["saved", f"{run.name}/checkpoints/{newest.name}"], said.splitlines()[-3].split(), said)
        self.assertRegex(said.splitlines()[-1], rf"train --resume {run.name}( |$)")
        return result.stdout + result.stderr

    def test_each_signal_that_asks_to_end(self):
        """To a learner they mean nothing; from the driver they have a checkpoint. Two within 5 ms are one."""
        signals = {"sync": (signal.SIGINT, signal.SIGHUP), "async": (signal.SIGTERM, signal.SIGXCPU), "two": (signal.SIGQUIT, signal.SIGUSR1)}
        for which in range(2):
            runs = self.start_runs()
            for mode, (driver, run) in runs.items():
                self.send(signals[mode][which], *self.of(driver, LEARNER))
            for driver, run in runs.values():
                self.wait_reports(run, 1, driver)
            for mode, (driver, run) in runs.items():
                for _ in range(2):
                    driver.send_signal(signals[mode][which])
                    time.sleep(0.005)
            for mode, (driver, run) in runs.items():
                with self.subTest(mode=mode, signal=signals[mode][which]):
                    interrupted = signals[mode][which] == signal.SIGINT
                    said = self.assert_saved(driver, run, 130 if interrupted else 143, "interrupted")
                    self.assertIn(f"stopped  interrupted by {signals[mode][which].name} after", said)
                    self.assertEqual(1, said.count("finishing this iteration"))
        self.assert_nothing_left()

    def test_every_process_is_told_to_end_at_once(self):
        """As by a scheduler or systemd."""
        runs = self.start_runs()
        for driver, _ in runs.values():
            self.send(signal.SIGTERM, *children(driver.pid), driver.pid)
        for mode, (driver, run) in runs.items():
            with self.subTest(mode=mode):
                self.assert_saved(driver, run, 143, "interrupted")
        self.assert_nothing_left()

    def test_runners_that_are_lost(self):
        runs = self.start_runs("fault_tolerance.restart_backoff_s=0.01", "fault_tolerance.max_failures_in_a_row=1")
        while any(driver.poll() is None for driver, _ in runs.values()):
            for driver, _ in runs.values():
                self.send(signal.SIGKILL, *self.of(driver, RUNNER))
            time.sleep(0.01)
        for mode, (driver, run) in runs.items():
            with self.subTest(mode=mode):
                self.assertIn("error[runners-lost]", self.assert_saved(driver, run, 3, "failed"))
        self.assert_nothing_left()

    def test_hosts_that_hang(self):
        """The iteration is not waited for longer than 10 s."""
        runs = self.start_runs()
        for driver, _ in runs.values():
            self.send(signal.SIGSTOP, *self.of(driver, AGENT), *self.of(driver, RUNNER))
            driver.send_signal(signal.SIGINT)
        for mode, (driver, run) in runs.items():
            with self.subTest(mode=mode):
                self.assert_saved(driver, run, 130, "interrupted")
        self.assert_nothing_left()

    def test_terminal_or_reader_that_goes_away(self):
        terminal, end = pty.openpty()
        reader, writer = os.pipe()
        drivers = []

        def in_terminal():
            os.setsid()
            fcntl.ioctl(end, termios.TIOCSCTTY, 0)
        for name, out, prepare in (("terminal", end, in_terminal), ("pipe", writer, None)):
            command = [str(run_test.BUILD / "apps/myriad"), "train", str(self.config), "--out", str(self.root / name)]
            drivers.append((subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment, cwd=self.root,
                                             preexec_fn=prepare), self.root / name))
        self.started += [driver for driver, _ in drivers]
        for fd in (end, writer):
            os.close(fd)
        for driver, run in drivers:
            self.wait_for(lambda: len(json_lines(run / "results.jsonl")) >= 2, "two reports", driver=driver)
        for fd in (terminal, reader):
            os.close(fd)
        for driver, run in drivers:
            self.assertEqual(143, driver.wait(run_test.DEADLINE_S))
            record = json.loads((run / "run.json").read_text())
            self.assertEqual(("interrupted", int(self.checkpoints(run)[-1].name)), (record["state"], record["last_iteration"]))
        self.assert_nothing_left()

    def test_closed_descriptors_and_a_limit_of_file_size(self):
        closed, limited = self.root / "closed", self.root / "limited"
        line = f"exec {run_test.BUILD}/apps/myriad train {self.config} --out {closed} stop.training_iteration=3 <&- >&- 2>&-"
        first = subprocess.Popen(["sh", "-c", line], env=self.environment, cwd=self.root)
        # Room for what is saved; results.jsonl becomes longer.
        quick = ["training.train_batch_size=64", "training.minibatch_size=64", "training.num_epochs=1", "env_runners.rollout_fragment_length=4"]
        limit = 190_000
        second = subprocess.Popen([str(run_test.BUILD / "apps/myriad"), "train", str(self.config), "--out", str(limited), "stop.training_iteration=150", *quick],
                                  env=self.environment, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        self.started += [first, second]
        self.assertEqual(0, first.wait(run_test.DEADLINE_S))
        self.assert_counted_once(closed, 3)
        self.assertEqual(1, len(self.checkpoints(closed)))
        self.finish(second)
        self.assertEqual(limit, (limited / "results.jsonl").stat().st_size)
        self.assertEqual(["000000150"], [checkpoint.name for checkpoint in self.checkpoints(limited)])
        self.assert_nothing_left()

    def test_evaluation_that_fails_or_does_not_end(self):
        """Of a policy that walks into a wall, without a time limit."""
        config = self.file("cliff.toml", run_test.CARTPOLE.replace("CartPole-v1", "CliffWalking-v1").replace("evaluate_at_end = false", ""))
        words = lambda name, episodes: ("train", config, "--out", self.root / name, "stop.training_iteration=2", f"evaluation.evaluation_duration={episodes}")
        ended = self.start(*words("ended", 1))
        others = {name: self.start(*words(name, 100_000)) for name in ("killed", "interrupted")}
        for name, driver in others.items():
            pid = self.wait_for(lambda: self.of(driver, "evaluation"), "the evaluation", driver=driver)[0]
            os.kill(*((pid, signal.SIGKILL) if name == "killed" else (driver.pid, signal.SIGINT)))
        for name, driver in others.items():
            said = self.assert_saved(driver, self.root / name, 0 if name == "killed" else 130, "finished")
            self.assertRegex(said, r"return +not evaluated: " + ("its process ended with SIGKILL" if name == "killed" else "SIGINT came"))
        said = self.assert_saved(ended, self.root / "ended", 0, "finished")
        self.assertIn("warning[endless-episode] 1 of 1 episodes were cut after 100000 steps", said)
        self.assert_nothing_left()

    def test_learners_whose_updates_fail(self):
        """Rewards become so large that no gradient is finite. What the learners had before that is saved."""
        env = self.simulator("return [0.0], 3e38 if Env.steps > 6000 else 1.0, self.t == 20, False, {}")
        runs = self.start_runs(env)
        for mode, (driver, run) in runs.items():
            with self.subTest(mode=mode):
                said = self.assert_saved(driver, run, 5, "failed")
                self.assertIn("error[diverged]", said)
                self.assertNotIn("is lost", said)
        self.assert_nothing_left()

    def test_full_log(self):
        """What a simulator prints and the disk does not take is left out, and stops nothing. A pipe that is not emptied holds 64 KiB."""
        env = self.simulator('print("x" * 1000)', "return [0.0], 1.0, self.t == 20, False, {}")
        first = {mode: self.start("train", self.file(f"{mode}.toml", text), "--out", self.root / mode, env, "stop.training_iteration=2")
                 for mode, text in MODES.items()}
        for driver in first.values():
            self.finish(driver)
        logs = {mode: list((self.root / mode / "logs").glob("*.txt")) for mode in MODES}
        for mode in MODES:
            self.assertNotEqual([], logs[mode])
            for log in logs[mode]:
                log.unlink()
                log.symlink_to("/dev/full")
        again = {mode: self.start("train", "--resume", self.root / mode, "stop.training_iteration=6") for mode in MODES}
        for mode, driver in again.items():
            with self.subTest(mode=mode):
                self.assert_saved(driver, self.root / mode, 0, "finished")
                self.assertEqual(6, len(json_lines(self.root / mode / "results.jsonl")))
                self.assertTrue(all(log.is_symlink() for log in logs[mode]))
        self.assert_nothing_left()

    def test_driver_that_is_killed(self):
        driver, run = self.start_train()
        driver.kill()
        self.finish(driver, -signal.SIGKILL)
        self.wait_for(lambda: json.loads((run / "run.json").read_text())["state"] == "killed", "the end of the record")
        self.assert_nothing_left()


if __name__ == "__main__":
    sys.exit(run_test.main(sys.modules[__name__]))
