#!/usr/bin/env python3
"""Goldens of the package minatar for tests/sims/minatar_test.cpp.

The package draws from Myriad's random stream, its sticky actions too; the replay draws from the same stream, from reset
to end. One file a game, and one with options:

    id MinAtar/Breakout-v1
    channels 4
    actions 3
    option sticky_action_prob 0.1
    episode careful 200         the policy, the number of steps
    stream 3                    its seed
    observation 12 45 77        the cells of S_0 that are 1: (10 row + column) channels + channel
    2 | 1 0 | 33 37             A_t | R_{t+1} terminated | the cells of S_{t+1} that are not what they were

    scripts/align_minatar.py --write                    writes tests/golden/minatar
    scripts/align_minatar.py --check [BUILD_DIR]        plays again, compares with the files; replays them in BUILD_DIR
    scripts/align_minatar.py --long STEPS BUILD_DIR     STEPS steps a game and policy, replayed in BUILD_DIR and not kept

An episode begins with no action before it, as ours do; the package remembers the last one of the episode before.
Needs the wheels minatar 1.0.15 and numpy (not in scripts/requirements.txt: the tests need the goldens only).
"""

import argparse
import copy
import pathlib
import random
import sys

from random_stream import RandomStream
from replayed_goldens import Goldens

try:
    import minatar
    import numpy as np
except ImportError as error:
    sys.exit(f"{error.name} is not installed: pip install minatar==1.0.15, in an environment of its own")

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "minatar"
VERSION = "1.0.15"
GAMES = {"asterix": "Asterix", "breakout": "Breakout", "freeway": "Freeway", "seaquest": "Seaquest", "space_invaders": "SpaceInvaders"}
# First seeds of careful players whose episodes meet every line of act() but Freeway's end.
CAREFUL = {"asterix": 100, "breakout": 113, "freeway": 100, "seaquest": 123, "space_invaders": 109}
OPTIONS = dict(sticky_action_prob=0.25, difficulty_ramping=False)
LOOK_AHEAD = 3  # steps


class MinAtarStream(RandomStream):
    """With what MinAtar asks of numpy.random.RandomState."""

    def rand(self, size=None):
        return self.random() if size is None else np.array([self.random() for _ in range(size)])

    def randint(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        return low + self.below(high - low) if size is None else np.array([low + self.below(high - low) for _ in range(size)])


def random_policy(env, actions, rng):
    return rng.randrange(len(actions))


def hope(game):
    """What a careful player likes about a position, beside rewards."""
    if hasattr(game, "ball_x"):
        return -abs(game.ball_x - game.pos)
    if hasattr(game, "cars"):
        return -game.pos
    if hasattr(game, "entities"):
        gold = [abs(e[0] - game.player_x) + abs(e[1] - game.player_y) for e in game.entities if e is not None and e[3]]
        return -min(gold, default=10)
    if hasattr(game, "divers"):
        if game.diver_count in (0, 6) and game.sub_y == 0 and game.oxygen < 200 or game.diver_count > 0 and (game.diver_count == 6 or game.oxygen < 60):
            return -game.sub_y
        divers = [abs(d[0] - game.sub_x) + abs(d[1] - game.sub_y) for d in game.divers]
        return -min(divers, default=abs(game.sub_y - (1 if game.diver_count < 0 else 4))) + (3 * game.diver_count)
    return 0


def careful_policy(env, actions, rng):
    """The action which lasts longest and brings most, now and then any."""
    if rng.random() < 0.02:
        return rng.randrange(len(actions))

    def worth(action):
        game = copy.deepcopy(env.env)
        reward, terminal = game.act(action)
        liked = hope(game)
        for _ in range(LOOK_AHEAD):
            if not terminal:
                more, terminal = game.act(0)
                reward += more
        return 10 * reward - 1000 * terminal + liked + 0.5 * rng.random()

    return max(range(len(actions)), key=lambda i: worth(actions[i]))


def golden(game, version, options, episodes):
    """episodes: policy, first seed, steps in all, most steps of one episode."""
    env = minatar.Environment(game, **options)
    actions = env.minimal_action_set() if version == "v1" else list(range(env.num_actions()))
    lines = [
        f"# minatar {VERSION}; by scripts/align_minatar.py",
        f"id MinAtar/{GAMES[game]}-{version}",
        f"channels {env.n_channels}",
        f"actions {len(actions)}",
        *(f"option {name} {float(value)}" for name, value in options.items()),
    ]
    for policy, seed, total, most in episodes:
        while total > 0:
            rng = random.Random(seed)
            env.random = env.env.random = MinAtarStream(seed)
            env.last_action = 0
            env.reset()
            before = env.state()
            recorded, steps, terminal = [f"stream {seed}", "observation " + " ".join(map(str, np.flatnonzero(before)))], 0, False
            while steps < min(total, most) and not terminal:
                action = policy(env, actions, rng)
                reward, terminal = env.act(actions[action])
                state = env.state()
                flips = " ".join(map(str, np.flatnonzero(state != before)))
                recorded.append(f"{action} | {int(reward)} {int(terminal)} | {flips}".rstrip())
                steps, before = steps + 1, state
            lines += [f"episode {policy.__name__.removesuffix('_policy')} {steps}"] + recorded
            total, seed = total - steps, seed + 1
    return "\n".join(lines) + "\n"


def goldens():
    """Each file's name and text."""
    for game, name in GAMES.items():
        yield f"{name}.txt", golden(game, "v1", {}, [(random_policy, 0, 300, 150), (careful_policy, CAREFUL[game], 900, 900)])
        yield f"{name}.options.txt", golden(game, "v0", OPTIONS, [(random_policy, 200, 150, 150), (careful_policy, 300, 250, 250)])


def long_goldens(steps):
    for game, name in GAMES.items():
        for policy in (random_policy, careful_policy):
            kind = policy.__name__.removesuffix("_policy")
            yield f"{name}.{kind}.txt", golden(game, "v1", {}, [(policy, 1000, steps, 10000)])
            yield f"{name}.{kind}.options.txt", golden(game, "v0", OPTIONS, [(policy, 100000, steps // 4, 10000)])


def summary(text):
    steps = [line for line in text.splitlines() if line[0].isdigit()]
    episodes = text.count("\nepisode ")
    reward = sum(int(line.split("|")[1].split()[0]) for line in steps)
    return f"{len(steps)} steps, {episodes} episodes, rewards of {reward}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = Goldens(GOLDEN, goldens, long_goldens, summary, test_case="MinAtar: aligned*", variable="MYRIAD_MINATAR_GOLDENS")
    files.add_actions(parser, "STEPS")
    return files.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
