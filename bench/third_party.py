#!/usr/bin/env python3
"""Environments of others, from PyPI, by their ids alone: `third_party.py VENV [NAME ...]`.

VENV is made where it is not there, and gets what each environment needs. Each id runs in `myriad check-env --quick` and in a training of a minute
at most; the ids of REFUSED are refused in words that say what to write instead. Prints a table; exits with 1 where one does neither."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = """
algorithm = "PPO"
seed = 1
[training]
train_batch_size = 1200
num_epochs = 2
[rl_module]
fcnet_hiddens = [64, 64]
[evaluation]
evaluate_at_end = false
[stop]
num_env_steps_sampled_lifetime = 6_000
time_total_s = 60
"""
PATIENCE_S = 180
BALL = '?wrappers=[["color_reduction_v0",{"mode":"B"}],["resize_v1",{"x_size":84,"y_size":84}]]'
TRIALS = {  # name: what to install, id, settings
    "MiniGrid": (["minigrid"], "gymnasium:minigrid:MiniGrid-Empty-5x5-v0?wrappers=minigrid.wrappers:ImgObsWrapper", []),
    "Highway": (["highway-env"], "gymnasium:highway_env:highway-fast-v0", []),
    "Flappy Bird": (["flappy-bird-gymnasium"], "gymnasium:flappy_bird_gymnasium:FlappyBird-v0?use_lidar=false", []),
    "Gymnasium-Robotics": (["gymnasium-robotics", "mujoco<3.4"], "gymnasium:gymnasium_robotics:FetchReach-v4", []),
    "ALE": (["ale-py", "opencv-python-headless"], "gymnasium:ale_py:ALE/Breakout-v5?frameskip=1&wrappers=AtariPreprocessing", ["environment.frame_stack=4"]),
    "Gymnasium's MuJoCo": (["gymnasium[mujoco]", "mujoco<3.4"], "gymnasium:HalfCheetah-v5", []),
    "PushT": (["gym-pusht", "pymunk<7"], "gymnasium:gym_pusht:gym_pusht/PushT-v0", []),
    "MPE2": (["mpe2"], "pettingzoo:mpe2.simple_spread_v3", []),
    "SISL": (["pygame", "scipy"], "pettingzoo:pettingzoo.sisl.pursuit_v5", []),
    "Butterfly, pistonball": (["pygame", "pymunk<7", "supersuit"], "pettingzoo:pettingzoo.butterfly.pistonball_v6" + BALL, []),
    "Butterfly, knights": (["pygame", "pymunk<7"], "pettingzoo:pettingzoo.butterfly.knights_archers_zombies_v11", []),
}
REFUSED = {  # name: what to install, id, the words that lead on
    "turn-based": (["pygame"], "pettingzoo:pettingzoo.classic.connect_four_v3", "is turn-based"),
    "an older version": (["pygame", "pymunk<7"], "pettingzoo:pettingzoo.butterfly.pistonball_v5", "did you mean pettingzoo.butterfly.pistonball_v6"),
    "without its package": (["minigrid"], "gymnasium:MiniGrid-Empty-5x5-v0", '"gymnasium:PACKAGE:MiniGrid-Empty-5x5-v0"'),
    "not installed": ([], "gymnasium:safety_gymnasium:SafetyPointGoal1-v0", "-m pip install safety-gymnasium"),
}


def prepared(venv: pathlib.Path, packages: list[str]) -> pathlib.Path:
    """The Python of `venv`, with these packages."""
    python = venv / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        packages = ["gymnasium", "pettingzoo", "flatbuffers", "numpy", *packages]
    if packages:
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python


def myriad(python: pathlib.Path, *arguments: object) -> tuple[int, str, float]:
    """Status, words and seconds of a command."""
    began = time.monotonic()
    started = subprocess.Popen([ROOT / "build/apps/myriad", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"MYRIAD_PYTHON": str(python)})
    try:
        out, err = started.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        started.terminate()
        out, err = started.communicate()
        err += f"\nno end within {PATIENCE_S} s"
    return started.returncode, out + err, time.monotonic() - began


def main() -> int:
    venv, names = pathlib.Path(sys.argv[1]).absolute(), sys.argv[2:]
    wanted = lambda name: not names or name in names
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "third_party.toml")
        print("| environment | id | check-env | training |\n|---|---|---|---|")
        for name, (packages, env, settings) in TRIALS.items():
            if not wanted(name):
                continue
            python = prepared(venv, packages)
            status, said, seconds = myriad(python, "check-env", env, "--quick", *settings)
            findings = [line for line in said.splitlines() if line.startswith(("wrong", "note", "error"))]
            checked = f"{'ok' if status == 0 else f'status {status}'}, {seconds:.0f} s; " + " / ".join(findings)
            config.write_text(f"environment.env = {env!r}\n" + CONFIG)
            run = pathlib.Path(folder, re.sub(r"\W+", "-", name))
            status, said, seconds = myriad(python, "train", config, "--out", run, *settings)
            rows = (run / "results.jsonl").read_text().splitlines() if (run / "results.jsonl").exists() else []
            last = said.strip().splitlines()[-1] if said.strip() else ""
            trained = f"{len(rows)} iterations of 1,200 steps, {seconds:.0f} s" if status == 0 else f"status {status}: {last}"
            failed += status != 0
            print(f"| {name} | `{env}` {' '.join(settings)} | {checked} | {trained} |", flush=True)
        for name, (packages, env, words) in REFUSED.items():
            if not wanted(name):
                continue
            status, said, _ = myriad(prepared(venv, packages), "check-env", env, "--quick")
            leads = status != 0 and words in said
            failed += not leads
            print(f"| {name} | `{env}` | refused{'' if leads else ', but not as wanted'}: {said.strip()} | |", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
