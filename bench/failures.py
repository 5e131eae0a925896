#!/usr/bin/env python3
"""What failures of environments cost a run: `./myriad bench failures [python | plugin | mjcf] [--steps N]`.

Each run is made twice, without failures and with one in 2,000 env steps or so: the same simulator raises, or its simulation becomes unstable.
Failures and steps are counted in the results; both runs use the same seed. Ten million steps: --steps 10000000.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

CONFIG = """
algorithm = "PPO"
seed = 1
[environment]
env = ENV
[env_runners]
num_env_runners = 2
num_envs_per_env_runner = 8
rollout_fragment_length = 128
[training]
train_batch_size = 4096
minibatch_size = 1024
num_epochs = 2
lr = 1e-3
[rl_module]
fcnet_hiddens = [32]
[evaluation]
evaluate_at_end = false
"""
PYTHON = """
import random, sys
import numpy as np
from myriad_client import Box, Discrete, serve

class Walk:
    \"\"\"To the right is right; 50 steps.\"\"\"
    def __init__(self, options):
        self.chance = options["chance"]
    def reset(self, seed=None):
        self.random, self.t = random.Random(seed), 0
        return np.zeros(4, np.float32), {}
    def step(self, action):
        self.t += 1
        if self.random.random() < self.chance:
            raise RuntimeError("the solver did not converge")
        return np.full(4, self.t / 50, np.float32), float(action), self.t == 50, False, {}

serve(Walk, Box(-10, 10, (4,)), Discrete(2), options={"chance": 0.0})
"""
PLUGIN = """
#include <myriad/env.hpp>
struct Walk {
  static constexpr const char* id = "Walk-v0";
  static std::vector<myriad::Option> options() { return {{"chance", 0.0}}; }
  static myriad::Space observation_space(const myriad::Options&) { return myriad::Space::box(-10, 10, {4}); }
  static myriad::Space action_space(const myriad::Options&) { return myriad::Space::discrete(2); }
  explicit Walk(const myriad::Options& options) : chance(options["chance"]) {}
  void reset(myriad::Random&, float* observation) { see(t = 0, observation); }
  myriad::Step step(const int32_t* action, myriad::Random& random, float* observation) {
    see(++t, observation);
    if (random.uniform(0, 1) < chance) throw std::runtime_error("the solver did not converge");
    return {double(action[0]), t == 50};
  }
  void see(int step, float* observation) { for (int i = 0; i < 4; ++i) observation[i] = float(step) / 50; }
  double chance;
  int t = 0;
};
MYRIAD_ENVIRONMENT(Walk)
"""
XML = """
<mujoco><option timestep="0.01"/><worldbody><body><joint name="hinge" axis="0 1 0"/><geom type="capsule" size="0.05" fromto="0 0 0 0 0 -0.5"/></body></worldbody>
<actuator><motor joint="hinge" ctrllimited="true" ctrlrange="-1 1"/></actuator></mujoco>
"""
# Where the damping that an episode draws is below zero, its simulation is soon unstable.
TASK = """
model = "pendulum.xml"
frame_skip = 2
max_episode_steps = 50
[options]
chance = 0.0
[observation]
terms = ["qpos", "qvel"]
[reward]
up = { value = "-cos(qpos[0])", weight = 1 }
[randomize]
"dof_damping:hinge" = { uniform = ["-5000 * 50 * chance", 5000], set = true }
"""


def environment(kind: str, folder: pathlib.Path) -> str:
    if kind == "python":
        (folder / "walk.py").write_text(PYTHON)
        return f"process:{sys.executable} {folder}/walk.py"
    if kind == "plugin":
        (folder / "walk.cpp").write_text(PLUGIN)
        subprocess.run(["c++", "-std=c++17", "-O2", "-fPIC", "-shared", f"-I{ROOT}/sdk/include", folder / "walk.cpp", "-o", folder / "libwalk.so"], check=True)
        return f"plugin:{folder}/libwalk.so"
    (folder / "pendulum.xml").write_text(XML)
    (folder / "pendulum.toml").write_text(TASK)
    return f"mjcf:{folder}/pendulum.toml"


def train(folder: pathlib.Path, steps: int, chance: float) -> dict:
    out = folder / f"run-{chance}"
    subprocess.run([ROOT / "myriad", "train", folder / "train.toml", "--out", out, f"environment.env_config.chance={chance}",
                    f"stop.num_env_steps_sampled_lifetime={steps}"], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    of = [row["env_runners"] for row in rows]
    seconds = rows[-1]["time_total_s"] - rows[0]["time_total_s"]
    failures = {cause: sum(row["num_env_failures"][cause] for row in of) for cause in of[0]["num_env_failures"]}
    return {"steps": rows[-1]["num_env_steps_sampled_lifetime"], "s": seconds, "return": of[-1]["episode_return_mean"], "sampling_s": sum(row["timers"]["env_runner_sampling_timer"] for row in rows),
            "failures": {cause: count for cause, count in failures.items() if count}, "episodes": of[-1]["num_episodes_lifetime"],
            "length": of[-1]["episode_len_mean"], "restarts": rows[-1]["fault_tolerance"]["num_remote_worker_restarts"]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="./myriad bench failures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["python", "plugin", "mjcf"])
    parser.add_argument("--steps", type=int, default=300_000)
    arguments = parser.parse_args()
    for kind in arguments.what:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "train.toml").write_text(CONFIG.replace("ENV", json.dumps(environment(kind, folder)), 1))
            without, with_failures = (train(folder, arguments.steps, chance) for chance in (0.0, 1 / 2000))
        count = max(1, sum(with_failures["failures"].values()))
        lost = with_failures["steps"] - with_failures["episodes"] * with_failures["length"]
        slower = with_failures["sampling_s"] - without["sampling_s"]  # of one of two runners
        print(f"{kind}: {with_failures['steps']:,} steps, failures {with_failures['failures']}, one in {with_failures['steps'] / count:,.0f} steps; "
              f"return {with_failures['return']:.1f} (without {without['return']:.1f}), runners restarted {with_failures['restarts']}; "
              f"a failure costs {lost / count:.0f} env steps and {2000 * slower / count:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
