#!/usr/bin/env python3
"""Goldens of Gymnasium for tests/sims/alignment_test.cpp.

Every episode starts from a full state, follows a scripted policy and records each step with all its digits:

    episode random 200                      the policy, the number of steps
    state 0.1 0.2                           the simulator's initial state (MuJoCo: qpos, then qvel)
    observation 0.1 0.2                     S_0
    0.5 | 1.0 0 | 0.11 0.21                 A_t | R_{t+1} terminated | S_{t+1}
    state 0.11 0.21                         every 20 steps the whole state again (MuJoCo: mjSTATE_INTEGRATION, then the task's fields)

Toy text is random and Box2D's worlds have no state that could be set: there Gymnasium draws from Myriad's random stream
(GymnasiumStream below), and the replay from the same stream, from reset to end; `stream 3` (its seed) stands for the states. Toy text has its tables beside them, all of `env.P`:

    transition 14 2 | 0.33 14 0 0 | 0.33 15 1 1     S_t, A_t | probability, S_{t+1}, R_{t+1}, terminated

Tasks with options have a second file, ID.options.txt, with `option NAME VALUE` lines: a pair is NAME_low and NAME_high.

A replay which goes on from each recorded state covers the whole trajectory, and another processor's libm, off by a last
digit, is not amplified for longer than 20 steps (HalfCheetah turns 1e-15 into 1 within 90).

    scripts/align_gymnasium.py --write              writes tests/golden/gymnasium
    scripts/align_gymnasium.py --check [BUILD_DIR]  runs Gymnasium again, compares with the files; replays them in BUILD_DIR

Needs the wheels gymnasium, mujoco, Box2D, numpy, cloudpickle, farama-notifications and typing_extensions (all --no-deps).
"""

import argparse
import os
import pathlib
import subprocess
import sys
import types

# Gymnasium's renderers import window and image libraries; nothing is drawn here.
for name in ("gymnasium.envs.mujoco.mujoco_rendering", "pygame", "pygame.gfxdraw"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["gymnasium.envs.mujoco.mujoco_rendering"].MujocoRenderer = lambda *args, **kwargs: None
sys.modules["pygame"].gfxdraw = sys.modules["pygame.gfxdraw"]

import Box2D  # noqa: E402
import gymnasium  # noqa: E402
import mujoco  # noqa: E402
import numpy as np  # noqa: E402
from gymnasium.envs.box2d import bipedal_walker, lunar_lander  # noqa: E402

from random_stream import RandomStream  # noqa: E402

# Clouds are decoration, and would be drawn between the numbers that count.
bipedal_walker.BipedalWalker._generate_clouds = lambda self: None

mujoco.set_mju_user_warning(lambda message: None)  # else MuJoCo writes a log file into the working folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "gymnasium"
STATE_EVERY = 20  # steps
ROUNDING = 1e-12  # numpy's norms are BLAS's, whose last bit depends on the processor


class GymnasiumStream(RandomStream):
    """With what Gymnasium's environments ask of numpy.random.Generator."""

    def uniform(self, low, high, size=None):
        if size is not None:
            return np.array([self.uniform(low, high) for _ in range(*size)])
        return low + (high - low) * self.random()

    def integers(self, low, high):
        low, count = int(low), int(high) - int(low)
        return low if count == 1 else low + self.below(count)

    def choice(self, items):
        # Suits and faces of cards are only drawn to be shown.
        return items[0] if isinstance(items[0], str) else items[self.integers(0, len(items))]


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


def along_the_cliff(env, observation, rng):
    """Up, right along the cliff and down: CliffWalking's shortest way."""
    return 0 if observation == 36 else 2 if observation % 12 == 11 else 1


def eager_taxi(env, observation, rng):
    """Picks up where it can, drops off at the destination, else drives anywhere."""
    *taxi, passenger, destination = env.decode(observation)
    if passenger < 4 and tuple(taxi) == env.locs[passenger]:
        return 4
    if passenger == 4 and tuple(taxi) == env.locs[destination]:
        return 5
    return int(rng.choice(np.flatnonzero(env.action_mask(observation)[:4])))


def landing(env, observation, rng):
    action = lunar_lander.heuristic(env, observation)
    return np.asarray(action, np.float32) if env.continuous else int(action)


def walking(env, observation, rng):
    env.walker = getattr(env, "walker", None) or bipedal_walker.BipedalWalkerHeuristics()
    return env.walker.step_heuristic(observation).astype(np.float32)


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
    "FrozenLake-v1": [("random", random_policy, seed, 100, False) for seed in range(20)]
    + [("right", constant(2), seed, 100, False) for seed in range(20, 24)],
    "FrozenLake8x8-v1": [("random", random_policy, seed, 200, False) for seed in range(12)]
    + [("right", constant(2), seed, 200, False) for seed in range(12, 16)],
    "CliffWalking-v1": [("random", random_policy, seed, 100, False) for seed in range(3)]
    + [("along", along_the_cliff, 3, 100, False)],
    "CliffWalkingSlippery-v1": [("random", random_policy, seed, 100, False) for seed in range(3)]
    + [("along", along_the_cliff, 3, 300, False)],
    "Taxi-v3": [("random", random_policy, seed, 100, False) for seed in range(2)]
    + [("eager", eager_taxi, seed, 300, False) for seed in range(2, 6)],
    "Blackjack-v1": [("random", random_policy, seed, 10, False) for seed in range(200)]
    + [("stick", constant(0), seed, 10, False) for seed in range(200, 300)],
    "LunarLander-v3": [("random", random_policy, seed, 300, False) for seed in range(6)]
    + [("landing", landing, seed, 400, False) for seed in range(6, 9)] + [("up", constant(2), 9, 200, False)],
    "LunarLanderContinuous-v3": [("random", random_policy, seed, 200, False) for seed in range(4)]
    + [("landing", landing, seed, 400, False) for seed in (4, 5)],
    "BipedalWalker-v3": [("random", random_policy, seed, 100, False) for seed in range(4)]
    + [("walking", walking, 4, 400, False)],
    "BipedalWalkerHardcore-v3": [("random", random_policy, seed, 50, False) for seed in range(4)]
    + [("walking", walking, seed, 150, False) for seed in range(4, 8)],
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

# id: keyword options, no value the default, of the episodes in ID.options.txt
OPTIONS = {
    "FrozenLake-v1": dict(success_rate=0.8, reward_schedule=(2.5, -1.5, -0.25)),
    "FrozenLake8x8-v1": dict(is_slippery=False),
    "CliffWalking-v1": dict(is_slippery=True),
    "Taxi-v3": dict(is_rainy=True, fickle_passenger=True),
    "Blackjack-v1": dict(natural=True, sab=False),
    "LunarLander-v3": dict(continuous=True, gravity=-8.5, enable_wind=True, wind_power=17.5, turbulence_power=1.2),
    "HalfCheetah-v5": dict(frame_skip=3, forward_reward_weight=0.5, ctrl_cost_weight=0.3, reset_noise_scale=0.2,
                           exclude_current_positions_from_observation=False),
    "Hopper-v5": dict(frame_skip=3, forward_reward_weight=2.0, ctrl_cost_weight=0.1, healthy_reward=0.5,
                      terminate_when_unhealthy=False, healthy_state_range=(-2.0, 1.0), healthy_z_range=(1.22, 1.26),
                      healthy_angle_range=(-0.05, 0.002), reset_noise_scale=0.02,
                      exclude_current_positions_from_observation=False),
    "InvertedDoublePendulum-v5": dict(frame_skip=2, healthy_reward=3.0, reset_noise_scale=0.2),
    "Reacher-v5": dict(frame_skip=3, reward_dist_weight=2.0, reward_control_weight=0.3),
    "Pusher-v5": dict(frame_skip=3, reward_near_weight=1.5, reward_dist_weight=2.0, reward_control_weight=0.3),
    "Swimmer-v5": dict(frame_skip=3, forward_reward_weight=0.5, ctrl_cost_weight=0.3, reset_noise_scale=0.2,
                       exclude_current_positions_from_observation=False),
    "Walker2d-v5": dict(frame_skip=3, forward_reward_weight=2.0, ctrl_cost_weight=0.1, healthy_reward=0.5,
                        terminate_when_unhealthy=False, healthy_z_range=(1.22, 1.265), healthy_angle_range=(-0.2, -0.02),
                        reset_noise_scale=0.02, exclude_current_positions_from_observation=False),
    "Ant-v5": dict(frame_skip=3, forward_reward_weight=2.0, ctrl_cost_weight=0.1, contact_cost_weight=0.01,
                   healthy_reward=0.5, main_body=3, terminate_when_unhealthy=False, healthy_z_range=(0.65, 0.8),
                   contact_force_range=(-0.25, 2.0), reset_noise_scale=0.2,
                   exclude_current_positions_from_observation=False),
    "Humanoid-v5": dict(frame_skip=4, forward_reward_weight=2.0, ctrl_cost_weight=0.3, contact_cost_weight=1e-5,
                        contact_cost_range=(0.5, 2.0), healthy_reward=0.5, terminate_when_unhealthy=False,
                        healthy_z_range=(1.35, 1.405), reset_noise_scale=0.02,
                        exclude_current_positions_from_observation=False, include_cinert_in_observation=False,
                        include_qfrc_actuator_in_observation=False),
    "HumanoidStandup-v5": dict(frame_skip=4, ctrl_cost_weight=0.3, impact_cost_weight=1e-5,
                               impact_cost_range=(0.5, 2.0), reset_noise_scale=0.02,
                               include_cvel_in_observation=False, include_cfrc_ext_in_observation=False),
}
OPTIONS_EPISODES = [("random", random_policy, seed, 12, True) for seed in range(4)]
OPTIONS_EPISODES_OF = {
    "FrozenLake-v1": [("random", random_policy, seed, 100, False) for seed in range(8)],
    "FrozenLake8x8-v1": [("random", random_policy, seed, 200, False) for seed in range(4)],
    "CliffWalking-v1": [("random", random_policy, seed, 100, False) for seed in range(4)],
    "Taxi-v3": [("eager", eager_taxi, seed, 200, False) for seed in range(10)],
    "Blackjack-v1": [("stick", constant(0), seed, 10, False) for seed in range(200)],
    "LunarLander-v3": [("random", random_policy, seed, 100, False) for seed in range(3)]
    + [("landing", landing, 3, 300, False)],
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
    if isinstance(space, gymnasium.spaces.Tuple):
        return f"Tuple({', '.join(map(space_text, space))})"
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


def option_lines(options):
    for name, value in options.items():
        if name == "reward_schedule":
            yield from (f"option {name}_{square} {float(reward)}" for square, reward in zip(("goal", "hole", "frozen"), value))
        elif isinstance(value, tuple):
            yield from (f"option {name}_{end} {float(bound)}" for end, bound in zip(("low", "high"), value))
        else:
            yield f"option {name} {float(value)}"


def is_box2d(env):
    return "box2d" in type(env).__module__


def draws_from_stream(env):
    """Whether its episodes are replayed with their random draws: the dynamics are random, or have no other state."""
    return is_box2d(env) or "toy_text" in type(env).__module__


def transition_lines(env):
    for state, actions in getattr(env, "P", {}).items():
        for action, outcomes in actions.items():
            texts = [f"{number(np.float64(p))} {s} {number(np.float64(r))} {int(t)}" for p, s, r, t in outcomes]
            yield " | ".join([f"transition {state} {action}"] + texts)


def golden(env_id, options, episodes):
    spec = gymnasium.spec(env_id)
    env = gymnasium.make(env_id, **options).unwrapped
    engine = f"Box2D {Box2D.__version__}" if is_box2d(env) else f"MuJoCo {mujoco.__version__}"
    lines = [
        f"# {env_id} of Gymnasium {gymnasium.__version__}, {engine}; by scripts/align_gymnasium.py",
        f"observation_space {space_text(env.observation_space)}",
        f"action_space {space_text(env.action_space)}",
        f"max_episode_steps {spec.max_episode_steps or 0}",
        f"reward_threshold {spec.reward_threshold and float(spec.reward_threshold)}",
        *option_lines(options),
        *transition_lines(env),
    ]
    for name, policy, seed, most, go_on in episodes:
        rng = np.random.default_rng(1000 + seed)
        if is_box2d(env):  # a later episode's world remembers the earlier ones
            env = gymnasium.make(env_id, **options).unwrapped
        if draws_from_stream(env):
            env.np_random = GymnasiumStream(seed)
            observation, _ = env.reset()
            start = f"stream {seed}"
        else:
            observation, _ = env.reset(seed=seed)
            start = f"state {numbers(initial_state(env))}"
        recorded, steps = [start, f"observation {numbers(observation)}"], 0
        while steps < most:
            action = policy(env, observation, rng)
            observation, reward, terminated, _, _ = env.step(action)
            steps += 1
            recorded.append(f"{numbers(action)} | {number(np.float64(reward))} {int(terminated)} | {numbers(observation)}")
            if terminated and not go_on:
                break
            if steps % STATE_EVERY == 0 and steps < most and not draws_from_stream(env):
                recorded.append(f"state {numbers(whole_state(env_id, env))}")
        lines += [f"episode {name} {steps}"] + recorded
    return "\n".join(lines) + "\n"


def goldens():
    """Each file's name and text."""
    for env_id, episodes in EPISODES.items():
        yield f"{env_id}.txt", golden(env_id, {}, episodes)
        if env_id in OPTIONS:
            yield f"{env_id}.options.txt", golden(env_id, OPTIONS[env_id], OPTIONS_EPISODES_OF.get(env_id, OPTIONS_EPISODES))


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
    for name, text in goldens():
        result = difference(text, (GOLDEN / name).read_text())
        wrong = isinstance(result, str) or result > ROUNDING
        failed |= wrong
        print(f"{'FAIL' if wrong else 'ok  '} {name}: {result if isinstance(result, str) else f'differs by {result:g}'}")
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
    for name, text in goldens():
        (GOLDEN / name).write_text(text)
        print(f"{name}: {os.path.getsize(GOLDEN / name)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
