"""`./myriad bench soak`: hours of a run in minutes: 200 runners, one of them killed every second, everything measured.

Samples memory (RSS), descriptors and threads of every kind of process and the rate of the run every 5 s into a CSV. At
the end it judges what must not drift after the first 2 minutes (a third of a shorter run), and prints a table:

  memory of driver, learner and agents   slope below --slope % an hour, or not above its own noise (2 standard errors),
                                         or less than 64 KiB in all: a short run cannot tell that from nothing
  env steps/s                            the last third is not more than 10 % below the first
  descriptors and threads                the same at the end as at the start
  left behind                            no process, socket directory or control group
"""
import argparse
import collections
import csv
import json
import math
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import scale

ROOT = pathlib.Path(__file__).resolve().parent.parent
KINDS = {"myriad": "driver", "myriad-learner": "learner", "myriad-host-age": "agent", "zygote": "zygote", "env-runner": "runner"}
JUDGED = ("driver", "learner", "agent", "zygote")  # runners come and go
SAMPLE_S, SETTLE_S = 5, 120
NOTHING_MIB = 64 / 1024  # free lists that fill up, pages at the edge
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
CONFIG = """
algorithm = "IMPALA"
[environment]
env = "CartPole-v1"
[rl_module]
fcnet_hiddens = [64, 64]
[env_runners]
num_env_runners = {runners}
num_envs_per_env_runner = 1
rollout_fragment_length = 32
[hosts]
num_hosts = {hosts}
runner_memory_mib = 256
[training]
lr = 1e-3
train_batch_size = 4096
[learners]
num_threads = 1
[reporting]
min_time_s_per_iteration = 1.0
[checkpointing]
checkpoint_frequency = 30
[evaluation]
evaluate_at_end = false
"""


def look(pid: int) -> tuple[float, int, int]:
    """RSS in MiB, descriptors, threads."""
    statm = scale.read(f"/proc/{pid}/statm").split()
    stat = scale.read(f"/proc/{pid}/stat")
    try:
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        descriptors = 0
    if not statm or not stat:
        return 0.0, 0, 0
    return int(statm[1]) * PAGE_MIB, descriptors, int(stat[stat.rindex(")") + 2:].split()[17])


class Tail:
    """The newest line of results.jsonl, without reading all of it again."""

    def __init__(self, run: pathlib.Path):
        self.path, self.offset, self.row = run / "results.jsonl", 0, None

    def newest(self) -> dict | None:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except OSError:
            return None
        data = data[:data.rfind(b"\n") + 1]
        self.offset += len(data)
        if data:
            self.row = json.loads(data.splitlines()[-1])
        return self.row


def slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Of a line through them, an hour, and its standard error; neighbours are taken together, as they are not independent."""
    size = max(1, len(points) // 12)
    groups = [points[i:i + size] for i in range(0, len(points) - size + 1, size)]
    means = [(statistics.fmean(t for t, _ in g), statistics.fmean(v for _, v in g)) for g in groups]
    if len(means) < 3:
        return 0.0, math.inf
    t0, v0 = (statistics.fmean(m[i] for m in means) for i in (0, 1))
    spread = sum((t - t0) ** 2 for t, _ in means)
    rise = sum((t - t0) * (v - v0) for t, v in means) / spread
    rest = sum((v - v0 - rise * (t - t0)) ** 2 for t, v in means) / (len(means) - 2)
    return rise * 3600, math.sqrt(rest / spread) * 3600


def left_behind(session: int, tmp: pathlib.Path, run_number: str) -> list[str]:
    found = [f"{kind} {pid}" for pid, (kind, _) in scale.processes(session).items()]
    found += [f"socket directory {path.name}" for path in tmp.iterdir()]
    if run_number:
        found += [os.path.join(path, name) for path, names, _ in os.walk("/sys/fs/cgroup") for name in names
                  if name.startswith(f"myriad.{int(run_number):016x}.")]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="myriad bench soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--runners", type=int, default=200)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--kills", type=float, default=1.0, help="runners killed a second")
    parser.add_argument("--slope", type=float, default=1.0, help="percent an hour that memory may grow")
    parser.add_argument("--csv", type=pathlib.Path, default=pathlib.Path("soak.csv"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="settings of the run")
    args = parser.parse_args()
    scale.allow_processes(args.runners)
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as folder:
        root = pathlib.Path(folder)
        (root / "t").mkdir()
        (root / "soak.toml").write_text(CONFIG.format(runners=args.runners, hosts=args.hosts))
        # Each slot is killed every few minutes on average: no reason to give it up.
        settings = ["fault_tolerance.max_failures_in_a_row=1000", *args.overrides]
        samples, run_number, session, status = soak(args, root, settings)
        bad = judge(args, samples, left_behind(session, root / "t", run_number), status)
    return 1 if bad else 0


def soak(args, root: pathlib.Path, settings: list[str]):
    run, chance = root / "run", random.Random(args.seed)
    log = (root / "log.txt").open("w+")
    driver = subprocess.Popen([scale.MYRIAD, "train", root / "soak.toml", *settings, "--out", run], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                              start_new_session=True, env=os.environ | {"TMPDIR": str(root / "t"), "TERM": "dumb"})
    tail, samples, kills = Tail(run), [], 0
    try:
        begin = time.monotonic()
        while not (row := tail.newest()) or row["fault_tolerance"]["num_healthy_workers"] < args.runners:
            if driver.poll() is not None or time.monotonic() - begin > 120:
                log.seek(0)
                sys.exit(f"error[bench] the run did not come up:\n{log.read()[-3000:]}")
            time.sleep(0.1)
        run_number = re.search(r"--run (\d+)", json.loads((run / "run.json").read_text())["join"])[1]
        start = time.monotonic()
        next_kill, next_sample, shown, steps, at = start, start + SAMPLE_S, start, row["num_env_steps_sampled_lifetime"], row["time_total_s"]
        while time.monotonic() < start + args.minutes * 60:
            time.sleep(max(0.0, min(next_kill, next_sample) - time.monotonic()))
            if driver.poll() is not None:
                log.seek(0)
                sys.exit(f"error[bench] the run ended by itself after {time.monotonic() - start:.0f} s:\n{log.read()[-3000:]}")
            if time.monotonic() >= next_kill:
                next_kill += 1 / args.kills
                runners = sorted(pid for pid, (kind, _) in scale.processes(driver.pid).items() if kind == "env-runner")
                if runners:
                    try:
                        os.kill(chance.choice(runners), signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:
                        pass
            if time.monotonic() >= next_sample:
                next_sample += SAMPLE_S
                sample = {"seconds": round(time.monotonic() - start, 1)}
                by_kind = collections.defaultdict(list)
                for pid, (kind, _) in scale.processes(driver.pid).items():
                    # The janitor is called like the driver, whose copy it is.
                    by_kind["janitor" if kind == "myriad" and pid != driver.pid else KINDS[kind]].append(look(pid))
                for name in (*JUDGED, "runner"):
                    found = by_kind[name]
                    sample |= {f"{name} processes": len(found), f"{name} RSS MiB": round(sum(f[0] for f in found) / max(1, len(found)), 3),
                               f"{name} descriptors": sum(f[1] for f in found), f"{name} threads": sum(f[2] for f in found)}
                row = tail.newest()
                if row["time_total_s"] > at:
                    sample["env steps/s"] = round((row["num_env_steps_sampled_lifetime"] - steps) / (row["time_total_s"] - at))
                    steps, at = row["num_env_steps_sampled_lifetime"], row["time_total_s"]
                sample |= {"healthy": row["fault_tolerance"]["num_healthy_workers"], "restarts": row["fault_tolerance"]["num_remote_worker_restarts"],
                           "kills": kills, "directory MiB": round(sum(p.stat().st_size for p in run.rglob("*") if p.is_file()) / (1 << 20), 2)}
                samples.append(sample)
                if time.monotonic() > shown + 30:
                    shown = time.monotonic()
                    print(f"  {sample['seconds']:6.0f} s  {sample.get('env steps/s', 0):8.0f} env steps/s, {sample['healthy']:.0f} runners, {kills} killed, "
                          f"learner {sample['learner RSS MiB']:.1f} MiB, agents {sample['agent RSS MiB']:.2f} MiB", flush=True)
        stop = time.monotonic()
        driver.send_signal(signal.SIGINT)
        status = driver.wait(120)
        print(f"stopped in {time.monotonic() - stop:.2f} s with status {status}")
    finally:
        driver.kill()
        driver.wait()
        columns = list(dict.fromkeys(key for sample in samples for key in sample))
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(samples)
    print(f"{len(samples)} samples in {args.csv}, {kills} runners killed")
    return samples, run_number, driver.pid, status


def judge(args, samples: list[dict], left: list[str], status: int) -> int:
    settle = min(SETTLE_S, args.minutes * 20)
    steady = [s for s in samples if s["seconds"] >= settle]
    rows, bad = [], 0

    def add(what: str, value: str, wanted: str, good: bool) -> None:
        nonlocal bad
        bad += not good
        rows.append((what, value, wanted, "ok" if good else "BAD"))

    third = max(1, len(steady) // 3)
    for name in JUDGED:
        values = [(s["seconds"], s[f"{name} RSS MiB"]) for s in steady]
        mean = statistics.fmean(v for _, v in values)
        rise, error = slope(values)
        percent, noise, in_all = 100 * rise / mean, 100 * error / mean, rise * (values[-1][0] - values[0][0]) / 3600
        add(f"{name}: RSS, {mean:.1f} MiB", f"{percent:+.2f} +/- {noise:.2f} %/h, {in_all * 1024:+.0f} KiB", f"< {args.slope:g} %/h, or 2 errors, or 64 KiB",
            percent < max(args.slope, 2 * noise) or in_all < NOTHING_MIB)
        for kind in ("descriptors", "threads"):
            first, last = (statistics.median(s[f"{name} {kind}"] for s in part) for part in (steady[:third], steady[-third:]))
            # A restart under way holds a few more.
            add(f"{name}: {kind}", f"{first:.0f} -> {last:.0f}", "the same", abs(last - first) <= (3 if name in ("agent", "zygote") else 0))
    rates = [s["env steps/s"] for s in steady if "env steps/s" in s]
    third = max(1, len(rates) // 3)
    first, last = statistics.fmean(rates[:third]), statistics.fmean(rates[-third:])
    add("env steps/s", f"{first:.0f} -> {last:.0f} (+/- {statistics.pstdev(rates):.0f})", "> -10 %", last > 0.9 * first)
    healthy = [s["healthy"] for s in steady]
    add("runners in contact", f"mean {statistics.fmean(healthy):.1f}, least {min(healthy):.0f}", f"> 95 % of {args.runners}", statistics.fmean(healthy) > 0.95 * args.runners)
    done = samples[-1]
    add("restarts", f"{done['restarts']:.0f} for {done['kills']} kills", "one each", abs(done["restarts"] - done["kills"]) <= 0.02 * done["kills"] + 5)
    grown = (done["directory MiB"] - steady[0]["directory MiB"]) / max(1e-9, done["seconds"] - steady[0]["seconds"]) * 3600
    add("run directory", f"{grown:+.1f} MiB/h", "< 100 MiB/h", grown < 100)
    add("exit status", f"{status}", "130", status == 130)
    add("left behind", "; ".join(left[:4]) or "nothing", "nothing", not left)
    width = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(text.ljust(width[i]) for i, text in enumerate(row)).rstrip())
    return bad


if __name__ == "__main__":
    sys.exit(main())
