"""End-to-end figures of the README, each beside its peer in one run: `bench/end_to_end.py WHAT [--sb3 PYTHON]`.

  cartpole     whole-process time to a training return of 475, seeds 0-4, and 100 evaluation episodes; SB3 beside it
  cheetah      HalfCheetah-v5, one million steps, seeds 0-2: mean return of the last 100 training episodes
  throughput   HalfCheetah-v5 at SB3's default settings, steps/s; SB3 beside it
  rllib        CartPole-v1 at RLlib's default PPO settings, steps/s (RLlib 2.60 on such a machine: 675-746)
  puffer       CartPole-v1 by PPO at PufferLib 3.0's settings, training rate (PufferLib on such a machine: 564 k steps/s)
  async        CartPole-v1 by IMPALA and APPO to a return of 450, seeds 0-4; then their training rate, stage by stage
  tail         StepTime-v0 with log-normal step times: IMPALA sync, lag1 and async
  cheetah-async  HalfCheetah-v5 by IMPALA and APPO: the curve to five million steps, and the rate

--sb3: a Python with stable-baselines3; without it the peer's rows are left out.
"""
import argparse
import json
import pathlib
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


def puffer(_args, tmp):
    settings = ["env_runners.num_envs_per_env_runner=512", "env_runners.rollout_fragment_length=64", "training.train_batch_size=65536",
                "training.minibatch_size=32768", "training.num_epochs=1", "rl_module.fcnet_hiddens=[128]", "rl_module.vf_share_layers=true",
                "rl_module.fcnet_activation=\"relu\"", *FAST[2:]]
    for mode in ("sync", "lag1"):
        for attempt in range(3):
            _, rows = train("cartpole-ppo.toml", f"{tmp}/{mode}-{attempt}", *settings, f"training.sampling=\"{mode}\"")
            rate = steady_rate(rows[2:])
            print(f"{mode}: {rate / 1e3:.0f} k env steps/s, {rate / 564e3:.2f}x PufferLib's", flush=True)


def solve(config, seeds, tmp):
    for seed in seeds:
        seconds, rows = train(config, f"{tmp}/{config}-{seed}", f"seed={seed}", *QUIET)
        print(f"{config} seed {seed}: return {rows[-1]['env_runners']['episode_return_mean']:.1f} after {rows[-1]['num_env_steps_sampled_lifetime']} steps, {seconds:.2f} s", flush=True)


FAST = ["env_runners.num_envs_per_env_runner=128", "training.train_batch_size=16384", "stop.episode_return_mean=1e9", "stop.num_env_steps_sampled_lifetime=1000000000",
        "stop.time_total_s=10", *QUIET]


def stages(rows):
    """Where the time of the run goes, of the rows after the start."""
    rows = rows[2:]
    total = sum(r["time_this_iter_s"] for r in rows)
    share = lambda key: sum(r["timers"][key] for r in rows) / total
    fragments = sum(r["env_runners"]["num_fragments"] for r in rows)
    mean = lambda key: 1e3 * sum(r["timers"][key] * r["env_runners"]["num_fragments"] for r in rows) / fragments
    return (f"learner updates {100 * share('learner_update_timer'):.0f} % of the time, waits {100 * share('learner_wait_timer'):.0f} %; a runner samples "
            f"{100 * share('env_runner_sampling_timer'):.0f} %, waits {100 * share('env_runner_waiting_timer'):.0f} %; a fragment: sampled in {mean('fragment_sampling_timer'):.2f} ms, "
            f"queued {mean('fragment_queue_age_mean_timer'):.2f} ms; weights to the runners p50 {statistics.median(r['timers']['weights_latency_p50_ms'] for r in rows):.2f} ms; "
            f"policy lag mean {statistics.mean(r['env_runners']['policy_lag_mean'] for r in rows):.1f}")


def asynchronous(_args, tmp):
    for name in ("impala", "appo"):
        solve(f"cartpole-{name}.toml", range(5), tmp)
    for name in ("impala", "appo"):
        for threads in (1, 2):
            _, rows = train(f"cartpole-{name}.toml", f"{tmp}/fast-{name}-{threads}", *FAST, f"learners.num_threads={threads}")
            print(f"{name}, {threads} learner thread(s): {steady_rate(rows[2:]) / 1e3:.0f} k env steps/s; {stages(rows)}", flush=True)


def tail(_args, tmp):
    rates = {}
    for mode in ("sync", "lag1", "async"):
        _, rows = train("cartpole-impala.toml", f"{tmp}/{mode}", "environment.env=\"StepTime-v0\"", "environment.env_config.mean_step_us=500.0",
                        "environment.env_config.sigma=1.5", "env_runners.num_env_runners=16", "env_runners.num_envs_per_env_runner=1",
                        f"training.sampling=\"{mode}\"", "stop.episode_return_mean=1e9", "stop.num_env_steps_sampled_lifetime=1000000000", "stop.time_total_s=10", *QUIET)
        rates[mode] = steady_rate(rows)
        print(f"{mode}: {rates[mode] / 1e3:.1f} k env steps/s, {rates[mode] / rates['sync']:.2f}x sync", flush=True)


def cheetah_async(_args, tmp):
    for name in ("impala", "appo"):
        for seed in range(2):
            seconds, rows = train(f"half-cheetah-{name}.toml", f"{tmp}/{name}-{seed}", f"seed={seed}", *QUIET)
            marks = [next(r for r in rows if r["num_env_steps_sampled_lifetime"] >= min(m * 1e6, rows[-1]["num_env_steps_sampled_lifetime"])) for m in range(1, 6)]
            print(f"{name} seed {seed}: return at 1..5 M steps {[round(r['env_runners']['episode_return_mean']) for r in marks]}, {seconds:.0f} s, {steady_rate(rows) / 1e3:.1f} k steps/s; {stages(rows)}", flush=True)


BENCHES = {"cartpole": cartpole, "cheetah": cheetah, "throughput": throughput, "rllib": rllib, "puffer": puffer, "async": asynchronous, "tail": tail,
           "cheetah-async": cheetah_async}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*BENCHES])
    parser.add_argument("--sb3")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="myriad-bench-") as directory:
        BENCHES[arguments.what](arguments, directory)
