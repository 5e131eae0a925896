"""Checks every tracked file for what must not be in the tree, and prints `path:line: what`; exits 1 when there is one.

Paths of somebody's machine, host names of package registries (which registry serves a machine is that machine's own
setting) and marks of unfinished work. And in docs/, under a heading that ends with a file's `path`, code that is not that file.
"""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# A class of one letter keeps each pattern from matching its own line.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.$}~*>)-])/(?:[w]ork|[r]oot|[h]ome|[U]sers)/\w"),
    "a package registry's host": re.compile(
        r"\b(?:[p]ypi\.org|[p]ythonhosted\.org|[d]eb\.debian\.org|[s]ecurity\.debian\.org|[r]egistry\.npmjs\.org|[c]rates\.io"
        r"|[d]ownload\.pytorch\.org|[a]naconda\.(?:com|org)|[p]roxy\.golang\.org)\b"),
    "a mark of unfinished work": re.compile(r"\b(?:[T]ODO|[F]IXME|[X]XX|[H]ACK)\b"),
}
# Files that hold other people's text or data.
NOT_OURS = ("LICENSE",)


def tracked_files() -> list[str]:
    """What git tracks or would track; in an unpacked archive every file that is not made by a build."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return sorted(listed.stdout.splitlines())
    made = re.compile(r"^(\.git|\.venv|runs|build[^/]*)(/|$)|__pycache__")
    paths = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return sorted(path for path in paths if not made.search(path))


def machine_hosts() -> list[str]:
    """The hosts this machine's pip and apt are set to: they must not leak into the tree either."""
    settings = [value for name, value in os.environ.items() if name.startswith("PIP_")]
    for file in (pathlib.Path("/etc/pip.conf"), *pathlib.Path("/etc/apt").glob("sources.list*/*"), pathlib.Path("/etc/apt/sources.list")):
        if file.is_file():
            settings.append(file.read_text(errors="replace"))
    hosts = {host for text in settings for host in re.findall(r"https?://(?:[^/@\s]*@)?([\w.-]+)", text)}
    return sorted(host for host in hosts if "." in host)


def quoted_otherwise(lines: list[str]) -> list[tuple[int, str]]:
    """Code blocks of a page that say they are a file of the tree and are not."""
    found, quoted, block = [], "", None
    for number, line in enumerate(lines, 1):
        if line.startswith("#") and block is None:
            heading = re.fullmatch(r"#.*: `([\w./-]+)`", line)
            quoted = heading[1] if heading else ""
        elif line.startswith("```") and block is None:
            block = []
        elif line.startswith("```"):
            if quoted and (not (ROOT / quoted).is_file() or "\n".join(block) != (ROOT / quoted).read_text().rstrip("\n")):
                found.append((number, f"the code above is not that of {quoted}"))
            quoted, block = "", None
        elif block is not None:
            block.append(line)
    return found


def main() -> int:
    rules = dict(FORBIDDEN)
    hosts = machine_hosts()
    if hosts:
        rules["a host of this machine's package settings"] = re.compile("|".join(map(re.escape, hosts)))
    files = [path for path in tracked_files() if path not in NOT_OURS and (ROOT / path).is_file()]
    problems = 0
    for path in files:
        content = (ROOT / path).read_bytes()
        if b"\0" in content:
            continue
        lines = content.decode(errors="replace").splitlines()
        if path.startswith("docs/"):
            for number, what in quoted_otherwise(lines):
                problems += 1
                print(f"{path}:{number}: {what}")
        for number, line in enumerate(lines, 1):
            for what, pattern in rules.items():
                if pattern.search(line):
                    problems += 1
                    print(f"{path}:{number}: {what}")
    print(f"{len(files)} files, {problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
