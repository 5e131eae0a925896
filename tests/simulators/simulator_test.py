"""Simulators and clients in processes of their own: `simulator_test.py BUILD [CASE ...]`."""
import contextlib
import errno
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "sdk/python")]
import run_test  # noqa: E402
from myriad_client import Box, Client, Dict, Discrete, EpisodeLost, MultiBinary, Refused, wire  # noqa: E402
from run_test import RUNNER, Case, json_lines, landlock_abi  # noqa: E402

# A simulator whose steps can be counted: an observation is [episode, t, the option "scale"], the reward t.
COUNTER = """
import os, signal, sys, time
from myriad_client import Box, Discrete, serve

class Env:
    def __init__(self, options):
        self.scale, self.episode = options["scale"], -1
    def reset(self, seed=None):
        self.episode, self.t = self.episode + 1, 0
        return [self.episode, 0, self.scale], {}
    def step(self, action):
        self.t += 1
        AT_STEP
        return [self.episode, self.t, self.scale], float(self.t), self.t == 5, False, {}

serve(Env, Box(-1e6, 1e6, (3,)), Discrete(2), name="counter", options={"scale": 2.0})
"""
PPO = """
algorithm = "PPO"
[environment]
env = ENV
[env_runners]
num_env_runners = 2
num_envs_per_env_runner = ENVS
rollout_fragment_length = 20
[training]
train_batch_size = BATCH
minibatch_size = 20
num_epochs = 1
[learners]
num_threads = 1
[rl_module]
fcnet_hiddens = [8]
[evaluation]
evaluate_at_end = false
"""


class Spawning(Case):
    def setUp(self) -> None:
        super().setUp()
        self.environment |= {"MYRIAD_PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "sdk/python")}

        self.nap = f"{900_000_000 + os.getpid()}.{time.monotonic_ns() % 1_000_000_000}"  # of a simulator's child, in seconds

    def sleepers(self) -> list[int]:
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"sleep\0{self.nap}\0".encode() == (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def simulator(self, at_step: str = "pass", text: str = COUNTER, name: str = "simulator") -> str:
        script = self.file(f"{name}.py", text.replace("AT_STEP", at_step))
        return f"process:{sys.executable} {script}"

    def config_of(self, env: str, envs: int = 2, name: str = "simulator.toml") -> pathlib.Path:
        text = PPO.replace("ENVS", str(envs)).replace("ENV", repr(env), 1).replace("BATCH", str(40 * envs))
        return self.file(name, text)

    def check(self, env: str, *more: object, status: int = 0) -> str:
        result = self.call("check-env", env, *more, status=status)
        return result.stdout + result.stderr


class Simulators(Spawning):

    def test_every_step_is_the_simulators(self):
        lines = [json.loads(line) for line in self.call("play", self.simulator(), "--steps", 5, "--option", "scale=7", "--json").stdout.splitlines()]
        self.assertEqual([[0, t, 7] for t in range(6)], [line["observation"] for line in lines])
        self.assertEqual([1, 2, 3, 4, 5], [line["reward"] for line in lines[1:]])
        self.assertEqual([False] * 4 + [True], [line["terminated"] for line in lines[1:]])

    def test_training_steps_vectors_and_begins_episodes_by_itself(self):
        run = self.root / "run"
        self.train(run, "stop.training_iteration=5", config=self.config_of(self.simulator(), envs=3))
        for row in json_lines(run / "results.jsonl"):
            self.assertEqual((15.0, 5.0), (row["env_runners"]["episode_return_mean"], row["env_runners"]["episode_len_mean"]))

    def test_a_run_goes_on_and_is_evaluated_from_any_folder(self):
        """Its command, its Python's packages and what they open are named by relative paths."""
        place = self.root / "place"
        (place / "packages").mkdir(parents=True)
        (place / "packages/beside.py").write_text("scale = float(open('scale.txt').read())\n")
        (place / "scale.txt").write_text("2.0")
        (place / "simulator.py").write_text("import beside\nassert beside.scale == 2\n" + COUNTER.replace("AT_STEP", "pass"))
        config, away = self.config_of(f"process:{sys.executable} simulator.py"), self.root / "away"
        away.mkdir()

        def call(folder: pathlib.Path, *words: object, path: str = "", status: int = 0) -> subprocess.CompletedProcess:
            environment = {key: value for key, value in self.environment.items() if key != "PYTHONPATH"} | ({"PYTHONPATH": path} if path else {})
            result = subprocess.run([run_test.BUILD / "apps/myriad", *map(str, words)], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                                    capture_output=True, text=True, timeout=run_test.DEADLINE_S)
            self.assertEqual(status, result.returncode, result.stdout + result.stderr)
            return result

        run = self.root / "run"
        call(place, "train", config, "--out", run, "stop.training_iteration=2", path="packages")
        said = call(away, "train", "--resume", "../run", "stop.training_iteration=3", "evaluation.evaluate_at_end=true").stdout
        self.assertIn("evaluate ../run/checkpoints/000000003\n", said)
        self.assertIn("over 2 episodes", call(away, "evaluate", "../run", "--episodes", 2).stdout)
        # A command given now is looked up here.
        other = f'environment.env="process:{sys.executable} other.py"'
        call(away, "evaluate", "../run", other, status=3)
        (away / "other.py").write_text(COUNTER.replace("AT_STEP", "pass"))
        call(away, "evaluate", "../run", other)
        shutil.rmtree(place)
        self.assertIn(f"note: the run was begun in {place}: ", call(away, "evaluate", "../run", status=3).stderr)

    def test_one_process_may_hold_one_environment(self):
        text = COUNTER.replace('name="counter"', 'name="counter", max_envs=1')
        self.train(self.root / "run", "stop.training_iteration=3", config=self.config_of(self.simulator(text=text), envs=3))

    def test_connected_to_over_tcp_and_a_unix_socket(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for address in (f"127.0.0.1:{port}", str(self.root / "s")):
            script = self.file("server.py", COUNTER.replace("AT_STEP", "pass").replace('name="counter"', f'name="counter", listen="{address}"'))
            server = subprocess.Popen([sys.executable, script], env=self.environment, start_new_session=True)
            try:
                self.wait_for(lambda: self.call("play", f"connect:{address}", "--steps", 1, status=None).returncode == 0, "the server")
                run = self.root / address.replace("/", "_")
                self.train(run, "stop.training_iteration=3", config=self.config_of(f"connect:{address}"))
                self.assertEqual(15.0, json_lines(run / "results.jsonl")[-1]["env_runners"]["episode_return_mean"])
            finally:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()

    def test_gymnasium_from_the_config_alone(self):
        said = self.check("gymnasium:CartPole-v1", "--steps", 10000)
        self.assertNotIn("FAIL", said)
        self.assertIn("Gymnasium", said)
        run = self.root / "run"
        self.train(run, "environment.env='gymnasium:CartPole-v1'", "training.lr=0.003", "training.num_epochs=4", "stop.episode_return_mean=150")
        self.assertGreaterEqual(json_lines(run / "results.jsonl")[-1]["env_runners"]["episode_return_mean"], 150)

    def test_started_inside_the_sandbox_wherever_a_run_starts_it(self):
        if landlock_abi() == 0:
            self.skipTest("the kernel has no Landlock")
        target = self.root / "written"
        attempts = f"""
for attempt in (lambda: open({str(target)!r}, "w"), lambda: __import__("socket").socket()):
    try:
        attempt()
    except OSError as error:
        print("refused", error.errno, file=sys.stderr)
"""
        env = self.simulator(text=COUNTER.replace("class Env", attempts + "class Env"))
        run = self.root / "run"
        result = self.call("train", self.config_of(env), "--out", run, "stop.training_iteration=2", "evaluation.evaluate_at_end=true")
        self.assertFalse(target.exists())
        logs = "".join(log.read_text() for log in (run / "logs").iterdir())
        for text in (result.stderr, logs):
            self.assertEqual({f"refused {errno.EACCES}", f"refused {errno.EPERM}"}, set(re.findall(r"refused \d+", text)))
        self.train(self.root / "off", "stop.training_iteration=2", "env_runners.sandbox=off", config=self.config_of(env))
        self.assertTrue(target.exists())

    def test_gymnasiums_arguments_and_spaces(self):
        self.assertIn("Discrete(64)", self.check("gymnasium:FrozenLake-v1?map_name=8x8&is_slippery=false", "--steps", 10000))
        self.assertIn("Tuple(Discrete(32), Discrete(11), Discrete(2))", self.check("gymnasium:Blackjack-v1", "--steps", 10000))
        said = self.check("gymnasium:Pendulum-v1", "--option", "gravity=9.81", status=2)
        self.assertIn("has no option gravity; known: g", said)
        self.assertIn("NameNotFound", self.check("gymnasium:Nope-v0", status=3))
        self.assertIn("Discrete(16)", self.check("gymnasium:gymnasium.envs.toy_text:FrozenLake-v1", "--steps", 10000))
        self.assertIn("ModuleNotFoundError", self.check("gymnasium:no_such_module:Nope-v0", status=3))

    def test_what_is_missing_is_said_with_what_to_do(self):
        said = self.check("gymnasium:no_such_module:Nope-v0", status=3)
        self.assertIn(f"{sys.executable} has no module no_such_module: `{sys.executable} -m pip install no-such-module`", said)
        self.assertIn("pettingzoo is installed, pettingzoo.utils.env_log is not part of it; did you mean pettingzoo.utils.env_logger", self.check("pettingzoo:pettingzoo.utils.env_log", status=3))
        self.assertIn('is named with it: \\"gymnasium:PACKAGE:Own-v0\\"'.replace("\\", ""), self.check("gymnasium:Own-v0", status=3).replace("\\", ""))
        self.file("own.py", "import gymnasium\ngymnasium.register('Own-v0', entry_point='own:Own')\n")
        self.environment["PYTHONPATH"] += f":{self.root}"
        self.assertIn("own registers Own-v0", self.check("gymnasium:own:Nope-v0", status=3))

    def test_gymnasiums_own_mujoco_tasks(self):
        self.assertEqual(3, len(self.call("play", "gymnasium:Swimmer-v5", "--steps", 2, "--json").stdout.splitlines()))

    def test_gymnasiums_wrappers(self):
        self.file("halves.py", "import gymnasium\nclass Halves(gymnasium.ObservationWrapper):\n    def __init__(self, env, factor=0.5):\n        super().__init__(env)\n"
                  "        self.factor = factor\n    def observation(self, observation):\n        return observation * self.factor\n")
        self.environment["PYTHONPATH"] += f":{self.root}"
        first = lambda env: json.loads(self.call("play", env, "--steps", 1, "--json").stdout.splitlines()[0])["observation"]
        plain = first("gymnasium:CartPole-v1")
        np.testing.assert_allclose(np.array(plain) / 2, first("gymnasium:CartPole-v1?wrappers=halves:Halves"), rtol=1e-6)
        np.testing.assert_allclose(np.array(plain) * 6, first('gymnasium:CartPole-v1?wrappers=["FlattenObservation",["halves:Halves",{"factor":2}],["halves:Halves",{"factor":3}]]'), rtol=1e-6)
        self.assertIn("wrappers: gymnasium.wrappers has no Nope", self.check("gymnasium:CartPole-v1?wrappers=Nope", status=3))

    # --- check-env ---

    # Draws from the process's generator, never ends, has large rewards and actions without bounds; its reset writes a file.
    QUESTIONABLE = """
import os
import numpy as np
from myriad_client import Box, serve
class Env:
    def __init__(self, options):
        with open("MADE", "a") as file:
            file.write(f"made in {os.getpid()}\\n")
    def reset(self, seed=None):
        with open("MADE", "a") as file:
            file.write(f"reset in {os.getpid()}\\n")
        if seed is not None:
            np.random.seed(seed)
        return self.see(), {}
    def see(self):
        return np.random.uniform(-9, 9, 4)
    def step(self, action):
        return self.see(), 2e4, False, False, {}
serve(Env, Box(-10, 10, (4,)), Box(-np.inf, np.inf, (2,)))
"""

    def findings(self, env: str, *more: object, status: int = 0) -> dict[str, dict]:
        return {row["check"]: row for row in map(json.loads, self.call("check-env", env, *more, "--json", status=status).stdout.splitlines())}

    def test_check_env_notes_what_is_questionable(self):
        made = self.root / "made"
        env = self.simulator(text=self.QUESTIONABLE.replace("MADE", str(made)))
        found = self.findings(env, f"env_runners.sandbox_write={self.root}", "--quick")
        notes = {name: row["found"] + row["mend"] for name, row in found.items() if row["verdict"] != "ok"}
        self.assertEqual({"actions", "episodes", "rewards", "instances", "state"}, set(notes))
        self.assertIn("action[0] is within [-inf, inf], of which a policy begins with [-2, 2]", notes["actions"])
        self.assertIn("max_episode_steps", notes["episodes"])
        self.assertIn("up to 20000 a step", notes["rewards"])
        self.assertIn("random generator of the process (random, numpy.random)batches will depend on the split", notes["instances"])
        self.assertIn("4 features", found["policy"]["found"])
        # Two environments of a process are made before one of them is reset.
        words = [line.split(" in ") for line in made.read_text().splitlines()]
        pair = words[0][1]
        self.assertEqual(["made", "made", "reset"], [what for what, pid in words if pid == pair][:3])
        if landlock_abi() > 0:
            found = self.findings(env, "--quick", status=3)
            self.assertEqual(["facts", "policy", "actions", "reset", "skipped"], list(found))
            self.assertIn("Permission denied", found["reset"]["found"])

    def test_check_env_tells_one_failure_once(self):
        said = self.call("check-env", self.simulator("if self.t == 3: raise ValueError('no more fuel')"), "--quick", status=3)
        self.assertEqual(1, said.stdout.count("no more fuel"), said.stdout)
        self.assertEqual(1, said.stderr.count("Traceback"), said.stderr)
        self.assertRegex(said.stdout, "(?m)^note +skipped +bounds, episodes, ")

    def test_check_env_finds_resets_without_a_seed_and_keeps_to_its_time(self):
        text = COUNTER.replace("AT_STEP", "time.sleep(0.02)").replace("return [self.episode, 0, self.scale], {}", "return [int.from_bytes(os.urandom(2), 'big'), 0, self.scale], {}")
        found = self.findings(self.simulator(text=text), "--time-budget", 2, status=3)
        self.assertIn("the same seed and actions give another step 0 (after reset 1 in a row)", found["determinism"]["found"])
        self.assertIn("reset() has to seed", found["determinism"]["mend"])
        self.assertRegex(found["spaces"]["found"], r"^\d+ random steps stay inside \(of 10000; more with --time-budget\)$")
        self.assertIn("speed", found)

    # --- what goes wrong with them: the author's message ---

    # --- how they start and end ---

    def test_they_start_once_are_told_who_they_are_and_close(self):
        # Each process and environment leaves a line: of its start, what it was told, close(), its exit.
        notes = self.root / "notes"
        notes.mkdir()
        text = """
import atexit, multiprocessing, multiprocessing.shared_memory, os, signal, subprocess, sys, tempfile, time
from myriad_client import Box, Discrete, serve

def note(text):
    with open("NOTES/log", "a") as log:
        log.write(text + "\\n")

class Env:
    def __init__(self, options):
        time.sleep(0.4)  # longer for all than a start may take for one
        self.index = os.environ["MYRIAD_ENV_INDEX"]
        child = subprocess.Popen(["sleep", "NAP"], start_new_session=True)
        time.sleep(0.1)
        ignored = next(line for line in open(f"/proc/{child.pid}/status") if line.startswith("SigIgn"))
        note(f"made {self.index} runner {os.environ['MYRIAD_RUNNER']} run {len(os.environ['MYRIAD_RUN'])} threads {os.environ['OMP_NUM_THREADS']} {os.environ['MKL_NUM_THREADS']} ignored {int(ignored.split()[1], 16) & (1 << 14 | 2)}")
    def reset(self, seed=None):
        return [0.0], {}
    def step(self, action):
        return [0.0], 1.0, False, False, {}
    def close(self):
        note(f"closed {self.index}")

note("start")
atexit.register(note, "exit")
serve(Env, Box(-1, 1, (1,)), Discrete(2), max_episode_steps=10)
""".replace("NOTES", str(notes)).replace("NAP", self.nap)
        self.environment["OMP_NUM_THREADS"] = "3"
        self.environment.pop("MKL_NUM_THREADS", None)
        run = self.root / "run"
        self.train(run, "stop.training_iteration=2", f"env_runners.sandbox_write='{notes}'", "env_runners.start_timeout_s=2.5",
                   config=self.config_of(self.simulator(text=text), envs=6))
        said = (notes / "log").read_text().splitlines()
        self.assertEqual((3, 3), (said.count("start"), said.count("exit")), "one for the facts, and one a runner")
        self.assertEqual([f"made {i} runner {i // 6} run 16 threads 3 1 ignored 0" for i in range(12)],
                         sorted((line for line in said if line.startswith("made")), key=lambda line: int(line.split()[1])))
        self.assertEqual([f"closed {i}" for i in range(12)], sorted((line for line in said if line.startswith("closed")), key=lambda line: int(line.split()[1])))
        self.assertEqual([], self.sleepers())

    def test_what_a_killed_runner_leaves_goes_with_it(self):
        child = f"__import__('subprocess').Popen(['sleep', '{self.nap}'], start_new_session=True)"
        text = COUNTER.replace("self.scale, self.episode", child + "\n        self.scale, self.episode")
        driver, run = self.start_train(config=self.config_of(self.simulator(text=text), envs=1))
        before = set(self.sleepers())
        self.assertEqual(2, len(before))
        os.kill(self.runners()[0], signal.SIGKILL)
        self.wait_event(run, "runner-down", driver)
        self.wait_for(lambda: len(self.sleepers()) == 2 and set(self.sleepers()) != before, "the child of the next one alone", driver=driver)
        driver.kill()  # with all that is left
        self.assert_nothing_left()
        self.assertEqual([], self.sleepers())

    def test_temporary_files_and_shared_memory_are_a_runners_own(self):
        if landlock_abi() == 0:
            self.skipTest("the kernel has no Landlock")
        text = COUNTER.replace("self.scale, self.episode", """import multiprocessing, multiprocessing.shared_memory, tempfile
        with tempfile.TemporaryDirectory() as folder, open(folder + "/file", "w") as file:
            print("folder", tempfile.gettempdir(), file=sys.stderr)
        block = multiprocessing.shared_memory.SharedMemory(create=True, size=1000)
        block.close(), block.unlink()
        multiprocessing.Queue().put(1)
        with multiprocessing.Pool(1) as pool:
            pool.map(abs, [-1])
        self.scale, self.episode""")
        run = self.root / "run"
        result = self.call("train", self.config_of(self.simulator(text=text), envs=1), "--out", run, "stop.training_iteration=1", "evaluation.evaluate_at_end=true",
                           "evaluation.evaluation_duration=1")
        folders = re.findall(r"folder (\S+)", "".join(log.read_text() for log in (run / "logs").iterdir()))
        self.assertEqual(3, len(set(folders)), folders)  # of two runners and the evaluation
        self.assertNotIn(str(self.tmp), folders)
        self.assertIn("evaluation episodes", result.stdout)
        self.assert_nothing_left()

    def test_a_killed_agent_leaves_nothing(self):
        """One that has joined by TCP: no driver and no janitor on its machine tidies up after it."""
        child = f"__import__('subprocess').Popen(['sleep', '{self.nap}'], start_new_session=True)"
        text = COUNTER.replace("self.scale, self.episode", child + "\n        self.scale, self.episode")
        run = self.root / "run"
        driver = self.start("train", self.config_of(self.simulator(text=text), envs=1), "--out", run, 'network.bind="127.0.0.1"', 'hosts.launcher="none"')
        record = run / "run.json"
        join = self.wait_for(lambda: record.exists() and json.loads(record.read_text()).get("join"), "the command to join", driver=driver)
        before = set(self.tmp.iterdir())
        agent = self.start(*shlex.split(join)[1:])
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) >= 2, "two reports", driver=driver)
        self.assertTrue(self.sleepers())
        made = set(self.tmp.iterdir()) - before
        self.assertEqual(2, len(made), made)  # one a runner
        agent.kill()
        agent.wait()
        self.wait_for(lambda: not self.sleepers() and not self.processes(RUNNER), "the end of its runners and of what they started")
        self.wait_for(lambda: not any(folder.exists() for folder in made), f"the removal of {made}")
        self.interrupt(driver)

    def test_workers_of_a_simulator_end_by_their_signals(self):
        """serve() leaves SIGINT, SIGTERM and SIGHUP to Myriad; what it forks and starts has them as they were."""
        text = COUNTER.replace("self.scale, self.episode", """import multiprocessing, subprocess
        for number in (signal.SIGTERM, signal.SIGHUP):
            forked, started = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,)), subprocess.Popen(["sleep", "1000"])
            forked.start()
            os.kill(forked.pid, number), os.kill(started.pid, number)
            forked.join(), started.wait()
            assert (forked.exitcode, started.returncode) == (-number, -number)
        self.scale, self.episode""")
        self.assertIn("steps/s", self.check(self.simulator(text=text), "--quick"))

    def test_what_numpy_warns_of_is_a_finding_and_an_event(self):
        env = self.simulator("import numpy as np; np.float32(1e38) * np.float32(1e38); np.float32(self.t - 1) / np.float32(0)")
        place = r"\(simulator\.py:\d+\)"
        found = re.findall(r"^wrong .*", self.check(env, "--quick", status=3), re.M)
        self.assertEqual(3, len(found), found)  # once each, from two processes
        for what in ("overflow encountered in scalar multiply", "divide by zero encountered in scalar divide", "invalid value encountered in scalar divide"):
            self.assertEqual(1, sum(re.search(f"RuntimeWarning: {what} {place}$", line) is not None for line in found), found)
        run = self.root / "run"
        self.train(run, "stop.training_iteration=1", config=self.config_of(env))
        told = [e["text"] for e in json_lines(run / "events.jsonl") if e["kind"] == "env-warning"]
        self.assertRegex(told[0], f"RuntimeWarning: .* {place}")

    def test_what_the_sandbox_refused_is_named_with_the_setting(self):
        if landlock_abi() == 0:
            self.skipTest("the kernel has no Landlock")
        for refused, setting in ((f"open({str(self.root / 'new')!r}, 'w')", "env_runners.sandbox_write"), ("__import__('socket').socket()", "env_runners.sandbox_network")):
            env = self.simulator(text=COUNTER.replace("self.scale, self.episode", f"{refused}\n        self.scale, self.episode"))
            driver = self.call("train", self.config_of(env), "--out", self.root / setting, "fault_tolerance.max_failures_in_a_row=1", status=None)
            self.assertIn(setting, driver.stderr)

    def test_a_peer_that_is_away_is_waited_for(self):
        address = str(self.root / "s")
        script = self.file("server.py", COUNTER.replace("AT_STEP", "pass").replace('name="counter"', f'name="counter", listen="{address}"'))

        def serve() -> subprocess.Popen:
            return subprocess.Popen([sys.executable, script], env=self.environment, start_new_session=True)

        driver = self.start("train", self.config_of(f"connect:{address}"), "--out", self.root / "run", "stop.training_iteration=100000")
        self.assertIn("waiting for a simulator at", driver.stderr.readline())
        servers = [serve()]
        try:
            reports = lambda: len(json_lines(self.root / "run/results.jsonl"))
            self.wait_for(lambda: reports() >= 3, "three reports", driver=driver)
            os.killpg(servers[0].pid, signal.SIGKILL)
            servers[0].wait()
            # The other runner steps next, and finds it, when the round goes on.
            self.wait_for(lambda: "env-failure" in [e["kind"] for e in json_lines(self.root / "run/events.jsonl")], "a runner's failure", driver=driver)
            servers.append(serve())
            seen = reports()
            self.wait_for(lambda: reports() >= seen + 3, "three more reports", driver=driver)
            self.interrupt(driver)
        finally:
            for server in servers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()

    def test_an_environment_made_anew_has_as_long_as_a_start(self):
        """Far longer than a step may take: in the simulator's process, and in a new one."""
        text = COUNTER.replace("self.scale, self.episode", "os.path.exists('MARK') and time.sleep(7)\n        self.scale, self.episode")
        for name, end in (("raises", 'raise RuntimeError("slipped")'), ("ends", "os._exit(1)")):
            with self.subTest(end):
                notes = self.root / name
                notes.mkdir()
                once = f"if not os.path.exists('MARK'):\n            open('MARK', 'w').close()\n            {end}"
                env = self.simulator(once.replace("MARK", str(notes / "mark")), text.replace("MARK", str(notes / "mark")))
                run = self.root / f"run-{name}"
                self.train(run, "env_runners.step_timeout_s=5", f"env_runners.sandbox_write='{notes}'", "stop.training_iteration=4",
                           config=self.config_of(env, envs=1))
                kinds = [event["kind"] for event in json_lines(run / "events.jsonl")]
                self.assertIn("env-failure", kinds)
                self.assertEqual(set(), {"runner-down", "runner-hung"} & set(kinds))

    def test_a_start_that_hangs_is_named_with_the_setting(self):
        env = self.simulator(text=COUNTER.replace("self.scale, self.episode", "time.sleep(1000)\n        self.scale, self.episode"))
        driver = self.call("train", self.config_of(env), "--out", self.root / "run", "env_runners.start_timeout_s=5", "fault_tolerance.max_failures_in_a_row=1", status=None)
        logs = "".join(path.read_text() for path in self.root.glob("run/logs/*"))
        self.assertIn("it has made 0 of 2 environments; env_runners.start_timeout_s", driver.stderr + logs)

    def test_what_the_author_sees(self):
        cases = (
            ("if self.t == 3: os.kill(os.getpid(), signal.SIGSEGV)", "was ended by Segmentation fault"),
            ("if self.t == 3: os._exit(7)", "ended with exit status 7"),
            ("if self.t == 3: raise ValueError('no more fuel')", "says: ValueError: no more fuel (simulator-2.py:"),
            ("if self.t == 3: return [0, 0, 0], float('nan'), False, False, {}", "reward = nan"),
            ("if self.t == 3: return [0, float('nan'), 0], 1.0, False, False, {}", "= nan"),
            ("if self.t == 3: return [0, 2e6, 0], 1.0, False, False, {}", "outside [-1000000, 1000000]"),
        )
        started = []
        for i, (at_step, _) in enumerate(cases):  # side by side: each starts much and does little
            config = self.config_of(self.simulator(at_step, name=f"simulator-{i}"), name=f"{i}.toml")
            started.append(self.start("train", config, "--out", self.root / str(i), "fault_tolerance.max_failures_in_a_row=1"))
        for i, (at_step, said) in enumerate(cases):
            with self.subTest(at_step):
                driver = self.finish(started[i], status=None)
                self.assertNotEqual(0, driver.returncode)
                logs = "".join(path.read_text() for path in (self.root / str(i) / "logs").iterdir())
                self.assertIn(said, driver.stdout + driver.stderr + logs)

    def test_a_failure_costs_its_episode_and_no_more(self):
        # Of the episodes of an environment the fourth raises, the fifth is NaN, the sixth outside; then it is made anew. An
        # evaluation seeds each episode, which begins it once more: only every second one of the numbers is played.
        at_step = "if self.t == 2 and self.episode >= 3 + Env.bad % 3: Env.bad += 1; self.wrong = Env.bad % 3\n        if hasattr(self, 'wrong'): return self.fails()"
        fails = "bad = 0\n    def fails(self):\n        if self.wrong == 1: raise ValueError('no more fuel')\n" \
                "        return [0, float('nan') if self.wrong == 2 else 2e6, 0], 1.0, False, False, {}\n    def __init__"
        text = COUNTER.replace("def __init__", fails, 1).replace("self.t == 5, False, {}", "self.t == 5, False, {'t': self.t, 'is_success': self.t == 5}")
        run = self.root / "run"
        self.train(run, "stop.training_iteration=30", "evaluation.evaluate_at_end=true", "evaluation.evaluation_duration=20",
                   config=self.config_of(self.simulator(at_step, text=text)))
        rows = json_lines(run / "results.jsonl")
        last = rows[-1]
        self.assertEqual((30, 30 * 80, 0), (len(rows), last["num_env_steps_sampled_lifetime"], last["fault_tolerance"]["num_remote_worker_restarts"]))
        counts = {cause: sum(row["env_runners"]["num_env_failures"][cause] for row in rows) for cause in ("exception", "nan", "out_of_bounds", "simulator")}
        self.assertGreater(min(counts["exception"], counts["nan"], counts["out_of_bounds"]), 2)
        self.assertEqual(0, counts["simulator"])
        for row in rows:
            self.assertEqual(15.0, row["env_runners"]["episode_return_mean"])
            self.assertEqual((3.0, 3.0, 3.0, 5.0), tuple(row["env_runners"]["custom_metrics"][f"t_{part}"] for part in ("mean", "min", "max", "last_mean")))
            self.assertEqual(1.0, row["env_runners"]["custom_metrics"]["is_success_last_mean"])
        told = [event["text"] for event in json_lines(run / "events.jsonl") if event["kind"] == "env-failure"]
        self.assertTrue(any("says: ValueError: no more fuel (simulator.py:" in text for text in told), told)
        evaluated = self.call("evaluate", run, "--episodes", 100).stdout
        self.assertRegex(evaluated, r"return 15.00 .* without \d+ that failed")
        self.assertRegex(evaluated, "is_success 0.2, the last of each episode 1")

    def test_on_failure_end_ends_the_run_at_the_first(self):
        env = self.simulator("if self.t == 3: raise ValueError('no more fuel')")
        driver = self.call("train", self.config_of(env), "--out", self.root / "run", "environment.on_failure=end", status=3)
        self.assertIn("error[env-exception]", driver.stderr)
        self.assertIn("no more fuel", driver.stderr)

    def test_episodes_that_all_fail_late_end_the_run_saved(self):
        text = COUNTER.replace("self.t == 5", "False")
        env = self.simulator("if self.t == 25: raise ValueError('no more fuel')", text=text)
        driver = self.call("train", self.config_of(env), "--out", self.root / "run", "stop.training_iteration=100000", status=3)
        self.assertIn("error[episodes-failed]", driver.stderr)
        self.assertIn("no more fuel", driver.stderr)
        self.assertTrue(list((self.root / "run/checkpoints").iterdir()))

    def test_a_simulator_that_hangs_is_named(self):
        env = self.simulator("if self.t == 3: time.sleep(1000)")
        driver = self.call("train", self.config_of(env), "--out", self.root / "run", "env_runners.step_timeout_s=5", "fault_tolerance.max_failures_in_a_row=1", status=None)
        logs = "".join(path.read_text() for path in (self.root / "run/logs").iterdir())
        self.assertIn("gave no answer for 4 s", driver.stdout + driver.stderr + logs)

    def test_a_peer_that_is_no_simulator(self):
        for text, said in (
                ("import os; os.write(3, b'GET / HTTP/1.1\\r\\n\\r\\n')", "announces a message of"),
                ("import os, struct; os.write(3, struct.pack('<I', 40) + bytes(40))", "are no message of docs/protocol.md"),
                ("import os, time; time.sleep(0.1)", "ended with exit status 0"),
                (COUNTER.replace("import os", "from myriad_client import wire; wire.PROTOCOL = 9\nimport os", 1).replace("AT_STEP", "pass"), "speaks simulator protocol 9, this program 1"),
                (COUNTER.replace("Box(-1e6, 1e6, (3,))", "Box(1, -1, (3,))").replace("AT_STEP", "pass"), "has a low above its high"),
        ):
            with self.subTest(said):
                self.assertIn(said, self.check(self.simulator(text=text), status=3))

    def test_training_goes_on_when_simulators_crash(self):
        env = self.simulator("if (self.episode, self.t) == (40, 3): os.kill(os.getpid(), signal.SIGSEGV)")
        run = self.root / "run"
        self.train(run, "stop.training_iteration=60", config=self.config_of(env))
        rows = json_lines(run / "results.jsonl")
        self.assertEqual(60, len(rows))
        self.assertEqual(0, rows[-1]["fault_tolerance"]["num_remote_worker_restarts"])
        self.assertGreater(sum(row["env_runners"]["num_env_failures"]["simulator"] for row in rows), 0)
        self.assertEqual(60 * 80, rows[-1]["num_env_steps_sampled_lifetime"])
        self.assertEqual({15.0}, {row["env_runners"]["episode_return_mean"] for row in rows})


class Players(threading.Thread):
    """A client in a thread. Its episodes last 6 steps, with a reward of 1 each; `faults`: called before each step."""

    space = {"observation": Box(-10, 10, (2,)), "action": Discrete(2)}

    def __init__(self, address: str, fault=lambda client, episode, t: None, **more):
        super().__init__(daemon=True)
        self.address, self.fault, self.more = address, fault, more
        self.episodes, self.lost, self.given_up, self.error, self.stop = 0, 0, 0, None, False

    def run(self) -> None:
        try:
            with Client(self.address, **self.space, patience_s=2, **self.more) as client:
                while not self.stop:
                    try:
                        self.play(client)
                    except EpisodeLost:
                        self.given_up += 1
        except Exception as error:  # the run is over, or the test looks at it
            self.error = error

    def play(self, client: Client) -> None:
        episode = self.episodes + self.lost
        self.lost += 1
        assert client.begin([0, 0]) in (0, 1)
        for t in range(1, 6):
            self.fault(client, episode, t)
            assert client.act([0, t], 0.5) in (0, 1)
            client.log_reward(0.5)
        client.end([0, 6], 0.5 + 0.5)  # six steps: the half of the first, five wholes, and a half
        self.lost -= 1
        self.episodes += 1


class Page(Spawning):
    def test_howto_as_it_is_written(self):
        """Blocks that begin with a file's name are files; the others are for the shell."""
        prefix = self.root / "prefix"
        subprocess.run([sys.executable, ROOT / "scripts/install_sdk.py", prefix], check=True, capture_output=True)
        bin_folder = self.root / "bin"
        bin_folder.mkdir()
        (bin_folder / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')  # a link would not be of the virtual environment
        (bin_folder / "python3").chmod(0o755)
        environment = self.environment | {"S": str(prefix), "PATH": f"{bin_folder}:{run_test.BUILD / 'apps'}:{os.environ['PATH']}",
                                          "PYTHONPATH": str(prefix / "share/myriad/python")}
        blocks = re.findall(r"```(sh|python|cpp|toml)\n(.*?)```", (ROOT / "docs/howto-external.md").read_text(), re.S)
        for _, text in blocks:
            if name := re.match(r"(?:#|//) ([\w.-]+)\n", text):
                self.file(name[1], text)
        for kind, text in blocks:
            if kind == "sh":
                result = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=self.root, env=environment, stdin=subprocess.DEVNULL,
                                        capture_output=True, text=True, timeout=200)
                self.assertEqual(0, result.returncode, f"{text}\n{result.stdout}{result.stderr}")
        for run in ("walk", "walk-cpp", "game"):
            self.assertGreaterEqual(json_lines(self.root / run / "results.jsonl")[-1]["env_runners"]["episode_return_mean"], 0.95, run)


class Clients(Spawning):
    FILE = "observation = {shape = [2], low = -10, high = 10}\naction = {n = 2}\n"

    def run_of_clients(self, *overrides: str, more: str = "", runners: int = 2) -> tuple[subprocess.Popen, pathlib.Path, str]:
        """A run that waits for clients, and where."""
        self.file("game.toml", f"{self.FILE}bind = '{self.root}/door'\nport = 0\n{more}")
        text = self.config_of(f"clients:{self.root}/game.toml", envs=1).read_text()
        config = self.file("clients.toml", text.replace("num_env_runners = 2", f"num_env_runners = {runners}").replace("train_batch_size = 40", f"train_batch_size = {20 * runners}"))
        run = self.root / "run"
        driver = self.start("train", config, "--out", run, *overrides)
        self.wait_for(lambda: (self.root / "door").exists(), "the door", driver=driver)
        return driver, run, f"{self.root}/door"

    def returns(self, run: pathlib.Path) -> set[float]:
        return {row["env_runners"]["episode_return_mean"] for row in json_lines(run / "results.jsonl")} - {None}

    def events(self, run: pathlib.Path) -> str:
        return "\n".join(e["text"] for e in json_lines(run / "events.jsonl") if e["kind"] == "clients")

    def play_to_the_end(self, driver, *players: Players) -> None:
        for player in players:
            player.start()
        self.finish(driver)
        for player in players:
            player.stop = True
            player.join(30)

    def test_clients_at_their_own_pace(self):
        driver, run, door = self.run_of_clients("stop.training_iteration=20")
        slow = Players(door, lambda client, episode, t: time.sleep(0.001))  # a game has its own clock
        fast = Players(door)
        self.play_to_the_end(driver, slow, fast)
        self.assertEqual({6.0}, self.returns(run))
        self.assertEqual(20 * 40, json_lines(run / "results.jsonl")[-1]["num_env_steps_sampled_lifetime"])
        self.assertEqual(2, self.events(run).count("is with runner"))

    def test_a_client_that_falls_silent_loses_its_place(self):
        silent, may_speak = threading.Event(), threading.Event()

        def fault(client, episode, t):
            if episode == 3 and not silent.is_set():
                silent.set()
                may_speak.wait(60)
        driver, run, door = self.run_of_clients("stop.training_iteration=20", more="reconnect_s = 30\nsilence_s = 1.0\n", runners=1)
        first, second = Players(door, fault), Players(door)
        first.start()
        self.assertTrue(silent.wait(30))
        second.start()
        self.wait_for(lambda: self.events(run).count("is with runner") == 2, "the second in its place", driver=driver)
        may_speak.set()
        first.join(30)
        self.assertIn("[silent] it said nothing for 1 s amid an episode", str(first.error))
        self.assertRegex(self.events(run), r"its episode \d+ was cut after \d+ steps \(runner 0\): it said nothing for 1 s amid an episode")
        self.finish(driver)
        self.assertEqual({6.0}, self.returns(run))

    def test_a_run_whose_clients_are_gone_is_told_to_end_and_saves(self):
        driver, run, door = self.run_of_clients(more="reconnect_s = 0.2\n", runners=1)
        player = Players(door)
        player.start()
        self.wait_reports(run, 2, driver)
        player.stop = True
        player.join(30)
        self.wait_for(lambda: f"clients 0/1: runner 0 waits at {door}" in self.events(run), "what is missing", driver=driver)
        self.interrupt(driver, signal.SIGTERM)
        self.assertEqual(len(json_lines(run / "results.jsonl")), int(self.checkpoints(run)[-1].name))

    def test_a_client_that_acts_itself_takes_no_masked_action(self):
        """Of three actions one can be taken, another at each step; a step is worth 1."""
        class Acting(Players):
            space = {"observation": Dict({"action_mask": MultiBinary(3), "observation": Box(-10, 10, (2,))}), "action": Discrete(3)}
            see = staticmethod(lambda t: {"action_mask": [t % 3 == i for i in range(3)], "observation": [0, t]})

            def play(self, client):
                action = client.begin(self.see(0))
                for t in range(1, 6):
                    assert action == (t - 1) % 3, f"{action} at {t - 1}"
                    try:
                        client.act(self.see(t), 100.0, action=(t + 1) % 3)
                        raise AssertionError("a masked action was taken")
                    except ValueError:
                        pass  # and nothing was said
                    action = client.act(self.see(t), 1.0, action=t % 3) if t == 3 else client.act(self.see(t), 1.0)
                client.end(self.see(6), 1.0)
        self.FILE = "observation = {action_mask = {binary = 3}, observation = {shape = [2], low = -10, high = 10}}\naction = {n = 3}\n"

        class Cheating(Acting):
            def play(self, client):
                client._refuse_action = lambda *_: None
                client.begin(self.see(0), action=1)
                while True:
                    client.act(self.see(1), 1.0)
        driver, run, door = self.run_of_clients("stop.training_iteration=5")
        cheat = Cheating(door, acts=True)
        cheat.start()
        cheat.join(30)
        self.assertIn("[bad-message] action[0] = 1 is masked", str(cheat.error))
        self.wait_for(lambda: "was cut after 0 steps" in self.events(run), "the cheat's place is free again", driver=driver)
        players = Acting(door, acts=True), Acting(door, acts=True)
        self.play_to_the_end(driver, *players)
        self.assertEqual({6.0}, self.returns(run))
        self.assertNotIn(AssertionError, [type(player.error) for player in players])

    def test_a_client_that_acts_itself_is_learned_from(self):
        """A step is worth 1 when its action was 1. What the runner would have done is worth nothing: it is never asked."""
        class Acting(Players):
            def play(self, client):
                action = client.begin([0, 0])
                for t in range(1, 6):
                    action = client.act([0, t], float(action))
                client.end([0, 6], float(action))
        driver, run, door = self.run_of_clients("stop.training_iteration=400", "stop.episode_return_mean=5.7", "training.lr=0.01")
        players = [Acting(door, acts=True, seed=seed) for seed in (1, 2)]
        self.play_to_the_end(driver, *players)
        returns = [row["env_runners"]["episode_return_mean"] for row in json_lines(run / "results.jsonl")]
        self.assertLess(returns[2], 4.5)  # 3 by chance
        self.assertGreater(returns[-1], 5.5)
        for player in players:
            self.assertIsInstance(player.error, (ConnectionError, type(None)))  # the run is over

    def test_clients_with_a_dict_of_actions(self):
        """A step is worth 1 where it aimed above 0 and pressed the first key alone; one client acts, the other is told."""
        class Player(Players):
            space = {"observation": Box(-10, 10, (2,)), "action": Dict({"aim": Box(-2, 2, (1,)), "keys": MultiBinary(2)})}

            def play(self, client):
                worth = lambda action: float(action["aim"][0] > 0 and action["keys"].tolist() == [1, 0])
                action = client.begin([0, 0])
                for t in range(1, 6):
                    action = client.act([0, t], worth(action))
                client.end([0, 6], worth(action))
        self.FILE = "observation = {shape = [2], low = -10, high = 10}\naction = {aim = {shape = [1], low = -2, high = 2}, keys = {binary = 2}}\n"
        driver, run, door = self.run_of_clients("stop.training_iteration=600", "stop.episode_return_mean=5.5", "training.lr=0.003", "training.grad_clip=0.5")
        self.play_to_the_end(driver, Player(door, acts=True, seed=1), Player(door))
        returns = [row["env_runners"]["episode_return_mean"] for row in json_lines(run / "results.jsonl")]
        self.assertLess(returns[2], 3)  # 0.75 by chance
        self.assertGreater(returns[-1], 5.3)

        class Liar(Players):
            space = Player.space

            def play(self, client):
                client.begin([0, 0])
                client._did = (struct.pack("<fii", *self.more_said), *client._did[1:])
                for t in range(1, 1_000_000):  # goes on until it is told
                    client.act([0, min(t, 9)], 1.0)
                    time.sleep(0.001)
        shutil.rmtree(run)
        driver, run, door = self.run_of_clients("stop.training_iteration=2", runners=1)
        for said, wrong in (((0, 1, 2), "its action.keys[1] = 2 outside [0, 2)"), ((float("nan"), 1, 0), "its action.aim is not finite")):
            liar = Liar(door, acts=True)
            liar.more_said = said
            liar.start()
            liar.join(30)
            self.assertIn(f"[bad-message] {wrong}", str(liar.error))
        self.play_to_the_end(driver, Player(door, acts=True, seed=1))

    def test_a_client_that_acts_itself_explores_by_the_epsilon_of_its_weights(self):
        """Actions come from Q-values that know nothing: with epsilon 1 either one, with 0 always the same one."""
        class Acting(Players):
            def play(self, client):
                before = client.policy.version if client.policy else 0
                actions = [client.begin([0, 0])] + [client.act([0, 0], 0.0) for _ in range(5)]
                client.end([0, 0], 0.0)
                chosen.append((before, client.policy.version, actions))  # weights may come amid an episode
        chosen = []
        driver, run, door = self.run_of_clients("algorithm='PQN'", "training.minibatch_size=20", "stop.training_iteration=40", "training.lr=0.0",
                                                "training.epsilon=[[0, 1.0], [399, 1.0], [400, 0.0]]", runners=1)
        self.play_to_the_end(driver, Acting(door, acts=True, seed=1))
        random = [action for _, after, actions in chosen if after < 18 for action in actions]
        greedy = [action for before, _, actions in chosen if before > 21 for action in actions]
        self.assertGreater(min(np.bincount(random, minlength=2)), 0.3 * len(random))
        self.assertEqual(1, len(set(greedy)))

    def test_a_client_may_act_without_the_policy_and_what_it_says_is_checked(self):
        class Scripted(Players):
            def play(self, client):
                for t in range(6):
                    assert (client.act([0, t], 1.0, 1) if t else client.begin([0, 0], 1)) == 1
                client.end([0, 6], 1.0)
                self.episodes += 1
        class Liar(Scripted):
            def play(self, client):
                client.begin([0, 0])
                client._did = (struct.pack("<i", 7), *client._did[1:]) if self.episodes % 2 else (client._did[0], np.full(2, np.nan, np.float32), -1)
                self.episodes += 1
                for t in range(1, 1_000_000):  # goes on until it is told
                    client.act([0, min(t, 9)], 1.0)
                    time.sleep(0.001)
        driver, run, door = self.run_of_clients("stop.training_iteration=20", more="reconnect_s = 0.2\n")
        liar = Liar(door, acts=True)
        players = [Scripted(door, acts=True), liar]
        for player in players:
            player.start()
        said = set()
        while len(said) < 2 and driver.poll() is None:
            liar.join(30)
            self.assertIn("[bad-message] its action", str(liar.error))
            said.add("action_dist_inputs" in str(liar.error))
            liar, kept = Liar(door, acts=True), liar.episodes
            liar.episodes = kept
            liar.start()
        self.assertEqual({False, True}, said)
        last = Scripted(door, acts=True)
        last.start()
        self.finish(driver)
        for player in (*players, liar, last):
            player.stop = True
            player.join(30)
        self.assertEqual({6.0}, self.returns(run))

    def test_a_connection_that_breaks_costs_nothing(self):
        def cut(client, episode, t):
            if episode % 3 == 1 and t == 3:
                client._connection.sock.shutdown(socket.SHUT_RDWR)
        driver, run, door = self.run_of_clients("stop.training_iteration=20")
        players = Players(door, cut), Players(door, cut)
        self.play_to_the_end(driver, *players)
        self.assertEqual({6.0}, self.returns(run))  # a step more or less would be seen
        self.assertEqual(0, self.events(run).count("was cut"))
        self.assertGreater(sum(p.episodes for p in players), 20)

    def test_a_client_that_does_not_come_back_loses_its_episode_alone(self):
        def leave(client, episode, t):
            if episode == 4 and t == 3:
                raise RuntimeError("power cut")
        driver, run, door = self.run_of_clients("stop.training_iteration=30", more="reconnect_s = 0.2\n")
        gone, stays = Players(door, leave), Players(door)
        gone.start(), stays.start()
        gone.join(60)
        self.assertEqual("power cut", str(gone.error))
        again = Players(door)  # takes its place
        self.play_to_the_end(driver, again)
        stays.stop = True
        stays.join(30)
        self.assertEqual({6.0}, self.returns(run))
        self.assertIn("its episode 4 was cut after 2 steps", self.events(run))

    def test_a_time_limit_cuts_an_endless_episode_unseen(self):
        driver, run, door = self.run_of_clients("stop.training_iteration=10", more="max_episode_steps = 4\n")
        class Endless(Players):
            def play(self, client):
                client.begin([0, 0])
                while not self.stop:
                    client.act([0, 1], 1.0)
        self.play_to_the_end(driver, Endless(door), Endless(door))
        self.assertEqual({4.0}, self.returns(run))

    def test_who_is_refused_is_told_why(self):
        driver, run, door = self.run_of_clients(more="token = 'correct horse battery'\nreconnect_s = 0.2\n", runners=2)
        for more, said in (
                ({"token": "wrong"}, "[bad-token]"),
                ({"token": "correct horse battery", "action": Discrete(3)}, "[wrong-space] your action space is Discrete(3), this run's is Discrete(2)"),
        ):
            with self.subTest(said), self.assertRaises(Refused) as caught:
                Client(door, **({"observation": Box(-10, 10, (2,)), "action": Discrete(2)} | more))
            self.assertIn(said, str(caught.exception))
        for hello, said in (
                (b"GET / HTTP/1.1\r\n\r\n", "[bad-message] a Hello of"),
                (struct.pack("<I", 64) + os.urandom(64), "[bad-message] what came first is no Hello"),
                (self.other_version(), "[version-skew] you speak protocol 9, this run 1"),
        ):
            with self.subTest(said), socket.socket(socket.AF_UNIX) as sock, self.assertRaises(Refused) as caught:
                sock.connect(door)
                sock.sendall(hello)
                wire.Connection(sock).receive()
            self.assertIn(said, str(caught.exception))
        players = [Players(door, token="correct horse battery") for _ in range(2)]
        for player in players:
            player.start()
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) > 3, "training after all that", driver=driver)
        with self.assertRaises(Refused) as caught:
            Client(door, observation=Box(-10, 10, (2,)), action=Discrete(2), token="correct horse battery")
        self.assertIn("[no-place] all 2 env runners here have their client", str(caught.exception))
        self.interrupt(driver)

    def other_version(self) -> bytes:
        client = Client.__new__(Client)
        client._hello, client._session, client.acts = (Box(-10, 10, (2,)), Discrete(2), "", "old"), b"", False
        kept, wire.PROTOCOL = wire.PROTOCOL, 9
        try:
            return client._hello_frame()
        finally:
            wire.PROTOCOL = kept

    def test_a_flood_disturbs_nobody(self):
        driver, run, door = self.run_of_clients("stop.training_iteration=40")
        players = Players(door), Players(door)
        for player in players:
            player.start()
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) > 2, "training", driver=driver)
        socks = []
        while driver.poll() is None:  # as many as it likes to hold, and more
            for _ in range(50):
                sock = socket.socket(socket.AF_UNIX)
                with contextlib.suppress(OSError):
                    sock.setblocking(False)
                    sock.connect(door)
                    sock.send(os.urandom(200))
                socks.append(sock)
            while len(socks) > 400:
                socks.pop(0).close()
        for sock in socks:
            sock.close()
        for player in players:
            player.stop = True
        self.finish(driver)
        for player in players:
            player.join(30)
        self.assertEqual({6.0}, self.returns(run))
        self.assertIn("was refused [bad-message]", self.events(run))

    def test_garbage_in_the_middle_costs_the_episode(self):
        def garbage(client, episode, t):
            if episode == 2 and t == 3:
                client._connection.send(struct.pack("<I", 8) + b"12345678")
        driver, run, door = self.run_of_clients("stop.training_iteration=20", more="reconnect_s = 0.2\n")
        class Again(Players):
            """A program that is refused is started again."""
            def run(self):
                super().run()
                if isinstance(self.error, Refused):
                    self.episodes, self.lost, self.fault = 0, 0, lambda client, episode, t: None
                    super().run()
        self.play_to_the_end(driver, Again(door, garbage), Players(door))
        self.assertEqual({6.0}, self.returns(run))

    def test_a_runner_that_dies_takes_no_other_client_with_it(self):
        driver, run, door = self.run_of_clients("stop.training_iteration=60")
        players = Players(door), Players(door)
        for player in players:
            player.start()
        self.wait_for(lambda: len(json_lines(run / "results.jsonl")) > 2, "training", driver=driver)
        os.kill(next(iter(self.processes(run_test.RUNNER))), signal.SIGKILL)
        self.finish(driver)
        for player in players:
            player.stop = True
            player.join(30)
        self.assertEqual({6.0}, self.returns(run))
        self.assertLessEqual(sum(player.given_up for player in players), 1)
        self.assertEqual(60, len(json_lines(run / "results.jsonl")))

    def test_beyond_loopback_a_token_is_wanted(self):
        self.file("open.toml", f"{self.FILE}bind = '0.0.0.0'\nport = 7000\n")
        said = self.call("train", self.config_of(f"clients:{self.root}/open.toml", envs=1), "--out", self.root / "run", status=2).stderr
        self.assertIn("beyond loopback clients need a token of 16 characters or more", said)

    def test_settings_that_clients_cannot_have(self):
        self.file("game.toml", f"{self.FILE}port = 0\n")
        env = f"clients:{self.root}/game.toml"
        self.assertIn("num_envs_per_env_runner = 1", self.call("train", self.config_of(env, envs=2), "--out", self.root / "a", status=2).stderr)
        self.assertIn("evaluate_at_end = false", self.call("train", self.config_of(env, envs=1), "--out", self.root / "b", "evaluation.evaluate_at_end=true", status=2).stderr)
        self.file("game.toml", f"{self.FILE}prot = 0\n")
        self.assertIn("did you mean port?", self.call("train", self.config_of(env, envs=1), "--out", self.root / "c", status=2).stderr)


if __name__ == "__main__":
    sys.exit(run_test.main(sys.modules[__name__]))
