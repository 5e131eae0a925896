"""Runs every registered test and every check of the tree:
`run_tests.py --build BUILD [--sanitize NAMES] [--schedules N] [PATTERN]`.

Started by `./myriad test` after the build. What to run, its environment and its time limit come from meson; a test
program's output goes to BUILD/test-logs/. The last line is `N passed, N failed` (and `, N skipped`), in test cases:
  a doctest program counts its cases; a case that printed `SKIPPED: reason` is skipped, not passed;
  a line `NOTE: text` of a program is shown, whatever became of it;
  a program that dies, runs past its limit or ends without doctest's summary counts as one failure more;
  another program counts as one case, or by its own last line if that has the form above; exit status 77 is a skip.
Exit status 1 when anything failed or nothing ran.
"""
import argparse
import concurrent.futures
import dataclasses
import fnmatch
import json
import os
import pathlib
import re
import signal
import shutil
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCTEST_SUMMARY = re.compile(r"\[doctest\] test cases:\s*(\d+) \|\s*(\d+) passed \|\s*(\d+) failed \|\s*(\d+) skipped")
OWN_SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$")
SKIPPED = re.compile(r"^SKIPPED: (.*)$", re.MULTILINE)
NOTE = re.compile(r"^NOTE: (.*)$", re.MULTILINE)
SANITIZER_SLOWDOWN = 6


@dataclasses.dataclass
class Test:
    """One program to run."""
    name: str
    command: list[str]
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    workdir: str | None = None
    timeout_s: float = 120
    in_turn: bool = False
    filter: list[str] = dataclasses.field(default_factory=list)

    def is_doctest(self) -> bool:
        program = pathlib.Path(self.command[0]).read_bytes()
        return program[:4] == b"\x7fELF" and b"[doctest] " in program


@dataclasses.dataclass
class Result:
    """The counts of one program, and what to show of it."""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    why: str = ""
    reasons: list[str] = dataclasses.field(default_factory=list)
    output: str = ""


def registered_tests(build: pathlib.Path, sanitized: bool) -> list[Test]:
    """meson's tests; under a sanitizer only the programs that were built (those without libtorch)."""
    tests = []
    for entry in json.loads((build / "meson-info" / "intro-tests.json").read_text()):
        test = Test(entry["name"], entry["cmd"], entry["env"], entry["workdir"], entry["timeout"] or 3600, not entry["is_parallel"])
        if sanitized:
            if not pathlib.Path(test.command[0]).is_relative_to(build) or not pathlib.Path(test.command[0]).exists():
                continue
            test.timeout_s *= SANITIZER_SLOWDOWN
        tests.append(test)
    return tests


def tree_checks() -> list[Test]:
    """The checks of the sources: each is one case."""
    python = sys.executable
    checks = [Test("who includes whom", [python, "scripts/check_includes.py"]), Test("tree", [python, "scripts/check_tree.py"]),
              Test("format", [python, "scripts/check_format.py"]), Test("protocol page", [python, "scripts/protocol_tables.py"])]
    if (ROOT / "scripts/align_gymnasium.py").exists():
        checks.append(Test("aligned with gymnasium", [python, "scripts/align_gymnasium.py", "--check"], timeout_s=900))
    for check in checks:
        check.workdir = str(ROOT)
    return checks


def select(tests: list[Test], pattern: str) -> list[Test]:
    """The tests named by the pattern; of the other doctest programs the suites, else the cases it names."""
    glob = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    escaped = glob.replace(",", r"\,")
    selected = []
    for test in tests:
        if fnmatch.fnmatch(test.name.lower(), glob.lower()):
            selected.append(test)
        elif test.is_doctest():
            for option in (f"-ts={escaped}", f"-tc={escaped}"):
                counted = subprocess.run([*test.command, "-c", option], capture_output=True, text=True, env=os.environ | test.env)
                if re.search(r"filters: [1-9]", counted.stdout):
                    selected.append(dataclasses.replace(test, filter=[option]))
                    break
    return selected


def counts(test: Test, status: int, output: str, timed_out: bool) -> Result:
    """Reads the counts from a finished program's output."""
    reasons = SKIPPED.findall(output)
    result = Result(reasons=reasons, output=output)
    summaries = DOCTEST_SUMMARY.findall(output)
    lines = output.strip().splitlines()
    own = OWN_SUMMARY.match(lines[-1]) if lines else None
    if summaries:
        _, passed, failed, filtered = map(int, summaries[-1])
        skipped = min(len(reasons), passed)
        result.passed, result.failed = passed - skipped, failed
        result.skipped = skipped + (0 if test.filter else filtered)
    elif own and not timed_out:
        result.passed, result.failed, result.skipped = (int(n or 0) for n in own.groups())
    elif status == 77 or (status == 0 and reasons):
        result.skipped = 1
    elif status == 0 and not test.is_doctest():
        result.passed = 1
    if timed_out:
        result.why = f"ran past its limit of {test.timeout_s:.0f} s"
    elif status < 0:
        result.why = f"died of {signal.Signals(-status).name}"
    elif status not in (0, 77) and not result.failed:
        result.why = f"exit status {status}"
    elif not (result.passed or result.failed or result.skipped):
        result.why = "ended without running a case"
    if result.why:
        result.failed += 1
    return result


def run(test: Test, log: pathlib.Path) -> Result:
    """Runs one program in its own process group, which is gone when this returns."""
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen([*test.command, *test.filter], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                   cwd=test.workdir, env=os.environ | test.env, start_new_session=True)
        running.add(process)
        try:
            process.wait(test.timeout_s)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        kill_group(process)
        process.wait()
        running.discard(process)
    result = counts(test, process.returncode, log.read_text(errors="replace"), timed_out)
    result.seconds = time.monotonic() - started
    return result


running: set[subprocess.Popen] = set()


def kill_group(process: subprocess.Popen) -> None:
    """Ends what a test left behind: the group outlives its leader."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def interrupted(_signal: int, _frame: object) -> None:
    """Ctrl-C or kill: no test process stays."""
    for process in list(running):
        kill_group(process)
    os._exit(130)


class Report:
    """Prints a line a finished program, and the totals."""

    def __init__(self, total: int):
        self.total, self.done, self.results, self.lock = total, 0, [], threading.Lock()

    def add(self, test: Test, result: Result, log: pathlib.Path) -> None:
        with self.lock:
            self.done += 1
            self.results.append((test, result))
            text = f"{result.passed} passed" + (f", {result.failed} failed" if result.failed else "") + \
                (f", {result.skipped} skipped" if result.skipped else "")
            print(f"[{self.done:2}/{self.total}] {test.name:28} {text}   {result.seconds:.1f} s", flush=True)
            for note in NOTE.findall(result.output):
                print(f"        {note}")
            for reason in dict.fromkeys(result.reasons):
                print(f"        skipped: {reason}")
            if result.failed:
                lines = result.output.rstrip().splitlines()
                print("\n".join("        " + line for line in lines[-60:]))
                print(f"        {test.name}: {result.why or 'failed'}; all of it: {os.path.relpath(log, ROOT)}", flush=True)

    def finish(self) -> int:
        for test, result in self.results:
            if result.failed:
                print(f"FAILED {test.name}: {result.why or f'{result.failed} cases'}")
        passed, failed, skipped = (sum(getattr(r, field) for _, r in self.results) for field in ("passed", "failed", "skipped"))
        if not self.results:
            print("no test has that in its name")
            failed = 1
        print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
        return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=lambda path: pathlib.Path(path).resolve(), required=True)
    parser.add_argument("--sanitize", default="")
    parser.add_argument("--schedules", type=int, default=0)
    parser.add_argument("pattern", nargs="?", default="")
    arguments = parser.parse_args()

    tests = registered_tests(arguments.build, bool(arguments.sanitize))
    if not arguments.sanitize:
        tests += tree_checks()
    if arguments.pattern:
        tests = select(tests, arguments.pattern)
    logs = arguments.build / "test-logs"
    if arguments.schedules:
        os.environ["MYRIAD_SIMULATION_SCHEDULES"] = str(arguments.schedules)
        for test in tests:
            if test.name == "simulation":
                test.timeout_s = 24 * 3600
                print(f"{arguments.schedules} schedules; how far they are: {os.path.relpath(logs, ROOT)}/simulation.log", flush=True)
    if arguments.sanitize:  # ten times slower
        os.environ.setdefault("MYRIAD_SIMULATION_SCHEDULES", "3000")
    if "thread" in arguments.sanitize:  # libzmq is not instrumented: what only it sees is not reported
        os.environ.setdefault("TSAN_OPTIONS", f"halt_on_error=0 suppressions={ROOT / 'scripts/tsan.supp'}")
    if "undefined" in arguments.sanitize:
        os.environ.setdefault("UBSAN_OPTIONS", "print_stacktrace=1 halt_on_error=1")

    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    report = Report(len(tests))

    def one(test: Test) -> None:
        log = logs / (re.sub(r"\W+", "-", test.name) + ".log")
        report.add(test, run(test, log), log)

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    # Those that want the machine wait for processes half of their time: the others run beside them, one at a time.
    in_turn = [test for test in tests if test.in_turn]
    with concurrent.futures.ThreadPoolExecutor(1 if in_turn else max(1, len(os.sched_getaffinity(0)))) as pool:
        beside = [pool.submit(one, test) for test in tests if not test.in_turn]
        for test in in_turn:
            one(test)
        for future in beside:
            future.result()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
