#!/usr/bin/env python3
"""Goldens of Gymnasium's AtariPreprocessing over ale-py, for tests/sims/atari_test.cpp.

The reference draws from Myriad's random stream: the number of no-ops at a reset, and whether a frame repeats the action
before it (ALE's rule with our numbers, in place of its own generator). Every reset loads the ROM anew, as Gymnasium's
reset with a seed does. One file a game, and one with options:

    id ale:Pong
    actions 6
    option frame_skip 3.0
    episode 200               its number of steps
    stream 3                  its seed
    observation 1c9a54ed      CRC-32 of S_0, [84, 84] bytes
    2 | 1 0 0 | 97b2d3aa      A_t | R_{t+1} terminated truncated | CRC-32 of S_{t+1}

and pictures.txt: CRC-32 of cv2.resize(..., INTER_AREA) of random pictures.

    scripts/align_atari.py --write                    writes tests/golden/atari
    scripts/align_atari.py --check [BUILD_DIR]        plays again, compares with the files; replays them in BUILD_DIR
    scripts/align_atari.py --long STEPS BUILD_DIR     STEPS steps of each of ALE's games, replayed in BUILD_DIR and not kept

One observation is not Gymnasium's, the last of an episode: AtariPreprocessing stops before it looks at the last frame and
returns what it kept of earlier ones. Ours shows the last two frames, or, where the episode ends before the last frame of
a step, the last frame alone; the goldens have that, made of ALE's screens here.
Needs the wheels ale-py 0.12.1, gymnasium 1.2.2 and opencv-python-headless, in an environment of their own.
"""

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import zlib

from random_stream import RandomStream

try:
    import ale_py
    import cv2
    import gymnasium
    import numpy as np
    from ale_py.env import AtariEnv
    from ale_py.registration import rom_id_to_name
    from gymnasium.wrappers import AtariPreprocessing
except ImportError as error:
    sys.exit(f"{error.name} is not installed: pip install ale-py==0.12.1 gymnasium==1.2.2 opencv-python-headless, in an environment of its own")

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "atari"
DEFAULTS = dict(frame_skip=4, repeat_action_probability=0.25, noop_max=30, full_action_space=0, max_num_frames_per_episode=108_000, mode=-1, difficulty=0)
# Joysticks, paddles, screens of 210, 214 and 250 rows; below, every option.
GAMES = ("pong", "breakout", "space_invaders", "ms_pacman", "carnival", "air_raid")
OPTIONS = {"pong": dict(frame_skip=3, repeat_action_probability=0.0, noop_max=0, full_action_space=1, max_num_frames_per_episode=401, mode=1, difficulty=1),
           "seaquest": dict(frame_skip=1, max_num_frames_per_episode=150)}


class Draws:
    """numpy's generator, as far as AtariPreprocessing asks for it."""

    def __init__(self, stream):
        self.stream = stream

    def integers(self, low, high):
        return low + int(self.stream.random() * (high - low))


class FromStream(gymnasium.Wrapper):
    """Repeats the action of the frame before, by Myriad's stream; not during the no-ops, where it changes nothing."""

    def __init__(self, env, probability):
        super().__init__(env)
        self.probability = probability

    def begin(self, stream):
        self.stream, self.playing, self.last = stream, False, 0

    def reset(self, **kwargs):
        result = self.env.reset(seed=0)
        self.unwrapped._np_random = Draws(self.stream)
        return result

    def step(self, action):
        if self.playing:
            repeats = self.probability > 0 and self.stream.random() < self.probability
            self.last = action = self.last if repeats else action
        result = self.env.step(action)
        if self.playing:
            self.screens.append(self.unwrapped.ale.getScreenGrayscale())
        return result


class Reference:
    def __init__(self, game, options):
        o = DEFAULTS | options
        self.skip = o["frame_skip"]
        self.env = AtariEnv(game, mode=o["mode"] if o["mode"] >= 0 else None, difficulty=o["difficulty"] or None, frameskip=1, repeat_action_probability=0.0,
                            full_action_space=bool(o["full_action_space"]), max_num_frames_per_episode=o["max_num_frames_per_episode"])
        self.drawn = FromStream(self.env, o["repeat_action_probability"])
        self.processed = AtariPreprocessing(self.drawn, noop_max=o["noop_max"], frame_skip=self.skip, screen_size=84)
        self.num_actions = int(self.env.action_space.n)
        self.last_differ = self.ended = 0

    def reset(self, seed):
        self.drawn.begin(RandomStream(seed))
        observation, _ = self.processed.reset(seed=0)
        self.drawn.playing = True
        return observation

    def step(self, action):
        self.drawn.screens = []
        observation, reward, terminated, truncated, _ = self.processed.step(action)
        if terminated or truncated:
            screens = self.drawn.screens
            last = np.maximum(screens[-2], screens[-1]) if len(screens) == self.skip and self.skip > 1 else screens[-1]
            ours = cv2.resize(last, (84, 84), interpolation=cv2.INTER_AREA)
            self.ended += 1
            self.last_differ += not np.array_equal(ours, observation)
            observation = ours
        return observation, int(reward), terminated, truncated


def crc(observation):
    return f"{zlib.crc32(np.ascontiguousarray(observation).tobytes()):08x}"


def golden(game, options, seed, total):
    """Random actions, each held for some steps."""
    reference = Reference(game, options)
    lines = [f"# ale-py {ale_py.__version__}, gymnasium {gymnasium.__version__}, OpenCV {cv2.__version__}; by scripts/align_atari.py",
             f"id ale:{rom_id_to_name(game)}", f"actions {reference.num_actions}", *(f"option {name} {float(value)}" for name, value in options.items())]
    while total > 0:
        rng, steps, over, action = random.Random(seed), 0, False, 0
        recorded = [f"stream {seed}", f"observation {crc(reference.reset(seed))}"]
        while steps < total and not over:
            if rng.random() < 0.3:
                action = rng.randrange(reference.num_actions)
            observation, reward, terminated, truncated = reference.step(action)
            recorded.append(f"{action} | {reward} {int(terminated)} {int(truncated)} | {crc(observation)}")
            steps, over = steps + 1, terminated or truncated
        lines += [f"episode {steps}"] + recorded
        total, seed = total - steps, seed + 1
    return "\n".join(lines) + "\n", reference


def pictures():
    """Of noise, and of noise in few values, where many means lie halfway between two numbers."""
    lines = [f"# OpenCV {cv2.__version__}; by scripts/align_atari.py: height, the stream's seed, the number of values, equal rows in a row, CRC-32"]
    for height in (210, 250):
        for seed, values, equal in ((1, 256, 1), (2, 4, 1), (3, 4, 7)):
            stream = RandomStream(seed)
            rows = [[stream.below(values) * (256 // values) for _ in range(160)] for _ in range(height // equal + 1)]
            screen = np.repeat(np.array(rows, dtype=np.uint8), equal, axis=0)[:height].copy()
            lines.append(f"{height} {seed} {values} {equal} {crc(cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA))}")
    return "\n".join(lines) + "\n"


def goldens():
    yield "pictures.txt", pictures()
    for game in GAMES:
        yield f"{rom_id_to_name(game)}.txt", golden(game, {}, 0, 400)[0]
    for game, options in OPTIONS.items():
        yield f"{rom_id_to_name(game)}.options.txt", golden(game, options, 100, 400)[0]


def replay(build_dir, folder):
    program = pathlib.Path(build_dir) / "tests" / "sims" / "sims_test"
    environment = dict(os.environ, MYRIAD_ATARI_GOLDENS=str(folder))
    return subprocess.run([program, "--test-case=Atari: aligned*"], check=False, env=environment).returncode != 0


def check(build_dir):
    failed = False
    for name, text in goldens():
        same = text.splitlines()[1:] == (GOLDEN / name).read_text().splitlines()[1:]  # other versions of OpenCV may agree
        failed |= not same
        print(f"{'ok  ' if same else 'FAIL'} {name}")
    return failed | (bool(build_dir) and replay(build_dir, GOLDEN))


def long(steps, build_dir):
    with tempfile.TemporaryDirectory() as folder:
        episodes = total = ended = differ = 0
        roms = sorted(p.stem for p in pathlib.Path(ale_py.__file__).parent.glob("roms/*.bin"))
        for game in roms:
            if game in ("combat", "joust", "maze_craze", "warlords",  # two players only
                        "backgammon", "video_checkers"):  # AtariPreprocessing refuses them: their first action is not the no-op
                continue
            text, reference = golden(game, {}, 1000, steps)
            (pathlib.Path(folder) / f"{rom_id_to_name(game)}.txt").write_text(text)
            total, episodes = total + steps, episodes + text.count("\nepisode ")
            ended, differ = ended + reference.ended, differ + reference.last_differ
        print(f"{len(list(pathlib.Path(folder).iterdir()))} games, {total} steps, {episodes} episodes, {ended} of them ended; "
              f"the last observation differs from AtariPreprocessing's in {differ}", flush=True)
        return replay(build_dir, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the goldens")
    action.add_argument("--check", metavar="BUILD_DIR", nargs="?", const="", help="compare with the goldens")
    action.add_argument("--long", metavar=("STEPS", "BUILD_DIR"), nargs=2, help="replay long ones of every game")
    arguments = parser.parse_args()
    if arguments.check is not None:
        return check(arguments.check)
    if arguments.long:
        return long(int(arguments.long[0]), arguments.long[1])
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, text in goldens():
        (GOLDEN / name).write_text(text)
        print(f"{name}: {text.count(chr(10) + 'episode ')} episodes, {len(text)} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
