"""`./myriad bench scale`: R env runners on H host agents of this machine, one asynchronous run, measured.

Reports start-up time, memory of each kind of process (PSS), fragments and bytes per second, the latency of weights to
the hosts, policy lag, drops by reason, CPU share of each kind of process, and what is left after the stop. Progress is
shown while it runs. Settings after the options go to the run as they are (`training.train_batch_size=8192`).
"""
import argparse
import collections
import glob
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MYRIAD = ROOT / "build/apps/myriad"
KINDS = ("myriad", "myriad-learner", "myriad-host-age", "zygote", "env-runner")  # /proc/PID/comm, 15 characters
TICK = os.sysconf("SC_CLK_TCK")


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:  # the process ended
        return ""


def processes(session):
    """pid -> kind, of the processes in the run's session."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        stat = read(path)
        if not stat:
            continue
        name = stat[stat.index("(") + 1:stat.rindex(")")]
        fields = stat[stat.rindex(")") + 2:].split()
        if int(fields[3]) == session and name in KINDS and fields[0] != "Z":
            found[int(path.split("/")[2])] = (name, int(fields[11]) + int(fields[12]))
    return found


def pss_kib(pid):
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def available_mib():
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0


def rows(directory):
    lines = read(directory / "results.jsonl").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def last_row(directory):
    found = rows(directory)
    return found[-1] if found else None


def flat(value, prefix=""):
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}/{key}" if prefix else key).items()}


def allow_processes(count):
    """A process and its threads each take a pid."""
    limit = pathlib.Path("/proc/sys/kernel/pid_max")
    if int(limit.read_text()) < 3 * count + 10000:
        try:
            limit.write_text("131072")
        except OSError:
            print(f"note: kernel.pid_max is {limit.read_text().strip()} and cannot be raised from here")


def main():
    parser = argparse.ArgumentParser(prog="myriad bench scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--envs", type=int, default=1, help="environments a runner")
    parser.add_argument("--fragment", type=int, default=32, help="steps of a fragment")
    parser.add_argument("--batch", type=int, default=16384, help="env steps of a batch")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured, after the start")
    parser.add_argument("--algorithm", default="IMPALA")
    parser.add_argument("--config", help="start from this file instead of CartPole with a 2x64 network")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    allow_processes(args.runners)
    with tempfile.TemporaryDirectory(prefix="myriad-scale-") as tmp:
        config = pathlib.Path(tmp) / "scale.toml"
        config.write_text(pathlib.Path(args.config).read_text() if args.config else
                          f'algorithm = "{args.algorithm}"\n[environment]\nenv = "CartPole-v1"\n[rl_module]\nfcnet_hiddens = [64, 64]\n')
        settings = [f"env_runners.num_env_runners={args.runners}", f"env_runners.num_envs_per_env_runner={args.envs}",
                    f"env_runners.rollout_fragment_length={args.fragment}", f"hosts.num_hosts={args.hosts}",
                    f"training.train_batch_size={args.batch}", "evaluation.evaluate_at_end=false", "learners.num_threads=1",
                    *args.overrides]
        report = measure(args, config, settings, pathlib.Path(tmp) / "run")
    if args.json:
        print(json.dumps(report))
    return 0 if report["left behind"] == [] else 1


def measure(args, config, settings, directory):
    say = (lambda *_: None) if args.json else (lambda text: print(text, flush=True))
    before = available_mib()
    start = time.monotonic()
    log = open(directory.parent / "log.txt", "w+")
    driver = subprocess.Popen([MYRIAD, "train", config, *settings, "--out", directory], stdout=log, stderr=log, start_new_session=True)
    report = {"runners": args.runners, "hosts": args.hosts, "envs a runner": args.envs}
    shown = 0.0
    while True:  # until every runner is up
        time.sleep(0.1)
        row = last_row(directory)
        healthy = row["fault_tolerance"]["num_healthy_workers"] if row else 0
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            count = collections.Counter(kind for kind, _ in processes(driver.pid).values())
            say(f"  {shown - start:5.1f} s  {count['env-runner']:6} runner processes, {healthy:.0f} in contact")
        if healthy >= args.runners:
            break
        if driver.poll() is not None or time.monotonic() - start > 300:
            log.seek(0)
            sys.exit(f"error[bench] the run did not come up:\n{log.read()[-3000:]}")
    report["start-up s"] = time.monotonic() - start
    first, cpu0, t0 = row, processes(driver.pid), time.monotonic()
    low = available_mib()
    while time.monotonic() - t0 < args.seconds and driver.poll() is None:
        time.sleep(0.5)
        low = min(low, available_mib())
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            row = last_row(directory)
            rate = (row["num_env_steps_sampled_lifetime"] - first["num_env_steps_sampled_lifetime"]) / max(1e-9, row["time_total_s"] - first["time_total_s"])
            say(f"  {shown - start:5.1f} s  {rate:9.0f} env steps/s, return {row['env_runners'].get('episode_return_mean', float('nan')):.1f}, {before - low:.0f} MiB taken")
    elapsed, cpu1, row = time.monotonic() - t0, processes(driver.pid), last_row(directory)
    report["CPU share"] = {kind: sum(ticks - cpu0.get(pid, (kind, 0))[1] for pid, (k, ticks) in cpu1.items() if k == kind) / TICK / elapsed for kind in KINDS}
    by_kind = collections.defaultdict(list)
    for pid, (kind, _) in cpu1.items():
        by_kind[kind].append(pss_kib(pid) / 1024)
    report["PSS MiB"] = {kind: {"mean": sum(v) / len(v), "max": max(v), "sum": sum(v)} for kind, v in by_kind.items()}
    report["memory of the machine MiB"] = before - low
    span = row["time_total_s"] - first["time_total_s"]
    report["env steps/s"] = (row["num_env_steps_sampled_lifetime"] - first["num_env_steps_sampled_lifetime"]) / span
    measured = [flat(r) for r in rows(directory) if r["time_total_s"] > first["time_total_s"]]
    keys = sorted({k for r in measured for k in r})
    last = measured[-1] if measured else {}
    report["episode_return_mean"] = last.get("env_runners/episode_return_mean")
    report["drops"] = {k: last[k] for k in keys if "dropped/" in k and last.get(k)}
    report["lag histogram"] = {k.rsplit("/", 1)[-1]: sum(r.get(k, 0) for r in measured) for k in keys if "policy_lag_hist/" in k}
    for name, how in (("policy_lag_mean", "mean"), ("policy_lag_max", "max"), ("weights_latency_p50_ms", "mean"), ("weights_latency_p99_ms", "max"),
                      ("weights_latency_max_ms", "max"), ("weights_versions_behind_max", "max"), ("num_env_runners_contributed_since_start", "max"), ("queue_age_mean_s", "mean"), ("queue_age_max_s", "max"),
                      ("num_fragments", "rate"), ("num_updates", "rate")):
        values = [r[k] for r in measured for k in r if k.rsplit("/", 1)[-1] == name and r[k] is not None]
        if values:
            report[name + ("/s" if how == "rate" else "")] = max(values) if how == "max" else sum(values) / (span if how == "rate" else len(values))
    for name in ("num_bytes_received_since_start", "num_messages_resent_since_start", "num_weights_bytes_sent_since_start"):
        values = [r[k] for r in measured for k in r if k.endswith("/" + name)]
        if values:
            report[name.replace("num_", "").replace("_since_start", "/s")] = (values[-1] - values[0]) / span
    stop = time.monotonic()
    os.kill(driver.pid, signal.SIGINT)
    driver.wait(timeout=120)
    report["clean stop s"] = time.monotonic() - stop
    report["left behind"] = [f"{pid} {kind}" for pid, (kind, _) in processes(driver.pid).items()]
    for name, value in report.items():
        if isinstance(value, dict):
            say(f"{name}:")
            for key, inner in value.items():
                text = ", ".join(f"{k} {v:.2f}" for k, v in inner.items()) if isinstance(inner, dict) else f"{inner:.2f}"
                say(f"    {key:20} {text}")
        else:
            say(f"{name:32} {value:.2f}" if isinstance(value, float) else f"{name:32} {value}")
    return report


if __name__ == "__main__":
    sys.exit(main())
