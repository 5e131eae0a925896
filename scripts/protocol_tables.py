#!/usr/bin/env python3
"""The tables of docs/protocol.md and the Python of sdk/python, from rl/simulator/protocol.fbs: `protocol_tables.py [--fix]`."""
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCHEMA, PAGE = ROOT / "rl/simulator/protocol.fbs", ROOT / "docs/protocol.md"
GENERATED = ROOT / "sdk/python/myriad_client/protocol_generated.py"
HEADING = "## Messages\n"


def tables() -> str:
    """One table of fields for each of the schema's, with its comments."""
    out, said = [], []
    lines = iter(SCHEMA.read_text().splitlines())
    for line in lines:
        if line.startswith("///"):
            said.append(line[4:])
        elif match := re.match(r"enum (\w+) : (\w+) \{ (.*) \}", line):
            out += [f"### {match[1]} ({match[2]})", "", *said, ", ".join(f"{i} `{name}`" for i, name in enumerate(match[3].split(", "))), ""]
            said = []
        elif match := re.match(r"union (\w+) \{ (.*) \}", line):
            out += [f"### {match[1]} (union)", "", ", ".join(f"{i} `{name}`" for i, name in enumerate(match[2].split(", "), 1)), ""]
        elif match := re.match(r"table (\w+) \{(.*)", line):
            body = match[2]
            while "}" not in body:
                body += "\n" + next(lines)
            rows, comment = [], ""
            for part in body[:body.index("}")].splitlines():
                fields, _, comment = part.partition("//")
                rows += [[*map(str.strip, field.split(":", 1)), ""] for field in fields.split(";") if field.strip()]
                if rows and comment:
                    rows[-1][2] = (rows[-1][2] + " " + comment.strip()).strip()
            out += [f"### {match[1]}", "", *said, *([""] if said else []), "| field | type | |", "|---|---|---|"]
            out += [f"| `{name}` | `{kind}` | {comment} |" for name, kind, comment in rows] + [""]
            said = []
    return "\n".join(out).rstrip("\n") + "\n"


def python() -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["flatc", "--python", "--gen-onefile", "-o", folder, SCHEMA], check=True)
        return (pathlib.Path(folder) / "protocol_generated.py").read_text()


def main() -> int:
    page = PAGE.read_text()
    wanted = {PAGE: page[:page.index(HEADING) + len(HEADING)] + "\n" + tables(), GENERATED: python()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if sys.argv[1:] == ["--fix"]:
            path.write_text(wanted[path])
        else:
            print(f"{path.relative_to(ROOT)} is not what rl/simulator/protocol.fbs says: scripts/protocol_tables.py --fix")
    return 1 if stale and sys.argv[1:] != ["--fix"] else 0


if __name__ == "__main__":
    sys.exit(main())
