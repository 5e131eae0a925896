"""Whole runs of the built programs, as a user starts them: `run_test.py BUILD [CASE ...]`.

Every test case is one of the totals in the last line. Nothing waits for a fixed time: a case waits for what it needs to
see, and fails when that has not come after DEADLINE_S. Each case has a folder of its own as TMPDIR and for its runs; no
process with this TMPDIR may be left when it ends.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("MYRIAD_BUILD", ROOT / "build"))
DEADLINE_S = 60

CARTPOLE = """
algorithm = "PPO"
[environment]
env = "CartPole-v1"
[env_runners]
num_env_runners = 2
num_envs_per_env_runner = 8
rollout_fragment_length = 32
[training]
lr = 1e-3
train_batch_size = 512
num_epochs = 4
minibatch_size = 128
gamma = 0.98
lambda_ = 0.8
[rl_module]
fcnet_hiddens = [64, 64]
[learners]
num_threads = 1
[evaluation]
evaluate_at_end = false
"""
PENDULUM = CARTPOLE.replace('"CartPole-v1"', '"Pendulum-v1"\nobservation_filter = "MeanStdFilter"')
# Everything that lies between an environment and a learner.
WRAPPED = PENDULUM.replace("[env_runners]", """max_episode_steps = 60
frame_skip = 2
frame_stack = 3
sticky_actions = 0.25
reward_filter = "discounted_return_std"
reward_clip = 5.0
[env_runners]""")
# Each of its kinds; a level ends after some iterations, so that a resume has levels before and after it.
CURRICULUM = CARTPOLE.replace('"CartPole-v1"', '"Hopper-v5"') + """
[reporting]
metrics_num_episodes_for_smoothing = 30
[curriculum]
schedules = { reset_noise_scale = [[0, 1e-3], [4096, 5e-3]] }
randomize = { ctrl_cost_weight = [0, 0.01] }
levels = [{}, { forward_reward_weight = 1.1 }, { forward_reward_weight = [1.1, 1.5] }, { healthy_reward = 0.9 }]
advance_at = 10.0
"""
# Epsilon falls all the time, and decides what is sampled.
PQN = CARTPOLE.replace('"PPO"', '"PQN"').replace("lambda_ = 0.8", "lambda_ = 0.65\nepsilon = [[0, 1.0], [8192, 0.05]]")
# Without the time an iteration lasts, so that few updates are many reports.
IMPALA = """
algorithm = "IMPALA"
[environment]
env = "CartPole-v1"
[env_runners]
num_env_runners = 4
num_envs_per_env_runner = 4
rollout_fragment_length = 32
[training]
lr = 5e-4
train_batch_size = 512
[rl_module]
fcnet_hiddens = [64, 64]
[learners]
num_threads = 1
[reporting]
min_time_s_per_iteration = 0.01
[evaluation]
evaluate_at_end = false
"""
MODULE, OPTIMIZER = "learner_group/modules/default_policy.safetensors", "learner_group/optimizer-0000-of-0001.safetensors"
# What becomes of a fragment that no batch takes; everything else that is dropped was not one.
FRAGMENT_DROPS = ("beyond_credit", "duplicate", "invalid", "policy_lag", "stale_incarnation", "unknown_slot", "wrong_version")
DRIVER, LEARNER, AGENT, ZYGOTE, RUNNER = "myriad", "myriad-learner", "myriad-host-age", "zygote", "env-runner"  # /proc/PID/comm


def json_lines(path: pathlib.Path) -> list[dict]:
    """The whole lines of a file that may still grow."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]


def landlock_abi() -> int:
    """Of this kernel; 0: it has no Landlock."""
    return max(0, ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def flip_byte(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x04
    path.write_bytes(content)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Case(unittest.TestCase):
    """A folder, ways to start the programs in it, and the check that they left nothing."""
    maxDiff = None

    def setUp(self) -> None:
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))  # short: a socket's path has 107 characters
        self.tmp = self.root / "t"
        self.tmp.mkdir()
        self.config = self.file("cartpole.toml", CARTPOLE)
        self.started: list[subprocess.Popen] = []
        self.environment = os.environ | {"TMPDIR": str(self.tmp), "TERM": "dumb"}

    def tearDown(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        with contextlib.suppress(AssertionError):
            self.wait_for(lambda: not self.processes(), "", 10)
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)
        self.assertEqual({}, left, "processes left behind")

    def file(self, name: str, text: str) -> pathlib.Path:
        (self.root / name).write_text(text)
        return self.root / name

    def start(self, *arguments: object, program: str = "myriad") -> subprocess.Popen:
        process = subprocess.Popen([str(BUILD / "apps" / program), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=self.environment, cwd=self.root)
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen, status: int | None = 0) -> subprocess.CompletedProcess:
        out, err = process.communicate(timeout=DEADLINE_S)
        if status is not None:
            self.assertEqual(status, process.returncode, f"{process.args}\n{out}{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def call(self, *arguments: object, status: int | None = 0, program: str = "myriad") -> subprocess.CompletedProcess:
        return self.finish(self.start(*arguments, program=program), status)

    def train(self, out: pathlib.Path, *overrides: str, config: pathlib.Path | None = None) -> subprocess.CompletedProcess:
        return self.call("train", config or self.config, "--out", out, *overrides)

    def train_all(self, runs: dict[str, list[str]], config: pathlib.Path | None = None) -> dict[str, pathlib.Path]:
        """Name -> overrides; three at a time, since a start is mostly loading. The newest checkpoint of each."""
        waiting, going = list(runs), {}
        while waiting or going:
            while waiting and len(going) < 3:
                name = waiting.pop(0)
                going[name] = self.start("train", config or self.config, "--out", self.root / name, *runs[name])
            name = next(iter(going))
            self.finish(going.pop(name))
        return {name: self.checkpoints(self.root / name)[-1] for name in runs}

    def start_train(self, *overrides: str, config: pathlib.Path | None = None) -> tuple[subprocess.Popen, pathlib.Path]:
        """A run that has made its first reports."""
        run = self.root / "run"
        driver = self.start("train", config or self.config, "--out", run, *overrides)
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) >= 3, "three reports", driver=driver)
        return driver, run

    def wait_for(self, condition, what: str, deadline_s: float = DEADLINE_S, driver: subprocess.Popen | None = None):
        until = time.monotonic() + deadline_s
        while True:
            value = condition()
            if value:
                return value
            if driver is not None and driver.poll() is not None and not condition():
                self.fail(f"the run ended before {what}: {driver.communicate()}")
            if time.monotonic() > until:
                self.fail(f"no {what} after {deadline_s} s")
            time.sleep(0.005)

    def processes(self, comm: str = "") -> dict[int, str]:
        """Living processes of this case, by age, with the name the kernel has for them."""
        found = {}
        for entry in sorted((e for e in pathlib.Path("/proc").iterdir() if e.name.isdigit()), key=lambda e: int(e.name)):
            with contextlib.suppress(OSError):
                if f"TMPDIR={self.tmp}".encode() in (entry / "environ").read_bytes():  # or a folder in it, of a simulator
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
        return {pid: name for pid, name in found.items() if comm in ("", name)}

    def runners(self, count: int = 2) -> list[int]:
        """All of them, once they are there: in the order of their slots where no process was replaced."""
        def all_there():
            pids = list(self.processes(RUNNER))
            return pids if len(pids) == count else None
        return self.wait_for(all_there, f"{count} runners")

    def agents(self) -> dict[int, int]:
        """Place -> process. Those that joined from outside are all at UINT32_MAX."""
        found = {}
        for pid in self.processes(AGENT):
            with contextlib.suppress(OSError, ValueError):
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                found[int(words[words.index("--agent") + 1])] = pid
        return found

    def keep_ledger(self) -> None:
        """Before the start: every fragment that is made, and every one that is used, goes on record."""
        self.environment["MYRIAD_LEDGER"] = str(self.root)

    def ledger(self, name: str) -> list[tuple[int, int, int, int]]:
        """(slot, incarnation, seq, reason) of produced or learner; whole records only."""
        records = []
        for path in sorted(self.root.glob(f"{name}-*.bin")):  # of each learner
            data = path.read_bytes()
            records += struct.iter_unpack("<IIQQ", data[:len(data) // 24 * 24])
        return records

    def assert_ledger_balances(self, lost_per_runner: int = 0, lost_of=lambda slot, incarnation: True) -> None:
        """Of the past: no fragment is used twice or dropped, none is used that nobody made, and what was made and not used is
        the newest of its runner, and at most so much."""
        produced, used = self.ledger("produced"), self.ledger("learner")
        self.assertEqual([], [record for record in used if record[3] != 0], "dropped")
        keys = [record[:3] for record in used]
        self.assertEqual(len(keys), len(set(keys)), "used twice")
        made = {record[:3] for record in produced}
        self.assertEqual(len(made), len(produced), "made twice")
        self.assertEqual(set(), set(keys) - made, "from nowhere")
        lost: dict[tuple[int, int], list[int]] = {}
        for slot, incarnation, seq in made - set(keys):
            lost.setdefault((slot, incarnation), []).append(seq)
        for runner, seqs in lost.items():
            self.assertLessEqual(len(seqs), lost_per_runner if lost_of(*runner) else 0, runner)

    def assert_nothing_dropped(self, run: pathlib.Path) -> None:
        dropped = json_lines(run / "results.jsonl")[-1]["dropped"]
        self.assertEqual({}, {kind: dropped[kind] for kind in FRAGMENT_DROPS if dropped[kind] != 0})

    def wait_reports(self, run: pathlib.Path, more: int, driver: subprocess.Popen, deadline_s: float = DEADLINE_S) -> None:
        seen = len(json_lines(run / "results.jsonl"))
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) >= seen + more, f"{more} more reports", deadline_s, driver)

    def interrupt(self, driver: subprocess.Popen, by: int = signal.SIGINT) -> subprocess.CompletedProcess:
        driver.send_signal(by)
        return self.finish(driver, 130 if by == signal.SIGINT else 143)

    def wait_event(self, run: pathlib.Path, kind: str, driver: subprocess.Popen | None = None) -> dict:
        return self.wait_for(lambda: [e for e in json_lines(run / "events.jsonl") if e["kind"] == kind], f"event {kind}", driver=driver)[0]

    def assert_nothing_left(self, deadline_s: float = 5) -> None:
        self.wait_for(lambda: not self.processes(), f"end of {self.processes()}", deadline_s)
        self.wait_for(lambda: not list(self.tmp.iterdir()), f"removal of {list(self.tmp.iterdir())}", deadline_s)

    def checkpoints(self, run: pathlib.Path) -> list[pathlib.Path]:
        return sorted(p for p in (run / "checkpoints").glob("*") if not p.name.startswith("."))

    def assert_counted_once(self, run: pathlib.Path, iterations: int, batch: int = 512) -> list[dict]:
        results = json_lines(run / "results.jsonl")
        self.assertEqual([(i, i * batch) for i in range(1, iterations + 1)],
                         [(r["training_iteration"], r["num_env_steps_sampled_lifetime"]) for r in results])
        for r in results:
            self.assertEqual(batch, r["env_runners"]["num_env_steps_sampled"])
        return results

    def state_files(self, checkpoint: pathlib.Path) -> dict[str, bytes]:
        """All but the times: what has to be equal in runs that are the same."""
        files = {str(p.relative_to(checkpoint)): p.read_bytes() for p in checkpoint.rglob("*") if p.is_file()}
        del files["MANIFEST.json"]  # has the checksum of driver.json
        driver = json.loads(files.pop("driver.json"))
        del driver["time_total_s"]
        return files | {"driver.json": json.dumps(driver).encode()}

    def assert_same_state(self, a: pathlib.Path, b: pathlib.Path) -> None:
        a_files, b_files = self.state_files(a), self.state_files(b)
        self.assertEqual(sorted(a_files), sorted(b_files))
        self.assertEqual([], [name for name in a_files if a_files[name] != b_files[name]], "files that differ")


def num_pictures(path: pathlib.Path) -> int:
    """Of a WebM file: its SimpleBlocks, in clusters in the segment (RFC 8794, RFC 9559)."""
    content = path.read_bytes()

    def elements(at: int, end: int):
        while at < end:
            length = 9 - content[at].bit_length()
            kind, at = content[at:at + length], at + length
            length = 9 - content[at].bit_length()
            size = int.from_bytes(content[at:at + length], "big") - (1 << 7 * length)
            yield kind, at + length, at + length + size
            at += length + size

    (header, *_), (_, segment, end) = elements(0, len(content))
    assert header == b"\x1aE\xdf\xa3", "an EBML header"
    clusters = [(start, stop) for kind, start, stop in elements(segment, end) if kind == b"\x1fC\xb6u"]
    return sum(kind == b"\xa3" for cluster in clusters for kind, _, _ in elements(*cluster))


class Training(Case):
    def test_cartpole_is_solved_and_leaves_its_artefacts(self):
        run = self.root / "run"
        result = self.train(run, config=ROOT / "configs/cartpole-ppo.toml")
        results = json_lines(run / "results.jsonl")
        last = results[-1]
        self.assertGreaterEqual(last["env_runners"]["episode_return_mean"], 475)
        self.assertLessEqual(last["num_env_steps_sampled_lifetime"], 200_000)
        self.assertEqual(list(range(1, len(results) + 1)), [r["training_iteration"] for r in results])
        for key in ("episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean", "num_episodes", "num_env_steps_sampled",
                    "num_env_steps_sampled_lifetime"):
            self.assertIn(key, last["env_runners"])
        for key in ("policy_loss", "vf_loss", "total_loss", "entropy", "mean_kl_loss", "vf_explained_var", "curr_kl_coeff",
                    "default_optimizer_learning_rate", "num_module_steps_trained"):
            self.assertIn(key, last["learners"]["default_policy"])
        for key in ("num_healthy_workers", "num_remote_worker_restarts"):
            self.assertIn(key, last["fault_tolerance"])
        rows = (run / "progress.csv").read_text().splitlines()
        self.assertEqual(len(results) + 1, len(rows))
        self.assertIn("env_runners/episode_return_mean", rows[0].split(","))
        for key in (b"env_runners/episode_return_mean", b"learners/default_policy/policy_loss"):
            self.assertIn(key, self.tensorboard_records(run)[-2])  # the last one is of the evaluation
        self.assertEqual((ROOT / "configs/cartpole-ppo.toml").read_text(), (run / "config.toml").read_text())
        self.assertIn("vf_loss_coeff", (run / "config.effective.toml").read_text())
        record = json.loads((run / "run.json").read_text())
        self.assertEqual(("finished", len(results)), (record["state"], record["last_iteration"]))
        checkpoint = self.checkpoints(run)[-1]
        manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
        files = {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()}
        self.assertEqual(files - {"MANIFEST.json"}, {f["name"] for f in manifest["files"]})
        self.assertIn("learner_group/modules/default_policy.safetensors", files)
        module = (checkpoint / "learner_group/modules/default_policy.safetensors").read_bytes()
        self.assertIsInstance(json.loads(module[8:8 + struct.unpack("<Q", module[:8])[0]]), dict)
        self.assertEqual([], [p for p in run.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt")])
        for text in ("done", "return ", "saved ", "myriad evaluate ", "myriad train --resume "):
            self.assertIn(text, result.stdout)
        self.assertEqual("", result.stderr)
        self.assert_nothing_left()
        # The commands it names work.
        command = re.search(r"myriad (evaluate \S+)", result.stdout)[1].split()
        lines = self.call(*command, "--episodes", 20, "--json").stdout
        episodes = [json.loads(line) for line in lines.splitlines()]
        self.assertEqual(list(range(20)), [e["episode"] for e in episodes])
        self.assertGreater(sum(e["return"] for e in episodes) / 20, 400)
        self.assertEqual(lines, self.call(*command, "--episodes", 20, "--json").stdout)
        sampled = self.call(*command, "--episodes", 3, "--json", "--seed", 1, "--explore").stdout
        self.assertEqual(sampled, self.call(*command, "--episodes", 3, "--json", "--seed", 1, "--explore").stdout)

    def test_evaluation_is_filmed_and_written_down(self):
        run, settings = self.root / "run", ["evaluation.evaluate_at_end=true", "evaluation.evaluation_duration=3", "stop.training_iteration=2"]
        result = self.train(run, *settings, "evaluation.record_video=2", "evaluation.record_episodes=1")
        self.assertRegex(result.stdout, r"videos +2 in \S+/videos")
        name = self.checkpoints(run)[-1].name
        self.assertEqual([f"{name}-0.webm", f"{name}-1.webm"], sorted(os.listdir(run / "videos")))
        self.assertEqual([f"{name}-0.jsonl"], os.listdir(run / "episodes"))
        evaluate = lambda *more: self.call("evaluate", run, "--episodes", 3, "--json", *more).stdout
        episodes = [json.loads(line) for line in evaluate().splitlines()]
        for i in range(2):
            self.assertEqual(episodes[i]["length"] + 1, num_pictures(run / f"videos/{name}-{i}.webm"))
        steps = json_lines(run / f"episodes/{name}-0.jsonl")
        self.assertEqual(list(range(episodes[0]["length"] + 1)), [step["t"] for step in steps])
        self.assertEqual(episodes[0]["return"], sum(step.get("reward", 0) for step in steps))
        self.assertEqual([False] * (len(steps) - 2) + [True], [step["terminated"] or step["truncated"] for step in steps[1:]])
        # Of one evaluation, one video; nobody's episode is another for being looked at.
        self.assertEqual(evaluate(), evaluate("--video", self.root / "all.webm", "--size", "160x120"))
        self.assertEqual(sum(episode["length"] + 1 for episode in episodes), num_pictures(self.root / "all.webm"))

    def test_evaluation_goes_on_where_nothing_can_be_drawn(self):
        run = self.root / "run"
        config = self.file("step_time.toml", CARTPOLE.replace("CartPole-v1", "StepTime-v0"))
        result = self.train(run, "evaluation.evaluate_at_end=true", "evaluation.evaluation_duration=1", "evaluation.record_video=1",
                            "stop.training_iteration=1", config=config)
        self.assertRegex(result.stdout, r"return +\S+ .* over 1 evaluation")
        self.assertRegex(result.stdout, r"videos +error\[no-rendering\] StepTime-v0 cannot be drawn")
        self.assertIn("video", [event["kind"] for event in json_lines(run / "events.jsonl")])
        self.assertFalse((run / "videos").exists())
        self.assertIn("error[no-rendering]", self.call("evaluate", run, "--video", self.root / "x.webm", status=2).stderr)
        self.assertEqual([], list(self.root.glob("x.webm*")))

    def tensorboard_records(self, run: pathlib.Path) -> list[bytes]:
        data, records = next((run / "tb").iterdir()).read_bytes(), []
        while data:
            length, = struct.unpack("<Q", data[:8])
            records.append(data[12:12 + length])
            for payload, at in ((data[:8], 8), (records[-1], 12 + length)):
                if len(records) < 3:  # the checksum is slow here
                    crc = crc32c(payload)
                    self.assertEqual(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF, struct.unpack("<I", data[at:at + 4])[0])
            data = data[16 + length:]
        return records

    def resumes_bit_exactly(self, config: pathlib.Path):
        a, b = self.root / "a", self.root / "b"
        self.train(a, "stop.training_iteration=12", config=config)
        self.train(b, "stop.training_iteration=6", config=config)
        self.call("train", "--resume", b, "stop.training_iteration=12")
        self.assert_same_state(self.checkpoints(a)[-1], self.checkpoints(b)[-1])
        times = ("time_total_s", "time_this_iter_s", "timers")
        left, right = self.assert_counted_once(a, 12), self.assert_counted_once(b, 12)
        for report in left + right:
            for key in times:
                del report[key]
            del report["dropped"]["unknown_agent"]  # an agent that spoke before the driver did; it asks again
            # What went over the wires since the learner started, and when the agents said so.
            for key in ("num_env_steps_sampled_lifetime_throughput", "num_fragments_received_since_start", "num_bytes_received_since_start",
                        "num_messages_resent_since_start", "num_env_runners_contributed_since_start", "weights_versions_behind_max"):
                report["env_runners"].pop(key, None)
            report["learners"].pop("num_weights_bytes_sent_since_start", None)
            self.assertEqual(0, report.pop("fault_tolerance")["num_remote_worker_restarts"])
        self.assertEqual(left, right)
        self.assertEqual(13, len((b / "progress.csv").read_text().splitlines()))

    def test_resume_is_bit_exact(self):
        self.resumes_bit_exactly(self.config)

    def test_resume_is_bit_exact_with_continuous_actions_and_a_filter(self):
        self.resumes_bit_exactly(self.file("pendulum.toml", PENDULUM))

    def test_resume_is_bit_exact_with_wrappers(self):
        self.resumes_bit_exactly(self.file("wrapped.toml", WRAPPED))
        modules = (self.checkpoints(self.root / "b")[-1] / MODULE).read_bytes()
        self.assertIn(b'"shape":[64,9]', modules.replace(b" ", b""), "a Pendulum's three numbers, three times")
        episodes = [json.loads(line) for line in self.call("evaluate", self.root / "b", "--episodes", 2, "--json").stdout.splitlines()]
        self.assertEqual([60, 60], [e["length"] for e in episodes])
        self.assertLess(max(e["return"] for e in episodes), -60)  # of 120 steps, neither filtered nor clipped

    def test_resume_is_bit_exact_amid_a_curriculum(self):
        self.resumes_bit_exactly(self.file("curriculum.toml", CURRICULUM))
        results = [r["curriculum"] for r in json_lines(self.root / "b/results.jsonl")]
        levels = [r["level"] for r in results]
        self.assertEqual(sorted(levels), levels)
        self.assertEqual(0, levels[0])
        self.assertIn(levels[5], (1, 2), "the checkpoint is amid the levels")
        self.assertGreater(levels[-1], levels[5])
        for i, r in enumerate(results, 1):
            self.assertAlmostEqual(1e-3 + 4e-3 * min(i * 512 / 4096, 1), r["reset_noise_scale"])
            self.assertEqual([0, 0.01], [r["ctrl_cost_weight_low"], r["ctrl_cost_weight_high"]])
            self.assertEqual([1.0, 1.1, 1.1, 1.0][r["level"]], r["forward_reward_weight_low"])
            self.assertEqual([1.0, 1.1, 1.5, 1.0][r["level"]], r["forward_reward_weight_high"])
            self.assertEqual([1.0, 1.0, 1.0, 0.9][r["level"]], r["healthy_reward"])
        told = [e["text"] for e in json_lines(self.root / "a/events.jsonl") if e["kind"] == "curriculum"]
        self.assertEqual(levels[-1], len(told))
        self.assertIn("level 1 of 0 to 3", told[0])

    def test_resume_is_bit_exact_while_epsilon_falls(self):
        self.resumes_bit_exactly(self.file("pqn.toml", PQN))
        for i, r in enumerate(json_lines(self.root / "b/results.jsonl")):
            self.assertAlmostEqual(1 - 0.95 * i * 512 / 8192, r["learners"]["default_policy"]["curr_epsilon"])

    def test_resume_of_an_older_checkpoint_replaces_what_came_after_it(self):
        run = self.root / "run"
        self.train(run, "stop.training_iteration=6", "checkpointing.checkpoint_frequency=2")
        old = (self.checkpoints(run)[1] / "learner_group/modules/default_policy.safetensors").read_bytes()
        self.call("train", "--resume", self.checkpoints(run)[0], "training.lr=1e-2", "stop.training_iteration=4")
        self.assertEqual(["000000002", "000000004"], [c.name for c in self.checkpoints(run)])
        self.assertNotEqual(old, (self.checkpoints(run)[1] / "learner_group/modules/default_policy.safetensors").read_bytes())
        self.assert_counted_once(run, 4)

    def test_seed_decides(self):
        checkpoints = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            self.train(self.root / name, "stop.training_iteration=5", f"seed={seed}")
            checkpoints += self.checkpoints(self.root / name)
        self.assert_same_state(checkpoints[0], checkpoints[1])
        a, c = self.state_files(checkpoints[0]), self.state_files(checkpoints[2])
        for name in ("learner_group/modules/default_policy.safetensors", "env_runners/slot-0000.safetensors", "driver.json"):
            self.assertNotEqual(a[name], c[name], name)


class Evaluation(Case):
    """While it trains."""
    EVERY_SECOND = ["evaluation.evaluation_interval=2", "evaluation.evaluation_duration=3", "stop.training_iteration=6", "checkpointing.num_to_keep=1"]
    ENDLESS = ["evaluation.evaluation_interval=1", "evaluation.evaluation_duration=1000000"]

    def test_evaluations_change_no_bit_and_keep_the_best(self):
        waits = [*self.EVERY_SECOND, "evaluation.evaluation_parallel_to_training=false"]
        last = self.train_all({"plain": ["stop.training_iteration=6"], "aside": self.EVERY_SECOND, "waits": waits})
        for name in ("aside", "waits"):
            for file in (MODULE, OPTIMIZER, "env_runners/slot-0000.safetensors"):
                self.assertEqual((last["plain"] / file).read_bytes(), (last[name] / file).read_bytes(), f"{name} {file}")
        self.assertFalse((self.root / "plain/best").exists())
        run = self.root / "waits"
        lines = json_lines(run / "evaluations.jsonl")
        self.assertEqual([2, 4, 6], [line["training_iteration"] for line in lines])
        self.assertEqual([1024, 2048, 3072], [line["num_env_steps_sampled_lifetime"] for line in lines])
        means = [line["env_runners"]["episode_return_mean"] for line in lines]
        best = 2 * (means.index(max(means)) + 1)
        self.assertEqual(best, lines[-1]["best_training_iteration"])
        rows = [report["evaluation"] for report in json_lines(run / "results.jsonl")]
        self.assertEqual([None, None, 2, None, 4, None], [row["training_iteration"] for row in rows])
        self.assertEqual([None, None, means[0], None, means[1], None], [row["env_runners"]["episode_return_mean"] for row in rows])
        header, *values = (run / "progress.csv").read_text().splitlines()
        column = header.split(",").index("evaluation/env_runners/episode_return_mean")
        self.assertEqual(means[1], float(values[4].split(",")[column]))
        self.assertIn(b"evaluation/env_runners/episode_return_mean", next((run / "tb").iterdir()).read_bytes())
        # The best and the newest are there, and the best goes by its name.
        self.assertEqual(sorted({f"{best:09}", "000000006"}), [c.name for c in self.checkpoints(run)])
        self.assertEqual(f"checkpoints/{best:09}", os.readlink(run / "best"))
        episodes = [json.loads(line) for line in self.call("evaluate", run, "--best", "--episodes", 3, "--json").stdout.splitlines()]
        self.assertAlmostEqual(max(means), sum(e["return"] for e in episodes) / 3)
        self.assertIn(f"checkpoint {best:09}", self.call("evaluate", run / "best", "--episodes", 1).stdout)
        self.assertIn("error[no-checkpoint]", self.call("evaluate", self.root / "plain", "--best", status=2).stderr)
        self.assertRegex(self.call("train", "--resume", run / "best", "stop.training_iteration=7").stdout, rf"best +\S+/best, iteration {best}: return")

    def test_evaluations_that_take_too_long_end_with_the_episodes_there_are(self):
        run = self.root / "run"
        result = self.train(run, *self.ENDLESS, "evaluation.evaluate_at_end=true", "evaluation.evaluation_sample_timeout_s=0.3", "stop.training_iteration=4")
        self.assertRegex(result.stdout, r"warning\[evaluation-cut\] \d+ of 1000000 episodes ended within evaluation.evaluation_sample_timeout_s = 0.3\n")
        for line in json_lines(run / "evaluations.jsonl"):
            self.assertTrue(0 < line["env_runners"]["num_episodes"] < 1_000_000, line)
        self.assertEqual("finished", json.loads((run / "run.json").read_text())["state"])
        self.assert_nothing_left()

    def test_evaluation_ends_with_its_driver(self):
        for end in (signal.SIGINT, signal.SIGKILL):
            driver = self.start("train", self.config, "--out", self.root / end.name, *self.ENDLESS)
            self.wait_for(lambda: self.processes("evaluation"), "an evaluation", driver=driver)
            driver.send_signal(end)
            self.finish(driver, 130 if end == signal.SIGINT else -end)
            self.assert_nothing_left()

    def test_killed_evaluation_is_told_and_the_run_goes_on(self):
        driver, run = self.start_train(*self.ENDLESS)
        pid, = self.wait_for(lambda: list(self.processes("evaluation")), "an evaluation", driver=driver)
        os.kill(pid, signal.SIGKILL)
        self.assertIn("ended with SIGKILL", self.wait_event(run, "evaluation-failed", driver)["text"])
        self.wait_reports(run, 3, driver)
        self.interrupt(driver)

    def test_run_without_improvement_stops_and_a_resume_counts_on(self):
        # What does not learn is at its best at once.
        settings = ["evaluation.evaluation_interval=1", "evaluation.evaluation_parallel_to_training=false", "evaluation.evaluation_duration=2",
                    "stop.evaluations_without_improvement=2", "training.lr=0"]
        run = self.root / "run"
        self.train(run, *settings, "stop.training_iteration=2")
        self.call("train", "--resume", run, "stop.training_iteration=50")
        record = json.loads((run / "run.json").read_text())
        self.assertEqual(("finished", 3), (record["state"], record["last_iteration"]))
        self.assertTrue(record["exit_reason"].startswith("evaluations_without_improvement 2, the best return was "), record["exit_reason"])
        self.assertEqual([1, 2, 3], [line["training_iteration"] for line in json_lines(run / "evaluations.jsonl")])
        self.assertEqual("checkpoints/000000001", os.readlink(run / "best"))
        self.refuse("train", self.config, "stop.evaluations_without_improvement=2", "--out", self.root / "x")

    def refuse(self, *words: object) -> None:
        self.assertIn("error[impossible]", self.call(*words, status=2).stderr)

    def test_new_run_from_old_weights(self):
        config = self.file("pendulum.toml", PENDULUM)
        old, begun = self.root / "old", self.root / "new"
        self.train(old, "stop.training_iteration=2", "rl_module.fcnet_hiddens=[32, 32]", config=config)
        self.call("train", "--from", old, "--out", begun, "training.lr=0", "stop.training_iteration=1", "rl_module.init_filter='fresh'")
        new = self.checkpoints(begun)[-1]
        self.assertEqual((self.checkpoints(old)[-1] / MODULE).read_bytes(), (new / MODULE).read_bytes())
        self.assertEqual([1], [report["training_iteration"] for report in json_lines(begun / "results.jsonl")])
        self.assertEqual((1, 512), tuple(json.loads((new / "driver.json").read_text())[key] for key in ("training_iteration", "num_env_steps_sampled_lifetime")))
        self.assertIn(f'init_from = "{self.checkpoints(old)[-1]}"', (begun / "config.effective.toml").read_text())
        refused = self.call("train", config, "--from", old, "--out", self.root / "wide", "stop.training_iteration=1", status=2)
        self.assertIn("error[foreign-checkpoint]", refused.stderr)
        self.assertIn("error[missing-argument]", self.call("train", "--from", old, "--resume", old, status=2).stderr)


class Faults(Case):
    def test_killed_runner_is_replaced_and_no_step_counts_twice(self):
        driver, run = self.start_train("stop.training_iteration=400")
        killed = self.runners()[0]
        os.kill(killed, signal.SIGKILL)
        event = self.wait_event(run, "runner-down", driver)
        self.assertIn("SIGKILL", event["text"])
        self.assertIn("runner 0 ", event["text"])
        self.assertNotIn(killed, self.runners())
        self.finish(driver)
        results = self.assert_counted_once(run, 400)
        self.assertEqual({"num_healthy_hosts": 1, "num_healthy_workers": 2, "num_quarantined_workers": 0, "num_remote_worker_restarts": 1},
                         results[-1]["fault_tolerance"])
        self.assertEqual("finished", json.loads((run / "run.json").read_text())["state"])

    def test_hung_runner_is_replaced(self):
        driver, run = self.start_train("stop.training_iteration=200", "env_runners.step_timeout_s=1.0")
        os.kill(self.runners()[1], signal.SIGSTOP)
        self.assertIn("runner 1 ", self.wait_event(run, "runner-hung", driver)["text"])
        self.finish(driver)
        self.assertEqual(1, self.assert_counted_once(run, 200)[-1]["fault_tolerance"]["num_remote_worker_restarts"])

    def test_run_whose_only_learner_is_killed_goes_on_from_its_checkpoint(self):
        words = ["checkpointing.checkpoint_frequency=5", "stop.training_iteration=150"]
        self.train(self.root / "calm", *words)
        driver, run = self.start_train(*words)
        self.wait_for(lambda: len(self.checkpoints(run)) >= 2, "two checkpoints", driver=driver)
        os.kill(list(self.processes(LEARNER))[0], signal.SIGKILL)
        self.assertIn("SIGKILL", self.wait_event(run, "resume", driver)["text"])
        self.finish(driver)
        self.assert_counted_once(run, 150)
        self.assert_same_state(self.checkpoints(self.root / "calm")[-1], self.checkpoints(run)[-1])
        self.assertEqual("finished", json.loads((run / "run.json").read_text())["state"])
        self.assert_nothing_left()

    def test_run_whose_learners_are_always_killed_ends_with_the_cause(self):
        driver, run = self.start_train("checkpointing.checkpoint_frequency=2")
        self.wait_event(run, "checkpoint", driver)
        while driver.poll() is None:
            for pid in self.processes(LEARNER):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        result = self.finish(driver, None)
        self.assertGreater(result.returncode, 0)
        self.assertIn("SIGKILL", result.stderr)
        self.assertIn("myriad train --resume", result.stderr)
        self.assertEqual("failed", json.loads((run / "run.json").read_text())["state"])
        self.assert_nothing_left()

    def test_killed_driver_leaves_nothing_and_its_run_resumes(self):
        driver, run = self.start_train("checkpointing.checkpoint_frequency=5")
        self.wait_for(lambda: len(self.checkpoints(run)) == 3, "three checkpoints", driver=driver)
        self.assertEqual(sorted([DRIVER, DRIVER, LEARNER, AGENT, ZYGOTE, RUNNER, RUNNER]), sorted(self.processes().values()))  # with the janitor
        driver.kill()
        self.finish(driver, -signal.SIGKILL)
        self.assert_nothing_left()
        last = int(self.checkpoints(run)[-1].name)
        self.call("train", "--resume", run, f"stop.training_iteration={last + 7}")
        self.assert_counted_once(run, last + 7)

    def test_interrupt_saves_and_names_the_way_on(self):
        driver, run = self.start_train()
        driver.send_signal(signal.SIGINT)
        result = self.finish(driver, 130)
        self.assertIn("myriad train --resume", result.stdout)
        iterations = len(json_lines(run / "results.jsonl"))
        self.assertEqual(iterations, int(self.checkpoints(run)[-1].name))
        record = json.loads((run / "run.json").read_text())
        self.assertEqual(("interrupted", iterations), (record["state"], record["last_iteration"]))
        self.assert_nothing_left()
        self.call("train", "--resume", run, f"stop.training_iteration={iterations + 3}")
        self.assert_counted_once(run, iterations + 3)

    def test_second_interrupt_ends_at_once(self):
        driver, run = self.start_train()
        os.kill(self.runners()[0], signal.SIGSTOP)  # so that the first one cannot finish
        while driver.poll() is None:  # those of the first moment are the first one
            driver.send_signal(signal.SIGINT)
            time.sleep(0.02)
        self.assertEqual([], self.checkpoints(run))
        self.assertIn("saved    nothing", self.finish(driver, 130).stdout)
        self.assertEqual("interrupted", json.loads((run / "run.json").read_text())["state"])
        self.assert_nothing_left()

    def test_full_disk_fails_the_checkpoint_and_not_the_run(self):
        disk = self.root / "disk"
        disk.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("a small disk cannot be mounted here")
        try:
            run, filler = disk / "run", disk / "filler"
            driver = self.start("train", self.config, "--out", run, "rl_module.fcnet_hiddens=[256,256]", "training.num_epochs=1",
                                "checkpointing.checkpoint_frequency=5", "checkpointing.num_to_keep=2", "stop.training_iteration=100")
            self.wait_event(run, "checkpoint", driver)
            with filler.open("wb") as out:
                while self.free_bytes(disk) > 1_200_000:  # not enough for a checkpoint, but for reports
                    out.write(bytes(65536))
                    out.flush()
            self.wait_event(run, "checkpoint-failed", driver)
            self.assertIn("error[unsaved] iteration 100", self.finish(driver, 4).stderr)
            event = self.wait_event(run, "checkpoint-failed")
            self.assertIn("No space left on device", event["text"])
            self.assert_counted_once(run, 100)
            self.assertEqual("finished", json.loads((run / "run.json").read_text())["state"])
            self.call("evaluate", self.checkpoints(run)[-1], "--episodes", 1)
            self.assertEqual([], [p for p in (run / "checkpoints").iterdir() if p.name.startswith(".")])
            filler.unlink()
            result = self.call("train", "--resume", run, "stop.training_iteration=101")
            self.assertEqual("", result.stderr)
            self.assert_counted_once(run, 101)
        finally:
            for process in self.started:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self.wait_for(lambda: not self.processes(), "end of the run", 10)
            subprocess.run(["umount", "-l", disk], check=True)

    def free_bytes(self, path: pathlib.Path) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_bsize


class Checkpoints(Case):
    def trained(self) -> pathlib.Path:
        run = self.root / "run"
        self.train(run, "stop.training_iteration=4", "checkpointing.checkpoint_frequency=2")
        return run

    def test_corrupt_file_is_named_and_an_older_checkpoint_taken(self):
        run = self.trained()
        newest = self.checkpoints(run)[-1]
        kinds = sorted(str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file())
        self.assertEqual(["MANIFEST.json", "config.toml", "driver.json", "env_runners/slot-0000.safetensors", "env_runners/slot-0001.safetensors",
                          "learner_group/connectors.safetensors", "learner_group/module.json",
                          "learner_group/modules/default_policy.safetensors", "learner_group/optimizer-0000-of-0001.safetensors", "learner_group/state.safetensors", "spaces.json"], kinds)
        for name in kinds:
            with self.subTest(name):
                copy = self.root / "copy"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(run, copy)
                checkpoint = self.checkpoints(copy)[-1]
                before = (copy / "results.jsonl").read_bytes()
                flip_byte(checkpoint / name)
                for command in (["evaluate", checkpoint], ["train", "--resume", checkpoint, "stop.training_iteration=5"]):
                    result = self.call(*command, status=2)
                    self.assertEqual(1, len(result.stderr.splitlines()), result.stderr)
                    self.assertTrue(result.stderr.startswith("error[corrupt-checkpoint] "), result.stderr)
                    self.assertIn(name, result.stderr)
                self.assertEqual(before, (copy / "results.jsonl").read_bytes())
                if name not in ("MANIFEST.json", "config.toml", "learner_group/optimizer-0000-of-0001.safetensors"):
                    continue
                result = self.call("train", "--resume", copy, "stop.training_iteration=5")
                self.assertIn("warning[corrupt-checkpoint]", result.stderr)
                self.assertIn(name, result.stderr)
                self.assert_counted_once(copy, 5)
                self.call("evaluate", self.checkpoints(copy)[-1], "--episodes", 1)

    def test_missing_and_torn_files_are_named(self):
        run = self.trained()
        first, last = self.checkpoints(run)
        module = "learner_group/modules/default_policy.safetensors"
        (last / module).unlink()
        self.assertIn(module, self.call("evaluate", last, status=2).stderr)
        os.truncate(first / "config.toml", 10)
        self.assertIn("config.toml", self.call("train", "--resume", first, status=2).stderr)
        result = self.call("train", "--resume", run, status=2)
        self.assertIn("error[no-checkpoint]", result.stderr)
        self.assertIn("error[no-checkpoint]", self.call("evaluate", run, status=2).stderr)
        self.assert_nothing_left()

    def test_foreign_module_is_refused(self):
        run = self.trained()
        result = self.call("train", "--resume", run, "rl_module.fcnet_hiddens=[32]", "stop.training_iteration=5", status=2)
        self.assertRegex(result.stderr, r"^error\[foreign-checkpoint\] .* is 4 -> 64 tanh -> .*, this resume's 4 -> 32 tanh -> .*: rl_module.fcnet_hiddens changed$")
        self.assertEqual(1, len([line for line in result.stderr.splitlines() if line.startswith("error")]), result.stderr)
        self.assert_nothing_left()
        self.assert_counted_once(run, 4)


class Resumes(Case):
    """What a resume may change, and what it leaves as it was."""
    def files(self, run: pathlib.Path) -> dict[str, int]:
        """All but what a resume that comes to nothing may add to: who holds the folder, what was said."""
        return {str(p.relative_to(run)): zlib.crc32(p.read_bytes()) for p in run.rglob("*")
                if p.is_file() and p.name not in ("run.lock", "events.jsonl") and p.parent.name != "logs"}

    def pasted(self, stdout: str, verb: str) -> subprocess.CompletedProcess:
        """The line of that verb among those printed, as a shell takes it."""
        line = re.search(rf"^(?:next)? +(myriad {verb} .*)$", stdout, re.M)[1]
        return subprocess.run(["sh", "-c", line], cwd=self.root, env=self.environment | {"PATH": f"{BUILD / 'apps'}:{os.environ['PATH']}"},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S)

    def iterations(self, run: pathlib.Path) -> list[int]:
        return [row["training_iteration"] for row in json_lines(run / "results.jsonl")]

    def test_what_is_printed_can_be_pasted_and_a_criterion_that_is_met_is_named(self):
        run = self.root / "it's a run"
        said = self.train(run, "stop.training_iteration=2", "evaluation.evaluation_duration=3").stdout
        self.assertRegex(said, r"\Arun=it's a run env=CartPole-v1 algorithm=PPO seed=0 directory=it's a run\n")
        self.assertIn("over 3 episodes", self.pasted(said, "evaluate").stdout)
        before = self.files(run)
        again = self.call("train", "--resume", run).stdout
        self.assertIn("training_iteration 2 was reached before: nothing was trained", again)
        self.assertEqual(before, self.files(run))
        for text, iterations in ((said, 4), (again, 4)):
            result = self.pasted(text, "train --resume")
            self.assertEqual(0, result.returncode, result.stderr)
            self.assertEqual(list(range(1, iterations + 1)), self.iterations(run))
        self.assertEqual(2, len((run / "command.txt").read_text().splitlines()))
        self.assertIn("training_iteration = 4", (run / "config.effective.toml").read_text())

    def test_a_refused_resume_leaves_the_run_as_it_was(self):
        run = self.root / "run"
        self.train(run, "stop.training_iteration=4", "checkpointing.checkpoint_frequency=2")
        before, older = self.files(run), self.checkpoints(run)[0]
        for more, said in ((["rl_module.fcnet_hiddens=[32]"], "rl_module.fcnet_hiddens changed"), (["algorithm=A2C"], "algorithm is A2C"),
                           (["environment.observation_filter=MeanStdFilter"], "environment.observation_filter is MeanStdFilter"),
                           (["environment.env=Acrobot-v1"], "environment.env changed"), (["training.lrr=1"], "did you mean lr?"),
                           (["environment.env_config={x=1}"], "has no option x"), (["learners.device=cuda:999"], "cuda:999")):
            with self.subTest(more):
                result = self.call("train", "--resume", older, "stop.training_iteration=8", *more, status=None)
                self.assertNotEqual(0, result.returncode)
                self.assertIn(said, result.stderr)
                self.assertEqual(before, self.files(run))

    def test_what_environments_are_may_change_and_their_episodes_begin_anew(self):
        run = self.root / "run"
        self.train(run, "stop.training_iteration=2")
        for until, more, said in ((3, ["environment.sticky_actions=0.25"], "environment.sticky_actions changed"), (4, ["environment.frame_skip=2"], "frame_skip changed"),
                                  (5, ["curriculum.schedules.sutton_barto_reward=[[0, 0], [100000, 1]]"], "the options of [curriculum] changed"),
                                  (6, ["seed=5", "environment.max_episode_steps=9"], "seed, environment.max_episode_steps changed")):
            self.call("train", "--resume", run, f"stop.training_iteration={until}", *more)
            self.assertTrue([e for e in json_lines(run / "events.jsonl") if e["kind"] == "resume" and said in e["text"] and "episodes begin anew" in e["text"]], said)
        self.assertEqual(list(range(1, 7)), self.iterations(run))
        header, *rows = (run / "progress.csv").read_text().splitlines()
        column = header.split(",").index("curriculum/sutton_barto_reward")
        self.assertEqual([False] * 4 + [True] * 2, [row.split(",")[column] != "" for row in rows])
        self.assertEqual({header.count(",")}, {row.count(",") for row in rows})

    def test_evaluate_and_play_take_settings_of_the_environment(self):
        run = self.root / "run=1"
        self.train(run, "stop.training_iteration=1")
        short = ["environment.max_episode_steps=7", "evaluation.evaluation_duration=2"]
        lengths = [json.loads(line)["length"] for line in self.call("evaluate", run, *short, "--json").stdout.splitlines()]
        self.assertEqual([7, 7], lengths)
        played = [json.loads(line) for line in self.call("play", run, short[0], "--seed", 3, "--json").stdout.splitlines()]
        self.assertEqual(8, len(played))
        self.assertTrue(played[-1]["truncated"])
        self.assertIn("return 7", self.call("play", run, short[0]).stdout)
        for more, said in ((["environment.max_episode_step=7"], "did you mean max_episode_steps?"), (["training.lr=1"], "a policy that is trained takes settings of"),
                           (["seed=1"], "--seed"), (["environment.env=Acrobot-v1"], "takes 4 features"), (["more"], "want key=value")):
            self.assertIn(said, self.call("evaluate", run, *more, status=2).stderr)

    def test_a_run_that_saved_nothing_has_no_checkpoint(self):
        driver = self.start("train", self.config, "--out", self.root / "early", "training.num_epochs=10000", "training.minibatch_size=1")
        self.wait_for(lambda: (self.root / "early/run.json").exists(), "a run")
        driver.send_signal(signal.SIGINT)
        self.finish(driver, 130)
        for command in (["evaluate"], ["train", "--resume"]):
            self.assertRegex(self.call(*command, self.root / "early", status=2).stderr, r"^error\[no-checkpoint\] early has no checkpoint: it ended before")
        self.assertRegex(self.call("evaluate", self.tmp, status=2).stderr, r"^error\[no-checkpoint\] .*holds no run and no checkpoint")


class Refusals(Case):
    def refuse(self, arguments: list[object], *texts: str, status: int = 2):
        before = sorted(self.root.iterdir())
        result = self.call(*arguments, status=status)
        self.assertEqual(1, len(result.stderr.splitlines()), result.stderr)
        self.assertRegex(result.stderr, r"^error\[[a-z-]+\] ")
        for text in texts:
            self.assertIn(text, result.stderr)
        self.assertEqual(before, sorted(self.root.iterdir()))
        self.assertEqual("", result.stdout)
        self.assert_nothing_left()

    def refuse_config(self, text: str, *texts: str):
        self.refuse(["train", self.file("bad.toml", text), "--out", self.root / "run"], *texts)

    def test_bad_configs(self):
        self.refuse_config(CARTPOLE.replace("\nlr =", "\nlrr ="), "bad.toml:10:1", "lrr", "did you mean lr?")
        self.refuse_config(CARTPOLE.replace("lr = 1e-3", 'lr = "fast"'), "bad.toml:10:", "lr", "fast", "want a number")
        self.refuse_config(CARTPOLE.replace("train_batch_size = 512", "train_batch_size = 513"), "train_batch_size", "513", "512")
        large = CARTPOLE.replace("fragment_length = 32", "fragment_length = 1000000").replace("batch_size = 512", "batch_size = 8000000")
        self.refuse_config(large, "a message holds 256; want env_runners.rollout_fragment_length = 500000")
        self.refuse_config(CARTPOLE.replace("[rl_module]", "[rl_module]\ninit_parts = ['pi']"), "rl_module.init_from, which is not set")
        self.refuse_config(CARTPOLE.replace("CartPole-v1", "CartPole-v2"), "CartPole-v2", "did you mean CartPole-v1?")
        self.refuse_config(CARTPOLE.replace('"PPO"', '"PPOO"'), "bad.toml:2:", "PPOO", "did you mean PPO?")
        self.refuse_config(CARTPOLE.replace("[training]", "[trainig]"), "trainig", "did you mean training?")
        self.refuse_config(CARTPOLE.replace("gamma = 0.98", "gamma = 1.5"), "bad.toml:14:", "gamma", "0 to 1")
        self.refuse_config(CARTPOLE + "[hosts]\nnum_hosts = 3\n", "hosts.num_hosts 3 is more than env_runners.num_env_runners 2")
        self.refuse_config(CARTPOLE.replace("lr = 1e-3", 'lr = 1e-3\nsampling = "async"'), "PPO samples sync or lag1")
        self.refuse_config(CARTPOLE + "[curriculum]\nrandomize = { gravity = [1, 2] }\n", "error[unknown-env-option]", "CartPole-v1 has no option gravity")
        self.refuse_config(CURRICULUM.replace("ctrl_cost_weight = [0", "exclude_current_positions_from_observation = [0"), "error[impossible]", "space")
        self.refuse_config(PQN.replace("CartPole-v1", "Pendulum-v1"), "error[unsupported-space]", "PQN wants a Discrete action space, got Box(")
        self.refuse_config(CARTPOLE + "[", f"bad.toml:{1 + CARTPOLE.count(chr(10))}:")
        self.refuse_config("\0\xff", "bad.toml:1:")

    def test_bad_command_lines(self):
        out = ["--out", self.root / "run"]
        self.refuse(["train", "no-such-file.toml", *out], "no-such-file.toml")
        self.refuse(["train", "cartpole-pp", *out], "did you mean cartpole-ppo?")
        self.refuse(["train", self.config, *out, "training.lrr=1"], "training.lrr=1", "did you mean lr?")
        self.refuse(["train", self.config, *out, "--oops"], "--oops")
        self.refuse(["train", self.config, self.config, *out], "one config")
        self.refuse(["train", *out], "CONFIG")
        self.refuse(["trian", self.config], "trian", "did you mean train?")
        self.refuse([], "subcommand")
        self.refuse(["train", "--resume", self.root / "none"], "none")
        self.refuse(["train", "--resume", self.tmp], "no run")
        self.refuse(["evaluate", self.root / "none"], "none")
        self.refuse(["play", "CartPole-v2"], "did you mean CartPole-v1?")
        self.refuse(["play", "CartPole-v1", "--state", "[1,2]"])
        self.refuse(["play", "CartPole-v1", "--state", "nonsense"], "nonsense")
        self.refuse(["config", "--resolved", "nothing"], "nothing")

    def test_directory_in_use_or_used(self):
        driver, run = self.start_train()
        for command in (["train", self.config, "--out", run], ["train", "--resume", run]):
            result = self.call(*command, status=4)
            self.assertRegex(result.stderr, rf"^error\[run-in-use\] .*\b{driver.pid}\b")
        self.interrupt(driver)
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "run.lock"}
        result = self.call("train", self.config, "--out", run, status=4)
        self.assertIn("myriad train --resume", result.stderr)
        self.assertEqual(before, {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "run.lock"})


class Determinism(Case):
    """The same eight environments, by however many processes on however many hosts: the same numbers."""
    SPLITS = {f"{r}-{h}": [f"env_runners.num_env_runners={r}", f"env_runners.num_envs_per_env_runner={8 // r}", "env_runners.rollout_fragment_length=64",
                           f"hosts.num_hosts={h}"] for r in (1, 2, 4, 8) for h in (1, 2) if h <= r}
    SPLITS["8-4"] = [word.replace("num_hosts=2", "num_hosts=4") for word in SPLITS["8-2"]] + ["hosts.weights_fanout=1"]  # weights by a chain of hosts

    def learned(self, checkpoint: pathlib.Path) -> dict[str, bytes]:
        return {name: (checkpoint / name).read_bytes() for name in (MODULE, OPTIMIZER, "learner_group/connectors.safetensors")}

    def same_by_every_split(self, splits: list[str], iterations: int, config: pathlib.Path):
        runs = {f"{mode}-{split}": [f"training.sampling={mode!r}", f"stop.training_iteration={iterations}", *self.SPLITS[split]]
                for mode in ("sync", "lag1") for split in splits}
        checkpoints = self.train_all(runs, config)
        want = {mode: self.learned(checkpoints[f"{mode}-{splits[0]}"]) for mode in ("sync", "lag1")}
        for name, checkpoint in checkpoints.items():
            with self.subTest(name):
                got, mode = self.learned(checkpoint), name.split("-")[0]
                self.assertEqual([], [file for file in got if got[file] != want[mode][file]], "files that differ")
                results = self.assert_counted_once(self.root / name, iterations)
                lags = [(r["env_runners"]["policy_lag_mean"], r["env_runners"]["policy_lag_max"]) for r in results]
                late = 1 if mode == "lag1" else 0
                self.assertEqual([(0, 0)] + [(late, late)] * (iterations - 1), lags)
        self.assertNotEqual(want["sync"][MODULE], want["lag1"][MODULE], "not even late")

    def test_any_split_gives_the_same_module(self):
        self.same_by_every_split(list(self.SPLITS), 8, self.config)

    def test_any_split_gives_the_same_module_with_continuous_actions_and_a_filter(self):
        self.same_by_every_split(["1-1", "4-2", "8-1"], 6, self.file("pendulum.toml", PENDULUM))

    def test_any_split_gives_the_same_module_with_wrappers(self):
        self.same_by_every_split(["1-1", "4-2", "8-1"], 6, self.file("wrapped.toml", WRAPPED))

    def test_any_split_gives_the_same_module_with_a_falling_epsilon(self):
        self.same_by_every_split(["1-1", "4-2", "8-1"], 8, self.file("pqn.toml", PQN))

    def test_any_split_gives_the_same_module_with_a_curriculum(self):
        self.same_by_every_split(["1-1", "4-2", "8-1"], 8, self.file("curriculum.toml", CURRICULUM))
        for mode in ("sync", "lag1"):
            levels = {split: [r["curriculum"]["level"] for r in json_lines(self.root / f"{mode}-{split}/results.jsonl")] for split in ("1-1", "4-2", "8-1")}
            self.assertGreater(levels["1-1"][-1], 0)
            self.assertEqual(levels["1-1"], levels["4-2"])
            self.assertEqual(levels["1-1"], levels["8-1"])

    def test_lag1_resumes_bit_exactly_amid_a_curriculum(self):
        self.lag1_resumes(self.file("curriculum.toml", CURRICULUM))

    def test_lag1_resumes_bit_exactly_while_epsilon_falls(self):
        self.lag1_resumes(self.file("pqn.toml", PQN))

    def lag1_resumes(self, config: pathlib.Path):
        lag1 = ["training.sampling='lag1'", "env_runners.num_env_runners=4", "env_runners.num_envs_per_env_runner=4"]
        whole = self.train_all({"whole": [*lag1, "stop.training_iteration=10"]} | {f"half-{h}": [*lag1, "stop.training_iteration=5"] for h in (1, 2)}, config)
        self.assertTrue((whole["half-1"] / "learner_group/pending_batch-000000.safetensors").exists())
        for hosts in (1, 2):  # both halves had one
            run = self.root / f"half-{hosts}"
            self.call("train", "--resume", run, "stop.training_iteration=10", f"hosts.num_hosts={hosts}")
            ours, theirs = self.state_files(whole["whole"]), self.state_files(self.checkpoints(run)[-1])
            self.assertEqual(sorted(ours), sorted(theirs))
            self.assertEqual(["config.toml"], [name for name in ours if ours[name] != theirs[name]], "files that differ")
            results = self.assert_counted_once(run, 10)
            self.assertEqual([0] + [1] * 9, [r["env_runners"]["policy_lag_max"] for r in results])

    def test_lag1_resumes_bit_exactly_on_any_number_of_hosts(self):
        self.lag1_resumes(self.config)

    def test_lag1_resumes_bit_exactly_with_continuous_actions_and_a_filter(self):
        self.lag1_resumes(self.file("pendulum.toml", PENDULUM))


class LearnerGroup(Case):
    """Several learners: killed, scaled, resumed by another number of them."""
    TWO = ["learners.num_learners=2", "env_runners.num_env_runners=4", "env_runners.num_envs_per_env_runner=4"]

    def learned(self, checkpoint: pathlib.Path) -> dict[str, bytes]:
        return {name: (checkpoint / name).read_bytes() for name in (MODULE, "learner_group/connectors.safetensors", "learner_group/state.safetensors")}

    def kill_learners(self, driver: subprocess.Popen, run: pathlib.Path, times: int) -> None:
        """The one and the other in turn, each when the group is whole again."""
        for i in range(times):
            formed = lambda: sum(e["kind"] == "group-formed" for e in json_lines(run / "events.jsonl")) >= i
            self.wait_for(formed, "the group to form again", driver=driver)
            before = len(json_lines(run / "results.jsonl"))
            self.wait_for(lambda: len(json_lines(run / "results.jsonl")) > before, "an iteration", driver=driver)
            victims = sorted(self.processes(LEARNER), reverse=i % 2 == 1)
            os.kill(list(victims)[0], signal.SIGKILL)

    def killed_in(self, mode: str, *more: str, iterations: int = 60) -> None:
        words = [*self.TWO, f"training.sampling={mode!r}", f"stop.training_iteration={iterations}", *more]
        calm = self.root / "calm"
        self.train(calm, *words, config=self.file("filtered.toml", PENDULUM))
        driver, run = self.start_train(*words, config=self.file("filtered.toml", PENDULUM))
        self.kill_learners(driver, run, 3)
        self.finish(driver)
        formed = [e["text"] for e in json_lines(run / "events.jsonl") if e["kind"] == "group-formed"]
        self.assertGreaterEqual(len(formed), 3)
        self.assertEqual(self.learned(self.checkpoints(calm)[-1]), self.learned(self.checkpoints(run)[-1]))
        self.assert_nothing_left()

    def test_sync_weights_are_those_of_the_undisturbed_run_whoever_of_the_learners_was_killed(self):
        self.killed_in("sync")

    def test_lag1_weights_are_those_of_the_undisturbed_run_whoever_of_the_learners_was_killed(self):
        self.killed_in("lag1")

    def test_state_in_parts_survives_a_killed_learner_bit_for_bit(self):
        self.killed_in("sync", "learners.shard='parameters'", iterations=30)

    def test_what_two_learners_saved_one_and_four_go_on_with(self):
        for mode in ("sync", "lag1"):
            run = self.root / mode
            self.train(run, *self.TWO, f"training.sampling={mode!r}", "learners.shard='optimizer'", "stop.training_iteration=3")
            for learners in (4, 1):
                self.call("train", "--resume", run, f"learners.num_learners={learners}", f"stop.training_iteration={4 if learners == 4 else 5}")
            self.assert_counted_once(run, 5)

    def test_scaled_while_it_trains_nothing_is_trained_on_twice(self):
        self.keep_ledger()
        driver, run = self.start_train("hosts.num_hosts=4", config=self.file("impala.toml", IMPALA))
        for n, learners in enumerate((4, 2, 1)):
            self.assertIn(f"{learners} learners", self.call("scale", run, f"learners={learners}").stdout)
            self.wait_for(lambda: [e for e in json_lines(run / "events.jsonl") if e["kind"] == "group-formed" and f": {learners} learners" in e["text"]],
                          f"{learners} learners", driver=driver)
            before = len(json_lines(run / "results.jsonl"))
            self.wait_for(lambda: len(json_lines(run / "results.jsonl")) > before + 3, "iterations", driver=driver)
        self.wait_for(lambda: len(self.processes(LEARNER)) == 1, "the end of those that left", driver=driver)
        refused = self.call("scale", run, "learners=5", status=2).stderr
        self.assertIn("hosts.num_hosts = 5", refused)
        self.interrupt(driver)
        used = [r[:3] for r in self.ledger("learner") if r[3] == 0]
        self.assertEqual(len(used), len(set(used)), "used twice")
        self.assert_nothing_left()

    def test_a_hung_learner_is_killed_and_replaced(self):
        driver, run = self.start_train(*self.TWO)
        os.kill(list(self.processes(LEARNER))[0], signal.SIGSTOP)
        self.wait_event(run, "learner-hung", driver)
        self.wait_event(run, "group-formed", driver)
        before = len(json_lines(run / "results.jsonl"))
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) > before + 3, "iterations", driver=driver)
        self.interrupt(driver)
        self.assert_nothing_left()


class Asynchronous(Case):
    def finishes_and_goes_on(self, algorithm: str):
        self.keep_ledger()
        config, run = self.file("async.toml", IMPALA.replace("IMPALA", algorithm)), self.root / "run"
        self.train(run, "stop.training_iteration=20", "checkpointing.checkpoint_frequency=10", "hosts.num_hosts=2", config=config)
        first = json_lines(run / "results.jsonl")
        self.assertEqual(list(range(1, 21)), [r["training_iteration"] for r in first])
        self.assertEqual(["000000010", "000000020"], [c.name for c in self.checkpoints(run)])
        self.assert_nothing_dropped(run)
        window = 3 * 4 + 4  # learner_queue_size batches of 4 fragments, and one a runner
        self.assert_ledger_balances(lost_per_runner=window)
        self.assertEqual(first[-1]["num_env_steps_sampled_lifetime"], first[-1]["learners"]["default_policy"]["num_env_steps_trained_lifetime"])
        for path in self.root.glob("*.bin"):
            path.unlink()  # of another run: its runners count from 0 again
        self.call("train", "--resume", run, "stop.training_iteration=30")
        results = json_lines(run / "results.jsonl")
        self.assertEqual(list(range(1, 31)), [r["training_iteration"] for r in results])
        self.assertEqual(first, results[:20])
        steps = [r["num_env_steps_sampled_lifetime"] for r in results]
        self.assertEqual(sorted(set(steps)), steps)
        self.assertEqual(steps[-1] - steps[-2], results[-1]["env_runners"]["num_env_steps_sampled"])
        trained = [r["learners"]["default_policy"]["num_env_steps_trained_lifetime"] for r in results]
        self.assertEqual(sorted(set(trained)), trained)
        self.assert_nothing_dropped(run)
        self.assert_ledger_balances(lost_per_runner=window)
        episodes = self.call("evaluate", run, "--episodes", 5, "--json").stdout.splitlines()
        self.assertEqual(5, len(episodes))
        self.assert_nothing_left()

    def test_impala_finishes_and_resumes(self):
        self.finishes_and_goes_on("IMPALA")

    def test_appo_finishes_and_resumes(self):
        self.finishes_and_goes_on("APPO")

    def test_nobody_waits_for_stopped_runners(self):
        self.keep_ledger()
        driver, run = self.start_train(config=self.file("impala.toml", IMPALA))
        stopped = self.runners(4)[:3]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        self.wait_reports(run, 30, driver)
        # Back in the run, they contribute as before.
        before = {slot: sum(record[0] == slot for record in self.ledger("learner")) for slot in range(4)}
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        self.wait_for(lambda: all(sum(r[0] == slot for r in self.ledger("learner")) >= before[slot] + 5 for slot in range(4)), "fragments of all", driver=driver)
        self.interrupt(driver)
        self.assertEqual(0, json_lines(run / "results.jsonl")[-1]["fault_tolerance"]["num_remote_worker_restarts"])
        self.assert_nothing_dropped(run)
        self.assert_ledger_balances(lost_per_runner=16)

    def test_what_is_too_old_is_dropped_and_counted(self):
        self.keep_ledger()
        run = self.root / "run"
        self.train(run, "training.max_policy_lag=1", "stop.training_iteration=30", config=self.file("impala.toml", IMPALA))
        results = json_lines(run / "results.jsonl")
        self.assertLessEqual(max(r["env_runners"]["policy_lag_max"] for r in results), 1)
        reasons = [r[3] for r in self.ledger("learner")]
        dropped = results[-1]["dropped"]["policy_lag"]
        self.assertGreater(dropped, 0)
        # 1 + its place among the reasons. What was dropped after the last update is in no book: less than the credit.
        self.assertGreaterEqual(reasons.count(7) + 3 * 4 + 4, dropped)
        self.assertEqual({0, 7}, set(reasons))
        waiting = reasons.count(0) * 128 - results[-1]["num_env_steps_sampled_lifetime"]  # have a place in the next batch
        self.assertIn(waiting, range(4 * 128 + 1))

    def test_a_stopped_host_is_not_waited_for(self):
        driver, run = self.start_train("hosts.num_hosts=2", config=self.file("impala.toml", IMPALA))
        agent = self.agents()[0]
        os.kill(agent, signal.SIGSTOP)
        self.wait_reports(run, 30, driver)
        os.kill(agent, signal.SIGCONT)
        self.wait_reports(run, 5, driver)
        self.interrupt(driver, signal.SIGTERM)
        self.assert_nothing_left()


class Hosts(Case):
    """Host agents that die, leave and join."""
    FOUR = ["env_runners.num_env_runners=4", "env_runners.num_envs_per_env_runner=4", "hosts.num_hosts=2"]

    def a_killed_agent_is_replaced(self, config: pathlib.Path) -> pathlib.Path:
        self.keep_ledger()
        driver, run = self.start_train(*self.FOUR, config=config)
        agent, before = self.agents()[1], self.runners(4)
        os.kill(agent, signal.SIGKILL)
        self.assertRegex(self.wait_event(run, "agent-down", driver)["text"], "host agent 1 ended: SIGKILL")
        self.wait_for(lambda: self.agents().get(1, agent) != agent, "a new agent", driver=driver)
        after = self.wait_for(lambda: len(set(self.processes(RUNNER)) - set(before)) == 2 and self.runners(4), "new runners", driver=driver)
        self.assertEqual(2, len(set(before) & set(after)))  # the other host's stay
        self.wait_for(lambda: {r[0] for r in self.ledger("learner") if r[1] >= 1 << 16} == {2, 3}, "their fragments", driver=driver)
        self.wait_for(lambda: json_lines(run / "results.jsonl")[-1]["fault_tolerance"] ==
                      {"num_healthy_hosts": 2, "num_healthy_workers": 4, "num_quarantined_workers": 0, "num_remote_worker_restarts": 2}, "the count", driver=driver)
        self.interrupt(driver)
        self.assert_nothing_left()
        return run

    def test_killed_agent_is_replaced_in_step(self):
        run = self.a_killed_agent_is_replaced(self.config)
        self.assert_counted_once(run, len(json_lines(run / "results.jsonl")))
        self.assert_nothing_dropped(run)
        # Only what the agent took with it: a runner has one fragment of a round.
        self.assert_ledger_balances(lost_per_runner=1, lost_of=lambda slot, incarnation: slot >= 2 and incarnation < 1 << 16)

    def test_killed_agent_is_replaced_without_steps(self):
        run = self.a_killed_agent_is_replaced(self.file("impala.toml", IMPALA))
        self.assertEqual([], [r for r in self.ledger("learner") if r[3] != 0 and r[1] >= 1 << 16], "dropped of the new one")
        self.assertEqual(sorted({r[:3] for r in self.ledger("learner")}), sorted(r[:3] for r in self.ledger("learner")))
        self.assertEqual(list(range(1, 1 + len(json_lines(run / "results.jsonl")))), [r["training_iteration"] for r in json_lines(run / "results.jsonl")])

    def test_killed_zygote_takes_its_agent_along_and_both_are_replaced(self):
        driver, run = self.start_train()
        os.kill(list(self.processes(ZYGOTE))[0], signal.SIGKILL)
        self.assertIn("the zygote died", self.wait_event(run, "agent-down", driver)["text"])
        self.wait_reports(run, 5, driver)
        self.interrupt(driver)
        self.assert_counted_once(run, len(json_lines(run / "results.jsonl")))
        self.assert_nothing_left()

    def a_drained_agent_loses_nothing(self, config: pathlib.Path):
        self.keep_ledger()
        driver, run = self.start_train(*self.FOUR, config=config)
        os.kill(self.agents()[1], signal.SIGTERM)
        self.wait_event(run, "agent-left", driver)
        self.assertIn("drain", [e["kind"] for e in json_lines(run / "events.jsonl")])
        self.wait_for(lambda: {r[0] for r in self.ledger("learner") if r[1] >= 1 << 16} == {2, 3}, "the new agent's fragments", driver=driver)

        def of_the_drained(name: str) -> set:
            return {r[:3] for r in self.ledger(name) if r[0] >= 2 and r[1] < 1 << 16}
        self.wait_for(lambda: of_the_drained("produced") == of_the_drained("learner"), "the drained agent's last fragments", 10, driver)
        self.assertGreater(len(of_the_drained("produced")), 4)
        self.interrupt(driver)
        self.assert_nothing_dropped(run)
        self.assert_ledger_balances(lost_per_runner=16, lost_of=lambda slot, incarnation: slot < 2 or incarnation >= 1 << 16)
        kinds = [e["kind"] for e in json_lines(run / "events.jsonl")]
        self.assertNotIn("runner-down", kinds)
        self.assert_nothing_left()

    def test_drained_agent_loses_nothing_in_step(self):
        self.a_drained_agent_loses_nothing(self.config)

    def test_drained_agent_loses_nothing_without_steps(self):
        self.a_drained_agent_loses_nothing(self.file("impala.toml", IMPALA))

    def test_killed_runner_contributes_again_soon(self):
        self.keep_ledger()
        driver, run = self.start_train()
        took_ms = []
        for kills in (1, 2, 3):
            known = {r[:2] for r in self.ledger("learner")}
            begin = time.monotonic()
            os.kill(self.runners()[0], signal.SIGKILL)
            self.wait_for(lambda: any(r[:2] not in known for r in self.ledger("learner")[-64:]), "its successor's fragment", 5, driver)
            took_ms.append(1000 * (time.monotonic() - begin))
            self.wait_for(lambda: json_lines(run / "results.jsonl")[-1]["fault_tolerance"]["num_remote_worker_restarts"] == kills, "the count", driver=driver)
        print(f"(first fragment after {', '.join(f'{t:.0f}' for t in took_ms)} ms) ", end="", flush=True)
        self.interrupt(driver)
        self.assert_ledger_balances(lost_per_runner=2)

    def test_limits_are_told_and_leave_nothing(self):
        groups = set(pathlib.Path("/sys/fs/cgroup").rglob("myriad.*"))
        driver, run = self.start_train("hosts.runner_memory_mib=500")
        self.assertRegex(self.wait_event(run, "limits")["text"], r"^runner limits: (cgroup v[12]|rlimit): memory 500 MiB")
        self.interrupt(driver)
        self.assertEqual(set(), set(pathlib.Path("/sys/fs/cgroup").rglob("myriad.*")) - groups)

    def test_environment_that_always_fails_ends_the_run_with_its_cause(self):
        config = self.file("hopper.toml", CARTPOLE.replace('"CartPole-v1"', '"Hopper-v5"\nenv_config = { healthy_reward = 1e300 }'))
        run = self.root / "run"
        result = self.call("train", config, "--out", run, status=3)
        self.assertRegex(result.stderr, r"(?m)^error\[nan\] .*Hopper-v5.*reward = 1e\+300")
        kinds = [e["kind"] for e in json_lines(run / "events.jsonl")]
        self.assertIn("runner-quarantined", kinds)
        self.assertEqual("failed", json.loads((run / "run.json").read_text())["state"])
        self.assert_nothing_left()


class Network(Case):
    """Over tcp, with keys, and with agents that come from outside."""

    def keys(self, name: str, agents: int = 2) -> pathlib.Path:
        said = self.call("keys", self.root / name, "--agents", agents).stdout
        self.assertIn("agent-K", said)
        return self.root / name

    def join_command(self, run: pathlib.Path, driver: subprocess.Popen) -> list[str]:
        """What the run's record says, without the program's name."""
        def told():
            return (run / "run.json").exists() and json.loads((run / "run.json").read_text()).get("join")
        return shlex.split(self.wait_for(told, "the command to join", driver=driver))[1:]

    def joined(self, run: pathlib.Path) -> int:
        return sum(e["kind"] == "agent-joined" for e in json_lines(run / "events.jsonl"))

    def test_run_over_loopback_without_keys(self):
        run = self.root / "run"
        driver = self.start("train", self.config, "--out", run, 'network.bind="127.0.0.1"', "hosts.num_hosts=2", "stop.training_iteration=20")
        self.assertRegex(self.join_command(run, driver)[2], r"^tcp://127\.0\.0\.1:\d+$")
        self.assertIn("join     myriad agent --connect tcp://127.0.0.1:", self.finish(driver).stdout)
        self.assert_counted_once(run, 20)
        self.assert_nothing_left()

    def test_run_with_keys(self):
        run, keys = self.root / "run", self.keys("keys")
        driver = self.start("train", self.config, "--out", run, 'network.bind="127.0.0.1"', f'network.keys="{keys}"', "hosts.num_hosts=2",
                            "stop.training_iteration=20")
        self.assertEqual(["--keys", str(keys)], self.join_command(run, driver)[-2:])
        self.finish(driver)
        self.assert_counted_once(run, 20)
        self.assert_nothing_left()

    def test_open_network_wants_keys(self):
        for address, code, text in (("0.0.0.0", "bad-bind", "hostname -I"), ("192.0.2.1", "no-keys", "`myriad keys DIR` and set network.keys to DIR")):
            result = self.call("train", self.config, "--out", self.root / "run", f'network.bind="{address}"', status=2)
            self.assertEqual(1, len(result.stderr.splitlines()), result.stderr)
            self.assertRegex(result.stderr, rf"^error\[{code}\] .*{address}.*{re.escape(text)}")
            self.assertFalse((self.root / "run").exists())
            self.assert_nothing_left()

    def test_strangers_stay_out(self):
        run, keys, others = self.root / "run", self.keys("keys", 1), self.keys("others", 1)
        shutil.copy(keys / "server.pub", others / "server.pub")  # they know where, and the server's public key
        driver = self.start("train", self.config, "--out", run, 'network.bind="127.0.0.1"', f'network.keys="{keys}"', 'hosts.launcher="none"',
                            "stop.training_iteration=20")
        command = self.join_command(run, driver)
        self.start(*command[:-1], others)
        self.start(*command[:-2])  # without any key
        self.wait_for(lambda: len(self.processes(AGENT)) == 2, "the strangers", driver=driver)
        self.start(*command)
        self.finish(driver)
        self.assert_counted_once(run, 20)
        self.assertEqual(1, self.joined(run))
        self.wait_for(lambda: len(self.processes(AGENT)) == 2, "the end of the one that was let in")  # the others still knock

    def test_agents_join_and_leave(self):
        self.keep_ledger()
        run = self.root / "run"
        driver = self.start("train", self.file("impala.toml", IMPALA), "--out", run, 'hosts.launcher="none"', "hosts.num_hosts=2")
        command = self.join_command(run, driver)
        self.wait_for(lambda: self.processes(LEARNER), "the learner", driver=driver)
        self.assertEqual([], json_lines(run / "results.jsonl"))
        first = self.start(*command)
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) >= 5, "reports with half of the runners", driver=driver)
        self.assertEqual({0, 1}, {r[0] for r in self.ledger("learner")})
        self.start(*command)
        self.wait_for(lambda: {r[0] for r in self.ledger("learner")} == {0, 1, 2, 3}, "all runners' fragments", driver=driver)
        self.assertEqual(2, self.joined(run))
        first.terminate()
        self.assertEqual(75, self.finish(first, None).returncode)
        self.assertIn("host agent 0 ", self.wait_event(run, "agent-left", driver)["text"])
        self.wait_reports(run, 10, driver)
        made = {r[:3] for r in self.ledger("produced") if r[0] < 2}
        self.wait_for(lambda: made <= {r[:3] for r in self.ledger("learner")}, "the last fragments of the one that left", 10, driver)
        self.start(*command)
        self.wait_for(lambda: any(r[0] == 0 and r[1] >= 1 << 16 for r in self.ledger("learner")), "the third one's fragments", driver=driver)
        one_too_many = self.start(*command)
        self.assertIn("all 2 places are taken", self.wait_event(run, "agent-refused", driver)["text"])
        result = self.interrupt(driver)
        self.assertIn("join     myriad agent --connect ipc://", result.stdout)
        self.assertIn("the run ended before it began", self.finish(one_too_many, 130).stderr)
        self.assertEqual("", json.loads((run / "run.json").read_text())["join"])
        for agent in self.started[1:]:  # told to stop
            agent.wait(DEADLINE_S)
        self.assert_nothing_left()

    def test_agents_from_outside_stay_with_a_run_that_goes_on_from_its_checkpoint(self):
        run = self.root / "run"
        driver = self.start("train", self.config, "--out", run, 'hosts.launcher="none"', "stop.training_iteration=150", 'network.bind="127.0.0.1"',
                            "checkpointing.checkpoint_frequency=5")
        agent = self.start(*self.join_command(run, driver))
        self.wait_event(run, "checkpoint", driver)
        os.kill(list(self.processes(LEARNER))[0], signal.SIGKILL)
        self.wait_event(run, "resume", driver)
        self.finish(driver)
        self.assertEqual(0, self.finish(agent, None).returncode)
        self.assert_counted_once(run, 150)
        self.assert_nothing_left()

    def test_step_by_step_runs_take_joining_agents_too(self):
        run = self.root / "run"
        driver = self.start("train", self.config, "--out", run, 'hosts.launcher="none"', "stop.training_iteration=30", 'network.bind="127.0.0.1"')
        agent = self.start(*self.join_command(run, driver))
        self.finish(driver)
        self.assertEqual(0, self.finish(agent, None).returncode)
        self.assert_counted_once(run, 30)
        self.assert_nothing_left()


def zmtp_greeting(mechanism: bytes = b"NULL") -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


def zmtp_ready(identity: bytes) -> bytes:
    body = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER" + b"\x08Identity" + struct.pack(">I", len(identity)) + identity
    return bytes([4, len(body)]) + body


def zmtp_message(*frames: bytes) -> bytes:
    """Each frame in the long form."""
    return b"".join(struct.pack(">BQ", 2 | (i + 1 < len(frames)), len(frame)) + frame for i, frame in enumerate(frames))


class Mangled(Case):
    def attack(self, path: pathlib.Path, *parts: bytes) -> None:
        """Writes the parts to a socket. It stays open: what an ended connection still had to say is dropped by ZeroMQ."""
        connection = self.connections.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(5)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # thrown out
            if parts[0] == zmtp_greeting():  # as it is done: ZeroMQ does not read on before its own greeting went out
                connection.sendall(parts[0])
                answer = b""
                while len(answer) < 64 and (more := connection.recv(64)):
                    answer += more
                parts = parts[1:]
            connection.sendall(b"".join(parts))

    def test_garbage_on_the_sockets_harms_nothing(self):
        self.connections = self.enterContext(contextlib.ExitStack())
        driver, run = self.start_train()
        generator = random.Random(7)
        garbage = [generator.randbytes(generator.randrange(1, 400)) for _ in range(60)]
        summed = [g + struct.pack("<I", crc32c(g)) for g in garbage if len(g) > 12]
        hello = (zmtp_greeting(), zmtp_ready(b""))
        sockets = [path for path in self.tmp.glob("myriad-*/*") if path.is_socket()]
        self.assertEqual(["driver", "learner-0.0", "weights-0.0"], sorted(s.name for s in sockets))
        for path in sockets:
            for g in garbage[:10]:
                self.attack(path, g)
            self.attack(path, zmtp_greeting()[:30])
            self.attack(path, zmtp_greeting(b"CURVE"))
            self.attack(path, zmtp_greeting(), garbage[0])
            self.attack(path, *hello, *map(zmtp_message, garbage))
            self.attack(path, *hello, *map(zmtp_message, summed))
            self.attack(path, *hello, zmtp_message(b""), zmtp_message(*garbage, *garbage), zmtp_message(bytes(200_000)), zmtp_message(bytes(3_000_000)))
            self.attack(path, *hello, struct.pack(">BQ", 2, 1 << 62), bytes(1000))  # a frame longer than any may be
            self.attack(path, *hello, struct.pack(">BQ", 2, 5000), bytes(1000))  # one that ends early
            self.attack(path, zmtp_greeting(), zmtp_ready(b"agent-0.0"), zmtp_message(garbage[1]))  # somebody else's name
            self.attack(path, zmtp_greeting(), zmtp_ready(b"learner-0"), zmtp_message(garbage[1]))
        kinds = ("envelope_checksum", "not_an_envelope", "too_many_frames", "too_large")
        self.wait_for(lambda: all(json_lines(run / "results.jsonl")[-1]["dropped"][kind] > 0 for kind in kinds), f"drops of {kinds}", 10, driver)
        self.connections.close()
        seen = len(json_lines(run / "results.jsonl"))
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) >= seen + 20, "reports after the attack", driver=driver)
        driver.send_signal(signal.SIGINT)
        self.finish(driver, 130)
        iterations = len(json_lines(run / "results.jsonl"))
        results = self.assert_counted_once(run, iterations)
        self.assertEqual(0, results[-1]["fault_tolerance"]["num_remote_worker_restarts"])
        self.assertEqual([], [e for e in json_lines(run / "events.jsonl") if e["kind"].startswith(("runner", "agent"))])
        # And the result is the one of a run that nobody attacked.
        self.train(self.root / "calm", f"stop.training_iteration={iterations}")
        attacked, calm = (self.state_files(self.checkpoints(path)[-1]) for path in (run, self.root / "calm"))
        self.assertEqual([], [name for name in calm if name != "config.toml" and calm[name] != attacked[name]])


class Verbs(Case):
    def test_host_agent_links_neither_torch_nor_mujoco(self):
        lines = subprocess.run(["ldd", BUILD / "apps/myriad-host-agent"], capture_output=True, text=True, check=True).stdout
        linked = " ".join(line.split()[0] for line in lines.splitlines())  # the names alone: an address may spell c10
        self.assertIn("libzmq", linked)
        for name in ("torch", "c10", "mujoco", "python"):
            self.assertNotIn(name, linked)

    def test_children_explain_themselves(self):
        for program in ("myriad-learner", "myriad-host-agent"):
            self.assertIn("myriad train", self.call(program=program, status=2).stderr)

    def test_help_and_version(self):
        for verb in ("train", "evaluate", "play", "envs", "algorithms", "config", "keys", "agent"):
            self.assertIn(verb, self.call("--help").stdout)
            self.assertIn("--help", self.call(verb, "--help").stdout)
        self.assertNotIn("plugin ale", self.call("--help").stdout)
        self.environment["MYRIAD_COMMAND"] = "./myriad"  # what the script of a clone says
        self.assertIn("plugin ale", self.call("--help").stdout)
        self.assertRegex(self.call("--version").stdout, r"^myriad \d+\.\d+\.\d+\n$")

    def test_play_follows_the_golden_trajectory(self):
        lines = (ROOT / "tests/golden/gymnasium/CartPole-v1.txt").read_text().splitlines()
        begin = next(i for i, line in enumerate(lines) if line.startswith("state "))
        state = [float(word) for word in lines[begin].split()[1:]]
        steps = [line.split(" | ") for line in lines[begin + 2:begin + 12]]
        actions = self.file("actions.jsonl", "".join(f"{step[0]}\n" for step in steps))
        played = [json.loads(line) for line in
                  self.call("play", "CartPole-v1", "--state", json.dumps(state), "--actions", actions, "--json").stdout.splitlines()]
        self.assertEqual(state, played[0]["state"])
        self.assertEqual(len(steps), len(played) - 1)
        for (action, outcome, observation), got in zip(steps, played[1:]):
            self.assertEqual((int(action), float(outcome.split()[0])), (got["action"], got["reward"]))
            for want, value in zip(observation.split(), got["observation"]):
                self.assertEqual(struct.pack("<f", float(want)), struct.pack("<f", value))

    def test_config_prints_every_setting_and_what_a_file_stands_for(self):
        settings = [json.loads(line) for line in self.call("config", "--json").stdout.splitlines()]
        self.assertIn(("training", "train_batch_size"), {(s["group"], s["key"]) for s in settings})
        text = self.call("config").stdout
        for setting in settings:
            self.assertIn(setting["meaning"], text)
        resolved = self.call("config", "--resolved", self.config, "training.lr=0.25").stdout
        self.assertRegex(resolved, r"(?m)^lr = 0.25$")
        self.assertRegex(resolved, r"\A# network: 4 -> .* -> categorical 2; value .* -> 1\n")
        self.assertNotIn("cannot be trained", self.call("config", "--resolved", self.config, "learners.executor=native").stdout)
        pictures = ["environment.env=MinAtar/Breakout-v1", "rl_module.encoder=impoola_cnn", "learners.executor=native"]
        self.assertRegex(self.call("config", "--resolved", self.config, *pictures).stdout,
                         r"\n# cannot be trained: learners.executor 'native' cannot train .*; 'torch' and 'auto' can\n")
        unknown = self.call("config", "--resolved", self.config, "environment.env='plugin:nowhere.so'").stdout
        self.assertRegex(unknown, r"\A# network: none: .*nowhere.so")
        self.assertEqual(resolved, self.call("config", "--resolved", self.file("resolved.toml", resolved)).stdout)

    def test_lists(self):
        ids = [json.loads(line)["id"] for line in self.call("envs", "--json").stdout.splitlines()]
        self.assertIn("CartPole-v1", ids)
        self.assertIn("CartPole-v1", self.call("envs").stdout)
        self.assertIn("PPO", [json.loads(line)["name"] for line in self.call("algorithms", "--json").stdout.splitlines()])
        self.assertIn("PPO", self.call("algorithms").stdout)

    def test_reports_as_json(self):
        result = self.call("train", self.config, "--out", self.root / "run", "--json", "stop.training_iteration=3")
        lines = result.stdout.splitlines()
        self.assertTrue(lines)
        for line in lines:
            json.loads(line)


class Documents(Case):
    """The commands of README and docs/. Those of the how-tos' sh blocks are run by tests/sdk, tests/simulators and tests/sims."""
    PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    OF_THE_SCRIPT = ("test", "bench", "plugin", "install-sdk")

    def commands(self, page: pathlib.Path) -> list[list[str]]:
        text = page.read_text()
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
        lines = [line for kind, block in blocks if kind in ("", "sh") for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`((?:\./)?myriad [a-z][^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        found = [re.search(r"(?:^|(?<=nohup ))(?:\./)?myriad [a-z].*", line) for line in lines]
        return [shlex.split(match[0].split("  ")[0].split(" > ")[0], comments=True)[1:] for match in found if match]

    def test_every_command_of_the_documents_is_one(self):
        verbs = set(re.findall(r"^  ([a-z-]+) ", self.call("--help").stdout, re.M))
        settings = {f"{s['group']}.{s['key']}".lstrip(".") for algorithm in ("PPO", "A2C", "IMPALA", "APPO", "PQN")
                    for s in map(json.loads, self.call("config", f"algorithm={algorithm}", "--json").stdout.splitlines())}
        help_of = {verb: self.call(verb, "--help").stdout for verb in verbs}
        commands = {(page.name, *words) for page in self.PAGES for words in self.commands(page)}
        self.assertGreater(len(commands), 60)
        for page, verb, *words in sorted(commands):
            with self.subTest(page=page, command=" ".join((verb, *words))):
                self.assertIn(verb, verbs | set(self.OF_THE_SCRIPT))
                if verb in self.OF_THE_SCRIPT or verb == "scale":
                    continue
                for word in words:
                    if word.startswith("--"):
                        self.assertIn(word.split("=")[0], help_of[verb])
                    elif re.match(r"[a-z_.]+=", word) and words[max(0, words.index(word) - 1)] not in ("--option", "--wrapper"):
                        key = word.split("=")[0]
                        self.assertTrue(key in settings or key.rpartition(".")[0] in settings, key)

    def test_the_verbs_of_the_script_explain_themselves(self):
        for verb, script, function in (("bench", "benchmarks", "run_benchmark"), ("plugin", "plugins", "build_plugin")):
            for word, status in (("--help", 0), ("-h", 0), ("../nothing", 2)):
                sourced = f"set -u; root={shlex.quote(str(ROOT))} build={shlex.quote(str(BUILD))} goal=apps; source $root/scripts/{script}.sh; {function} {word}"
                result = subprocess.run(["bash", "-c", sourced], cwd=self.root, capture_output=True, text=True)
                self.assertEqual(status, result.returncode, result.stderr)
                self.assertIn("error[unknown-" if status else f"usage: ./myriad {verb} ", result.stderr if status else result.stdout)
        for words, status in ((["--help"], 0), (["--force"], 2), ([], 2), (["a", "b"], 2)):
            result = subprocess.run([sys.executable, ROOT / "scripts/install_sdk.py", *words], cwd=self.root, capture_output=True, text=True)
            self.assertEqual(status, result.returncode)
            self.assertIn("usage: ./myriad install-sdk PREFIX", result.stdout + result.stderr)
        self.assertEqual(["cartpole.toml", "t"], sorted(path.name for path in self.root.iterdir()))

    def test_what_the_readme_does_after_a_run(self):
        block = re.search(r"```\n(\./myriad evaluate .*?)```", (ROOT / "README.md").read_text(), re.S)[1]
        self.train(self.root / "runs/0001-brisk-otter", "stop.training_iteration=2")
        (self.root / "cartpole-ppo.toml").symlink_to(ROOT / "configs/cartpole-ppo.toml")
        ran = set()
        for line in block.splitlines():
            words = shlex.split(line, comments=True)[1:]
            if words[0] in (*self.OF_THE_SCRIPT, "scale") or (words[0] == "check-env" and "plugin:" in words[1]):
                continue  # the network, a run that trains, a library: of other tests
            words[1:] = [str(ROOT / word) if word.startswith("configs/") else f"mjcf:{ROOT / word[5:]}" if word.startswith("mjcf:") else word for word in words[1:]]
            if words[:2] == ["train", "--resume"]:
                words.append("stop.training_iteration=3")
            if words[0] == "play" and "Humanoid-v5" in words:
                words += ["--steps", "2", "--size", "32x32"]
            if words[0] == "check-env":
                words += ["--steps", "10000"]
            with self.subTest(line):
                self.call(*words)
                ran.add(words[0])
        self.assertEqual({"evaluate", "train", "play", "envs", "algorithms", "keys", "new-env", "check-env", "config"}, ran)


def main(cases) -> int:
    """Runs the cases of a module."""
    global BUILD
    if len(sys.argv) > 1:
        BUILD = pathlib.Path(sys.argv[1]).resolve()
    loader = unittest.TestLoader()
    if sys.argv[2:]:
        loader.testNamePatterns = [f"*{name}*" for name in sys.argv[2:]]
    suite = loader.loadTestsFromModule(cases)
    result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(suite)
    for _, reason in result.skipped:
        print(f"SKIPPED: {reason}")
    bad = {re.sub(r" \[.*| \(.*?\)$", "", str(getattr(test, "test_case", test))) for test, _ in result.failures + result.errors}
    print(f"{result.testsRun - len(bad) - len(result.skipped)} passed, {len(bad)} failed, {len(result.skipped)} skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
