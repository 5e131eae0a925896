#!/usr/bin/env python3
"""The C++ headers that plugins of algorithms, modules and wrappers are compiled against, and the version that names them.

`plugin_interface.py HEADER DEPFILE VERSION` writes the version as macros, for the programs and for what install_sdk.py installs.
"""
import hashlib
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What a plugin includes -> its name below <myriad/...>. Everything these include is installed with its path in the tree.
ENTRIES = {"algorithms/plugin.hpp": "algorithm.hpp", "rl/module_plugin.hpp": "module.hpp", "rl/wrapper_plugin.hpp": "wrapper.hpp"}


def headers() -> list[str]:
    """The entries and all of the tree's headers that they include."""
    found, waiting = set(), list(ENTRIES)
    while waiting:
        path = waiting.pop()
        if path in found or not (ROOT / path).is_file():
            continue
        found.add(path)
        waiting += re.findall(r'(?m)^\s*#\s*include\s*"([^"]+)"', (ROOT / path).read_text())
    return sorted(found)


def digest() -> str:
    """Changes with every byte of the headers: two builds of one digest have the same classes."""
    whole = hashlib.sha256()
    for path in headers():
        whole.update(path.encode() + b"\0" + (ROOT / path).read_bytes() + b"\0")
    return whole.hexdigest()[:12]


def main() -> int:
    output, depfile, version = sys.argv[1:]
    pathlib.Path(output).write_text(
        f'// Written by scripts/plugin_interface.py.\n#define MYRIAD_PLUGIN_HEADERS "{digest()}"\n#define MYRIAD_PLUGIN_VERSION "{version}"\n')
    pathlib.Path(depfile).write_text(f"{output}: {' '.join(str(ROOT / path) for path in headers())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
