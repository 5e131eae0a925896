"""Names the ninja targets of a goal, one a line: `targets.py BUILD apps|all|torch-free`.

apps: what the program and its processes need: everything built by default outside tests/ and bench/.
all: that, tests and benchmarks. torch-free: the test programs that do not link libtorch, which is what the
sanitizers run (libtorch itself is not instrumented).
"""
import json
import pathlib
import subprocess
import sys


NINJA = pathlib.Path(sys.executable).parent / "ninja"  # of the virtual environment


def introspect(build: pathlib.Path, what: str) -> list:
    """One of meson's introspection files, written at configure time."""
    return json.loads((build / "meson-info" / f"intro-{what}.json").read_text())


def top_folder(target: dict, source: pathlib.Path) -> str:
    """The folder of the tree a target is defined in."""
    return pathlib.Path(target["defined_in"]).relative_to(source).parts[0]


def torch_free_tests(build: pathlib.Path) -> list[str]:
    """The registered test programs without libtorch in them, and what their tests depend on, as ninja targets."""
    targets = {target["id"]: target for target in introspect(build, "targets")}
    of_file = {target["filename"][0]: name for name, target in targets.items()}
    wanted = []
    for test in introspect(build, "tests"):
        program = of_file.get(test["cmd"][0])
        if program is None or targets[program]["type"] != "executable":
            continue
        files = [pathlib.Path(targets[name]["filename"][0]) for name in dict.fromkeys([program, *test["depends"]]) if name in targets]
        relative = [str(file.relative_to(build)) for file in files if file.is_relative_to(build)]
        commands = subprocess.run([NINJA, "-C", build, "-t", "commands", *relative], check=True, capture_output=True, text=True).stdout
        if "libtorch_cpu.so" not in commands:
            wanted += relative
    return list(dict.fromkeys(wanted))


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
