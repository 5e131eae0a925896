"""Checks includes: each folder's sources may name the headers of the folders and libraries listed here.

Prints `path:line: what` for every include outside the rules and exits 1 when there is one.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# folder -> the folders it may include from, beside itself; None: any
MAY_INCLUDE = {
    "rl": {"sdk"},  # the plugin ABI
    "sims": {"rl"},
    "roles": {"rl"},
    "env_runners": {"rl"},
    "learners": {"rl"},
    "algorithms": {"learners", "rl"},
    "sdk": set(),
    "sdk/client": {"rl"},  # libmyriad_client speaks by the code of the other side; its header shows nothing of it
    "apps": None,
    "bench": None,
    "tests": None,
}

# library headers -> the folders whose sources may name them
LIBRARY_HOMES = {
    r"(torch|ATen|c10|caffe2)/": ("learners/", "algorithms/", "tests/", "bench/"),
    r"mujoco/": ("sims/mujoco/",),
    r"(vpx/|png\.h$)": ("apps/video/", "tests/"),
    r"Box2D/": ("sims/box2d/",),
    r"ale/": ("sims/ale/",),
    r"zmq(_addon)?\.hpp?$": ("rl/wire/",),
}

# What decides reaches the world by its inputs and outputs alone.
NOT_FOR_ROLES = re.compile(r"(sys/|unistd|fcntl|poll\.h|thread$|mutex$|fstream|filesystem|rl/wire/transport|rl/shared_memory|rl/descriptors)")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def problem(path: str, quote: str, header: str) -> str:
    """What is wrong with this include, or ""."""
    folder = path.split("/")[0]
    for pattern, homes in LIBRARY_HOMES.items():
        if re.match(pattern, header) and not path.startswith(homes):
            return f"{header} belongs to {', '.join(homes)}"
    if folder == "roles" and NOT_FOR_ROLES.match(header):
        return f"a role must not include {header}: it has no sockets, files, clocks or threads"
    other = header.split("/")[0]
    if other in MAY_INCLUDE and "/" in header:
        allowed = MAY_INCLUDE.get("/".join(path.split("/")[:2]), MAY_INCLUDE[folder])
        if allowed is not None and other != folder and other not in allowed:
            return f"{folder} must not include {header}; it may include {', '.join(sorted(allowed)) or 'nothing'} beside itself"
    elif quote == '"' and not header.endswith("_generated.h"):
        return f'"{header}" is not a path from the root of the tree'
    return ""


def main() -> int:
    problems = 0
    files = 0
    for folder in dict.fromkeys(name.split("/")[0] for name in MAY_INCLUDE):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix not in (".hpp", ".cpp", ".h", ".c", ".cc", ".cu"):
                continue
            files += 1
            path = file.relative_to(ROOT).as_posix()
            for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
                match = INCLUDE.match(line)
                what = match and problem(path, *match.groups())
                if what:
                    problems += 1
                    print(f"{path}:{number}: {what}")
    print(f"{files} files, {problems} includes outside the rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
