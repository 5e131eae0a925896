"""What the tests of whole runs share: the processes of a run, its ledger, and hosts as network namespaces.

Ledger: with MYRIAD_LEDGER=DIR every runner appends {slot, incarnation, seq, pid} to DIR/produced-RUN.bin before it sends a
fragment, and learner i {slot, incarnation, seq, reason} to DIR/learner-RUN-i.bin when a finished update used it (0) or it was
dropped. A driver that lost all its learners goes on as another run: then one directory has the files of several.
"""
import collections
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import time
import typing

RECORD = struct.Struct("<IIQQ")
KINDS = ("myriad", "myriad-learner", "myriad-host-age", "zygote", "env-runner")  # /proc/PID/comm, 15 characters
STDIO_RECORDS = 4096 // RECORD.size + 1  # what a killed learner had not written yet
AHEAD = 2  # fragments a runner may be permitted ahead


@dataclasses.dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    kind: str
    run: int = -1
    agent: int = -1  # of host agents and what they started
    incarnation: int = -1


class Runner(typing.NamedTuple):
    run: int
    slot: int
    incarnation: int


def read(path: pathlib.Path | str) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:  # it ended
        return b""


def processes(session: int) -> dict[int, Process]:
    """The living processes of the run whose driver leads the session."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        stat = read(f"/proc/{entry}/stat").decode(errors="replace")
        if ") " not in stat:
            continue
        kind, fields = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2:].split()
        if int(fields[3]) != session or fields[0] == "Z":
            continue
        words = read(f"/proc/{entry}/cmdline").decode(errors="replace").split("\0")
        number = {key: int(words[words.index(key) + 1]) if key in words else -1 for key in ("--run", "--agent", "--incarnation")}
        found[int(entry)] = Process(int(entry), int(fields[1]), kind, *number.values())
    return found


def of_kind(session: int, kind: str) -> list[Process]:
    return sorted((p for p in processes(session).values() if p.kind == kind), key=lambda p: p.pid)


class Handle:
    """A process that stays the same process, whatever happens to its number."""

    def __init__(self, process: Process):
        self.process, self.fd = process, os.pidfd_open(process.pid)

    def send(self, number: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)
            return True
        return False

    def alive(self) -> bool:
        try:
            signal.pidfd_send_signal(self.fd, 0)
            stat = read(f"/proc/{self.process.pid}/stat")
            return b") Z " not in stat
        except ProcessLookupError:
            return False

    def close(self) -> None:
        os.close(self.fd)


def take(process: Process) -> Handle | None:
    try:
        return Handle(process)
    except ProcessLookupError:
        return None


class Ledger:
    """The files of one life of a driver; `follow` reads what the learners have written since."""

    def __init__(self, directory: pathlib.Path):
        directory.mkdir(parents=True)
        self.directory = directory
        self.first_used: dict[Runner, float] = {}
        self.used: dict[Runner, list[int]] = collections.defaultdict(list)
        self.dropped: dict[Runner, dict[int, int]] = collections.defaultdict(dict)
        self.offsets: dict[str, int] = collections.defaultdict(int)  # by file

    def environment(self) -> dict[str, str]:
        return {"MYRIAD_LEDGER": str(self.directory)}

    def follow(self) -> int:
        """Reads new records; returns how many."""
        return sum(self.follow_one(path) for path in sorted(self.directory.glob("learner-*.bin")))

    def follow_one(self, path: pathlib.Path) -> int:
        run = int(path.name.split("-")[1])
        with path.open("rb") as file:
            file.seek(self.offsets[path.name])
            data = file.read()
            data = data[:len(data) // RECORD.size * RECORD.size]
            self.offsets[path.name] += len(data)
            now = time.monotonic()
            for slot, incarnation, seq, reason in RECORD.iter_unpack(data):
                key = Runner(run, slot, incarnation)
                if reason:
                    self.dropped[key][seq] = reason
                    continue
                if key not in self.first_used:
                    self.first_used[key] = now
                self.used[key].append(seq)
            return len(data) // RECORD.size

    def num_used(self) -> int:
        return sum(len(seqs) for seqs in self.used.values())

    def produced(self) -> tuple[dict[Runner, int], dict[int, set[Runner]], list[str]]:
        """Fragments of each runner, who was each pid, and what is wrong with the files."""
        counts: dict[Runner, int] = collections.defaultdict(int)
        who: dict[int, set[Runner]] = collections.defaultdict(set)
        wrong = []
        for path in self.directory.glob("produced-*.bin"):
            run, data = int(path.stem.split("-")[1]), read(path)
            for slot, incarnation, seq, pid in RECORD.iter_unpack(data[:len(data) // RECORD.size * RECORD.size]):
                key = Runner(run, slot, incarnation)
                if seq != counts[key]:
                    wrong.append(f"{key} produced {seq} after {counts[key] - 1}")
                counts[key] += 1
                who[pid].add(key)
        return counts, who, wrong


@dataclasses.dataclass
class Deaths:
    """Who was killed in a life of the driver, as far as the test knows."""
    runners: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)  # pid -> run and incarnation of its agent
    agents: set[tuple[int, int, int]] = dataclasses.field(default_factory=set)  # (run, agent, incarnation)
    learners: int = 0  # killed, or told to go when the group was scaled
    driver_killed: bool = False


@dataclasses.dataclass
class Balance:
    produced: int = 0
    used: int = 0
    dropped: int = 0
    lost_with_runners: int = 0
    lost_with_agents: int = 0
    untold: int = 0  # used by an update whose learner ended before it had written that down
    lost_at_end: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: "Balance") -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def close(ledger: Ledger, deaths: Deaths, num_slots: int, num_agents: int, window: int, batch: int = 0) -> Balance:
    """Whether the ledger closes: every fragment produced was used once, dropped for a reason, or lost with a process."""
    ledger.follow()
    counts, who, wrong = ledger.produced()
    balance = Balance(wrong=[f"{ledger.directory.name}: {text}" for text in wrong[:5]])
    runs = {key.run for key in counts}
    abrupt = deaths.driver_killed or len(runs) > 1
    killed = {key for pid, of in deaths.runners.items() for key in who.get(pid, ()) if (key.run, key.incarnation >> 16) == of}
    agent_of = {slot: agent for agent in range(num_agents) for slot in range(agent * num_slots // num_agents, (agent + 1) * num_slots // num_agents)}
    newest: dict[tuple[int, int], int] = collections.defaultdict(int)  # of each run's slots
    for run, slot, incarnation in counts:
        newest[run, slot] = max(newest[run, slot], incarnation)
    with_agent: dict[tuple[int, int, int], int] = collections.defaultdict(int)
    at_end: dict[int, int] = collections.defaultdict(int)  # by run
    say = lambda text: balance.wrong.append(f"{ledger.directory.name}: {text}")
    for key, seqs in ledger.used.items():
        if len(set(seqs)) != len(seqs):
            say(f"{key} was trained on twice: {[s for s, n in collections.Counter(seqs).items() if n > 1][:5]}")
        if set(seqs) & set(ledger.dropped.get(key, ())):
            say(f"{key}: used and dropped: {sorted(set(seqs) & set(ledger.dropped[key]))[:5]}")
    for key in {*ledger.used, *ledger.dropped}:
        ids = {*ledger.used.get(key, ()), *ledger.dropped.get(key, ())}
        if max(ids) >= counts.get(key, 0):
            say(f"{key}: {max(ids)} came to the learner, {counts.get(key, 0)} were produced")
    for key, count in counts.items():
        run, slot, incarnation = key
        ids = {*ledger.used.get(key, ()), *ledger.dropped.get(key, ())}
        lost = count - len(ids)
        balance.produced += count
        balance.used += len(ledger.used.get(key, ()))
        balance.dropped += len(ledger.dropped.get(key, ()))
        if lost == 0:
            continue
        gaps = set(range(max(ids, default=-1))) - ids
        if gaps and deaths.learners:
            balance.untold += len(gaps)
            lost -= len(gaps)
        elif gaps:
            say(f"{key} has gaps: {sorted(gaps)[:5]} of {count} never came, later ones did")
        if lost == 0:
            continue
        agent = run, agent_of[slot], incarnation >> 16
        last = incarnation == newest[run, slot]
        if agent in deaths.agents:
            with_agent[agent] += lost
            balance.lost_with_agents += lost
        elif key in killed and lost <= AHEAD:
            balance.lost_with_runners += lost
        elif last or abrupt:  # the sum is limited below
            at_end[run] += lost
        else:
            say(f"{key} lost {lost} of {count}; it was {'killed' if key in killed else 'not killed'}")
    for agent, lost in with_agent.items():
        if lost > window:
            say(f"agent {agent} took {lost} fragments with it, its credit is at most {window}")
    if balance.untold > deaths.learners * batch:
        say(f"{balance.untold} fragments are in nobody's books, at most {batch} for each of {deaths.learners} times learners were killed or told to go")
    limit = window * 3 // 2 + batch * (2 + deaths.learners) + (STDIO_RECORDS if abrupt else 0)
    for run, lost in at_end.items():
        balance.lost_at_end += lost
        if lost > limit:
            say(f"{lost} fragments were lost at the end of run {run}, at most {limit} can have been in flight")
    return balance


def die_with_parent() -> None:
    """In a child, before its exec: a test that is killed leaves no run."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def json_lines(path: pathlib.Path) -> list[dict]:
    """The whole lines of a file that may still grow."""
    text = read(path).decode(errors="replace")
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]


class Rows:
    """results.jsonl, read as it grows; a resume cuts it shorter."""

    def __init__(self, run: pathlib.Path):
        self.path, self.offset, self.rows = run / "results.jsonl", 0, []

    def update(self) -> list[dict]:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self.offset:
                self.offset, self.rows = 0, []
            file.seek(self.offset)
            data = file.read()
            data = data[:data.rfind(b"\n") + 1]
            self.offset += len(data)
            self.rows += [json.loads(line) for line in data.splitlines()]
        return self.rows


def wait_for(condition, what: str, deadline_s: float, process: subprocess.Popen | None = None, every_s: float = 0.01):
    until = time.monotonic() + deadline_s
    while not (value := condition()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the run ended (status {process.returncode}) before {what}")
        if time.monotonic() > until:
            raise AssertionError(f"no {what} after {deadline_s} s")
        time.sleep(every_s)
    return value


def control_groups(run: int) -> list[str]:
    """Of a run's runners, in every hierarchy of this machine."""
    return sorted(os.path.join(path, name) for path, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(f"myriad.{run:016x}."))


def call(*words: object, check: bool = True) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=check)


def why_no_namespaces() -> str:
    """What keeps this machine from having hosts as network namespaces; "" when nothing does."""
    if os.geteuid() != 0:
        return "network faults need root"
    for program in ("ip", "nft", "nsenter"):
        if shutil.which(program) is None:
            return f"network faults need the program {program}"
    for left in re.findall(r"^myriad-\w+-(\d+)\b", call("ip", "netns", "list").stdout, re.MULTILINE):  # by a test that was killed
        if not os.path.exists(f"/proc/{left}"):
            for word in re.findall(rf"^myriad-\w+-{left}\b", call("ip", "netns", "list").stdout, re.MULTILINE):
                call("ip", "netns", "del", word, check=False)
    name = f"myriad-try-{os.getpid()}"
    made = call("ip", "netns", "add", name, check=False)
    if made.returncode != 0:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    table = call(*Namespace.enter(name), "nft", "add", "table", "inet", "try", check=False)
    call("ip", "netns", "del", name, check=False)
    return "" if table.returncode == 0 else f"nft cannot be used here: {table.stderr.strip()}"


class Namespace:
    """A host: its own network, its loopback up."""

    def __init__(self, name: str):
        self.name = name
        call("ip", "netns", "add", name)
        self.call("ip", "link", "set", "lo", "up")
        self.rules = False

    @staticmethod
    def enter(name: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{name}"]  # not `ip netns exec`: that hides /sys/fs/cgroup

    def command(self, *words: object) -> list[str]:
        return [*self.enter(self.name), *map(str, words)]

    def call(self, *words: object, check: bool = True) -> subprocess.CompletedProcess:
        return call(*self.command(*words), check=check)

    def drop(self, what: str) -> None:
        """Loses what arrives and matches: "" everything, "numgen random mod 100 < 5" five in a hundred."""
        self.call("nft", f"add table inet chaos; add chain inet chaos in {{ type filter hook input priority 0; }}; "
                  f"flush chain inet chaos in; add rule inet chaos in {what} drop")
        self.rules = True

    def heal(self) -> None:
        if self.rules:
            self.call("nft", "delete", "table", "inet", "chaos", check=False)
            self.rules = False

    def remove(self) -> None:
        call("ip", "netns", "del", self.name, check=False)
