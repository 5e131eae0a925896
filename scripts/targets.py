"""Names the ninja targets of a goal, one a line: `targets.py BUILD apps|all|torch-free`.

apps: what the program and its processes need: everything built by default outside tests/ and bench/.
all: that, tests and benchmarks. torch-free: the test programs that link nothing of learners/ or algorithms/, which is
what the sanitizers run (libtorch itself is not instrumented).
"""
import json
import pathlib
import subprocess
import sys


def introspect(build: pathlib.Path, what: str) -> list:
    """One of meson's introspection files, written at configure time."""
    return json.loads((build / "meson-info" / f"intro-{what}.json").read_text())


def top_folder(target: dict, source: pathlib.Path) -> str:
    """The folder of the tree a target is defined in."""
    return pathlib.Path(target["defined_in"]).relative_to(source).parts[0]


def torch_free_tests(build: pathlib.Path) -> list[str]:
    """The names of the registered test programs without libtorch in them, as ninja targets."""
    programs = {test["cmd"][0] for test in introspect(build, "tests")}
    wanted = []
    for target in introspect(build, "targets"):
        name = target["filename"][0]
        if target["type"] != "executable" or name not in programs:
            continue
        relative = str(pathlib.Path(name).relative_to(build))
        inputs = subprocess.run(["ninja", "-C", build, "-t", "inputs", relative], check=True, capture_output=True, text=True).stdout
        if not any(line.startswith(("learners/", "algorithms/")) for line in inputs.splitlines()):
            wanted.append(relative)
    return wanted


def main() -> None:
    build, goal = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    source = pathlib.Path(__file__).resolve().parent.parent
    if goal == "torch-free":
        targets = torch_free_tests(build)
    elif goal == "all":
        benchmarks = [target["filename"][0] for target in introspect(build, "targets")
                      if target["type"] == "executable" and top_folder(target, source) == "bench"]
        targets = ["all", "meson-test-prereq", *(str(pathlib.Path(file).relative_to(build)) for file in benchmarks)]
    else:
        targets = [str(pathlib.Path(file).relative_to(build)) for target in introspect(build, "targets")
                   if target["build_by_default"] and top_folder(target, source) not in ("tests", "bench")
                   for file in target["filename"] if pathlib.Path(file).is_relative_to(build)]
    print("\n".join(targets))


if __name__ == "__main__":
    main()
