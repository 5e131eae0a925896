"""Chaos: one real IMPALA run, more than 200 faults in a minute, then the accounts: `chaos_test.py BUILD [--seed N]`.

64 runners on 4 host agents, 2 learners. Runners, agents, learners and the driver are killed, runners and learners are
stopped for up to 10 s or slowed down, the group of learners is scaled, agents are told to leave, the network loses packets
or is cut. Drawn from a seed, which is printed. What every process wrote down
(see cluster.py) must then add up: nothing is trained on twice, and what is missing died with a process that was killed.
The run must go on, learn, and leave nothing behind. Each of these is one of the totals in the last line.
"""
import argparse
import collections
import dataclasses
import heapq
import json
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import cluster

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RUNNERS, AGENTS, LEARNERS, FRAGMENT, BATCH, QUEUE = 64, 4, 2, 32, 1024, 3
STEP_TIMEOUT_S, AFTER_S = 6, 25
NETWORK_FAULTS = 10
CONFIG = f"""
algorithm = "IMPALA"
[environment]
env = "CartPole-v1"
[env_runners]
num_env_runners = {RUNNERS}
num_envs_per_env_runner = 2
rollout_fragment_length = {FRAGMENT // 2}
step_timeout_s = {STEP_TIMEOUT_S}
[hosts]
num_hosts = {AGENTS}
runner_memory_mib = 256
[training]
lr = 5e-4
train_batch_size = {BATCH}
learner_queue_size = {QUEUE}
gamma = 0.98
[rl_module]
fcnet_hiddens = [64, 64]
[learners]
num_learners = {LEARNERS}
num_threads = 1
[reporting]
min_time_s_per_iteration = 0.05
[checkpointing]
checkpoint_frequency = 20
[fault_tolerance]
max_failures_in_a_row = 9
[evaluation]
evaluate_at_end = false
[stop]
time_total_s = 3600.0
"""
WINDOW = QUEUE * BATCH // FRAGMENT + RUNNERS  # fragments that may be in flight (roles/learner_core)


@dataclasses.dataclass(order=True)
class Fault:
    at: float
    kind: str
    amount: float = 0.0  # seconds it lasts
    share: int = 0       # of packets that are lost, in %


def plan(chance: random.Random, seconds: float, with_network: bool) -> list[Fault]:
    when = lambda: chance.uniform(1.5, seconds)
    faults = [Fault(when(), "runner killed") for _ in range(150)]
    faults += [Fault(when(), "runner stopped", 10 ** chance.uniform(-1, 1)) for _ in range(27)]
    faults += [Fault(when(), "agent killed") for _ in range(10)]
    faults += [Fault(when(), "learner killed") for _ in range(6)]
    faults += [Fault(when(), "all learners killed")]
    faults += [Fault(when(), "learner stopped", 10 ** chance.uniform(-1, 0.9)) for _ in range(3)]
    faults += [Fault(when(), "learner slowed", chance.uniform(0.5, 2)) for _ in range(3)]
    faults += [Fault(when(), "scaled", chance.choice((1, 2, 3, 4))) for _ in range(5)]
    faults += [Fault(when(), "agent drained") for _ in range(5)]
    faults += [Fault(seconds * (i + 1) / 5 + chance.uniform(-2, 2), "driver killed") for i in range(4)]
    if with_network:
        for i in range(NETWORK_FAULTS):
            share = chance.choice((5, 30, 100))
            at = seconds * (i + 0.5) / NETWORK_FAULTS + chance.uniform(-2, 2)
            faults.append(Fault(at, "network", chance.uniform(0.2, 1.5), share))
    else:
        faults += [Fault(when(), "runner killed") for _ in range(NETWORK_FAULTS)]
    return sorted(faults)


class Life:
    """From the start of a driver to its end."""

    def __init__(self, number: int, chaos: "Chaos", words: list[object]):
        self.ledger = cluster.Ledger(chaos.root / f"life-{number}")
        self.deaths = cluster.Deaths()
        self.kills: list[tuple[float, int]] = []                   # of runners: when, pid
        self.agent_kills: list[tuple[float, int, int, int]] = []   # when, run, agent, incarnation
        self.learner_kills: list[float] = []
        self.drains: list[cluster.Handle] = []
        self.started = time.monotonic()
        self.events_before = len(cluster.json_lines(chaos.run / "events.jsonl"))
        command = [chaos.build / "apps/myriad", "train", *words]
        if chaos.network:
            command = chaos.network.command(*command)
        environment = os.environ | {"TMPDIR": str(chaos.tmp), "TERM": "dumb"} | self.ledger.environment()
        self.log = (chaos.root / "driver.txt").open("ab")
        self.driver = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                       env=environment, cwd=chaos.root, start_new_session=True, preexec_fn=cluster.die_with_parent)

    @property
    def session(self) -> int:
        return self.driver.pid

    def processes(self) -> dict[int, cluster.Process]:
        return cluster.processes(self.session)

    def alive(self) -> bool:
        return self.driver.poll() is None


class Chaos:
    def __init__(self, build: pathlib.Path, seed: int, seconds: float):
        self.build, self.seed, self.seconds = build, seed, seconds
        self.chance = random.Random(seed)
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="mc", dir="/tmp"))  # short: a socket's path has 107 characters
        self.tmp = self.root / "t"
        self.tmp.mkdir()
        self.run = self.root / "run"
        self.rows = cluster.Rows(self.run)
        self.no_network = cluster.why_no_namespaces()
        self.network = None if self.no_network else cluster.Namespace(f"myriad-chaos-{os.getpid()}")
        self.lives: list[Life] = []
        self.done: collections.Counter[str] = collections.Counter()
        self.stopped: list[tuple[float, Life, cluster.Handle]] = []
        self.slowed: list[Fault] = []
        self.scaled_at = 0.0
        self.heal_at = float("inf")
        self.disturbances: list[float] = []  # of more than a runner
        self.driver_recoveries: list[float] = []
        self.clean_ups: list[float] = []
        self.left_behind: list[str] = []
        self.runs: set[str] = set()

    @property
    def life(self) -> Life:
        return self.lives[-1]

    # --- the faults ---

    def strike(self, fault: Fault) -> bool:
        """False when there is nothing to strike right now."""
        if fault.kind == "network":
            self.network.drop("" if fault.share == 100 else f"numgen random mod 100 < {fault.share}")
            self.heal_at = time.monotonic() + fault.amount
            self.disturbances += [time.monotonic(), self.heal_at]
            return True
        if fault.kind == "driver killed":
            return self.kill_driver()
        if fault.kind == "scaled":
            return self.scale(int(fault.amount))
        if fault.kind == "all learners killed":
            return self.kill_learners()
        everybody = self.life.processes()
        kind = {"runner": "env-runner", "learner": "myriad-learner"}.get(fault.kind.split()[0], "myriad-host-age")
        stopped = {handle.process.pid for _, _, handle in self.stopped}
        victims = sorted((p for p in everybody.values() if p.kind == kind and p.pid not in stopped), key=lambda p: p.pid)
        if kind == "myriad-learner" and (self.learner_stands() or time.monotonic() < self.scaled_at + 0.5 or not self.group_is_whole()):
            return False
        if kind == "myriad-learner" and len(victims) < 2:  # the last one takes the run with it
            if time.monotonic() > self.scaled_at + 1:
                self.scale(2)
            return False
        if not victims:
            return False
        victim = self.chance.choice(victims)
        handle = cluster.take(victim)
        if handle is None:
            return False
        now = time.monotonic()
        if kind == "env-runner":
            if fault.kind == "runner stopped":
                handle.send(signal.SIGSTOP)
                heapq.heappush(self.stopped, (now + fault.amount, self.life, handle))
                return True
            self.life.deaths.runners[victim.pid] = victim.run, victim.incarnation
            self.life.kills.append((now, victim.pid))
            handle.send(signal.SIGKILL)
        elif fault.kind == "learner killed":
            self.life.deaths.learners += 1
            self.life.learner_kills.append(now)
            self.disturbances.append(now)
            handle.send(signal.SIGKILL)
        elif kind == "myriad-learner":
            if fault.kind == "learner stopped":
                self.disturbances += [now, now + fault.amount]
            handle.send(signal.SIGSTOP)
            heapq.heappush(self.stopped, (now + (fault.amount if fault.kind == "learner stopped" else 0.05), self.life, handle))
            if fault.kind == "learner slowed" and fault.amount > 0.1:  # again and again for so long
                self.slowed.append(Fault(now - self.began + 0.07, fault.kind, fault.amount - 0.07))
            return True
        elif fault.kind == "agent killed":
            self.life.deaths.agents.add((victim.run, victim.agent, victim.incarnation))
            self.life.agent_kills.append((now, victim.run, victim.agent, victim.incarnation))
            self.disturbances.append(now)
            handle.send(signal.SIGKILL)
        else:
            self.disturbances.append(now)
            handle.send(signal.SIGTERM)
        handle.close()
        return True

    def kill_learners(self) -> bool:
        """The run goes on from its newest checkpoint, as another one."""
        if not self.may_go_back() or self.learner_stands():
            return False
        self.note_run()
        handles = [cluster.take(process) for process in cluster.of_kind(self.life.session, "myriad-learner")]
        self.disturbances.append(time.monotonic())
        for handle in filter(None, handles):
            self.life.deaths.learners += 1
            handle.send(signal.SIGKILL)
            handle.close()
        return True

    def may_go_back(self) -> bool:
        return any((self.run / "checkpoints").glob("[0-9]*")) and bool(self.life.ledger.used)

    def learner_stands(self) -> bool:
        """A second fault now could leave nobody who has the weights."""
        return any(handle.process.kind == "myriad-learner" for _, _, handle in self.stopped)

    def group_is_whole(self) -> bool:
        """The newest word about the group is that it was formed: nobody who has no state yet is among its processes."""
        events = [e["kind"] for e in cluster.json_lines(self.run / "events.jsonl")[self.life.events_before:] if e["kind"].startswith(("group-", "scale", "resume"))]
        return not events or events[-1] in ("group-formed", "resume")

    def scale(self, learners: int) -> bool:
        if not self.life.ledger.used or self.learner_stands():
            return False
        if time.monotonic() < self.scaled_at + 2:  # its event is on the way
            return False
        self.life.deaths.learners += 1  # those told to go may not have written down their last update
        self.scaled_at = time.monotonic()
        self.disturbances.append(self.scaled_at)
        command = [self.build / "apps/myriad", "scale", self.run, f"learners={learners}"]
        if self.network:
            command = self.network.command(*command)
        subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=self.life.log, stderr=self.life.log)
        return True

    def go_on(self) -> None:
        """A stopped runner that was found dead was killed by its agent, as hung."""
        _, life, handle = heapq.heappop(self.stopped)
        if not handle.alive() and handle.process.kind == "env-runner":
            life.deaths.runners[handle.process.pid] = handle.process.run, handle.process.incarnation
            self.done["stopped runner found hung"] += 1
        handle.send(signal.SIGCONT)
        handle.close()

    def kill_driver(self) -> bool:
        if not self.may_go_back():
            return False
        life = self.life
        self.note_run()
        now = time.monotonic()
        self.disturbances.append(now)
        life.deaths.driver_killed = True
        life.driver.kill()
        life.driver.wait()
        self.clean_up(life)
        self.resume(now)
        return True

    def clean_up(self, life: Life) -> None:
        """Nothing of a run outlives its driver."""
        start = time.monotonic()
        try:
            cluster.wait_for(lambda: not life.processes(), "end of the processes", 10)
            cluster.wait_for(lambda: not list(self.tmp.iterdir()), "removal of the socket directory", 5)
        except AssertionError as error:
            left = life.processes()
            self.left_behind.append(f"{error}: {list(left.values())[:3]} {[p.name for p in self.tmp.iterdir()]}")
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.tmp)
            self.tmp.mkdir()
        self.clean_ups.append(time.monotonic() - start)

    def resume(self, killed_at: float) -> None:
        newest = max((self.run / "checkpoints").glob("[0-9]*"))
        spent = json.loads((newest / "driver.json").read_text())["time_total_s"]
        last = self.done["driver killed"] == 3
        limit = spent + max(self.end_at - time.monotonic(), 1) + AFTER_S if last else 3600.0
        self.lives.append(Life(len(self.lives), self, ["--resume", self.run, f"stop.time_total_s={limit:.1f}"]))
        self.life.killed_before = killed_at

    def note_run(self) -> None:
        try:
            self.runs |= set(re.findall(r"--run (\d+)", json.loads((self.run / "run.json").read_text())["join"]))
        except (OSError, ValueError):
            pass

    # --- the course of it ---

    def start(self) -> None:
        config = self.root / "chaos.toml"
        config.write_text(CONFIG)
        bind = "127.0.0.1" if self.network else "ipc"
        self.lives.append(Life(0, self, [config, "--out", self.run, f"network.bind={bind}"]))

    def watch(self) -> None:
        life = self.life
        if not life.alive():
            raise AssertionError(f"the run ended by itself with status {life.driver.returncode}:\n{self.tail()}")
        fresh = not life.ledger.used
        life.ledger.follow()
        if fresh and life.ledger.used and hasattr(life, "killed_before"):
            self.driver_recoveries.append(time.monotonic() - life.killed_before)

    def tail(self) -> str:
        return "\n".join(cluster.read(self.root / "driver.txt").decode(errors="replace").splitlines()[-12:])

    def storm(self) -> None:
        self.start()
        cluster.wait_for(lambda: self.life.ledger.follow(), "first fragment", 30, self.life.driver)
        start = self.began = time.monotonic()
        self.end_at = start + self.seconds
        waiting = collections.deque(plan(self.chance, self.seconds, self.network is not None))
        late: list[Fault] = []
        while waiting or late or self.stopped or self.heal_at < float("inf"):
            now = time.monotonic()
            if now > self.end_at + 20:
                raise AssertionError(f"{len(late) + len(waiting)} faults found nothing to strike: {late[:3]}")
            self.watch()
            if now >= self.heal_at:
                self.network.heal()
                self.heal_at = float("inf")
            while self.stopped and self.stopped[0][0] <= now:
                self.go_on()
            while waiting and waiting[0].at <= now - start:
                late.append(waiting.popleft())
            for fault in list(late[:10]):
                if self.strike(fault):
                    late.remove(fault)
                    self.done[fault.kind] += 1
            for fault in [f for f in self.slowed if f.at <= now - start]:
                self.slowed.remove(fault)
                self.strike(fault)
            time.sleep(0.01)  # nobody tells when the ledger grows
        self.storm_s = time.monotonic() - start

    def calm(self) -> None:
        """Every slot runs or is quarantined, updates are made, and the run ends by its own limit."""
        since = time.monotonic()
        before = len(self.rows.update())
        self.note_run()

        def recovered() -> bool:
            self.watch()
            rows = self.rows.update()
            if len(rows) < before + 3:
                return False
            events = cluster.json_lines(self.run / "events.jsonl")[self.life.events_before:]
            self.quarantined = sum(e["kind"] == "runner-quarantined" for e in events)
            return rows[-1]["fault_tolerance"]["num_healthy_workers"] + self.quarantined >= RUNNERS

        try:
            cluster.wait_for(recovered, "recovery of all slots", 30, every_s=0.05)
            self.calm_after = time.monotonic() - since
        except AssertionError as error:
            self.calm_after = None
            self.no_calm = f"{error}; the newest row: {json.dumps(self.rows.rows[-1]['fault_tolerance'])}, {self.quarantined} quarantined"
        used = self.life.ledger.num_used()
        self.status = self.life.driver.wait(60)
        self.life.ledger.follow()
        self.used_after = self.life.ledger.num_used() - used
        self.clean_up(self.life)

    # --- the accounts ---

    def recoveries(self) -> tuple[list[float], list[float], list[float]]:
        """Seconds from a kill to the next use of a fragment: runners (all, and with nothing else going on), agents."""
        runners, alone, agents = [], [], []
        for life in self.lives:
            _, who, _ = life.ledger.produced()
            for at, pid in life.kills:
                for run, slot, incarnation in (key for key in who.get(pid, ()) if (key.run, key.incarnation >> 16) == life.deaths.runners[pid]):
                    after = [t for (r, s, i), t in life.ledger.first_used.items() if (r, s, i >> 16) == (run, slot, incarnation >> 16) and i > incarnation]
                    if after:
                        runners.append(min(after) - at)
                        if not any(at - 1.5 < other < at + 1 for other in self.disturbances):
                            alone.append(min(after) - at)
            for at, run, agent, incarnation in life.agent_kills:
                after = [t for (r, s, i), t in life.ledger.first_used.items() if (r, s * AGENTS // RUNNERS) == (run, agent) and i >> 16 > incarnation]
                if after:
                    agents.append(min(after) - at)
        return runners, alone, agents

    def judge(self) -> list[tuple[str, str]]:
        """(what, why it is not so or "") of each case."""
        total, balances = cluster.Balance(), []
        for life in self.lives:
            balances.append(cluster.close(life.ledger, life.deaths, RUNNERS, AGENTS, WINDOW, BATCH // FRAGMENT))
            total.add(balances[-1])
        self.total = total
        twice = [text for text in total.wrong if "twice" in text or "used and dropped" in text]
        faults = sum(n for kind, n in self.done.items() if kind != "stopped runner found hung")
        rows = self.rows.update()
        returns = [r["env_runners"]["episode_return_mean"] for r in rows if r["env_runners"].get("episode_return_mean") is not None]
        late = statistics.median(returns[len(returns) // 2:]) if returns else 0.0
        best = max(returns, default=0.0)  # a policy that was there can be lost again in 60 s of a constant learning rate
        idle = [life.ledger.directory.name for life in self.lives if not life.ledger.used]
        groups = [group for run in self.runs for group in cluster.control_groups(int(run))]
        self.summary = f"{len(rows)} iterations, {rows[-1]['num_env_steps_sampled_lifetime']} env steps, return {late:.0f} (median of the later half), best {best:.0f}"
        return [
            ("at least 200 faults", "" if faults >= 200 else f"only {faults}"),
            ("nothing is trained on twice", "; ".join(twice[:5])),
            ("the ledger closes", "; ".join([text for text in total.wrong if text not in twice][:8])),
            ("every life of the driver trains", f"not {idle}" if idle else ""),
            ("every slot runs or is quarantined afterwards", "" if self.calm_after is not None else self.no_calm),
            ("updates are made afterwards", "" if self.used_after > 0 else "no fragment was used after the last fault"),
            ("the run learns", "" if best >= 120 else f"best mean return {best:.1f}, want 120"),
            ("the run ends by its limit", "" if self.status == 0 else f"exit status {self.status}:\n{self.tail()}"),
            ("no process and no file is left", "; ".join(self.left_behind[:5])),
            ("no control group is left", f"{len(groups)} of {len(self.runs)} runs: {'; '.join(groups[:3])}" if groups else ""),
        ]

    def report(self) -> None:
        t = self.total
        print("faults:  " + ", ".join(f"{n} {kind}" for kind, n in sorted(self.done.items())) + f" in {self.storm_s:.1f} s")
        for life in self.lives:
            b = cluster.close(life.ledger, life.deaths, RUNNERS, AGENTS, WINDOW, BATCH // FRAGMENT)
            print(f"  {life.ledger.directory.name}: {b.produced} produced = {b.used} used + {b.dropped} dropped + {b.lost_with_runners} lost with runners "
                  f"+ {b.lost_with_agents} with agents + {b.lost_at_end} at the end ({len(life.deaths.runners)} runners, {len(life.deaths.agents)} agents, {life.deaths.learners} learners killed or told to go)")
        print(f"ledger:  {t.produced} produced = {t.used} used + {t.dropped} dropped + {t.lost_with_runners} lost with runners + {t.lost_with_agents} with agents "
              f"+ {t.untold} in an update whose learner died before it could say so + {t.lost_at_end} at the end of a life")
        runners, alone, agents = self.recoveries()
        formed = [float(m[1]) for e in cluster.json_lines(self.run / "events.jsonl") if (m := re.search(r"after ([0-9.]+) s", e["text"])) and e["kind"] == "group-formed"]
        at = lambda values, q: f"{sorted(values)[min(len(values) - 1, int(q * len(values)))]:.2f} s" if values else "-"
        print(f"runner killed -> next fragment used: p50 {at(runners, .5)}, p99 {at(runners, .99)} of {len(runners)}; "
              f"with nothing else going on: p50 {at(alone, .5)}, p99 {at(alone, .99)} of {len(alone)}")
        print(f"learners' group broken -> formed again: p50 {at(formed, .5)}, max {at(formed, 1)} of {len(formed)}")
        print(f"agent killed -> back: p50 {at(agents, .5)}, max {at(agents, 1)} of {len(agents)}; "
              f"driver killed -> resumed: p50 {at(self.driver_recoveries, .5)}, max {at(self.driver_recoveries, 1)}; "
              f"driver ended -> all gone: max {at(self.clean_ups, 1)}")
        print(f"after the last fault all slots were back in {self.calm_after if self.calm_after is None else f'{self.calm_after:.2f} s'}, {self.quarantined} quarantined; {self.summary}")

    def end(self, keep: bool) -> None:
        for life in self.lives:
            for pid in life.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            life.log.close()
        if self.network:
            self.network.remove()
        if keep:
            print(f"everything about it: {self.root}")
        else:
            shutil.rmtree(self.root, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=lambda path: pathlib.Path(path).resolve(), nargs="?", default=ROOT / "build")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--keep", action="store_true", help="keep the files when nothing failed, too")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed} (again: tests/chaos/chaos_test.py BUILD --seed {arguments.seed})", flush=True)
    chaos = Chaos(arguments.build, arguments.seed, arguments.seconds)
    bad = 1
    try:
        if chaos.no_network:
            print(f"SKIPPED: {chaos.no_network}")
        chaos.storm()
        chaos.calm()
        cases = chaos.judge()
        chaos.report()
        for what, why in cases:
            print(f"{'FAILED' if why else 'ok':7}{what}{': ' + why if why else ''}")
        bad = sum(bool(why) for _, why in cases)
        print(f"{len(cases) - bad} passed, {bad} failed" + (", 1 skipped" if chaos.no_network else ""))
    except AssertionError as error:
        print(f"FAILED {error}")
        print("0 passed, 1 failed")
    finally:
        chaos.end(arguments.keep or bad > 0)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
