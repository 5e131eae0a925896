"""The Python package: PettingZoo's environments, and policies without a connection: `python_sdk_test.py BUILD [CASE ...]`."""
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "sdk/python")]
import numpy as np  # noqa: E402
import run_test  # noqa: E402
from gymnasium import spaces as box  # noqa: E402
from myriad_client import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Policy, Tuple  # noqa: E402
from myriad_client.pettingzoo import World, agents_of, nothing_of  # noqa: E402
from myriad_client.policy import features  # noqa: E402
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
        return self.see(), float(np.sum(action)), False, self.t == 20, {}
serve(lambda options: Recorder(Env()), observation, ACTION)
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

    def test_world_waits_for_its_last_agent(self):
        world = World(self.team())
        self.assertEqual([[0, 0, 1], [0, 0, 2], [0, 0, 3]], world.reset())
        seen, rewards, ends = [], [], []
        for _ in range(4):
            observations, reward, terminateds, truncateds = world.step([0, 0, 0])
            seen.append([list(row) for row in observations]), rewards.append(reward), ends.append((terminateds, truncateds))
        nothing = [0, 0, 0]
        self.assertEqual([[0, 2, 1], [0, 2, 2], [0, 2, 3]], seen[1])  # a ends here, and sees it
        self.assertEqual([nothing, [0, 3, 2], [0, 3, 3]], seen[2])
        self.assertEqual([[0, 2, 1], [0, 3, 2], [0, 4, 3]], seen[3])  # of all, the last that they saw
        self.assertEqual([[1, 2, 3], [1, 2, 3], [0, 2, 3], [0, 0, 3]], rewards)
        self.assertEqual([([False] * 3, [False] * 3)] * 3 + [([True, True, False], [False, False, True])], ends)
        self.assertEqual([[1, 0, 1], [1, 0, 2], [1, 0, 3]], world.reset())

    def test_nothing_lies_in_the_space(self):
        space = box.Dict({"far": box.Box(2, 3, (2,)), "less": box.Box(-3, -2, (1,)), "one": box.Discrete(3, start=5), "bits": box.MultiBinary(2),
                          "pair": box.Tuple([box.MultiDiscrete([2, 3]), box.Box(0, 255, (1,), np.uint8)])})
        nothing = nothing_of(space)
        self.assertTrue(space.contains({**nothing, "one": np.int64(nothing["one"])}))
        self.assertEqual([[2, 2], [-2], 5], [nothing["far"].tolist(), nothing["less"].tolist(), nothing["one"]])

    def test_training_and_evaluation_play_whole_worlds(self):
        for module, text in (("team", None), ("turns", AEC)):
            if text:
                self.file("turns.py", text)
            run = self.root / module
            self.train(run, "stop.training_iteration=8", config=self.config_of(f"pettingzoo:{module}"))
            for row in json_lines(run / "results.jsonl"):
                self.assertAlmostEqual((2 * 1 + 3 * 2 + 4 * 3) / 3, row["env_runners"]["episode_return_mean"])
                self.assertEqual(4, row["env_runners"]["episode_len_mean"])
            # 15 environments at once: the most that is below 16
            played = [json.loads(line) for line in self.call("evaluate", run, "--episodes", 24, "--json").stdout.splitlines()]
            self.assertEqual([2, 6, 12] * 8, [episode["return"] for episode in played])
            self.assertIn("has 3 agents that act together, and cannot play 10 episodes", self.call("evaluate", run, "--episodes", 10, status=2).stderr)

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
        self.assertIn("evaluation.evaluation_duration is 10", self.refused("pettingzoo:team", "evaluation.evaluate_at_end=true", "evaluation.evaluation_duration=10"))
        self.assertIn("environment.frame_skip is 2", self.refused("pettingzoo:team", "environment.frame_skip=2"))
        self.assertIn("[curriculum]", self.refused("pettingzoo:team", "curriculum.randomize={length=[3, 5]}"))
        self.assertIn("has no option lenght; did you mean length", self.refused("pettingzoo:team", "environment.env_config.lenght=3"))
        self.assertIn("want a multiple of 3 (`myriad play`", self.call("play", "pettingzoo:team", status=2).stderr)

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
            np.testing.assert_allclose(policy.act(observation), action, rtol=1e-5, atol=1e-5)
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
                ("Discrete(4, 3)", ["fcnet_activation='silu'", "vf_share_layers=true"]),
                ("MultiDiscrete([3, 2, 4])", ["fcnet_activation='relu'", "fcnet_use_layernorm=true"]),
                ("MultiBinary(3)", ["fcnet_activation='linear'"]),
                ("Discrete(2)", ["fcnet_hiddens=[]"]),
        )):
            with self.subTest(action):
                run = self.run_of(MADE_UP.replace("ACTION", action), "stop.training_iteration=3", *(f"rl_module.{s}" for s in settings), name=f"run{i}")
                self.assert_acts_as_evaluate(run)

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


class Installed(Case):
    def test_install_sdk_installs_the_package(self):
        subprocess.run([sys.executable, ROOT / "scripts/install_sdk.py", self.root], check=True, capture_output=True)
        folder = self.root / "share/myriad/python"
        said = subprocess.run([sys.executable, "-c", "import myriad_client; print(myriad_client.__file__, myriad_client.Policy.__name__)"], check=True, capture_output=True,
                              text=True, cwd=self.root, env=os.environ | {"PYTHONPATH": str(folder)}).stdout
        self.assertEqual(f"{folder}/myriad_client/__init__.py Policy\n", said)


if __name__ == "__main__":
    sys.exit(run_test.main(sys.modules[__name__]))
