"""The Python package: PettingZoo's environments, and policies without a connection: `python_sdk_test.py BUILD [CASE ...]`."""
import concurrent.futures
import contextlib
import io
import itertools
import json
import math
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "sdk/python")]
import flatbuffers  # noqa: E402
import numpy as np  # noqa: E402
import run_test  # noqa: E402
from gymnasium import spaces as box  # noqa: E402
from myriad_client import protocol_generated as p  # noqa: E402
from myriad_client import simulator, wire  # noqa: E402
from myriad_client import Box, Client, Dict, Discrete, EpisodeLost, MultiBinary, MultiDiscrete, Policy, Tuple  # noqa: E402
from myriad_client.pettingzoo import World, agents_of  # noqa: E402
from myriad_client.gymnasium import as_sampled, mask_row  # noqa: E402
from myriad_client.policy import features, layer_of  # noqa: E402
from myriad_client.spaces import Codec, values_of  # noqa: E402
from run_test import Case, json_lines  # noqa: E402

# Agents a, b, c see [episode, t, 1 | 2 | 3] and get 1 | 2 | 3 a step. `early`: a and b end two steps and one before c, whom
# the time limit ends.
TEAM = """
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

class parallel_env(ParallelEnv):
    metadata = {"name": "team", "is_parallelizable": True}
    render_mode = None
    def __init__(self, length=4, early=True):
        self.length, self.early, self.episode, self.possible_agents = length, early, -1, ["a", "b", "c"]
    def observation_space(self, agent):
        return Box(-1e6, 1e6, (3,))
    def action_space(self, agent):
        return Discrete(2 SPACE)
    def see(self, agents):
        return {a: [self.episode, self.t, 1 + self.possible_agents.index(a)] for a in agents}
    def reset(self, seed=None, options=None):
        self.episode, self.t, self.agents = self.episode + 1, 0, list(self.possible_agents)
        return self.see(self.agents), {a: {} for a in self.agents}
    def step(self, actions):
        assert list(actions) == self.agents, f"{list(actions)} act, {self.agents} play"
        self.t, playing = self.t + 1, self.agents
        ended = {a: self.early and a != "c" and self.t >= self.length - 2 + self.possible_agents.index(a) for a in playing}
        late = {a: self.t >= self.length and not ended[a] for a in playing}
        self.agents = [a for a in playing if not ended[a] and not late[a]]
        return self.see(playing), {a: 1 + self.possible_agents.index(a) for a in playing}, ended, late, {a: {} for a in playing}
"""
AEC = """
import team
from pettingzoo.utils.conversions import parallel_to_aec_wrapper
def env(**options):
    return parallel_to_aec_wrapper(team.parallel_env(**options))
"""
CONFIG = """
algorithm = "PPO"
seed = 3
[environment]
env = ENV
[env_runners]
num_env_runners = 2
num_envs_per_env_runner = 6
rollout_fragment_length = 20
[training]
lr = 3e-3
train_batch_size = 240
minibatch_size = 60
num_epochs = 4
[learners]
num_threads = 1
[rl_module]
fcnet_hiddens = [16, 12]
[evaluation]
evaluate_at_end = false
[reporting]
metrics_num_episodes_for_smoothing = 99
"""
# A simulator that writes down what it is asked to do: [observation, action], a line each.
RECORDER = """
import json, os
import gymnasium, numpy as np
from myriad_client import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, serve
from myriad_client.gymnasium import space_of

def plain(x):
    return {k: plain(v) for k, v in x.items()} if isinstance(x, dict) else [plain(v) for v in x] if isinstance(x, tuple) else np.asarray(x).tolist()

def total(x):
    return sum(map(total, x.values() if isinstance(x, dict) else x)) if isinstance(x, (dict, tuple)) else float(np.sum(x))

class Recorder:
    def __init__(self, env):
        self.env, self.file = env, open(os.environ["RECORD"], "a") if "RECORD" in os.environ else None
    def reset(self, seed=None):
        self.seen, info = self.env.reset(seed=seed)
        return self.seen, info
    def step(self, action):
        if self.file:
            print(json.dumps([plain(self.seen), plain(action)]), file=self.file, flush=True)
        self.seen, *rest = self.env.step(action)
        return self.seen, *rest
"""
# Gymnasium's, with every kind of part. One joint action in each of three contexts is worth 1. What arrives must be as
# action_space.sample() gives it. Masked: info says which, in the form of sample(mask=...), and what it forbids is an error.
PADS = """
import gymnasium, numpy as np
from gymnasium import spaces

class Gamepad(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (3,))
    action_space = spaces.Dict({"move": spaces.Discrete(3, start=5), "aim": spaces.Box(np.float32([[-2], [0]]), np.float32([[4], [1]])), "keys": spaces.MultiBinary((1, 2)),
                                "more": spaces.Tuple([spaces.MultiDiscrete([[2], [3]]), spaces.Box(0, 1, (), np.float64), spaces.Box(-1, 1, (1,), np.int8)])})
    def __init__(self, masked=False):
        self.masked = masked
    def see(self):
        self.context = int(self.np_random.integers(3))
        observation = np.eye(3, dtype=np.float32)[self.context]
        if not self.masked:
            return observation, {}
        move, keys, pair = np.ones(3, np.int8), self.np_random.integers(0, 3, (1, 2), np.int8), self.np_random.integers(0, 2, 3, np.int8)
        move[self.np_random.integers(3)] = 0
        pair[self.np_random.integers(3)] = 1
        self.mask = {"aim": None, "keys": keys, "more": (((np.ones(2, np.int8),), (pair,)), None, None), "move": move}
        return observation, {"action_mask": self.mask}
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.see()
    def step(self, action):
        assert list(action) == ["aim", "keys", "more", "move"] and type(action["more"]) is tuple, action
        aim, keys, (pair, level, whole), move = action.values()
        assert type(move) is np.int64 and all(type(x) is np.ndarray for x in (aim, keys, pair, level, whole)), action
        assert [x.dtype.name for x in (aim, keys, pair, level, whole)] == ["float32", "int8", "int64", "float64", "int8"], action
        assert [x.shape for x in (aim, keys, pair, level, whole)] == [(2, 1), (1, 2), (2, 1), (), (1,)], action
        assert self.action_space.contains(action), action
        if self.masked:
            assert self.mask["move"][move - 5] and self.mask["more"][0][1][0][pair[1, 0]], action
            assert all(m in (2, key) for m, key in zip(self.mask["keys"].flat, keys.flat)), action
        right = move == 5 + self.context and keys.tolist() == [[1, 0]] and pair[1, 0] == self.context and aim[0, 0] > 0 and level < 0.5 and whole[0] >= 0
        observation, info = self.see()
        return observation, float(right), False, False, info

gymnasium.register("Gamepad-v0", entry_point=Gamepad, max_episode_steps=10)
"""
GYMNASIUM = RECORDER + """
probe = gymnasium.make("ID")
serve(lambda options: Recorder(gymnasium.make("ID")), space_of(probe.observation_space), space_of(probe.action_space))
"""
# Random observations of this space; the reward is the sum of the actions' elements.
MADE_UP = RECORDER + """
observation = Dict({"sensors": Box(-2, 3, (2, 2), "float64"), "more": Tuple([Discrete(3, -1), MultiDiscrete([2, 4]), MultiBinary(2)]), "eye": Box(0, 255, (3,), "uint8")})
class Env:
    def reset(self, seed=None):
        self.random = np.random.default_rng(seed) if seed is not None else self.random
        self.t = 0
        return self.see(), {}
    def see(self):
        r = self.random
        return {"sensors": r.uniform(-2, 3, (2, 2)), "more": (int(r.integers(-1, 2)), r.integers(0, [2, 4]), r.integers(0, 2, 2)), "eye": r.integers(0, 256, 3)}
    def step(self, action):
        self.t += 1
        return self.see(), total(action), False, self.t == 20, {}
serve(lambda options: Recorder(Env()), observation, ACTION)
"""


PAD = 'Dict({"aim": Box(-1, [[2], [3]], (2, 1)), "keys": MultiBinary(2), "more": Tuple([Discrete(3, -4), Box(0, 1, (1,), "float64")]), "move": MultiDiscrete([2, 3])})'
# Offers of which `allowed` can be taken; the reward is what the taken one is worth. It throws where one cannot be taken.
MASKED = RECORDER + """
action, groups = ACTION
observation = Dict(OBSERVATION)
class Env:
    def reset(self, seed=None):
        self.random = np.random.default_rng(seed) if seed is not None else self.random
        self.t = 0
        return self.see(), {}
    def see(self):
        self.mask = [m for n in groups for m in self.random.permutation([1] * min(ALLOWED, n) + [0] * (n - ALLOWED))]
        self.offers = self.random.uniform(0, 1, sum(groups))
        return {"action_mask": self.mask, "observation": self.offers}
    def step(self, action):
        choices = [at + int(a) for at, a in zip(np.cumsum([0, *groups[:-1]]), np.atleast_1d(action - START))]
        assert all(self.mask[c] for c in choices), f"{action} is masked"
        self.t += 1
        return self.see(), float(sum(self.offers[c] for c in choices)), False, self.t == 20, {}
serve(lambda options: Recorder(Env()), observation, action)
"""


class Package(Case):
    def setUp(self) -> None:
        super().setUp()
        self.environment |= {"MYRIAD_PYTHON": sys.executable}
        self.file("team.py", TEAM.replace(" SPACE", ""))

    def config_of(self, env: str) -> pathlib.Path:
        return self.file("config.toml", CONFIG.replace("ENV", json.dumps(env), 1))


class PettingZoo(Package):
    def team(self, **options):
        scope = {}
        exec(TEAM.replace(" SPACE", ""), scope)
        return scope["parallel_env"](**options)

    def test_world_tells_each_end_in_its_step(self):
        world = World(self.team())
        self.assertEqual([[0, 0, 1], [0, 0, 2], [0, 0, 3]], world.reset())
        seen, rewards, *ends = zip(*(world.step([0, 0, 0]) for _ in range(4)))
        self.assertEqual(([[0, 2, 1], [0, 2, 2], [0, 2, 3]], [None, [0, 3, 2], [0, 3, 3]], [None, None, [0, 4, 3]]), seen[1:])
        self.assertEqual(([1, 2, 3], [1, 2, 3], [0, 2, 3], [0, 0, 3]), rewards)
        no = [False] * 3
        self.assertEqual([(no, [True, False, False], [False, True, False], no), (no, no, no, [False, False, True])], ends)
        self.assertEqual([[1, 0, 1], [1, 0, 2], [1, 0, 3]], world.reset())

    # Of agents a, b, c: at each step who is in `agents` after it, and what is returned besides its observations [t].
    def played(self, *steps: tuple, begin: str = "abc"):
        class Env:
            possible_agents = list("abc")
            def action_space(self, agent):
                return box.Discrete(2)
            def reset(self, seed=None):
                self.t, self.agents = 0, list(begin)
                return {a: [0] for a in begin}, {}
            def step(self, actions):
                assert sorted(actions) == sorted(self.agents)
                agents, seen, rewards, terminations, truncations = steps[self.t]
                self.t, self.agents = self.t + 1, list(agents)
                plain = lambda x: x if isinstance(x, dict) else dict.fromkeys(x, True) | dict.fromkeys(set(seen) - set(x), False)
                return {a: [self.t] for a in seen}, rewards, plain(terminations), plain(truncations), {}
        world = World(Env())
        return [world.reset()] + [world.step([0] * 3) for _ in steps]

    def test_agents_come_late_and_back_and_all_end(self):
        one = dict.fromkeys("abc", 1)
        first, *steps = self.played(
            ("ac", "abc", one | {"c": 5}, "b", ""),  # b ends, c comes
            ("ac", "ac", one | {"b": 0}, {"__all__": False}, {"__all__": False}),
            ("abc", "abc", {"a": 1, "b": 0, "c": 1}, "", ""),  # b is back
            ("abc", "abc", one, {"__all__": False}, {"__all__": True, "a": False}), begin="ab")
        self.assertEqual([[0], [0], None], first)
        self.assertEqual([[[1], [1], [1]], [[2], None, [2]], [[3], [3], [3]], [[4], [4], [4]]], [step[0] for step in steps])
        self.assertEqual([[1, 1, 0], [1, 0, 6], [1, 0, 1], [1, 1, 1]], [step[1] for step in steps])  # c's 5 come with its first step
        no = [False] * 3
        self.assertEqual([[False, True, False], no, no, no], [step[2] for step in steps])
        self.assertEqual([no, no, no, [True] * 3], [step[3] for step in steps])

    def test_what_is_missing_or_misspelt_is_named(self):
        one = dict.fromkeys("abc", 1)
        for step, said in (
                (("abc", "abc", {"a": 1, "c": 1}, "", ""), "rewards of step 1 have nothing for 'b', which plays; they have 'a', 'c'"),
                (("abc", "ac", one, "", ""), "observations of step 1 have nothing for 'b'"),
                (("abc", "abc", one, {"a": False, "b": False}, ""), "terminations of step 1 have nothing for 'c'"),
                (("abc", "abc", one | {"bb": 1}, "", ""), r"rewards of step 1 name 'bb', which is not in possible_agents \('a', 'b', 'c'\); did you mean 'b'\?"),
                (("abd", "abc", one, "c", ""), "agents of step 1 name 'd'"),
                (("abc", "abc", one | {"__all__": 1}, "", ""), "rewards of step 1 name '__all__'"),
                (("ab", "abc", one, "", ""), "'c' is no longer in `agents` after step 1, and neither terminations nor truncations say"),
        ):
            with self.subTest(said), self.assertRaisesRegex(ValueError, said):
                self.played(step)
        with self.assertRaisesRegex(ValueError, "'c' has a reward of 1 in step 2, in which it does not play"):
            self.played(("ab", "abc", one, "c", ""), ("ab", "ab", one, "", ""))
        world = World(self.team())
        world.env.reset = lambda seed=None: {"a": [0], "b": [0], "c": [0]}
        with self.assertRaisesRegex(TypeError, r"reset\(\) returned a dict of 'a', 'b', 'c', want \(observations, infos\)"):
            world.reset()
        world = World(self.team())
        world.reset()
        world.env.step = lambda actions: ({}, {}, {}, {})
        with self.assertRaisesRegex(TypeError, r"step\(\) returned a tuple of 4, want \(observations, rewards, terminations, truncations, infos\)"):
            world.step([0] * 3)

    def worlds(self, script: list, limit: int = 0):
        """Flags and observations of three agents at each step of a world that `script` plays: [observations, ended how]."""
        episodes = itertools.count()

        class Scripted:
            def reset(self, seed=None):
                self.t = 0
                return [[1000 * next(episodes)] * 1, [1], None]
            def step(self, actions):
                seen, ends = script[self.t]
                self.t += 1
                return [None if x is None else [x] for x in seen], [1, 1, 1], [e == "T" for e in ends], [e == "t" for e in ends]

        b = flatbuffers.Builder(64)
        p.WelcomeStart(b)
        p.WelcomeAddNumEnvs(b, 3), p.WelcomeAddObservationBytes(b, 4), p.WelcomeAddActionBytes(b, 4), p.WelcomeAddMaxEpisodeSteps(b, limit)
        _, welcome = wire.parse(wire.frame(b, p.Body.Welcome, p.WelcomeEnd(b))[4:])
        host = simulator._Worlds(None, welcome, Box(-9999, 9999, (1,)), Discrete(2), 3)
        host.make(lambda options: Scripted())
        for i in range(3):
            host.reset(i, None, False)
        self.assertEqual([0, 1, 0], [int(row[0][0]) for row in host.observations])
        host.active[:] = bytes([1] * 3)
        for _ in script:
            host.step()
            yield list(host.flags), [int(row[0][0]) for row in host.observations], [int(row[0][0]) for row in host.finals], host.rewards.tolist()

    def test_lives_and_waits_of_a_world(self):
        T, t, WAITS, ALONE = simulator.TERMINATED, simulator.TRUNCATED, simulator.WAITS, simulator.ALONE
        steps = list(self.worlds([([10, 11, None], "T  "), ([None, 21, 22], "   "), ([30, 31, 32], "  t"), ([40, 41, None], "TT ")]))
        self.assertEqual(([T | ALONE, 0, WAITS], [0, 11, 0], [1, 1, 0]), (steps[0][0], steps[0][1], steps[0][3]))
        self.assertEqual(10, steps[0][2][0])
        self.assertEqual(([WAITS, 0, WAITS | T | ALONE], [0, 21, 22], [0, 1, 0]), (steps[1][0], steps[1][1], steps[1][3]))
        self.assertEqual(([WAITS | T | ALONE, 0, t | ALONE], [30, 31, 0], [0, 1, 1]), (steps[2][0], steps[2][1], steps[2][3]))
        self.assertEqual(([T, T, WAITS | T], [1000, 1, 0], [40, 41, 0]), steps[3][:3])

    def test_a_worlds_time_limit_cuts_all_that_play(self):
        T, t, WAITS, ALONE = simulator.TERMINATED, simulator.TRUNCATED, simulator.WAITS, simulator.ALONE
        steps = list(self.worlds([([10, 11, None], "T  "), ([None, 21, 22], "   ")], limit=2))
        self.assertEqual([T | ALONE, 0, WAITS], steps[0][0])
        self.assertEqual(([WAITS | T, t, WAITS | T], [1000, 1, 0]), steps[1][:2])  # the third would have come

    def test_nothing_lies_in_the_space(self):
        space = Dict({"far": Box(2, 3, (2,)), "less": Box(-3, -2, (1,)), "one": Discrete(3, 5), "bits": MultiBinary(2),
                      "pair": Tuple([MultiDiscrete([2, 3]), Box(0, 255, (1,), "uint8")])})
        nothing = simulator.nothing_of(space)
        self.assertEqual([[2, 2], [-2], 5, [0, 0]], [nothing["far"].tolist(), nothing["less"].tolist(), nothing["one"], nothing["bits"].tolist()])
        self.assertEqual([[0, 0], [0]], [part.tolist() for part in nothing["pair"]])

    def test_an_agent_that_waits_may_do_anything(self):
        space = Dict({"observation": Box(2, 3, (2,)), "action_mask": Box(0, 1, (3,), "uint8")})
        self.assertEqual([1, 1, 1], simulator.nothing_of(space)["action_mask"].tolist())

    def test_masked_agents(self):
        """One of three actions can be taken, another at each step and of each agent."""
        text = TEAM.replace(" SPACE", " + 1").replace("        self.t, playing", "        assert all(self.mask(a)[action] for a, action in actions.items()), actions\n        self.t, playing")
        text += "    def mask(self, a):\n        return [int(i == (self.t + self.possible_agents.index(a)) % 3) for i in range(3)]\n"
        in_info = text.replace("{a: {} for a in", "{a: {'action_mask': self.mask(a)} for a in")
        seen = text.replace("return Box(-1e6, 1e6, (3,))", "return Dict({'observation': Box(-1e6, 1e6, (3,)), 'action_mask': Box(0, 1, (3,), 'int8')})").replace("import Box", "import Box, Dict")
        seen = seen.replace("{a: [self.episode, self.t, 1 + self.possible_agents.index(a)]", "{a: {'action_mask': self.mask(a), 'observation': [self.episode, self.t, 1 + self.possible_agents.index(a)]}")
        for name, module, query in (("seen", seen, ""), ("in_info", in_info, "?mask=info")):
            with self.subTest(name):
                self.file(f"{name}.py", module)
                run = self.root / name
                self.train(run, "stop.training_iteration=3", config=self.config_of(f"pettingzoo:{name}{query}"))
                self.call("evaluate", run, "--episodes", 6, "--explore")
        said = self.refused("pettingzoo:team?mask=info", status=3)
        self.assertIn("mask=info, but there is no info", said)

    def test_training_and_evaluation_play_whole_worlds(self):
        for module, text in (("team", None), ("turns", AEC)):
            if text:
                self.file("turns.py", text)
            run = self.root / module
            self.train(run, "stop.training_iteration=8", config=self.config_of(f"pettingzoo:{module}"))
            for row in json_lines(run / "results.jsonl"):
                # Of the last 99 lives, of which some more may be those that end early; no wait counts.
                self.assertAlmostEqual((2 * 1 + 3 * 2 + 4 * 3) / 3, row["env_runners"]["episode_return_mean"], delta=0.5)
                self.assertAlmostEqual((2 + 3 + 4) / 3, row["env_runners"]["episode_len_mean"], delta=0.15)
            # 15 environments at once: the most that is below 16
            played = [json.loads(line) for line in self.call("evaluate", run, "--episodes", 24, "--json").stdout.splitlines()]
            self.assertEqual([2, 6, 12] * 8, [episode["return"] for episode in played])
            self.assertEqual([2, 3, 4] * 8, [episode["length"] for episode in played])
            self.assertIn("over 12 episodes", self.call("evaluate", run, "--episodes", 10).stdout)  # whole worlds

    def test_options_and_keyword_arguments(self):
        run = self.root / "run"
        self.train(run, "stop.training_iteration=2", "environment.env_config.length=6", "environment.max_episode_steps=5", config=self.config_of("pettingzoo:team?early=false"))
        # Myriad's own time limit cuts all agents of a world at once
        self.assertAlmostEqual(5 * 2, json_lines(run / "results.jsonl")[-1]["env_runners"]["episode_return_mean"])

    def refused(self, env: str, *overrides: str, status: int = 2) -> str:
        return self.call("train", self.config_of(env), "--out", self.root / "refused", *overrides, status=status).stderr

    def test_what_does_not_fit_is_said_before_a_run_begins(self):
        said = self.refused("pettingzoo:team", "env_runners.num_envs_per_env_runner=4", "training.train_batch_size=160")
        self.assertIn("env_runners.num_envs_per_env_runner is 4: pettingzoo:team has 3 agents that act together", said)
        self.assertIn("want a multiple of 3", said)
        self.assertIn("environment.frame_skip is 2", self.refused("pettingzoo:team", "environment.frame_skip=2"))
        self.assertIn("[curriculum]", self.refused("pettingzoo:team", "curriculum.randomize={length=[3, 5]}"))
        self.assertIn("has no option lenght; did you mean length", self.refused("pettingzoo:team", "environment.env_config.lenght=3"))
        self.assertIn("want a multiple of 3 (`myriad play`", self.call("play", "pettingzoo:team", status=3).stderr)

    def test_what_was_left_open_is_chosen_for_the_agents(self):
        text = CONFIG.replace("ENV", '"pettingzoo:team"', 1).replace("num_envs_per_env_runner = 6\n", "").replace("rollout_fragment_length = 20\n", "")
        config = self.file("open.toml", text)
        said = self.train(self.root / "batch", "stop.training_iteration=1", config=config).stderr
        self.assertIn("chosen for the agents of pettingzoo:team, which act together: env_runners.num_envs_per_env_runner=6\n", said)  # divides 240
        self.assertIn("want env_runners.num_envs_per_env_runner = 9 and training.train_batch_size = 270", self.refused_config(config, "training.train_batch_size=256"))
        config = self.file("open.toml", text.replace("train_batch_size = 240\n", ""))
        run = self.root / "open"
        said = self.train(run, "stop.training_iteration=1", "training.num_epochs=1", config=config).stderr
        self.assertIn("env_runners.num_envs_per_env_runner=9 training.train_batch_size=4014\n", said)
        self.assertIn("num_envs_per_env_runner = 9", (run / "config.effective.toml").read_text())

    def refused_config(self, config, *overrides: str) -> str:
        return self.call("train", config, "--out", self.root / "refused", *overrides, status=2).stderr

    def test_check_env_plays_worlds(self):
        rows = {row["check"]: row for row in map(json.loads, self.call("check-env", "pettingzoo:team", "--quick", "--json").stdout.splitlines())}
        self.assertEqual([], [row for row in rows.values() if row["verdict"] == "wrong"])
        self.assertRegex(rows["episodes"]["found"], r"^\d+ terminated, \d+ truncated, of 3 agents; 25 % of their steps are waits for the others$")
        self.assertIn("2 that step at once are as each alone", rows["together"]["found"])

    def test_turn_based_games_are_named(self):
        self.file("turns.py", AEC + "def env(**options):\n    one = parallel_to_aec_wrapper(team.parallel_env())\n    one.metadata = {'is_parallelizable': False}\n    return one\n")
        said = self.refused("pettingzoo:turns", status=3)
        self.assertIn("turns is turn-based", said)
        self.assertIn("gymnasium:my_module:MyGame-v0", said)

    def test_unlike_agents_are_refused(self):
        self.file("unlike.py", TEAM.replace(" SPACE", " + (agent == 'b')"))
        self.assertIn("the action_space of a is Discrete(2) and that of b is Discrete(3)", self.refused("pettingzoo:unlike", status=3))
        agents = "pettingzoo.test.example_envs.generated_agents_parallel_v0"
        self.assertIn("does not say its possible_agents", self.refused(f"pettingzoo:{agents}", status=3))
        self.assertIn("ModuleNotFoundError", self.refused("pettingzoo:nowhere", status=3))
        self.assertIn("has neither parallel_env nor env", self.refused("pettingzoo:json", status=3))
        self.assertEqual(["a", "b", "c"], agents_of(self.team(), "team"))


class Policies(Package):
    def run_of(self, text: str, *overrides: str, name: str = "run") -> pathlib.Path:
        script = self.file(f"{name}.py", text)
        run = self.root / name
        self.train(run, "env_runners.sandbox='off'", *overrides, config=self.config_of(f"process:{sys.executable} {script}"))  # it writes a record
        return run

    def recorded(self, run: pathlib.Path, *more: object) -> list:
        record = self.root / "record"
        record.unlink(missing_ok=True)
        self.environment["RECORD"] = str(record)
        self.call("evaluate", run, *more)
        del self.environment["RECORD"]
        return json_lines(record)

    def assert_acts_as_evaluate(self, run: pathlib.Path, *more: object) -> Policy:
        policy, lines = Policy(run), self.recorded(run, "--episodes", 6, *more)
        self.assertGreater(len(lines), 100)
        for observation, action in lines:
            for ours, theirs in zip(*(values_of(policy.action, a) for a in (policy.act(observation), action)), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        return policy

    def test_cartpole(self):
        run = self.run_of(GYMNASIUM.replace("ID", "CartPole-v1"), "stop.training_iteration=40")
        policy = self.assert_acts_as_evaluate(run)
        # Both sides' sampled actions are drawn from the same probabilities.
        lines = self.recorded(run, "--explore", "--episodes", 20)
        for actions in ([action for _, action in lines], [policy.act(observation, explore=True) for observation, _ in lines]):
            logits = np.array([policy.action_dist_inputs(observation) for observation, _ in lines])
            p = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
            self.assertLess(abs(np.sum(actions - p)) / np.sqrt(np.sum(p * (1 - p))), 4)

    def test_q_values(self):
        run = self.run_of(GYMNASIUM.replace("ID", "CartPole-v1"), "algorithm='PQN'", "training.epsilon=[[0, 1.0], [19200, 0.5]]",
                          "stop.training_iteration=40", name="q")
        policy = self.assert_acts_as_evaluate(run)
        # After 9,600 of the 19,200 steps epsilon is 0.75: of two actions the worse one is drawn three times in eight, by both sides.
        lines = self.recorded(run, "--explore", "--episodes", 20)
        worse = [int(policy.action_dist_inputs(observation).argmin()) for observation, _ in lines]
        for actions in ([action for _, action in lines], [policy.act(observation, explore=True) for observation, _ in lines]):
            self.assertLess(abs(np.mean(np.equal(actions, worse)) - 0.375), 4 * np.sqrt(0.375 * 0.625 / len(lines)))

    def test_pendulum_with_a_filter(self):
        run = self.run_of(GYMNASIUM.replace("ID", "Pendulum-v1"), "stop.training_iteration=20", "environment.observation_filter='MeanStdFilter'", "environment.clip_actions=false")
        policy = Policy(run, seed=1)
        self.assert_acts_as_evaluate(run)
        lines = self.recorded(run, "--explore", "--episodes", 6)
        for actions in ([action for _, action in lines], [policy.act(observation, explore=True) for observation, _ in lines]):
            inputs = np.array([policy.action_dist_inputs(observation) for observation, _ in lines])
            z = (np.array(actions)[:, 0] / 2 - inputs[:, 0]) / np.exp(inputs[:, 1])  # [-1, 1] is stretched to [-2, 2]
            self.assertLess(abs(z.mean()) * np.sqrt(z.size), 4)
            self.assertLess(abs(z.var() - 1) * np.sqrt(z.size / 2), 4)

    def test_every_kind_of_layer_and_space(self):
        for i, (action, settings) in enumerate((
                ("Box(-1, [[2], [3]], (2, 1))", ["fcnet_activation='gelu'", "free_log_std=false", "log_std_clip_param=0.01"]),
                ("Box(-np.inf, np.inf, (1, 2))", ["fcnet_activation='elu'", "fcnet_use_layernorm=true", "fcnet_hiddens=[9]"]),
                ("Box(-1, [[2], [3]], (2, 1))", ["action_distribution='squashed_gaussian'"]),
                ("Box(-1, [[2], [3]], (2, 1))", ["action_distribution='squashed_gaussian'", "free_log_std=false"]),
                ("Box(-3, 2, (2,))", ["action_distribution='beta'"]),
                ("Discrete(4, 3)", ["fcnet_activation='silu'", "vf_share_layers=true"]),
                ("MultiDiscrete([3, 2, 4])", ["fcnet_activation='relu'", "fcnet_use_layernorm=true"]),
                ("MultiBinary(3)", ["fcnet_activation='linear'"]),
                ("Discrete(2)", ["fcnet_hiddens=[]"]),
                (PAD, []),
                (PAD, ["free_log_std=false"]),
                (PAD, ["action_distribution='squashed_gaussian'"]),
                ("Tuple([Discrete(3), Box(-1, 1, (2,))])", ["action_distribution='beta'", "vf_share_layers=true"]),
        )):
            with self.subTest(action):
                run = self.run_of(MADE_UP.replace("ACTION", action), "stop.training_iteration=3", *(f"rl_module.{s}" for s in settings), name=f"run{i}")
                self.assert_acts_as_evaluate(run)

    def test_a_box_of_whole_numbers_is_a_choice_for_each_element(self):
        run = self.run_of(MADE_UP.replace("ACTION", "Box(np.array([-1, 2]), np.array([2, 3]), (2,), 'int64')"), "stop.training_iteration=3", name="whole")
        policy = Policy(run)
        self.assertEqual("int64", policy.action.dtype)
        for observation, action in self.recorded(run, "--episodes", 3):
            self.assertEqual(action, policy.act(observation).tolist())

    def test_masked_actions_are_not_taken(self):
        mask, view = '"action_mask": MultiBinary(SIZE)', '"observation": Box(0, 1, (SIZE,))'
        for i, (action, start, size, spaces, settings) in enumerate((
                ("Discrete(5, 3), [5]", 3, 5, f"{mask}, {view}", ["environment.observation_filter='MeanStdFilter'"]),
                ("MultiDiscrete([2, 4]), [2, 4]", 0, 6, f"{view}, {mask}", ["learners.executor='torch'"]),
                ("MultiBinary(3), [2, 2, 2]", 0, 6, f"{mask}, {view}", []),
        )):
            with self.subTest(action):
                text = MASKED.replace("ACTION", action).replace("OBSERVATION", "{" + spaces.replace("SIZE", str(size)) + "}").replace("START", str(start))
                run = self.run_of(text.replace("ALLOWED", "2"), "stop.training_iteration=5", *settings, name=f"masked{i}")
                policy = self.assert_acts_as_evaluate(run)
                for observation, action in self.recorded(run, "--episodes", 6, "--explore"):
                    self.assertTrue(policy.allows(observation, action))
                    self.assertTrue(policy.allows(observation, policy.act(observation, explore=True)))
                self.call("train", self.root / "config.toml", "--out", self.root / f"random{i}", "env_runners.random_actions=true", "stop.training_iteration=2")

    def test_a_gymnasium_environment_of_nested_actions_is_learnt(self):
        """Of 1,000 joint actions about five earn something; the environment throws at what is not as its space's sample() gives it."""
        self.file("pads.py", PADS)
        env = "gymnasium:pads:Gamepad-v0"
        said = self.call("check-env", env, "--steps", 10000).stdout
        self.assertNotIn("wrong", said)
        self.assertIn("1000 steps with actions at their bounds", said)
        settings = ["training.gamma=0.0", "training.lr=0.003", "rl_module.fcnet_hiddens=[32]", "env_runners.num_envs_per_env_runner=10", "env_runners.rollout_fragment_length=25",
                    "stop.episode_return_mean=8.5", "stop.training_iteration=1000", "environment.observation_filter='NoFilter'"]
        for algorithm, more in (("PPO", ["training.train_batch_size=1000", "training.minibatch_size=250"]),
                                ("IMPALA", ["training.train_batch_size=500", "training.minibatch_size=0", "training.num_epochs=1"])):
            with self.subTest(algorithm):
                run = self.root / algorithm
                self.train(run, f"algorithm='{algorithm}'", *settings, *more, config=self.config_of(env))
                first, *_, last = [row["env_runners"]["episode_return_mean"] for row in json_lines(run / "results.jsonl")]
                self.assertLess(first, 1)
                self.assertGreaterEqual(last, 8.5)
                self.assertRegex(self.call("evaluate", run, "--episodes", 50).stdout, r"return (10\.00|9\.[5-9])")
                policy = Policy(run, seed=1)
                for context in range(3):
                    action = policy.act(np.eye(3)[context])
                    self.assertEqual(["aim", "keys", "more", "move"], list(action))
                    self.assertEqual((5 + context, [[1, 0]]), (action["move"], action["keys"].tolist()))
                    self.assertGreater(action["aim"][0, 0], 0)
                    self.assertEqual(np.float64, action["more"][1].dtype)
                    self.assertEqual(context, action["more"][0][1])
        # Actions of a file as `play` prints them, and the same numbers one after the other. Not before seed 1's reset the context is known.
        lines = [json.loads(line) for line in self.call("play", env, "--steps", 3, "--json").stdout.splitlines()]
        self.assertEqual(["aim", "keys", "more/0", "more/1", "more/2", "move"], list(lines[1]["action"]))
        taken = [{"aim": [3, 0.5], "keys": [1, 0], "more/0": [1, i], "more/1": [0.25], "more/2": [2], "move": 5 + i} for i in range(3)]
        flat = [[3, 0.5, 1, 0, 1, i, 0.25, 2, 5 + i] for i in range(3)]
        for actions in (taken, flat):
            file = self.file("actions.jsonl", "".join(json.dumps(action) + "\n" for action in actions))
            played = [json.loads(line) for line in self.call("play", env, "--actions", file, "--json").stdout.splitlines()]
            self.assertEqual(taken, [line["action"] for line in played[1:]])
        for wrong, said in ((dict(taken[0], moves=1), "has moves; did you mean move?"), ({k: v for k, v in taken[0].items() if k != "keys"}, "has no keys"),
                            (dict(taken[0], move=8), "action.move[0] = 8 outside [5, 8)")):
            self.assertIn(said, self.call("play", env, "--actions", self.file("actions.jsonl", json.dumps(wrong)), status=2).stderr)

    def test_nested_actions_are_masked_in_gymnasiums_form(self):
        self.file("pads.py", PADS)
        env = "gymnasium:pads:Gamepad-v0?masked=true&mask=info"
        self.assertNotIn("wrong", self.call("check-env", env, "--steps", 10000).stdout)
        config = self.config_of(env)
        self.train(self.root / "run", "stop.training_iteration=5", config=config)
        self.call("evaluate", self.root / "run", "--episodes", 10)
        self.call("evaluate", self.root / "run", "--episodes", 10, "--explore")
        self.train(self.root / "random", "stop.training_iteration=2", "env_runners.random_actions=true", config=config)

    def test_actions_that_no_head_covers_are_named(self):
        """The leaf's path, and what to do."""
        script = self.file("far.py", MADE_UP.replace("ACTION", 'Dict({"move": Discrete(2), "more": Tuple([Box(0, np.inf, (1,), "int64")])})'))
        said = self.call("train", self.config_of(f"process:{sys.executable} {script}"), "--out", self.root / "none", status=2).stderr
        self.assertIn("error[unsupported-space] no action distribution covers 'more/0' Box(0, inf, (1,), int64)", said)
        self.assertIn("whole numbers want bounds on both sides", said)
        said = self.call("train", self.config_of(f"process:{sys.executable} {script}"), "algorithm='PQN'", "--out", self.root / "none", status=2).stderr
        self.assertIn("PQN wants a Discrete action space, got Dict(", said)

    def test_gymnasiums_mask_in_info(self):
        run = self.root / "taxi"
        self.train(run, "stop.training_iteration=3", config=self.config_of("gymnasium:Taxi-v3?mask=info"))
        policy = Policy(run, seed=1)
        self.assertEqual(6, policy.observation.spaces["action_mask"].shape[0])
        # In the taxi's corner at the top left, with the passenger elsewhere: not north, not west, and nobody to pick up or drop.
        observation = {"action_mask": [1, 0, 1, 0, 0, 0], "observation": 13}
        self.assertEqual({0, 2}, {policy.act(observation, explore=True) for _ in range(200)})
        said = self.call("train", self.config_of("gymnasium:CartPole-v1?mask=info"), "--out", self.root / "none", status=3).stderr
        self.assertIn('mask=info, but there is no info[\\"action_mask\\"]'.replace("\\", ""), said.replace("\\", ""))

    def test_newer_checkpoints_are_loaded_and_broken_ones_named(self):
        run = self.run_of(GYMNASIUM.replace("ID", "Pendulum-v1"), "stop.training_iteration=1")
        policy, older, observation = Policy(run), Policy(run), np.array([1, 0, 0.5])
        first, before = policy.checkpoint, policy.act(observation)
        self.assertFalse(policy.refresh())
        self.call("train", "--resume", run, "stop.training_iteration=3")
        self.assertTrue(policy.refresh())
        self.assertFalse(policy.refresh())
        self.assertNotEqual(before, policy.act(observation))
        self.assertEqual(before, Policy(first).act(observation))
        newest = self.checkpoints(run)[-1]
        self.assertEqual(newest, policy.checkpoint)
        with self.assertRaisesRegex(ValueError, "shape"):
            policy.act([1, 0])
        module = newest / "learner_group/modules/default_policy.safetensors"
        data = module.read_bytes()
        for broken, said in ((data[:-4], "bytes, want"), (b"\xff" * len(data), "is no safetensors file"), (data.replace(b"pi.bias", b"pi.bia_"), "pi.bias not, want")):
            module.write_bytes(broken)
            with self.assertRaisesRegex(ValueError, said):
                Policy(newest)
            with self.assertRaisesRegex(ValueError, said):
                older.refresh()
            self.assertEqual(before, older.act(observation))
        module.write_bytes(data)
        (newest / "spaces.json").unlink()
        with self.assertRaisesRegex(ValueError, "older than spaces.json"):
            Policy(newest)
        with self.assertRaisesRegex(ValueError, "is no checkpoint"):
            Policy(self.root)

    def test_features_are_one_hot_and_side_by_side(self):
        space = Dict({"b": Tuple([Discrete(3, -1), MultiDiscrete([2, 3])]), "a": Box(0, 9, (2,)), "c": MultiBinary(2)})
        parts = features(space, {"a": [4, 5], "b": (0, [1, 2]), "c": [1, 0]})
        self.assertEqual([0, 1, 0, 0, 1, 0, 0, 1, 4, 5, 1, 0], np.concatenate(parts).tolist())


class ByHand(unittest.TestCase):
    """Numbers that are worked out, and messages of a Myriad that is played here: no process, no file."""

    def test_a_connection_notices_that_its_peer_is_gone_without_a_word(self):
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sock:
            wire.Connection(sock)
            self.assertEqual(40_000, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
            self.assertEqual(1, sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def test_rows_are_aligned_as_rl_space_has_them(self):
        # u8 at 0; f64 at 8; i32 at 24, three of them; f32 at 36; the row ends at 40, a multiple of 8.
        codec = Codec(Dict({"flag": Box(0, 9, (1,), "uint8"), "far": Box(-1, 1, (2,), "float64"),
                            "more": Tuple([MultiDiscrete([2, 3, 4]), Box(-1, 1, (1,))])}))
        self.assertEqual([(0, "uint8"), (8, "float64"), (24, "int32"), (36, "float32")], [(offset, str(dtype)) for offset, dtype, _ in codec.leaves])
        self.assertEqual(40, codec.row_bytes)
        memory = bytearray(80)
        rows = codec.views(memory, 2)
        value = {"flag": [7], "far": [0.5, -0.25], "more": ([1, 2, 3], [0.125])}
        codec.write(rows[1], value)
        self.assertEqual(bytes(40), bytes(memory[:40]))
        self.assertEqual(struct.pack("<B7xdd3if", 7, 0.5, -0.25, 1, 2, 3, 0.125), bytes(memory[40:]))
        read = codec.read(rows[1])
        self.assertEqual(([7], [0.5, -0.25], [1, 2, 3], [0.125]),
                         tuple(x.tolist() for x in (read["flag"], read["far"], *read["more"])))
        self.assertEqual(9, Codec(Box(0, 9, (9,), "uint8")).row_bytes)
        self.assertEqual(16, Codec(Dict({"far": Box(0, 9, (1,), "float64"), "flag": Box(0, 9, (1,), "uint8")})).row_bytes)

    @staticmethod
    def policy(observation, action, tensors: dict, filter_state: list | None = None, seed: int = 0, spec: dict | None = None, **settings) -> Policy:
        """The policy of one linear layer, or of the given spec, of what a Weights message holds."""
        def safetensors(tensors: dict) -> bytes:
            header, data = {}, b""
            for name, tensor in tensors.items():
                header[name] = {"dtype": {"float32": "F32", "float64": "F64"}[str(tensor.dtype)], "shape": list(tensor.shape),
                                "data_offsets": [len(data), len(data) + tensor.nbytes]}
                data += tensor.tobytes()
            text = json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + data

        environment = {"observation_filter": "NoFilter" if filter_state is None else "MeanStdFilter", "observation_clip": 0.5,
                       "normalize_actions": True, "clip_actions": True}
        module = {"fcnet_hiddens": [], "fcnet_activation": "tanh", "fcnet_use_layernorm": False, "free_log_std": True, "log_std_clip_param": 20.0,
                  "action_distribution": "auto"}
        lines = [f"{k} = {json.dumps(settings.get(k, v))}" for k, v in environment.items()] + ["[rl_module]"]
        config = "[environment]\n" + "\n".join(lines + [f"{k} = {json.dumps(settings.get(k, v))}" for k, v in module.items()])
        connectors = {} if filter_state is None else {"mean_std_filter": np.array(filter_state, np.float64)}
        as_numpy = lambda tensors: lambda: np.frombuffer(safetensors(tensors), np.uint8)
        weights = types.SimpleNamespace(ParametersAsNumpy=as_numpy(tensors), ConnectorsAsNumpy=as_numpy(connectors),
                                        Config=lambda: config.encode(), Network=lambda: json.dumps(spec).encode() if spec else None, Version=lambda: 3)
        return Policy.of_weights(weights, observation, action, seed=seed)

    def test_a_filter_a_mean_and_a_range(self):
        # Of 5 rows: means 1 and 2, squares 16 and 4: standard deviations 2 and 1. [3, 2.25] becomes [1, 0.25], clipped [0.5,
        # 0.25]. The mean is 2 * 0.5 - 0.25 + 0.5 = 1.25, and [-1, 1] is stretched to [-2, 4]: 3 * 1.25 + 1 = 4.75.
        f32 = lambda *values: np.array(values, np.float32)
        tensors = {"pi.weight": f32([2, -1]), "pi.bias": f32(0.5), "log_std": f32(-1)}
        of = lambda **settings: self.policy(Box(-9, 9, (2,)), Box(-2, 4, (1,)), tensors, [5, 1, 2, 16, 4], **settings)
        self.assertEqual([1.25, -1], of().action_dist_inputs([3, 2.25]).tolist())
        self.assertEqual([4], of().act([3, 2.25]).tolist())
        self.assertEqual([4.75], of(clip_actions=False).act([3, 2.25]).tolist())
        self.assertEqual([1.25], of(normalize_actions=False).act([3, 2.25]).tolist())
        self.assertEqual([2.25], of(observation_clip=9.0, normalize_actions=False).act([3, 2.25]).tolist())
        self.assertEqual([1.25, -0.75], of(log_std_clip_param=0.75).action_dist_inputs([3, 2.25]).tolist())
        self.assertEqual([1], of().drawn([4]).tolist())
        self.assertEqual(3, of().version)
        policy = of(clip_actions=False)
        drawn = np.array([policy.draw([3, 2.25])[1][0] for _ in range(4000)])
        z = (drawn - 1.25) / np.exp(-1)
        self.assertLess(abs(z.mean()) * np.sqrt(z.size), 4)
        self.assertLess(abs(z.var() - 1) * np.sqrt(z.size / 2), 4)
        action, drawn, _ = policy.draw([3, 2.25])
        self.assertAlmostEqual(3 * drawn[0] + 1, action[0], places=5)
        few = self.policy(Box(-9, 9, (2,)), Box(-2, 4, (1,)), tensors, [1, 1, 2, 0, 0], normalize_actions=False, clip_actions=False)
        self.assertEqual([2 * 3 - 2.25 + 0.5], few.act([3, 2.25]).tolist())  # one row is no filter yet

    def test_the_network_of_the_message(self):
        spec = {"obs_size": 2, "encoder": [{"kind": "scale", "size": 2, "factor": 0.5}], "action_head": {"kind": "linear", "inputs": 2, "outputs": 2},
                "distribution": {"kind": "categorical", "n": 2}, "log_std_clip": 20.0}
        tensors = {"pi.weight": np.array([[1, 0], [2, 1]], np.float32), "pi.bias": np.zeros(2, np.float32)}
        self.assertEqual([1.5, 5], self.policy(Box(-9, 9, (2,)), Discrete(2), tensors, spec=spec).action_dist_inputs([3, 4]).tolist())
        self.assertEqual([3, 10], self.policy(Box(-9, 9, (2,)), Discrete(2), tensors).action_dist_inputs([3, 4]).tolist())

    def test_squashed_gaussians_and_betas(self):
        # A head of 0 x + bias. tanh(0.5) is stretched to [-2, 4]: 3 tanh(0.5) + 1.
        f32 = lambda *values: np.array(values, np.float32)
        of = lambda kind, weight, bias, **more: self.policy(Box(-9, 9, (1,)), Box(-2, 4, (1,)), {"pi.weight": weight, "pi.bias": bias} | more, seed=1, action_distribution=kind)
        squashed = of("squashed_gaussian", f32([0]), f32(0.5), log_std=f32(-1))
        self.assertAlmostEqual(3 * math.tanh(0.5) + 1, squashed.act([0])[0], places=5)
        u = np.arctanh([squashed.draw([0])[1][0] for _ in range(4000)])
        self.assertLess(abs(u.mean() - 0.5) / math.exp(-1) * np.sqrt(u.size), 4)
        self.assertLess(abs(u.var() / math.exp(-2) - 1) * np.sqrt(u.size / 2), 4)
        # softplus(x) = 2 and 1 for x = log(e^2 - 1) and log(e - 1): alpha 3, beta 2, of mode 2/3 and mean 3/5; 6 x - 2.
        beta = of("beta", f32([0], [0]), f32(math.log(math.e ** 2 - 1), math.log(math.e - 1)))
        self.assertAlmostEqual(6 * 2 / 3 - 2, beta.act([0])[0], places=5)
        x = (np.array([beta.draw([0])[1][0] for _ in range(4000)]) + 1) / 2
        self.assertLess(abs(x.mean() - 0.6) / 0.2 * np.sqrt(x.size), 4)  # variance 6 / (25 * 6)
        self.assertAlmostEqual(0.04, x.var(), delta=0.004)
        wide = of("beta", f32([0], [0]), f32(-1e3, -1e3))  # alpha and beta 1: no peak
        self.assertEqual(1, wide.act([0])[0])

    def test_logits_in_groups(self):
        f32 = lambda *values: np.array(values, np.float32)
        one = self.policy(Box(-9, 9, (1,)), Discrete(3, 5), {"pi.weight": f32([0], [0], [0]), "pi.bias": f32(1, 3, 2)})
        self.assertEqual(6, one.act([0]))
        many = self.policy(Box(-9, 9, (1,)), MultiDiscrete([2, 3, 2]), {"pi.weight": np.zeros((7, 1), np.float32), "pi.bias": f32(4, 9, 1, 0, 7, 6, 5)})
        self.assertEqual([1, 2, 0], many.act([0]).tolist())
        # Of logits 0 and log 3 the second is drawn three times in four; Discrete(start=5): 5 and 6.
        drawn = self.policy(Box(-9, 9, (1,)), Discrete(2, 5), {"pi.weight": f32([0], [0]), "pi.bias": f32(0, np.log(3))})
        share = np.mean([drawn.act([0], explore=True) == 6 for _ in range(4000)])
        self.assertLess(abs(share - 0.75), 4 * np.sqrt(0.75 * 0.25 / 4000))

    def test_masked_logits(self):
        f32 = lambda *values: np.array(values, np.float32)
        space = Dict({"action_mask": MultiBinary(3), "observation": Box(-9, 9, (1,))})
        tensors = {"pi.weight": f32([1], [0], [0]), "pi.bias": f32(0, 3, 2)}
        def spec(size: int, seen: int, mask: int) -> dict:
            return {"obs_size": size, "encoder": [{"kind": "select", "inputs": size, "offset": seen, "size": 1}], "log_std_clip": 20.0, "mask_offset": mask,
                    "action_head": {"kind": "linear", "inputs": 1, "outputs": size - 1}, "distribution": {"kind": "categorical", "n": size - 1}}

        one = self.policy(space, Discrete(3, 5), tensors, spec=spec(4, 3, 0))
        see = lambda *mask: {"action_mask": mask, "observation": [4]}
        self.assertEqual([4, 3, 2], one.action_dist_inputs(see(1, 1, 1)).tolist())
        self.assertEqual([f32(-1e30)[()], 3, f32(-1e30)[()]], one.action_dist_inputs(see(0, 1, 0)).tolist())
        self.assertEqual([5, 6, 7], [one.act(see(*mask)) for mask in ((1, 1, 1), (0, 1, 1), (0, 0, 1))])
        self.assertEqual({7}, {one.act(see(0, 0, 1), explore=True) for _ in range(50)})
        self.assertEqual({6, 7}, {one.act(see(0, 1, 1), explore=True) for _ in range(50)})
        self.assertEqual([True, False], [one.allows(see(0, 1, 0), action) for action in (6, 7)])
        with self.assertRaisesRegex(ValueError, "allows no action"):
            one.act(see(0, 0, 0))
        one.random = types.SimpleNamespace(random=lambda: 1.0)  # beyond what is ever drawn
        self.assertEqual(6, one.act(see(0, 1, 0), explore=True))
        # A filter leaves the mask as it is: of its 0s and 1s, too, it has a mean and a deviation.
        filtered = self.policy(space, Discrete(3, 5), tensors, [5, 0.5, 0.5, 0.5, 2, 1, 1, 1, 16], spec=spec(4, 3, 0), observation_clip=9.0)
        self.assertEqual([1, 3, f32(-1e30)[()]], filtered.action_dist_inputs(see(1, 1, 0)).tolist())
        pair = Dict({"observation": Box(-9, 9, (1,)), "action_mask": Tuple([MultiBinary(2), MultiBinary(3)])})
        many = self.policy(pair, MultiDiscrete([2, 3]), {"pi.weight": np.zeros((5, 1), np.float32), "pi.bias": f32(4, 9, 1, 7, 6)},
                           spec=spec(6, 0, 1))
        see = lambda *mask: {"action_mask": (mask[:2], mask[2:]), "observation": [4]}
        self.assertEqual([0, 2], many.act(see(1, 0, 1, 0, 1)).tolist())
        self.assertEqual([False, True], [many.allows(see(1, 0, 1, 0, 1), action) for action in ([0, 1], [0, 0])])
        with self.assertRaisesRegex(ValueError, "allows no action"):
            many.act(see(1, 1, 0, 0, 0))

    def test_a_dict_of_actions(self):
        """A head of biases alone: means 0.5 and 0; logits of two keys; of a Discrete(3, 5); a Box of float64."""
        f32 = lambda *values: np.array(values, np.float32)
        action = Dict({"aim": Box([-2, 0], [4, 1], (2,)), "keys": MultiBinary(2), "more": Tuple([Discrete(3, 5), Box(-1, 1, (1,), "float64")])})
        parts = [{"kind": "diag_gaussian", "n": 2, "free_log_std": True}, {"kind": "multi_categorical", "nvec": [2, 2]}, {"kind": "categorical", "n": 3},
                 {"kind": "squashed_gaussian", "n": 1, "free_log_std": True}]
        spec = {"obs_size": 1, "encoder": [], "action_head": {"kind": "linear", "inputs": 1, "outputs": 10}, "log_std_clip": 0.75,
                "distribution": {"kind": "composite", "parts": parts}}
        tensors = {"pi.weight": np.zeros((10, 1), np.float32), "pi.bias": f32(0.5, 0, 0, 1, 1, 0, 0, 2, 1, 0.25), "log_std": f32(-1, 0.5, -0.5)}
        policy = self.policy(Box(-9, 9, (1,)), action, tensors, seed=1, spec=spec)
        self.assertEqual([0.5, 0, -0.75, 0.5, 0, 1, 1, 0, 0, 2, 1, 0.25, -0.5], policy.action_dist_inputs([0]).tolist())
        act = policy.act([0])
        self.assertEqual(["aim", "keys", "more"], list(act))
        self.assertEqual(([2.5, 0.5], [1, 0], 6), (act["aim"].tolist(), act["keys"].tolist(), act["more"][0]))  # [-1, 1] is stretched
        self.assertAlmostEqual(math.tanh(0.25), act["more"][1][0], places=6)
        self.assertEqual(np.float64, act["more"][1].dtype)
        back = policy.drawn({"aim": [2.5, 0.5], "keys": [1, 0], "more": (6, [0.5])})
        self.assertEqual(([0.5, 0], [1, 0], 6, [0.5]), (back["aim"].tolist(), back["keys"], back["more"][0], back["more"][1].tolist()))
        drawn = [policy.draw([0])[1] for _ in range(2000)]
        for values, mean, deviation in (([d["aim"][0] for d in drawn], 0.5, math.exp(-0.75)), (np.arctanh([d["more"][1][0] for d in drawn]), 0.25, math.exp(-0.5))):
            z = (np.array(values) - mean) / deviation
            self.assertLess(abs(z.mean()) * np.sqrt(z.size), 4)
            self.assertLess(abs(z.var() - 1) * np.sqrt(z.size / 2), 4)
        p = np.exp([0, 2, 1]) / np.exp([0, 2, 1]).sum()
        counts = np.bincount([d["more"][0] - 5 for d in drawn], minlength=3)
        self.assertLess(np.sum((counts - 2000 * p) ** 2 / (2000 * p)), 13.8)  # 99.9 % for 2 degrees of freedom
        for wrong, said in ((parts[:3], "has 3 parts of an action, the actions want 4"), ([parts[0] | {"free_log_std": False}, *parts[1:]], "has 10 outputs, the actions want 12")):
            with self.assertRaisesRegex(ValueError, said):
                self.policy(Box(-9, 9, (1,)), action, tensors, spec=spec | {"distribution": {"kind": "composite", "parts": wrong}})
        # A mask of the choices alone: both options of the first key, one of the second, two of the three.
        space = Dict({"action_mask": MultiBinary(7), "observation": Box(-9, 9, (1,))})
        masked = spec | {"obs_size": 8, "mask_offset": 0, "encoder": [{"kind": "select", "inputs": 8, "offset": 7, "size": 1}]}
        policy = self.policy(space, action, tensors, seed=1, spec=masked)
        see = lambda *mask: {"action_mask": mask, "observation": [0]}
        m = float(np.float32(-1e30))
        self.assertEqual([0, 1, m, 0, 0, m, 1], policy.action_dist_inputs(see(1, 1, 0, 1, 1, 0, 1))[4:11].tolist())
        act = policy.act(see(1, 1, 0, 1, 1, 0, 1))
        self.assertEqual(([1, 1], 7), (act["keys"].tolist(), act["more"][0]))
        given = lambda keys, one: {"aim": [0, 0], "keys": keys, "more": (one, [0])}
        self.assertEqual([True, False, False], [policy.allows(see(1, 1, 0, 1, 1, 0, 1), given(*x)) for x in (([0, 1], 5), ([0, 0], 5), ([0, 1], 6))])
        with self.assertRaisesRegex(ValueError, "allows no action"):
            policy.act(see(1, 1, 0, 0, 1, 1, 1))

    def test_actions_as_gymnasium_samples_them(self):
        space = box.Dict({"b": box.Tuple([box.Discrete(3, start=5), box.MultiDiscrete([[2], [3]])]), "a": box.Box(-1, 1, (1, 2), np.float64), "c": box.MultiBinary((1, 2))})
        ours = as_sampled(space, {"a": np.float32([[0.5, 1]]), "b": (6, np.int32([1, 2])), "c": np.int32([1, 0])})
        self.assertTrue(space.contains(ours))
        sampled = space.sample()
        self.assertEqual([(type(x), getattr(x, "dtype", None), np.shape(x)) for x in (sampled["a"], *sampled["b"], sampled["c"])],
                         [(type(x), getattr(x, "dtype", None), np.shape(x)) for x in (ours["a"], *ours["b"], ours["c"])])
        self.assertEqual((list(sampled), 6, [[1], [2]]), (list(ours), ours["b"][0], ours["b"][1].tolist()))
        # Masks as sample() takes them. Of MultiBinary 0: it is 0, 1: it is 1, 2: either; a Box has none, one of whole numbers all.
        mask = {"a": None, "b": (np.int8([1, 0, 1]), (np.int8([1, 0]), np.int8([0, 0, 1]))), "c": np.int8([[0, 2]])}
        self.assertEqual([1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1], mask_row(space, mask).tolist())
        self.assertEqual([1] * 12, mask_row(space, None).tolist())
        grid = tuple(tuple(np.int8(m) for m in row) for row in (([1, 0], [0, 1, 1]), ([1], [1, 0])))
        self.assertEqual([1, 0, 0, 1, 1, 1, 1, 0], mask_row(box.MultiDiscrete([[2, 3], [1, 2]]), grid).tolist())
        self.assertEqual([0, 1, 1, 1], mask_row(box.MultiBinary(2), np.int8([0, 1, 1, 1])).tolist())  # for each option, as observations have it
        self.assertEqual([1] * 5, mask_row(box.Box(np.array([-1, 0]), np.array([1, 1]), dtype=np.int64), None).tolist())

    # Every kind of layer; "EigenPolicy: what myriad_client computes" (tests/env_runners/eigen_policy_test.cpp) has the same
    # module, parameters sin(1) / 2, sin(2) / 2, ..., the same observation and outputs.
    MODULE = """{"obs_size":50,"encoder":[{"kind":"channels_last","channels":2,"height":5,"width":5,"depth":1},
        {"kind":"scale","size":50,"factor":0.5},
        {"kind":"conv2d","height":5,"width":5,"inputs":2,"outputs":3,"kernel":3,"stride":2,"padding":1,"initializer":"orthogonal","gain":1.0},
        {"kind":"activate","activation":"tanh","size":27},{"kind":"residual_begin","size":27},
        {"kind":"conv2d","height":3,"width":3,"inputs":3,"outputs":3,"kernel":3,"stride":1,"padding":1,"initializer":"orthogonal","gain":1.0},
        {"kind":"layernorm","size":27},{"kind":"residual_end","size":27},
        {"kind":"max_pool2d","height":3,"width":3,"channels":3,"kernel":2,"stride":1,"padding":1},
        {"kind":"linear","inputs":48,"outputs":4,"initializer":"orthogonal","gain":1.0}],
        "action_head":{"kind":"linear","inputs":4,"outputs":2,"initializer":"orthogonal","gain":1.0},
        "distribution":{"kind":"categorical","n":2},"log_std_init":0,"log_std_clip":20,"shares_encoder":true,"value_encoder":[],
        "value_head":{"kind":"linear","inputs":4,"outputs":1,"initializer":"orthogonal","gain":1.0}}"""
    OUTPUTS = (-0.750344, -0.566048)

    def policy_of(self, spec: dict, observation, action) -> Policy:
        count, tensors = itertools.count(1), {}
        for name, layer in [(f"encoder.{i}", layer) for i, layer in enumerate(spec["encoder"])] + [("pi", spec["action_head"])]:
            if layer["kind"] in ("conv2d", "linear"):
                window = [layer["kernel"]] * 2 if layer["kind"] == "conv2d" else []
                shapes = {"weight": (layer["outputs"], *window, layer["inputs"]), "bias": (layer["outputs"],)}
            else:
                shapes = {"gain": (layer["size"],), "bias": (layer["size"],)} if layer["kind"] == "layernorm" else {}
            for tensor, shape in shapes.items():
                values = [math.sin(next(count)) / 2 for _ in range(math.prod(shape))]
                tensors[f"{name}.{tensor}"] = np.array(values, np.float32).reshape(shape)
        policy = Policy.__new__(Policy)
        environment = {"observation_filter": "NoFilter", "normalize_actions": True, "clip_actions": True}
        policy._put_together({"environment": environment}, observation, action, tensors, {}, spec)
        return policy

    def test_every_kind_of_layer_of_a_module_json(self):
        observation = np.array([math.cos(i) for i in range(50)], np.float32).reshape(2, 5, 5)
        policy = self.policy_of(json.loads(self.MODULE), Box(-9, 9, (2, 5, 5)), Discrete(2))
        for _ in range(2):
            np.testing.assert_allclose(policy.action_dist_inputs(observation), self.OUTPUTS, atol=1e-5)

    def test_every_kind_of_layer_by_hand(self):
        for example in json.loads((ROOT / "tests/layer_examples.json").read_text()):
            with self.subTest(example["about"]):
                parameters, blocks, x = iter(example.get("parameters", ())), [], np.array(example["x"], np.float32)
                take = lambda name, *shape: np.array([next(parameters) for _ in range(math.prod(shape))], np.float32).reshape(shape)
                streams = []
                for i, layer in enumerate(example["layers"]):
                    function = layer_of(f"encoder.{i}", layer, take, blocks, streams)
                    x = function(x)
                np.testing.assert_allclose(x, example["y"], rtol=1e-5, atol=1e-5)
                self.assertEqual([], list(parameters))

    def test_stacked_pictures_and_pooling_by_hand(self):
        head = {"kind": "linear", "inputs": 4, "outputs": 4, "initializer": "orthogonal", "gain": 1.0}

        def features_of(layers: list, observation) -> list:
            spec = {"obs_size": observation.size, "encoder": layers, "action_head": head, "log_std_clip": 20, "distribution": {"kind": "categorical", "n": 4}}
            policy = self.policy_of(spec, Box(-9, 9, observation.shape), Discrete(4))
            policy._networks.pop()  # pi
            return policy.action_dist_inputs(observation).tolist()

        # Two pictures of 1 x 2 pixels and a pair of channels: (1, 2), (3, 4) before (5, 6), (7, 8).
        stacked = np.arange(1, 9, dtype=np.float32).reshape(2, 1, 2, 2)
        self.assertEqual([1, 2, 5, 6, 3, 4, 7, 8], features_of([{"kind": "channels_last", "channels": 2, "height": 1, "width": 2, "depth": 2}], stacked))
        pool = {"kind": "max_pool2d", "height": 2, "width": 2, "channels": 1, "kernel": 2, "stride": 2, "padding": 1}
        self.assertEqual([-1, 2, -3, -4], features_of([pool], np.array([[[-1], [2]], [[-3], [-4]]], np.float32)))
        # x + 2 x, of which again twice: x + 2 (3 x) = 7 x.
        block = [{"kind": kind, "size": 4} for kind in ("residual_begin", "residual_end")]
        twice = {"kind": "scale", "size": 4, "factor": 2.0}
        nested = [block[0], block[0], twice, block[1], twice, block[1]]
        self.assertEqual([7, 14, 21, 28], features_of(nested, np.arange(1, 5, dtype=np.float32)))

    def test_streams_by_hand(self):
        # As "EigenPolicy: streams by hand", but for the weight: sin(1) / 2, ...
        kinds = lambda *layers: [dict(layer, kind=kind) for kind, layer in layers]
        layers = kinds(("stream", {"size": 4}), ("select", {"inputs": 4, "offset": 2, "size": 2}), ("stream", {"size": 4}),
                       ("select", {"inputs": 4, "offset": 0, "size": 2}), ("scale", {"size": 2, "factor": 2.0}), ("concat", {"size": 4}))
        spec = {"obs_size": 4, "encoder": layers, "action_head": {"kind": "linear", "inputs": 4, "outputs": 4}, "log_std_clip": 20,
                "distribution": {"kind": "categorical", "n": 4}}
        policy = self.policy_of(spec, Box(-9, 9, (4,)), Discrete(4))
        policy._networks.pop()  # pi
        for _ in range(2):
            self.assertEqual([3, 4, 2, 4], policy.action_dist_inputs(np.arange(1, 5, dtype=np.float32)).tolist())

    def test_networks_by_hand(self):
        # As "EigenPolicy: networks by hand"; pi passes what it reads through, and what does not act is left alone.
        def action_dist_inputs(*networks) -> list:
            acting = [{"name": name, "inputs": inputs, "layers": layers, "acts": True} for name, inputs, layers in networks]
            size = acting[-1]["layers"][0]["inputs"]
            tensors = {"left.1.weight": np.array([[2], [3]], np.float32), "left.1.bias": np.array([0.5, -1], np.float32),
                       "pi.weight": np.eye(size, dtype=np.float32), "pi.bias": np.zeros(size, np.float32)}
            critic = {"name": "qf", "inputs": ["obs", "actions"], "layers": [{"kind": "nobody reads this"}], "acts": False}
            spec = {"obs_size": 2, "networks": [*acting, critic], "log_std_clip": 20, "distribution": {"kind": "categorical", "n": size}}
            policy = Policy.__new__(Policy)
            environment = {"observation_filter": "NoFilter", "normalize_actions": True, "clip_actions": True}
            policy._put_together({"environment": environment}, Box(-9, 9, (2,)), Discrete(size), tensors, {}, spec)
            policy.action_dist_inputs([1, 1])
            return policy.action_dist_inputs([4, 5]).tolist()

        kinds = lambda *layers: [dict(layer, kind=kind) for kind, layer in layers]
        select = lambda inputs, offset, size: ("select", {"inputs": inputs, "offset": offset, "size": size})
        head = lambda size: kinds(("linear", {"inputs": size, "outputs": size}))
        left = ("left", ["obs"], kinds(select(2, 0, 1), ("linear", {"inputs": 1, "outputs": 2})))
        right = ("right", ["obs"], kinds(("scale", {"size": 2, "factor": 10.0})))
        self.assertEqual([40, 50, 8.5, 11, 4, 5], action_dist_inputs(left, right, ("pi", ["right", "left", "obs"], head(6))))
        streams = kinds(("stream", {"size": 4}), select(4, 1, 2), ("stream", {"size": 4}), ("scale", {"size": 4, "factor": 2.0}), ("concat", {"size": 6}))
        self.assertEqual([50, 8.5, 80, 100, 17, 22, 40, 50],
                         action_dist_inputs(left, right, ("side", ["right", "left"], streams), ("pi", ["side", "right"], head(8))))

    def test_the_deviation_of_a_module_json(self):
        # 2 * 3 + 1 = 7 for the mean; a log deviation of -30 that is a parameter, or an output: both clipped to -20.
        f32 = lambda *values: np.array(values, np.float32)
        for free, tensors in ((True, {"pi.weight": f32([2]), "pi.bias": f32(1), "log_std": f32(-30)}),
                              (False, {"pi.weight": f32([2], [-10]), "pi.bias": f32(1, 0)})):
            policy = Policy.__new__(Policy)
            spec = {"obs_size": 1, "encoder": [], "action_head": {"kind": "linear", "inputs": 1, "outputs": len(tensors["pi.bias"])}, "log_std_clip": 20,
                    "distribution": {"kind": "diag_gaussian", "n": 1, "free_log_std": free}}
            environment = {"observation_filter": "NoFilter", "normalize_actions": False, "clip_actions": False}
            policy._put_together({"environment": environment}, Box(-9, 9, (1,)), Box(-9, 9, (1,)), tensors, {}, spec)
            self.assertEqual([7, -20], policy.action_dist_inputs([3]).tolist())

    def test_modules_that_do_not_fit_are_refused(self):
        picture = Box(-9, 9, (2, 5, 5))
        for change, observation, action, said in (
                (lambda spec: None, Box(-9, 9, (2, 5, 4)), Discrete(2), "takes 50 features, the observations have 40"),
                (lambda spec: None, picture, Discrete(3), "has 2 outputs, the actions want 3"),
                (lambda spec: spec["encoder"][1].update(kind="shear"), picture, Discrete(2), "encoder.1 is a layer of kind 'shear'"),
                (lambda spec: spec["encoder"][1].pop("kind"), picture, Discrete(2), "module.json is not as this version wants it: KeyError"),
        ):
            with self.subTest(said), self.assertRaisesRegex(ValueError, said):
                spec = json.loads(self.MODULE)
                change(spec)
                Policy.__new__(Policy)._put_together({"environment": {}}, observation, action, {}, {}, spec)
        with self.assertRaisesRegex(ValueError, r"encoder.2.weight not, want \(3, 3, 3, 2\)"):
            Policy.__new__(Policy)._put_together({"environment": {}}, picture, Discrete(2), {}, {}, json.loads(self.MODULE))

    # --- a client, and a run that is played here ---

    @contextlib.contextmanager
    def run_at(self, play):
        """A door at a unix socket, where `play(accept)` is the run; what it raises is raised here."""
        with tempfile.TemporaryDirectory(dir="/tmp") as folder, simulator.listener(f"{folder}/s") as door:
            door.settimeout(20)
            accepted = []

            def accept(taken: tuple | None = None):
                """The next connection's Hello; it is taken."""
                sock, _ = door.accept()
                sock.settimeout(20)
                accepted.append(sock)
                connection = wire.Connection(sock)
                kind, hello = connection.receive()
                self.assertEqual(p.Body.Hello, kind)
                b = flatbuffers.Builder(64)
                session = b.CreateByteVector(bytes(range(16)))
                p.WelcomeStart(b)
                p.WelcomeAddProtocol(b, 1), p.WelcomeAddSession(b, session)
                if taken is not None:
                    p.WelcomeAddTaken(b, True), p.WelcomeAddEpisode(b, taken[0]), p.WelcomeAddT(b, taken[1])
                connection.send(wire.frame(b, p.Body.Welcome, p.WelcomeEnd(b)))
                return connection, hello

            def play_on():
                try:
                    play(accept)
                except BaseException:  # nobody waits for more
                    for sock in (door, *accepted):
                        sock.close()
                    raise

            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                said = pool.submit(play_on)
                yield f"{folder}/s"
                said.result(20)

    @staticmethod
    def heard(connection) -> tuple:
        """An Observation: episode, t, what was seen, reward, terminated, truncated."""
        kind, seen = connection.receive()
        assert kind == p.Body.Observation, kind
        return seen.Episode(), seen.T(), float(np.frombuffer(seen.ObservationAsNumpy().tobytes(), np.float32)[0]), seen.Reward(), seen.Terminated(), seen.Truncated()

    @staticmethod
    def tell(connection, episode: int, t: int, action: int) -> None:
        b = flatbuffers.Builder(64)
        row = b.CreateByteVector(struct.pack("<i", action))
        p.ActionStart(b)
        p.ActionAddEpisode(b, episode), p.ActionAddT(b, t), p.ActionAddAction(b, row)
        connection.send(wire.frame(b, p.Body.Action, p.ActionEnd(b)))

    def test_a_client_counts_steps_and_adds_rewards(self):
        heard = []

        def play(accept):
            connection, hello = accept()
            heard.append((wire.text(hello.Token()), hello.Role(), hello.SessionLength()))
            for number in range(7):
                heard.append(self.heard(connection))
                if not any(heard[-1][4:]):
                    self.tell(connection, heard[-1][0], heard[-1][1] + 1, 9)  # of no step that was asked for
                    self.tell(connection, *heard[-1][:2], number % 2)

        with self.run_at(play) as address, Client(address, observation=Box(-9, 9, (1,)), action=Discrete(10), token="secret") as client:
            with self.assertRaises(RuntimeError):
                client.act([0])
            self.assertEqual(0, client.begin([0.5]))
            client.log_reward(1)
            client.log_reward(0.25)
            self.assertEqual(1, client.act([1.5], 2))
            self.assertEqual(0, client.act([2.5], 4))
            client.end([3.5], 8, terminated=False)
            with self.assertRaises(RuntimeError):
                client.log_reward(1)
            self.assertEqual(0, client.begin([4.5]))
            self.assertEqual(1, client.act([5.5]))
            client.end([6.5], 1)
        self.assertEqual([("secret", p.Role.asks, 0), (0, 0, 0.5, 0, False, False), (0, 1, 1.5, 3.25, False, False), (0, 2, 2.5, 4, False, False), (0, 3, 3.5, 8, False, True),
                          (1, 0, 4.5, 0, False, False), (1, 1, 5.5, 0, False, False), (1, 2, 6.5, 1, True, False)], heard)

    def test_a_client_that_comes_back_repeats_itself_or_knows_that_its_episode_is_lost(self):
        heard, sessions = [], []

        def play(accept):
            connection, _ = accept()
            heard.append(self.heard(connection))
            self.tell(connection, 0, 0, 1)
            heard.append(self.heard(connection))  # and is gone before the answer
            connection.sock.close()
            for taken in ((0, 0), (0, 1)):  # it had not been taken; it had, and the answer was lost
                connection, hello = accept(taken)
                sessions.append([hello.Session(i) for i in range(hello.SessionLength())])
                heard.append(self.heard(connection))
                if taken == (0, 1):
                    self.tell(connection, 0, 1, 2)
                    heard.append(self.heard(connection))
                connection.sock.close()
            connection, _ = accept((0, 0))  # two steps behind: the episode was given up, and nothing more is said of it
            heard.append(self.heard(connection))
            self.assertEqual((1, 0), heard[-1][:2])
            self.tell(connection, 1, 0, 1)

        with self.run_at(play) as address, Client(address, observation=Box(-9, 9, (1,)), action=Discrete(10), patience_s=5) as client:
            self.assertEqual(1, client.begin([0.5]))
            self.assertEqual(2, client.act([1.5], 3))
            with self.assertRaises(EpisodeLost):
                client.act([2.5], 4)
            self.assertEqual(1, client.begin([3.5]))
        step = 0, 1, 1.5, 3, False, False
        self.assertEqual([(0, 0, 0.5, 0, False, False), step, step, step, (0, 2, 2.5, 4, False, False), (1, 0, 3.5, 0, False, False)], heard)
        self.assertEqual([list(range(16))] * 2, sessions)

    # --- a simulator, and a Myriad that steps it ---

    def test_a_simulator_tells_ends_and_the_next_beginning(self):
        # Each environment sees [its number, episode, t], and ends after as many steps as its action says: 1 terminated, 2 cut, 3
        # both. The reward is 10 x its number + t.
        made = itertools.count()

        class Env:
            def __init__(self, options):
                self.number, self.episode, self.options = next(made), -1, options
            def reset(self, seed=None):
                self.seed, self.episode, self.t = seed, self.episode + 1, 0
                return self.see(), {}
            def see(self):
                return [self.number, self.episode, self.t]
            def step(self, action):
                self.t += 1
                return self.see(), 10 * self.number + self.t, bool(action & 1), bool(action & 2), {}

        n, observation, action = 4, Box(-99, 99, (3,)), Discrete(4)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(20)
        hello = simulator._hello(observation, action, "env", "", 0, 0, math.nan, {}, 1)
        thread = threading.Thread(target=simulator._serve_one, args=(theirs, hello, Env, observation, action, 1), daemon=True)
        thread.start()
        connection = wire.Connection(ours)
        self.assertEqual(p.Body.Hello, connection.receive()[0])

        def stepped() -> tuple:
            kind, said = connection.receive()
            self.assertEqual(p.Body.Stepped, kind)
            rows = [np.frombuffer(block.tobytes(), np.float32).reshape(n, 3).astype(int).tolist() for block in (said.ObservationsAsNumpy(), said.FinalsAsNumpy())]
            return *rows, said.RewardsAsNumpy().tolist(), said.FlagsAsNumpy().tolist()

        def step(actions: list[int], active: list[int]) -> tuple:
            b = flatbuffers.Builder(64)
            said = b.CreateByteVector(struct.pack("<4i", *actions)), b.CreateByteVector(bytes(active))
            p.StepStart(b)
            p.StepAddActions(b, said[0]), p.StepAddActive(b, said[1])
            connection.send(wire.frame(b, p.Body.Step, p.StepEnd(b)))
            return stepped()

        b = flatbuffers.Builder(64)
        p.WelcomeStart(b)
        p.WelcomeAddProtocol(b, 1), p.WelcomeAddNumEnvs(b, n), p.WelcomeAddObservationBytes(b, 12), p.WelcomeAddActionBytes(b, 4)
        connection.send(wire.frame(b, p.Body.Welcome, p.WelcomeEnd(b)))
        for i in range(n):
            b = flatbuffers.Builder(64)
            said = b.CreateNumpyVector(np.array([i], np.uint32)), b.CreateNumpyVector(np.array([100 + i], np.uint64))
            p.ResetStart(b)
            p.ResetAddEnvs(b, said[0]), p.ResetAddSeeds(b, said[1])
            connection.send(wire.frame(b, p.Body.Reset, p.ResetEnd(b)))
            self.assertEqual([i, 0, 0], stepped()[0][i])
        seen, _, rewards, flags = step([0, 0, 0, 0], [1, 1, 1, 1])
        self.assertEqual(([[i, 0, 1] for i in range(n)], [1, 11, 21, 31], [0] * 4), (seen, rewards, flags))
        seen, finals, rewards, flags = step([0, 1, 2, 3], [1, 1, 1, 1])
        self.assertEqual([[0, 0, 2], [1, 1, 0], [2, 1, 0], [3, 1, 0]], seen)
        self.assertEqual([[1, 0, 2], [2, 0, 2], [3, 0, 2]], finals[1:])
        self.assertEqual(([2, 12, 22, 32], [0, 1, 2, 3]), (rewards, flags))
        seen, _, rewards, flags = step([0, 0, 0, 0], [1, 0, 1, 1])  # number 1 rests
        self.assertEqual([[0, 0, 3], [1, 1, 0], [2, 1, 1], [3, 1, 1]], seen)
        self.assertEqual(([3, 21, 31], [0, 0, 0]), ([rewards[i] for i in (0, 2, 3)], [flags[i] for i in (0, 2, 3)]))
        ours.close()
        thread.join(20)
        self.assertFalse(thread.is_alive())

    def test_a_simulator_says_what_it_has_made_and_closes_it(self):
        said = []

        class Env:
            def __init__(self, options):
                self.index = os.environ["MYRIAD_ENV_INDEX"]
                said.append(f"made {self.index}")
            def close(self):
                said.append(f"closed {self.index}")
                if self.index == "7":
                    raise RuntimeError("it cannot close")  # the others close all the same

        observation, action = Box(-99, 99, (3,)), Discrete(4)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(20)
        hello = simulator._hello(observation, action, "env", "", 0, 0, math.nan, {}, 1)
        with unittest.mock.patch.dict(os.environ, {"MYRIAD_ENV_INDEX": "6"}):
            thread = threading.Thread(target=simulator._serve_one, args=(theirs, hello, Env, observation, action, 1), daemon=True)
            thread.start()
            connection = wire.Connection(ours)
            self.assertEqual(p.Body.Hello, connection.receive()[0])
            b = flatbuffers.Builder(64)
            p.WelcomeStart(b)
            p.WelcomeAddProtocol(b, 1), p.WelcomeAddNumEnvs(b, 3), p.WelcomeAddObservationBytes(b, 12), p.WelcomeAddActionBytes(b, 4)
            p.WelcomeAddHearsMade(b, True)
            connection.send(wire.frame(b, p.Body.Welcome, p.WelcomeEnd(b)))
            for made in (1, 2, 3):
                kind, message = connection.receive()
                self.assertEqual((p.Body.Made, made), (kind, message.Envs()))
            ours.close()
            thread.join(20)
        self.assertEqual(["made 6", "made 7", "made 8", "closed 6", "closed 7", "closed 8"], said)

    def test_addresses_of_ipv6_are_in_brackets(self):
        self.assertEqual([("::1", 7541), ("127.0.0.1", 7541)], [wire.host_and_port(a) for a in ("[::1]:7541", "127.0.0.1:7541")])
        with self.assertRaisesRegex(ValueError, "no address"):
            wire.host_and_port("127.0.0.1")


class Failing:
    """An environment that does as it is told: 0 goes on, 1 terminates, 2 raises, 3 terminates and cannot begin again. Observes
    [which one of all it is, t]; every info has `t` and, at an end, `is_success`."""
    made, closed = 0, 0

    def __init__(self, options):
        self.number, self.stuck = Failing.made, False
        Failing.made += 1

    def reset(self, seed=None):
        if self.stuck:
            raise RuntimeError("the level is broken")
        self.t = 0
        return [self.number, 0], {}

    def step(self, action):
        self.t += 1
        if action == 2:
            raise ValueError("no more fuel")
        self.stuck = action == 3
        info = {"t": self.t, "text": "no number"} | ({"is_success": True} if action == 1 else {})
        return [self.number, self.t], 1.0, action in (1, 3), False, info

    def close(self):
        Failing.closed += 1


class FailingWorld:
    """Two agents of such a kind, who see [which world, t]. A 2 of the second one raises."""
    made = 0

    def __init__(self, options):
        self.number = FailingWorld.made
        FailingWorld.made += 1

    def reset(self, seed=None):
        self.t = 0
        return [[self.number, 0]] * 2

    def step(self, actions):
        self.t += 1
        if actions[1] == 2:
            raise ValueError("no more fuel")
        return [[self.number, self.t]] * 2, [1.0, 1.0], [False] * 2, [False] * 2


class Failures(unittest.TestCase):
    """A simulator some of whose environments fail, and a Myriad by hand that steps it."""

    def begin(self, make_env, n: int, agents: int = 1, takes_failed: bool = True) -> None:
        Failing.made = Failing.closed = FailingWorld.made = 0
        observation, action = Box(-99, 99, (2,)), Discrete(4)
        self.n, (ours, theirs) = n, socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(20)
        hello = simulator._hello(observation, action, "env", "", 0, 0, math.nan, {}, agents)

        def serve() -> None:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(ValueError):
                simulator._serve_one(theirs, hello, make_env, observation, action, agents)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        self.addCleanup(serving.join, 20)  # it closes environments, which are counted: after ours is closed
        self.addCleanup(ours.close)
        self.connection = wire.Connection(ours)
        self.connection.receive()
        b = flatbuffers.Builder(64)
        p.WelcomeStart(b)
        p.WelcomeAddProtocol(b, 1), p.WelcomeAddNumEnvs(b, n), p.WelcomeAddObservationBytes(b, 8), p.WelcomeAddActionBytes(b, 4)
        p.WelcomeAddTakesFailed(b, takes_failed), p.WelcomeAddMaxNumbers(b, 3)
        self.connection.send(wire.frame(b, p.Body.Welcome, p.WelcomeEnd(b)))
        self.names = []
        for i in range(n):
            self.reset(i)

    def stepped(self):
        """What each environment sees, who failed and why, the flags, the numbers of each by name."""
        kind, said = self.connection.receive()
        if kind == p.Body.Failure:
            return said.Text().decode()
        seen = np.frombuffer(said.ObservationsAsNumpy().tobytes(), np.float32).reshape(self.n, 2).astype(int).tolist()
        failed = {said.Failed(i).Env(): said.Failed(i).Text().decode() for i in range(said.FailedLength())}
        if said.NumberNamesLength():
            self.names = [said.NumberNames(i).decode() for i in range(said.NumberNamesLength())]
        pairs = said.NumbersAsNumpy().reshape(self.n, 3, 2)
        numbers = [{name: tuple(pairs[i, k]) for k, name in enumerate(self.names) if not math.isnan(pairs[i, k, 0])} for i in range(self.n)]
        return seen, failed, said.FlagsAsNumpy().tolist(), numbers

    def reset(self, i: int, seed: int | None = 5, anew: bool = False):
        b = flatbuffers.Builder(64)
        said = b.CreateNumpyVector(np.array([i], np.uint32)), b.CreateNumpyVector(np.array([] if seed is None else [seed], np.uint64))
        p.ResetStart(b)
        p.ResetAddEnvs(b, said[0]), p.ResetAddSeeds(b, said[1]), p.ResetAddAnew(b, anew)
        self.connection.send(wire.frame(b, p.Body.Reset, p.ResetEnd(b)))
        return self.stepped()

    def step(self, *actions: int):
        b = flatbuffers.Builder(64)
        said = b.CreateByteVector(struct.pack(f"<{self.n}i", *actions)), b.CreateByteVector(bytes([1] * self.n))
        p.StepStart(b)
        p.StepAddActions(b, said[0]), p.StepAddActive(b, said[1])
        self.connection.send(wire.frame(b, p.Body.Step, p.StepEnd(b)))
        return self.stepped()

    def test_one_that_raises_is_told_and_made_anew_while_the_others_go_on(self):
        self.begin(Failing, 3)
        seen, failed, _, _ = self.step(0, 2, 0)
        self.assertEqual(([0, 1], [2, 1]), (seen[0], seen[2]))
        self.assertEqual([1], list(failed))
        self.assertRegex(failed[1], r"^ValueError: no more fuel \(python_sdk_test.py:\d+\)$")
        self.assertEqual((3, 1), (Failing.made, Failing.closed))
        seen, failed, _, _ = self.reset(1)
        self.assertEqual(([3, 0], {}), (seen[1], failed))  # number 3 is in its place
        seen, failed, _, _ = self.step(0, 0, 0)
        self.assertEqual(([[0, 2], [3, 1], [2, 2]], {}), (seen, failed))
        self.assertEqual([4, 0], self.reset(0, anew=True)[0][0])  # a failure that Myriad found

    def test_an_end_is_an_end_where_the_next_episode_cannot_begin(self):
        self.begin(Failing, 1)
        _, failed, flags, _ = self.step(3)
        self.assertEqual(({}, [simulator.TERMINATED | simulator.NOT_BEGUN]), (failed, flags))
        _, failed, _, _ = self.reset(0, None)
        self.assertRegex(failed[0], "RuntimeError: the level is broken")
        seen, failed, _, _ = self.reset(0)
        self.assertEqual(([[1, 0]], {}), (seen, failed))

    def test_a_world_fails_as_one(self):
        self.begin(FailingWorld, 4, agents=2)
        seen, failed, _, _ = self.step(0, 2, 0, 0)
        self.assertEqual(([0, 1], [[1, 1], [1, 1]]), (sorted(failed), seen[2:]))
        self.assertEqual(([2, 0], [2, 0]), (self.reset(0, anew=True)[0][0], self.reset(1, anew=True)[0][1]))

    def test_a_myriad_that_takes_no_failures_gets_the_old_one(self):
        self.begin(Failing, 2, takes_failed=False)
        self.assertRegex(self.step(0, 2), "ValueError: no more fuel")

    def test_numbers_of_info_are_those_of_the_episode(self):
        self.begin(Failing, 2)
        self.step(0, 0)
        _, _, _, numbers = self.step(0, 1)
        self.assertEqual([{"t": (1.5, 2)}, {"t": (1.5, 2), "is_success": (1, 1)}], numbers)
        _, _, _, numbers = self.step(0, 0)  # the second one's next episode
        self.assertEqual([{"t": (2, 3)}, {"t": (1, 1)}], numbers)
        self.reset(0)
        _, _, _, numbers = self.step(0, 0)
        self.assertEqual([{"t": (1, 1)}, {"t": (1.5, 2)}], numbers)


class Installed(Case):
    def test_install_sdk_installs_the_package(self):
        subprocess.run([sys.executable, ROOT / "scripts/install_sdk.py", self.root], check=True, capture_output=True)
        folder = self.root / "share/myriad/python"
        said = subprocess.run([sys.executable, "-c", "import myriad_client; print(myriad_client.__file__, myriad_client.Policy.__name__)"], check=True, capture_output=True,
                              text=True, cwd=self.root, env=os.environ | {"PYTHONPATH": str(folder)}).stdout
        self.assertEqual(f"{folder}/myriad_client/__init__.py Policy\n", said)


if __name__ == "__main__":
    sys.exit(run_test.main(sys.modules[__name__]))
