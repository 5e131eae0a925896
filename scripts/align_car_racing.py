#!/usr/bin/env python3
"""Goldens of Gymnasium's CarRacing-v3 for tests/sims/car_racing_test.cpp: how the car moves, and pictures.

Gymnasium draws from Myriad's random stream; the replay draws from the same stream, from reset to end.

    option continuous 1.0
    episode driving 700         the policy, the number of steps
    stream 3                    its seed
    car 0.1 0.2 ...             of S_0: the hull's x, y, angle, velocities and turn rate, the angles of the four wheels
    0.1 0.2 0.3 | 3.2 0 | ...   A_t | R_{t+1} terminated | the car in S_{t+1}
    picture                     of that state; then its 96 rows, each of runs of equal pixels:
    12x66cc66 84x666666         their number and colour

    scripts/align_car_racing.py --write                     writes tests/golden/car_racing
    scripts/align_car_racing.py --check [BUILD_DIR]         plays again, compares with the files; replays them in BUILD_DIR
    scripts/align_car_racing.py --long EPISODES BUILD_DIR   EPISODES episodes and random pictures, replayed in BUILD_DIR and not kept
    scripts/align_car_racing.py --speed                     steps a second with random actions, resets included

Needs the wheels gymnasium 1.2.2, Box2D 2.3.10, numpy and pygame 2.6.1, in an environment of their own.
"""

import argparse
import itertools
import math
import os
import pathlib
import sys
import time

from random_stream import RandomStream
from replayed_goldens import Goldens

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
try:
    import gymnasium
    import numpy as np
    import pygame
    from gymnasium.envs.box2d.car_racing import CarRacing
except ImportError as error:
    sys.exit(f"{error.name} is not installed: pip install gymnasium==1.2.2 Box2D==2.3.10 pygame==2.6.1, in an environment of its own")

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "car_racing"
RENDER = CarRacing._render


class CarRacingStream(RandomStream):
    """With what CarRacing asks of numpy.random.Generator."""

    def uniform(self, low, high, size=None):
        return low + (high - low) * self.random() if size is None else np.array([self.uniform(low, high) for _ in range(size)])

    def integers(self, high):
        return self.below(high)


def action_of(env, steer, gas, brake):
    """Continuous, or the discrete action that is most like it."""
    if env.continuous:
        return np.array([steer, gas, brake], np.float32)
    return 2 if steer < -0.3 else 1 if steer > 0.3 else 4 if brake > 0 else 3 if gas > 0 else 0


def random_policy(env, rng):
    return rng.uniform([-1, 0, 0], 1).astype(np.float32) if env.continuous else int(rng.integers(5))


def straight_policy(env, rng):
    """Off the road and out of the field, skidding once on the grass."""
    return action_of(env, 0.0, 0.2, 0.5 * (4.0 < env.t < 4.2))


def driving_policy(env, rng):
    """Along the middle of the road, slower in turns: fast enough for a lap in time on many tracks."""
    hull = env.car.hull
    (x, y), speed = hull.position, math.hypot(*hull.linearVelocity)
    road = np.array([point[2:] for point in env.track])
    nearest = int(np.argmin(np.hypot(*(road - (x, y)).T)))

    def off_course(ahead):
        to_x, to_y = road[(nearest + ahead) % len(road)] - (x, y)
        return (math.atan2(to_y, to_x) - math.pi / 2 - hull.angle + math.pi) % (2 * math.pi) - math.pi

    wanted = 90 - 65 * min(1, abs(off_course(12)) / 0.6)
    return action_of(env, float(np.clip(-2 * off_course(4), -1, 1)), 0.3 * (speed < wanted), 0.3 * (speed > wanted + 10))


def number(value):
    """The shortest text which reads back as the same number of its type."""
    return str(value) if isinstance(value, np.float32) else repr(float(value))


def car_of(env):
    hull = env.car.hull
    bodies = [*hull.position, hull.angle, *hull.linearVelocity, hull.angularVelocity, *(wheel.angle for wheel in env.car.wheels)]
    return " ".join(number(np.float32(value)) for value in bodies)


def picture_of(env):
    yield "picture"
    for row in RENDER(env, "state_pixels"):
        runs = itertools.groupby(row.tolist())
        yield " ".join(f"{len(list(run))}x{bytes(colour).hex()}" for colour, run in runs)


def golden(options, episodes, picture_times):
    """`episodes`: policy, seed, steps at most. `picture_times` says whether there is one after step t."""
    lines = [
        f"# CarRacing-v3 of gymnasium {gymnasium.__version__}, pygame {pygame.__version__}; by scripts/align_car_racing.py",
        *(f"option {name} {float(value)}" for name, value in options.items()),
    ]
    for policy, seed, most in episodes:
        rng = np.random.default_rng(1000 + seed)
        env = CarRacing(**options)  # a later episode's world remembers the earlier ones
        env.np_random = CarRacingStream(seed)
        env.reset()
        recorded, steps, terminated = [f"stream {seed}", f"car {car_of(env)}"], 0, False
        while steps < most and not terminated:
            if picture_times(steps, rng):
                recorded += picture_of(env)
            action = policy(env, rng)
            _, reward, terminated, _, _ = env.step(action)
            steps += 1
            recorded.append(f"{' '.join(map(number, np.atleast_1d(action)))} | {number(reward)} {int(terminated)} | {car_of(env)}")
        lines += [f"episode {policy.__name__.removesuffix('_policy')} {steps}"] + recorded + [*picture_of(env)]
    return "\n".join(lines) + "\n"


DISCRETE = dict(continuous=False, domain_randomize=True)


def goldens():
    """Each file's name and text."""
    at_times = lambda steps, rng: steps in (0, 25, 60, 150, 400)
    # A lap; out of the field; neither.
    episodes = [(driving_policy, 1, 1000), (straight_policy, 5, 400), (random_policy, 2, 160)]
    yield "continuous.txt", golden({}, episodes, at_times)
    yield "discrete.txt", golden(DISCRETE, [(driving_policy, 3, 200), (random_policy, 4, 100)], at_times)
    # The first tile is below the car from the beginning: a later lap is only over with every tile.
    yield "lap.txt", golden(dict(lap_complete_percent=0.0), [(driving_policy, 5, 20)], lambda steps, rng: False)


def long_goldens(episodes):
    now_and_then = lambda steps, rng: rng.random() < 0.02
    for name, options in (("continuous", {}), ("discrete", DISCRETE)):
        policies = itertools.cycle((driving_policy, driving_policy, random_policy, straight_policy))
        played = [(policy, seed, 1000) for policy, seed in zip(policies, range(100, 100 + episodes))]
        yield f"{name}.txt", golden(options, played, now_and_then)


def speed():
    env = gymnasium.make("CarRacing-v3")
    env.action_space.seed(0)
    env.reset(seed=0)
    steps, began = 0, time.process_time()
    while steps < 1000:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if terminated or truncated:
            env.reset()
    return steps / (time.process_time() - began)


def summary(text):
    steps, pictures = text.count(" | ") // 2, text.count("\npicture")
    return f"{steps} steps, {pictures} pictures"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = Goldens(GOLDEN, goldens, long_goldens, summary, test_case="CarRacing-v3: aligned*", variable="MYRIAD_CAR_RACING_GOLDENS")
    files.add_actions(parser, "EPISODES").add_argument("--speed", action="store_true", help="measure Gymnasium")
    arguments = parser.parse_args()
    if arguments.speed:
        print(f"{speed():.0f} steps/s")
        return 0
    CarRacing._render = lambda self, mode: None  # only where a golden has a picture
    return files.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
