"""Plants the faults of this folder's lists into copies of the tree, and runs for each the test that must find it.

`run_mutants.py [--list] [--jobs N] [--threshold PERCENT] [--json FILE] [PATTERN ...]`; README.md describes the lists. A copy
is an overlay over the tree's own path in a mount namespace: paths stay valid, ninja rebuilds what the fault touches,
and nothing of it reaches the tree or its build. Exit status: 1 below the threshold; 2 for a list that is wrong, by a
mutant that does not compile or a test that fails without it too; 4 where this cannot run; 130 when interrupted.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
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
import threading
import time

from mutant_lists import Build, CannotRun, Mutant, load

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENTER = [["setpriv", "--pdeathsig", "KILL", "unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
         for user in ([], ["--map-root-user"])]
# Process 1 of the namespace: it reaps orphans, and they end with it.
MOUNT = 'mount -t overlay overlay -o "$1" "$2" && cd "$2" || exit 125; shift 2; "$@"; exit $?'
NOT_MOUNTED, SKIPPED = 125, 77
LEAST_LIMIT_S, SLOWER, UNMUTATED_LIMIT_S, BUILD_LIMIT_S = 60, 10, 900, 3600
COMPILED = {".cpp", ".hpp", ".h", ".fbs"}
WRONG = ("does-not-compile", "error")  # verdicts on a list, not on a test


@dataclasses.dataclass
class Result:
    """What became of a mutant; `what`: the first case that failed, or what is wrong."""
    mutant: Mutant
    verdict: str
    what: str = ""
    output: str = ""
    seconds: float = 0.0


def is_doctest(test: str) -> bool:
    return not test.startswith("python3")


def first_failure(output: str, status: int) -> str:
    """The case of doctest or unittest that failed first, else the signal or the last line."""
    case, lines = "", output.strip().splitlines()
    for line in lines:
        if line.startswith("TEST CASE:"):
            case = line.removeprefix("TEST CASE:").strip()
        elif case and "ERROR:" in line:
            return case
        elif named := re.match(r"(?:FAIL|ERROR): (\w+)", line):
            return named[1]
    return f"signal {status - 128}" if status > 128 else lines[-1].strip() if lines else f"exit status {status}"


def no_judge(test: str, status: int | None, output: str) -> str:
    """Why a test, by its run without a fault, cannot judge mutants; "" where it can."""
    if status is None:
        return f"does not end within {UNMUTATED_LIMIT_S} s without the mutant"
    if status == SKIPPED and not is_doctest(test):
        return "is skipped here"
    if status != 0:
        return f"fails without the mutant: {first_failure(output, status)}"
    ran = re.findall(r"\[doctest\] test cases:\s*(\d+)" if is_doctest(test) else r"^(\d+) passed, 0 failed", output, re.MULTILINE)
    skipped = re.findall(r"^SKIPPED: .*$", output, re.MULTILINE)
    if ran[-1:] == ["0"] or (is_doctest(test) and not ran):
        return "the filter selects no case" if not skipped else skipped[0]
    return skipped[0] if is_doctest(test) and len(skipped) >= int(ran[-1]) else ""


class Lab:
    """Runs tests in copies of the tree, `jobs` at once, and ends them all."""

    def __init__(self, root: pathlib.Path, build: Build, jobs: int, scratch: pathlib.Path) -> None:
        self.root, self.build, self.jobs, self.scratch = root, build, jobs, scratch
        self.limit_s: dict[tuple[str, str], float] = {}  # of each (test, case)
        self.no_judge: dict[tuple[str, str], str] = {}
        self.environ = os.environ | {"PATH": f"{root}/.venv/bin:{os.environ['PATH']}", "CCACHE_SLOPPINESS": "pch_defines,time_macros"}
        self.enter: list[str] = []
        self.running: set[subprocess.Popen] = set()
        self.lock, self.stopping = threading.Lock(), False

    def run(self, command: list[str], limit_s: float, env: dict[str, str], end: signal.Signals = signal.SIGKILL) -> tuple[int | None, str]:
        """Exit status, None past the limit, and output."""
        with self.lock:
            if self.stopping:
                raise KeyboardInterrupt
            process = subprocess.Popen(command, cwd=self.root, env=self.environ | env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
            self.running.add(process)
        try:
            output, _ = process.communicate(timeout=limit_s)
            status = process.returncode
        except BaseException as why:  # the time limit, or Ctrl-C in the main thread
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, end)
            output, _ = process.communicate()
            status = None
            if not isinstance(why, subprocess.TimeoutExpired):
                raise
        finally:
            with self.lock:
                self.running.discard(process)
        if self.stopping:
            raise KeyboardInterrupt
        return 128 - status if status is not None and status < 0 else status, output

    def each(self, function, items, then) -> None:
        """Calls it for every item in parallel, and `then` with what comes; whatever goes wrong ends them all."""
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            try:
                for future in concurrent.futures.as_completed([pool.submit(function, item) for item in items]):
                    then(future.result())
            except BaseException:
                take_no_signals()
                pool.shutdown(wait=False, cancel_futures=True)
                with self.lock:
                    self.stopping = True
                    for process in self.running:
                        with contextlib.suppress(ProcessLookupError):  # it ended just now
                            os.killpg(process.pid, signal.SIGKILL)  # process 1 of the namespace with it
                raise

    @contextlib.contextmanager
    def copy(self):
        """A copy of the tree: a directory for what differs."""
        copy = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        for name in ("upper", "work", "tmp"):
            (copy / name).mkdir()
        try:
            yield copy
        finally:
            remove(copy)

    def run_in(self, copy: pathlib.Path, command: list[str], limit_s: float, env: dict[str, str]) -> tuple[int | None, str]:
        options = f"lowerdir={self.root},upperdir={copy}/upper,workdir={copy}/work" + (",userxattr" if "--map-root-user" in self.enter else "")
        status, output = self.run([*self.enter, "sh", "-c", MOUNT, "sh", options, str(self.root), *command], limit_s, env | {"TMPDIR": f"{copy}/tmp"})
        if status == NOT_MOUNTED:
            raise CannotRun(output.strip())
        return status, output

    def run_test(self, copy: pathlib.Path, test: str, case: str, limit_s: float) -> tuple[int | None, str]:
        """A doctest program ends with its first failure."""
        command = [f"build/{test}", "--abort-after=1", *([f"--test-case={case}"] if case else [])] if is_doctest(test) else shlex.split(test)
        return self.run_in(copy, command, limit_s, self.build.env.get(self.build.name(test), {}))

    def find_a_way_in(self) -> None:
        tried = ""
        for self.enter in ENTER:
            try:
                with self.copy() as copy:
                    status, output = self.run_in(copy, ["true"], 60, {})
            except (CannotRun, FileNotFoundError) as error:
                status, output = None, str(error)
            if status == 0:
                return
            tried += f"\n  {shlex.join(self.enter)}, then mount -t overlay over {self.root} with the changes in {self.scratch}: {output.strip()}"
        raise CannotRun(f"a mount namespace with an overlay is not permitted here; tried{tried}\nTMPDIR names another place for the changes")

    def build_tree(self, targets: list[str]) -> None:
        """What the tests need, in the tree itself, under the lock of ./myriad."""
        if not targets:
            return
        print(f"building {', '.join(targets)}", flush=True)
        with open(self.root / "build/.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            status, output = self.run([f"{self.root}/.venv/bin/ninja", "-C", "build", f"-j{self.jobs}", *targets], BUILD_LIMIT_S, {}, end=signal.SIGTERM)
        if status != 0:
            raise CannotRun(f"the tree does not build without a mutant:\n{output[-3000:]}")

    def try_test(self, pair: tuple[str, str]) -> None:
        """Without a fault: whether it can judge, and how long it may take."""
        started = time.monotonic()
        with self.copy() as copy:
            self.no_judge[pair] = no_judge(pair[0], *self.run_test(copy, *pair, UNMUTATED_LIMIT_S))
        self.limit_s[pair] = max(LEAST_LIMIT_S, SLOWER * (time.monotonic() - started))

    def judge(self, mutant: Mutant) -> Result:
        """Where something is wrong while somebody builds in the tree, it may be of that: once more."""
        started, log = time.monotonic(), self.root / "build/.ninja_log"
        built = lambda: log.stat().st_mtime_ns if log.exists() else 0
        for _ in range(2):
            before = built()
            with self.copy() as copy:
                try:
                    result = Result(mutant, *self.verdict(copy, mutant), seconds=time.monotonic() - started)
                except (CannotRun, OSError) as error:
                    result = Result(mutant, "error", str(error))
            if result.verdict not in WRONG or built() == before:
                break
        return result

    def verdict(self, copy: pathlib.Path, mutant: Mutant) -> tuple[str, str, str]:
        """The verdict, what is to be said of it, and the end of the output."""
        pair, file = (mutant.test, mutant.case), copy / "upper" / mutant.file
        if self.no_judge[pair]:
            return "error", f"{' '.join(pair).strip()}: {self.no_judge[pair]}", ""
        text = (self.root / mutant.file).read_text()
        if text.count(mutant.before) != 1:
            return "error", f"`before` is no longer once in {mutant.file}", ""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace(mutant.before, mutant.after))
        shutil.copymode(self.root / mutant.file, file)
        if targets := self.build.targets.get(self.build.name(mutant.test)):
            status, output = self.run_in(copy, ["ninja", "-C", "build", "-j1", *targets], BUILD_LIMIT_S, {})
            if status != 0:
                errors = [line.strip() for line in output.splitlines() if "error:" in line] or output.splitlines()[-1:]
                return "does-not-compile", "".join(errors[:1]), output[-8000:]
            if "no work to do" in output and file.suffix in COMPILED:
                return "error", f"{mutant.test} is not built from {mutant.file}", ""
        status, output = self.run_test(copy, *pair, self.limit_s[pair])
        if status is None:
            return "found", f"hangs: over {self.limit_s[pair]:.0f} s", output[-8000:]
        if status == 0 or (status == SKIPPED and not is_doctest(mutant.test)):
            return "survived", "", output[-8000:]
        return "found", first_failure(output, status), output[-8000:]


def remove(directory: pathlib.Path) -> None:
    def open_it(function, path, _):  # overlayfs leaves a directory of mode 000
        os.chmod(path, 0o700)
        shutil.rmtree(path) if os.path.isdir(path) else function(path)
    shutil.rmtree(directory, onerror=open_it)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def take_no_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run(build: Build, mutants: list[Mutant], jobs: int) -> list[Result]:
    """Runs them; whatever ends it, no process, mount or directory of it stays."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    results = [Result(mutant, "equivalent", mutant.equivalent) for mutant in mutants if mutant.equivalent]
    mutants = [mutant for mutant in mutants if not mutant.equivalent]
    pairs = sorted({(mutant.test, mutant.case) for mutant in mutants})

    def report(result: Result) -> None:
        print(f"{result.verdict:16} {result.mutant.id}  {result.what}  {result.seconds:.0f} s", flush=True)
        results.append(result)

    scratch = pathlib.Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        lab = Lab(ROOT, build, jobs, scratch)
        lab.find_a_way_in()
        lab.build_tree(sorted({target for test, _ in pairs for target in build.targets.get(build.name(test), [])}))
        print(f"{len(mutants)} mutants, {len(pairs)} tests: first without them", flush=True)
        lab.each(lab.try_test, pairs, lambda _: None)
        lab.each(lab.judge, mutants, report)
    finally:
        take_no_signals()
        remove(scratch)
    return results


def percent_found(found: int, survived: int) -> float:
    """The score: of those that count; none is perfect."""
    return 100 * found / (found + survived) if found + survived else 100.0


def table(results: list[Result]) -> list[dict]:
    """A row a list, then one of all."""
    rows = []
    for name in (*sorted({result.mutant.list for result in results}), "all"):
        of = collections.Counter(result.verdict for result in results if name in ("all", result.mutant.list))
        rows.append({"list": name, "mutants": of.total(), "found": of["found"], "survived": of["survived"], "equivalent": of["equivalent"],
                     "wrong": sum(of[verdict] for verdict in WRONG), "score": percent_found(of["found"], of["survived"])})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Plants the faults of tests/mutants/*.toml and asks whether the tests find them.")
    parser.add_argument("patterns", nargs="*", help="parts of an id, a file's or a list's name; none: all")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="mutants at once; default: a core each")
    parser.add_argument("--threshold", type=float, default=95, help="exit status 1 below this percentage; default 95")
    parser.add_argument("--json", type=pathlib.Path, help="writes all results there")
    parser.add_argument("--list", action="store_true", help="names the mutants and runs nothing")
    options = parser.parse_args()
    started = time.monotonic()

    def selected(*names: str) -> bool:
        return not options.patterns or any(pattern in name for pattern in options.patterns for name in names)

    mutants, errors = load(HERE, ROOT)
    mutants = [mutant for mutant in mutants if selected(mutant.id, mutant.file, f"{mutant.list}.toml")]
    try:
        build = Build(ROOT)
        errors += [f"{mutant.list}.toml: {mutant.id}: no test program or script {mutant.test}" for mutant in mutants if mutant.test and not build.name(mutant.test)]
        errors = [error for error in errors if selected(error)]
        if errors or not mutants:
            print("\n".join(errors) or "no mutant of that name", file=sys.stderr)
            return 2
        if options.list:
            for mutant in mutants:
                print(f"{mutant.list:16} {mutant.id:44} {mutant.file}  {'equivalent' if mutant.equivalent else mutant.test}  {mutant.case}".rstrip())
            return 0
        results = run(build, mutants, options.jobs)
    except CannotRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    seconds, rows = time.monotonic() - started, table(results)
    print("\n{:24}{:>10}{:>10}{:>10}{:>12}{:>8}{:>8}".format(*rows[0]))
    for row in rows:
        print("{:24}{:10}{:10}{:10}{:12}{:8}{:7.1f}%".format(*row.values()))
    for result in sorted(results, key=lambda result: (result.verdict, result.mutant.list)):
        if result.verdict in ("survived", *WRONG):
            print(f"{result.verdict}: {result.mutant.list}: {result.mutant.id}  {result.mutant.file}  {result.what}".rstrip())
    print(f"{seconds:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({"lists": rows, "results": [dataclasses.asdict(result) for result in results], "seconds": seconds}, indent=1) + "\n")
    if any(result.verdict in WRONG for result in results):
        return 2
    return 1 if rows[-1]["score"] < options.threshold else 0


if __name__ == "__main__":
    sys.exit(main())
