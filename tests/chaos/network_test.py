"""Faults of the network between hosts: `network_test.py BUILD`. One run, each host with a fault of its own at one time.

    hub: driver and learner, bridge 10.99.0.1 --veth-- host 0 .. host 6: namespaces, one agent each, with keys

Loss, cuts of 7 s in both and in either direction and delay: nothing is lost, the agent stays. A cut of 15 s is longer
than the agent's deadline: its place is given to another, and it stops when it is back. Skipped without root, ip or nft.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import cluster

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = pathlib.Path(__file__).resolve().parent
HUB, PORT, RELAY_PORT, DELAY_S = "10.99.0.1", 7000, 7900, 0.1
CLEAN, LOSS, CUT, NOT_IN, NOT_OUT, LONG_CUT, DELAY = range(7)
NAMES = ("clean", "5 % loss", "cut 7 s", "hears nothing 7 s", "is not heard 7 s", "cut 15 s", "100 ms delay")
HOSTS, RUNNERS_A_HOST, FRAGMENT, BATCH, QUEUE = len(NAMES), 4, 32, 1024, 3
SHORT_S, LONG_S, BEFORE_S, AFTER_S = 7, 15, 4, 4
CONFIG = f"""
algorithm = "IMPALA"
[environment]
env = "CartPole-v1"
[env_runners]
num_env_runners = {HOSTS * RUNNERS_A_HOST}
num_envs_per_env_runner = 2
rollout_fragment_length = {FRAGMENT // 2}
[hosts]
num_hosts = {HOSTS}
launcher = "none"
[network]
bind = "{HUB}"
port = {PORT}
[training]
lr = 1e-3
train_batch_size = {BATCH}
learner_queue_size = {QUEUE}
[learners]
num_threads = 1
[reporting]
min_time_s_per_iteration = 0.1
[evaluation]
evaluate_at_end = false
[stop]
time_total_s = 3600.0
"""
WINDOW = QUEUE * BATCH // FRAGMENT + HOSTS * RUNNERS_A_HOST


class Network:
    """The hub and its hosts. A command in a host sees that host's network and name."""

    def __init__(self):
        tag = os.getpid()
        self.made: list[cluster.Namespace] = []
        self.hub = self.make(f"myriad-hub-{tag}")
        self.hub.call("ip", "link", "add", "br0", "type", "bridge")
        self.hub.call("ip", "address", "add", f"{HUB}/24", "dev", "br0")
        self.hub.call("ip", "link", "set", "br0", "up")
        self.hosts = []
        for i in range(HOSTS):
            host = self.make(f"myriad-host{i}-{tag}")
            self.hub.call("ip", "link", "add", f"veth{i}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            self.hub.call("ip", "link", "set", f"veth{i}", "master", "br0", "up")
            host.call("ip", "address", "add", f"{self.address(i)}/24", "dev", "eth0")
            host.call("ip", "link", "set", "eth0", "up")
            self.hosts.append(host)

    def make(self, name: str) -> cluster.Namespace:
        self.made.append(cluster.Namespace(name))
        return self.made[-1]

    @staticmethod
    def address(host: int) -> str:
        return f"10.99.0.{10 + host}"

    def link(self, host: int, state: str) -> None:
        self.hub.call("ip", "link", "set", f"veth{host}", state)

    def drop_at_hub(self, host: int, what: str) -> None:
        """Of what comes from the host; one rule for each, in the hub's own table."""
        self.hub.call("nft", f"add table inet hub; add chain inet hub in {{ type filter hook input priority 0; }}; "
                      f"add rule inet hub in ip saddr {self.address(host)} {what} drop")

    def heal_hub(self) -> None:
        self.hub.call("nft", "delete", "table", "inet", "hub", check=False)

    def redirect(self, host: int) -> None:
        self.hosts[host].call("nft", "add table ip relay; add chain ip relay out { type nat hook output priority -100; }; "
                              f"add rule ip relay out ip daddr {HUB} meta mark != 7 ip protocol tcp redirect to :{RELAY_PORT}")

    def remove(self) -> None:
        for namespace in self.made:
            namespace.remove()


class Test:
    def __init__(self, build: pathlib.Path):
        self.build = build
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="mn", dir="/tmp"))
        self.run = self.root / "run"
        self.ledger = cluster.Ledger(self.root / "ledger")
        self.deaths = cluster.Deaths()
        self.started: list[subprocess.Popen] = []
        self.agents: dict[int, subprocess.Popen] = {}
        self.use: list[tuple[float, collections.Counter]] = []  # when, fragments of each slot so far
        self.network = Network()

    def start(self, namespace: cluster.Namespace, words: list[object], log: str) -> subprocess.Popen:
        environment = os.environ | {"TMPDIR": str(self.root), "TERM": "dumb"} | self.ledger.environment()
        with (self.root / log).open("ab") as file:
            process = subprocess.Popen([str(word) for word in namespace.command(*words)], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                       env=environment, cwd=self.root, start_new_session=True, preexec_fn=cluster.die_with_parent)
        self.started.append(process)
        return process

    def start_agent(self, host: int) -> None:
        words = [str(self.build / "apps/myriad"), *shlex.split(self.join)[1:], "--key", f"agent-{host}"]
        self.agents[host] = self.start(self.network.hosts[host], ["unshare", "--uts", "sh", "-c", f"hostname host-{host} && exec {shlex.join(words)}"],
                                       f"host-{host}.txt")

    def events(self) -> list[dict]:
        return cluster.json_lines(self.run / "events.jsonl")

    def place(self, host: int) -> list[int]:
        return [int(m[1]) for e in self.events() if (m := re.match(rf"host agent (\d+) joined from host-{host}$", e["text"]))]

    def look(self) -> None:
        """Reads the ledger, restarts agents that ended: a scheduler would."""
        if self.driver.poll() is not None:
            raise AssertionError(f"the run ended by itself:\n{self.tail('driver.txt')}")
        if self.ledger.follow():
            self.use.append((time.monotonic(), collections.Counter({slot: 0 for slot in ()})))
            for (_, slot, _), seqs in self.ledger.used.items():
                self.use[-1][1][slot] += len(seqs)
        for host, agent in list(self.agents.items()):
            if agent.poll() is not None:
                self.ended.append((host, agent.returncode, time.monotonic()))
                self.start_agent(host)

    def tail(self, name: str) -> str:
        return "\n".join(cluster.read(self.root / name).decode(errors="replace").splitlines()[-6:])

    def until(self, when: float) -> None:
        while time.monotonic() < when:
            self.look()
            time.sleep(0.02)

    def used_at(self, when: float, host: int) -> float:
        before = [counts for t, counts in self.use if t <= when]
        place = self.places[host]
        return sum(before[-1][slot] for slot in range(place * RUNNERS_A_HOST, (place + 1) * RUNNERS_A_HOST)) if before else 0

    def rate(self, host: int, since: float, to: float) -> float:
        return (self.used_at(to, host) - self.used_at(since, host)) * FRAGMENT / (to - since)

    def go(self) -> None:
        self.ended: list[tuple[int, int, float]] = []
        keys = self.root / "keys"
        cluster.call(self.build / "apps/myriad", "keys", keys, "--agents", HOSTS)
        config = self.root / "network.toml"
        config.write_text(CONFIG)
        self.driver = self.start(self.network.hub, [self.build / "apps/myriad", "train", config, "--out", self.run, f"network.keys={keys}"], "driver.txt")
        record = self.run / "run.json"
        self.join = cluster.wait_for(lambda: record.exists() and json.loads(record.read_text() or "{}").get("join"), "the command to join", 20, self.driver)
        for host in range(HOSTS):
            self.start_agent(host)
        cluster.wait_for(lambda: self.ledger.follow() >= 0 and len({key.slot for key in self.ledger.used}) == HOSTS * RUNNERS_A_HOST,
                         "fragments of all hosts", 40, self.driver)
        self.places = {host: self.place(host)[0] for host in range(HOSTS)}
        t0 = time.monotonic()
        self.until(t0 + BEFORE_S)
        cut = time.monotonic()
        network = self.network
        for host in (CUT, LONG_CUT):
            network.link(host, "down")
        network.hosts[NOT_IN].drop("iifname eth0")
        network.drop_at_hub(NOT_OUT, "")
        network.drop_at_hub(LOSS, "numgen random mod 100 < 5")
        network.hosts[LOSS].drop("iifname eth0 numgen random mod 100 < 5")
        self.until(cut + SHORT_S)
        network.link(CUT, "up")
        network.hosts[NOT_IN].heal()
        network.heal_hub()
        network.drop_at_hub(LOSS, "numgen random mod 100 < 5")
        healed = time.monotonic()
        self.until(cut + LONG_S)
        network.link(LONG_CUT, "up")
        network.heal_hub()
        network.hosts[LOSS].heal()
        back = time.monotonic()
        cluster.wait_for(lambda: self.look() or len(self.place(LONG_CUT)) == 2, "return of the host that was cut off", 25)
        # The delayed host begins anew: its connections have to go through the relay, which would break those it has.
        relay = self.start(network.hosts[DELAY], [sys.executable, HERE / "relay.py", RELAY_PORT, DELAY_S], "relay.txt")
        cluster.wait_for(lambda: b"ready" in cluster.read(self.root / "relay.txt"), "the relay", 10, relay)
        leaving = self.agents.pop(DELAY)
        leaving.send_signal(signal.SIGTERM)
        cluster.wait_for(lambda: self.look() or leaving.poll() is not None, "end of the drained agent", 20)
        self.ended.append((DELAY, leaving.returncode, time.monotonic()))
        network.redirect(DELAY)
        self.start_agent(DELAY)
        cluster.wait_for(lambda: self.look() or len(self.place(DELAY)) == 2, "return of the delayed host", 20)
        # Places may have changed hands.
        now = {host: self.place(host)[-1] for host in range(HOSTS)}
        end = time.monotonic() + AFTER_S
        self.until(end)
        joined = [e["time"] for e in self.events() if e["kind"] == "agent-joined"]
        final = time.monotonic()

        def first_use_after(host: int, when: float) -> float:
            at = self.used_at(when, host)
            later = [t for t, counts in self.use if t > when and sum(counts[s] for s in range(self.places[host] * RUNNERS_A_HOST, (self.places[host] + 1) * RUNNERS_A_HOST)) > at]
            return later[0] - when if later else float("inf")

        self.figures = []
        for host in range(HOSTS):
            before = self.rate(host, cut - BEFORE_S + 1, cut)
            during = self.rate(host, cut + 0.5, cut + (LONG_S if host in (LOSS, LONG_CUT) else SHORT_S)) if host != DELAY else float("nan")
            self.places[host] = now[host]
            after = self.rate(host, end - AFTER_S + 0.5, final)
            resumed = 0.0
            if host in (CUT, NOT_IN, NOT_OUT):
                resumed = first_use_after(host, healed)
            elif host == LONG_CUT:  # by the agent that took its place
                resumed = min((t for (_, slot, i), t in self.ledger.first_used.items() if slot // RUNNERS_A_HOST == now[host] and i >> 16 and t > back),
                              default=float("inf")) - back
            self.figures.append((before, during, after, resumed))
        self.lost_events = {int(m[1]) for e in self.events() if e["kind"] == "agent-lost" and (m := re.search(r"host agent (\d+) ", e["text"]))}
        self.first_places = {host: self.place(host)[0] for host in range(HOSTS)}
        self.now = now
        self.driver.send_signal(signal.SIGINT)  # nsenter became the driver
        agents, self.agents = dict(self.agents), {}
        self.driver.wait(30)
        self.stray = []
        for host, agent in agents.items():
            try:
                agent.wait(15)
            except subprocess.TimeoutExpired:
                self.stray.append(host)

    def judge(self) -> list[tuple[str, str]]:
        dead = self.first_places[LONG_CUT]
        self.deaths.agents.add((next(iter(self.ledger.used)).run, dead, 0))
        balance = cluster.close(self.ledger, self.deaths, HOSTS * RUNNERS_A_HOST, HOSTS, WINDOW)
        self.balance = balance
        name = lambda place: next((NAMES[h] for h, p in self.first_places.items() if p == place), "?")
        by_place = lambda text: (m := re.search(r"slot=(\d+),", text)) and int(m[1]) // RUNNERS_A_HOST
        cases = []
        for host in range(HOSTS):
            place, wrong = self.first_places[host], []
            before, during, after, _ = self.figures[host]
            wrong += [text for text in balance.wrong if by_place(text) == place]
            if host != LONG_CUT and place in self.lost_events:
                wrong.append("the driver gave it up")
            if host == LONG_CUT and place not in self.lost_events:
                wrong.append("the driver did not give it up")
            if host == LONG_CUT and not any(h == host for h, _, _ in self.ended):
                wrong.append("it did not stop when it was back")
            if host not in (LONG_CUT, DELAY):
                wrong += [f"it ended with status {status}" for h, status, _ in self.ended if h == host]
            if after <= 0:
                wrong.append("it takes no part afterwards")
            cases.append((NAMES[host], "; ".join(wrong[:4])))
        cases.append(("the ledger closes", "; ".join([text for text in balance.wrong if by_place(text) is None][:4])))
        cases.append(("all end with the run", f"still there: hosts {self.stray}" if self.stray else ""))
        return cases

    def report(self) -> None:
        b = self.balance
        print(f"ledger: {b.produced} produced = {b.used} used + {b.dropped} dropped + {b.lost_with_agents} lost with the agent cut off for {LONG_S} s + {b.lost_at_end} at the end")
        print(f"{'env steps/s':20} {'before':>8} {'during':>8} {'after':>8}   back after")
        for host, (before, during, after, resumed) in enumerate(self.figures):
            print(f"{NAMES[host]:20} {before:8.0f} {during:8.0f} {after:8.0f}   {f'{resumed:.2f} s' if resumed else ''}")
        print("ended: " + ", ".join(f"{NAMES[h]} with {status}" for h, status, _ in self.ended))

    def end(self, keep: bool) -> None:
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            for pid in cluster.processes(process.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.wait()
        self.network.remove()
        if keep:
            print(f"everything about it: {self.root}")
        else:
            shutil.rmtree(self.root, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=lambda path: pathlib.Path(path).resolve(), nargs="?", default=ROOT / "build")
    parser.add_argument("--keep", action="store_true", help="keep the files when nothing failed, too")
    arguments = parser.parse_args()
    if why := cluster.why_no_namespaces():
        print(f"SKIPPED: {why}")
        return 77
    test, bad = Test(arguments.build), 1
    try:
        test.go()
        cases = test.judge()
        test.report()
        for what, why in cases:
            print(f"{'FAILED' if why else 'ok':7}{what}{': ' + why if why else ''}")
        bad = sum(bool(why) for _, why in cases)
        print(f"{len(cases) - bad} passed, {bad} failed")
    except AssertionError as error:
        print(f"FAILED {error}\nevents: " + "\n".join(e["text"] for e in test.events()[-12:]) + f"\n0 passed, 1 failed")
    finally:
        test.end(arguments.keep or bad > 0)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
