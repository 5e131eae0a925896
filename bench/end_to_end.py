"""End-to-end figures of the README, each beside its peer in one run: `bench/end_to_end.py WHAT [--sb3 PYTHON]`.

  cartpole     whole-process time to a training return of 475, seeds 0-4, and 100 evaluation episodes; SB3 beside it
  cheetah      HalfCheetah-v5, one million steps, seeds 0-2: mean return of the last 100 training episodes
  throughput   HalfCheetah-v5 at SB3's default settings, steps/s; SB3 beside it
  rllib        CartPole-v1 at RLlib's default PPO settings, steps/s (RLlib 2.60 on such a machine: 675-746)
  memory       RSS and PSS of a CartPole runner process, with 2 and with 100 of them

--sb3: a Python with stable-baselines3; without it the peer's rows are left out.
"""
import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MYRIAD = ROOT / "build/apps/myriad"
QUIET = ["evaluation.evaluate_at_end=false"]


def train(config, directory, *overrides):
    start = time.time()
    subprocess.run([MYRIAD, "train", ROOT / "configs" / config, *overrides, "--out", directory], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in open(pathlib.Path(directory) / "results.jsonl")]
    return time.time() - start, rows


def steady_rate(rows):
    """Env steps per second between the first report (start-up, warm-up) and the last."""
    first, last = rows[0], rows[-1]
    return (last["num_env_steps_sampled_lifetime"] - first["num_env_steps_sampled_lifetime"]) / (last["time_total_s"] - first["time_total_s"])


def sb3(python, *arguments):
    out = subprocess.run([python, ROOT / "bench/peers/sb3_ppo.py", *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(out.stdout.strip().splitlines()[-1])


def cartpole(args, tmp):
    for seed in range(5):
        seconds, rows = train("cartpole-ppo.toml", f"{tmp}/{seed}", f"seed={seed}", *QUIET)
        evaluation = subprocess.run([MYRIAD, "evaluate", f"{tmp}/{seed}", "--episodes", "100", "--json"], check=True, capture_output=True, text=True)
        mean = statistics.mean(json.loads(line)["return"] for line in evaluation.stdout.splitlines())
        print(f"seed {seed}: {seconds:.2f} s, {rows[-1]['num_env_steps_sampled_lifetime']} steps, "
              f"training {rows[-1]['env_runners']['episode_return_mean']:.1f}, evaluation {mean:.1f}", end="", flush=True)
        if args.sb3:
            peer = sb3(args.sb3, "solve", seed)
            print(f"; SB3 {peer['seconds']:.2f} s, {peer['env_steps']} steps: ratio {peer['seconds'] / seconds:.1f}", end="")
        print(flush=True)


def cheetah(_args, tmp):
    for seed in range(3):
        seconds, rows = train("half-cheetah-ppo.toml", f"{tmp}/{seed}", f"seed={seed}")
        print(f"seed {seed}: return {rows[-1]['env_runners']['episode_return_mean']:.0f}, {seconds:.1f} s, {steady_rate(rows):.0f} steps/s", flush=True)


def throughput(args, tmp):
    for attempt in range(3):
        _, rows = train("half-cheetah-ppo.toml", f"{tmp}/{attempt}", "training.train_batch_size=16384",
                        "stop.num_env_steps_sampled_lifetime=163840", "checkpointing.checkpoint_frequency=0", *QUIET)
        rate = steady_rate(rows)
        print(f"myriad {rate:.0f} steps/s", end="")
        if args.sb3:
            peer = sb3(args.sb3, "throughput")["steps_per_s"]
            print(f"; SB3 {peer:.0f} steps/s: ratio {rate / peer:.2f}", end="")
        print(flush=True)


def rllib(_args, tmp):
    defaults = ["algorithm=PPO", "training.lr=5e-5", "training.train_batch_size=4000", "training.num_epochs=30", "training.minibatch_size=128",
                "training.gamma=0.99", "training.lambda_=1.0", "training.clip_param=0.3", "training.use_kl_loss=true", "training.vf_clip_param=10.0",
                "training.vf_loss_coeff=1.0", "training.grad_clip=off", "rl_module.fcnet_hiddens=[256, 256]", "env_runners.rollout_fragment_length=250",
                "stop.episode_return_mean=off", "stop.training_iteration=12", *QUIET]
    for attempt in range(3):
        _, rows = train("cartpole-ppo.toml", f"{tmp}/{attempt}", *defaults)
        print(f"myriad {steady_rate(rows):.0f} steps/s", flush=True)


def memory(_args, tmp):
    for runners in (2, 100):
        process = subprocess.Popen([MYRIAD, "train", ROOT / "configs/cartpole-ppo.toml", f"env_runners.num_env_runners={runners}",
                                    f"training.train_batch_size={runners * 256}", "stop.episode_return_mean=off", *QUIET, "--out", f"{tmp}/{runners}"],
                                   stdout=subprocess.DEVNULL)
        results = pathlib.Path(f"{tmp}/{runners}/results.jsonl")
        while not results.exists() or results.read_text().count("\n") < 5:
            time.sleep(0.2)
        rss, pss = [], []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() != "myriad-env-runn":
                    continue
                rollup = dict(line.split()[:2] for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
                rss.append(int(rollup["Rss:"]) / 1024)
                pss.append(int(rollup["Pss:"]) / 1024)
            except (FileNotFoundError, ProcessLookupError):
                continue
        process.send_signal(signal.SIGINT)
        process.wait()
        print(f"{len(rss)} runners: RSS {statistics.mean(rss):.2f} MiB, PSS {statistics.mean(pss):.2f} MiB each (means)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cartpole", "cheetah", "throughput", "rllib", "memory"])
    parser.add_argument("--sb3")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="myriad-bench-") as directory:
        globals()[arguments.what](arguments, directory)
