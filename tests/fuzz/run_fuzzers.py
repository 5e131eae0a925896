"""Builds the fuzz targets of this folder with clang 14 and runs them: `run_fuzzers.py [--seconds N] [TARGET ...]`.

Each target is libFuzzer with ASan and UBSan; an input has 1 s and 512 MB. It starts from corpus/TARGET (in the tree:
seeds, and every input that was once a finding) and BUILD/corpus/TARGET (what earlier runs here found new). One line a
target; a finding's input stays in BUILD/findings/. The last line is `N passed, N failed`: a target is one case.
Exit status 1 with findings, 77 without clang 14. `--seconds 0` runs the inputs that are there and nothing else.
"""
import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMPILER = "clang++-14"
MEMORY_MB = 512
RATE, EDGES, PEAK = r"average_exec_per_sec: +(\d+)", r"cov: (\d+)", r"peak_rss_mb: +(\d+)"  # of libFuzzer's output
FLAGS = ("-std=c++20 -O1 -gline-tables-only -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined "
         "-fno-sanitize-recover=undefined -D_GLIBCXX_ASSERTIONS")
LIBRARIES = "-lfmt -lboost_json -lflatbuffers -ldl -lpthread"

# What the targets are linked with: an archive, from which each takes what it names.
LIBRARY_SOURCES = """
    rl/action_mask rl/algorithm_facts rl/algorithm_info rl/check rl/child_call rl/config rl/config/combinations rl/config/load rl/config/printer rl/config/reader rl/config/toml_text rl/config/unknown_keys rl/connector rl/curriculum rl/environment rl/fragment rl/hash rl/machine rl/module_json rl/module_plugin rl/module_spec rl/plugin rl/plugin_build rl/plugin_environment rl/run_layout rl/sandbox rl/shell_line rl/simulator/messages rl/space
    rl/system rl/system_call_filter rl/toml rl/weights rl/wrapper_plugin rl/wrappers sims/classic/canvas
    rl/wire/messages rl/wire/packed rl/wire/parcel learners/batch_assembler roles/checkpoint env_runners/env_stepper env_runners/row_check env_runners/vector_env
""".split()
# Found by no name: linked as they are.
ALGORITHMS = ("algorithms/a2c", "algorithms/appo", "algorithms/impala", "algorithms/ppo", "algorithms/pqn")
CART_POLE = "sims/classic/cart_pole"


@dataclasses.dataclass
class Target:
    """A target's longest input, and the sources it needs beside the archive."""
    max_len: int
    sources: tuple[str, ...] = ()


TARGETS = {
    "message": Target(4096),
    "packed": Target(4096),
    "fragment": Target(1024),
    "safetensors": Target(4096),
    "manifest": Target(2048),
    "config": Target(8192, ALGORITHMS),
    "weights": Target(1024),
    "runner_state": Target(2048, (CART_POLE,)),
    "simulator": Target(2048),
    "module_json": Target(8192),
    "task": Target(4096, ("sims/mujoco/expression", "sims/mujoco/task_file")),
}
SEEDS = Target(0, (*ALGORITHMS, CART_POLE))


def ninja_file(build: pathlib.Path) -> str:
    """The rules of the build: ninja knows what changed."""
    ccache = shutil.which("ccache")
    lines = [
        f"flags = {FLAGS} -I{ROOT} -I{build}/generated -isystem /usr/include/eigen3",
        f"rule compile\n  command = {ccache + ' ' if ccache else ''}{COMPILER} $flags -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        "rule archive\n  command = rm -f $out && ar rcs $out $in",
        f"rule link\n  command = {COMPILER} $flags $main $in -o $out {LIBRARIES}",
        f"rule schema\n  command = flatc --cpp --scoped-enums --gen-object-api -o {build}/generated $in",
        f"build generated/schema_generated.h: schema {ROOT}/rl/wire/schema.fbs",
        f"build generated/protocol_generated.h: schema {ROOT}/rl/simulator/protocol.fbs",
        f"rule interface\n  command = {sys.executable} {ROOT}/scripts/plugin_interface.py $out $out.d fuzz\n  depfile = $out.d\n  deps = gcc",
        "build generated/plugin_interface_generated.h: interface",
    ]
    programs = {**TARGETS, "make_seeds": SEEDS}
    extra = sorted({source for target in programs.values() for source in target.sources})
    sources = [*LIBRARY_SOURCES, *extra, *(f"tests/fuzz/{name}" for name in programs)]
    lines += [f"build {source}.o: compile {ROOT}/{source}.cpp || generated/schema_generated.h generated/protocol_generated.h generated/plugin_interface_generated.h" for source in sources]
    lines.append(f"build library.a: archive {' '.join(f'{source}.o' for source in LIBRARY_SOURCES)}")
    for name, target in programs.items():
        objects = " ".join(f"{source}.o" for source in (f"tests/fuzz/{name}", *target.sources))
        lines.append(f"build {name}: link {objects} library.a\n  main = {'-fsanitize=fuzzer' if target.max_len else ''}")
    return "\n".join(lines) + "\n"


def compile_programs(build: pathlib.Path, names: list[str], jobs: int) -> bool:
    """Builds what changed; prints the compiler's output when that fails."""
    ninja = ROOT / ".venv/bin/ninja"
    ninja = ninja if ninja.exists() else "ninja"
    text = ninja_file(build)
    if not (build / "build.ninja").exists() or (build / "build.ninja").read_text() != text:
        (build / "build.ninja").write_text(text)
    done = subprocess.run([ninja, "-C", build, f"-j{jobs}", *names], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr)
    return done.returncode == 0


def environment() -> dict[str, str]:
    """Sanitizers that stop at the first finding; names in their stacks where a symbolizer is installed."""
    env = dict(os.environ, ASAN_OPTIONS="quarantine_size_mb=32", UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1")
    symbolizer = shutil.which("llvm-symbolizer-14") or shutil.which("llvm-symbolizer")
    if symbolizer:
        env |= {"ASAN_SYMBOLIZER_PATH": symbolizer, "UBSAN_SYMBOLIZER_PATH": symbolizer}
    return env


def happens_again(build: pathlib.Path, name: str, file: pathlib.Path) -> bool:
    """Whether the input fails alone: a busy machine can make any input take a second once."""
    limits = ["-timeout=1", f"-rss_limit_mb={MEMORY_MB}"]
    return all(subprocess.run([build / name, *limits, file], capture_output=True, env=environment()).returncode for _ in range(2))


def run(build: pathlib.Path, name: str, seconds: int) -> tuple[str, bool, str]:
    """Runs one target; its line, whether it has a finding, and what to show of that."""
    grown, seeds, findings = build / "corpus" / name, HERE / "corpus" / name, build / "findings"
    for folder in (grown, findings):
        folder.mkdir(parents=True, exist_ok=True)
    folders = [grown, *([seeds] if seeds.is_dir() else [])]
    executions, end, note = 0, time.monotonic() + seconds, ""
    while True:
        left = round(end - time.monotonic())
        command = [build / name, f"-max_total_time={left}" if left > 0 else "-runs=0", "-timeout=1", f"-rss_limit_mb={MEMORY_MB}",
                   f"-max_len={TARGETS[name].max_len}", "-print_final_stats=1", f"-artifact_prefix={findings}/{name}-", *folders]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment(), cwd=build)
        log = done.stderr
        (build / f"{name}.log").write_text(log)

        def last(pattern: str) -> str:
            found = re.findall(pattern, log, re.MULTILINE)
            return found[-1] if found else "0"

        executions += int(last(r"number_of_executed_units: (\d+)"))
        written = last(r"Test unit written to (.*)$")
        slow = done.returncode and re.search(r"-(timeout|oom)-\w+$", written)
        if not slow or happens_again(build, name, pathlib.Path(written)):
            break
        note = f"; within its limits when run alone: {written}"
    line = (f"{name:13} {executions:>9} executions {last(RATE):>7}/s "
            f"{last(EDGES):>5} edges {last(PEAK):>4} MB  ")
    if done.returncode == 0:
        return line + "0 findings" + note, False, ""
    summary = last(r"^(?:SUMMARY: |does not hold: )(.*)$")
    return line + f"1 finding: {summary}; {written}", True, "\n".join(log.splitlines()[-60:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=lambda path: pathlib.Path(path).resolve(), default=ROOT / "build" / "fuzz")
    parser.add_argument("--seconds", type=int, default=5, help="of each target")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--make-seeds", action="store_true", help="write corpus/TARGET/seed-* anew and stop")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    names = arguments.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {unknown[0]}; known: {', '.join(TARGETS)}")
    if not shutil.which(COMPILER):
        print(f"SKIPPED: {COMPILER} is not installed")
        return 77
    build = arguments.build
    build.mkdir(parents=True, exist_ok=True)
    if arguments.make_seeds:
        if not compile_programs(build, ["make_seeds"], arguments.jobs):
            return 1
        for old in HERE.glob("corpus/*/seed-*"):
            old.unlink()
        return subprocess.run([build / "make_seeds", HERE / "corpus"], env=environment()).returncode
    if not compile_programs(build, names, arguments.jobs):
        print("the targets do not compile")
        return 1
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for line, found, log in pool.map(lambda name: run(build, name, arguments.seconds), names):
            failed += found
            print(line + ("\n" + log if log else ""), flush=True)
    print(f"{len(names) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
