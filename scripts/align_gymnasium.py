#!/usr/bin/env python3
"""Goldens of Gymnasium for tests/sims/alignment_test.cpp.

Every episode starts from a full state, follows a scripted policy and records each step with all its digits:

    episode random 200                      the policy, the number of steps
    state 0.1 0.2                           the simulator's initial state (MuJoCo: qpos, then qvel)
    observation 0.1 0.2                     S_0
    0.5 | 1.0 0 | 0.11 0.21                 A_t | R_{t+1} terminated | S_{t+1}
    state 0.11 0.21                         every 20 steps the whole state again (MuJoCo: mjSTATE_INTEGRATION, then the task's fields)

A replay which goes on from each recorded state covers the whole trajectory, and another processor's libm, off by a last
digit, is not amplified for longer than 20 steps (HalfCheetah turns 1e-15 into 1 within 90).

    scripts/align_gymnasium.py --write              writes tests/golden/gymnasium
    scripts/align_gymnasium.py --check [BUILD_DIR]  runs Gymnasium again, compares with the files; replays them in BUILD_DIR

Needs the wheels gymnasium, mujoco, numpy, cloudpickle, farama-notifications and typing_extensions (all --no-deps).
"""

import argparse
import os
import pathlib
import subprocess
import sys
import types

# Gymnasium's renderer imports window and image libraries; nothing is drawn here.
renderer = types.ModuleType("gymnasium.envs.mujoco.mujoco_rendering")
renderer.MujocoRenderer = lambda *args, **kwargs: None
sys.modules[renderer.__name__] = renderer

import gymnasium  # noqa: E402
import mujoco  # noqa: E402
import numpy as np  # noqa: E402

mujoco.set_mju_user_warning(lambda message: None)  # else MuJoCo writes a log file into the working folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "gymnasium"
STATE_EVERY = 20  # steps


def random_policy(env, observation, rng):
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(rng.integers(space.n))
    return rng.uniform(space.low, space.high).astype(np.float32)


def gains(*weights):
    """Linear feedback: right (or a force) where the weighted sum of the observation is positive."""

    def policy(env, observation, rng):
        value = float(np.dot(weights, observation))
        if isinstance(env.action_space, gymnasium.spaces.Discrete):
            return (env.action_space.n - 1) if value > 0 else 0
        return np.clip([value], env.action_space.low, env.action_space.high).astype(np.float32)

    return policy


def constant(action):
    return lambda env, observation, rng: action if isinstance(action, int) else np.array(action, np.float32)


BANG_BANG = gains(0, 1e9)  # full force along the velocity

# id: [(policy's name, policy, seed, steps at most, whether to go on after a termination)]
EPISODES = {
    "CartPole-v1": [("random", random_policy, seed, 500, False) for seed in range(6)]
    + [("balance", gains(0.1, 0.3, 3.0, 1.0), 6, 500, False), ("left", constant(0), 7, 500, False)],
    "Pendulum-v1": [("random", random_policy, seed, 200, False) for seed in range(3)]
    + [("push", constant([2.0]), 3, 200, False)],
    "Acrobot-v1": [("random", random_policy, 0, 500, False), ("random", random_policy, 1, 200, False)]
    + [("swing_up", gains(0, 0, 0, 0, -1, 0.5), seed, 500, False) for seed in (2, 3)],
    "MountainCar-v0": [("random", random_policy, seed, 200, False) for seed in range(2)]
    + [("bang_bang", BANG_BANG, seed, 200, False) for seed in (2, 3)]
    + [("left", constant(0), 4, 100, False)],
    "MountainCarContinuous-v0": [("random", random_policy, 0, 999, False), ("left", constant([-1.0]), 1, 100, False)]
    + [("bang_bang", BANG_BANG, seed, 999, False) for seed in (2, 3)],
    "HalfCheetah-v5": [("random", random_policy, 0, 500, False)]
    + [("random", random_policy, seed, 100, False) for seed in (1, 2, 3)],
    "Hopper-v5": [("random", random_policy, seed, 100, False) for seed in range(4)]
    + [("still", constant([0.0, 0.0, 0.0]), 4, 200, False), ("fallen", random_policy, 5, 300, True)],
    "InvertedPendulum-v5": [("random", random_policy, seed, 100, False) for seed in range(4)]
    + [("balance", gains(0.5, 10, 0.5, 1), 4, 300, False), ("right", constant([3.0]), 5, 100, False)],
    "InvertedDoublePendulum-v5": [("random", random_policy, seed, 60, False) for seed in range(4)]
    + [("right", constant([1.0]), 4, 60, True)],
    "Reacher-v5": [("random", random_policy, seed, 50, False) for seed in range(4)]
    + [("push", constant([1.0, 1.0]), 4, 50, False)],
    "Pusher-v5": [("random", random_policy, seed, 50, False) for seed in range(3)]
    + [("reach", constant([0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0]), 3, 100, False)],
    "Swimmer-v5": [("random", random_policy, seed, 100, False) for seed in range(4)],
    "Walker2d-v5": [("random", random_policy, seed, 60, False) for seed in range(4)]
    + [("still", constant([0.0] * 6), 4, 100, False), ("fallen", random_policy, 5, 100, True)],
    "Ant-v5": [("random", random_policy, seed, 30, False) for seed in range(3)]
    + [("fallen", random_policy, 3, 90, True)],
    "Humanoid-v5": [("random", random_policy, seed, 8, False) for seed in range(3)]
    + [("fallen", random_policy, 3, 45, True)],
    "HumanoidStandup-v5": [("random", random_policy, seed, 8, False) for seed in range(3)]
    + [("longer", random_policy, 3, 45, False)],
}

# What the tasks' states hold beside mjSTATE_INTEGRATION: MujocoField, in their files' order.
FIELDS = {
    "InvertedDoublePendulum-v5": ["qfrc_constraint"],
    "Reacher-v5": ["xpos"],
    "Pusher-v5": ["xpos"],
    "Ant-v5": ["xpos", "cfrc_ext"],
    "Humanoid-v5": ["xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"],
    "HumanoidStandup-v5": ["xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"],
}


def number(value):
    """The shortest text which reads back as the same number of its type."""
    return repr(value.item()) if not isinstance(value, np.float32) else str(value)


def numbers(values):
    return " ".join(number(value) for value in np.atleast_1d(values))


def space_text(space):
    """Gymnasium's notation with single blanks between the bounds."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return f"Discrete({space.n})"
    bounds = [number(b.flat[0]) if np.all(b == b.flat[0]) else f"[{numbers(b)}]" for b in (space.low, space.high)]
    return f"Box({bounds[0]}, {bounds[1]}, {space.shape}, {space.dtype})"


def initial_state(env):
    return env.state_vector() if hasattr(env, "state_vector") else np.asarray(env.state, np.float64)


def whole_state(env_id, env):
    if not hasattr(env, "state_vector"):
        return initial_state(env)
    state = np.empty(mujoco.mj_stateSize(env.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(env.model, env.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return np.concatenate([state] + [getattr(env.data, field).flat for field in FIELDS.get(env_id, [])])


def golden(env_id):
    spec = gymnasium.spec(env_id)
    env = gymnasium.make(env_id).unwrapped
    lines = [
        f"# {env_id} of Gymnasium {gymnasium.__version__}, MuJoCo {mujoco.__version__}; by scripts/align_gymnasium.py",
        f"observation_space {space_text(env.observation_space)}",
        f"action_space {space_text(env.action_space)}",
        f"max_episode_steps {spec.max_episode_steps}",
        f"reward_threshold {spec.reward_threshold}",
    ]
    for name, policy, seed, most, go_on in EPISODES[env_id]:
        rng = np.random.default_rng(1000 + seed)
        observation, _ = env.reset(seed=seed)
        recorded, steps = [f"state {numbers(initial_state(env))}", f"observation {numbers(observation)}"], 0
        while steps < most:
            action = policy(env, observation, rng)
            observation, reward, terminated, _, _ = env.step(action)
            steps += 1
            recorded.append(f"{numbers(action)} | {number(np.float64(reward))} {int(terminated)} | {numbers(observation)}")
            if terminated and not go_on:
                break
            if steps % STATE_EVERY == 0 and steps < most:
                recorded.append(f"state {numbers(whole_state(env_id, env))}")
        lines += [f"episode {name} {steps}"] + recorded
    return "\n".join(lines) + "\n"


def difference(live, committed):
    """The largest difference of two goldens' numbers, or the first line that differs otherwise."""
    largest, live_lines, committed_lines = 0.0, live.splitlines(), committed.splitlines()
    if len(live_lines) != len(committed_lines):
        return f"{len(live_lines)} lines, committed {len(committed_lines)}"
    for i, (a, b) in enumerate(zip(live_lines, committed_lines)):
        if a == b:
            continue
        if a.startswith("#"):
            print(f"  note: made with {b[2:]}")
            continue
        try:
            words = zip(a.split(), b.split(), strict=True)
            largest = max([largest] + [abs(float(x) - float(y)) for x, y in words if x != y])
        except ValueError:
            return f"line {i + 1}: {a}, committed {b}"
    return largest


def check(build_dir):
    failed = False
    for env_id in EPISODES:
        result = difference(golden(env_id), (GOLDEN / f"{env_id}.txt").read_text())
        failed |= result != 0.0
        print(f"{'FAIL' if result else 'ok  '} {env_id}: {result if isinstance(result, str) else f'differs by {result:g}'}")
    if build_dir:
        program = pathlib.Path(build_dir) / "tests" / "sims" / "sims_test"
        failed |= subprocess.run([program, "--test-suite=sims/alignment"], check=False).returncode != 0
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the goldens")
    action.add_argument("--check", metavar="BUILD_DIR", nargs="?", const="", help="compare with the goldens")
    arguments = parser.parse_args()
    if not arguments.write:
        return check(arguments.check)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for env_id in EPISODES:
        (GOLDEN / f"{env_id}.txt").write_text(golden(env_id))
        print(f"{env_id}: {os.path.getsize(GOLDEN / f'{env_id}.txt')} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
