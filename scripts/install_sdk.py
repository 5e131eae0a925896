#!/usr/bin/env python3
"""Installs what an author of simulators, algorithms, networks and wrappers needs: `install_sdk.py PREFIX`. `ninja install` calls it without one."""
import json
import os
import pathlib
import re
import shutil
import sys

import plugin_interface

ROOT = pathlib.Path(__file__).resolve().parent.parent
PC = """prefix=${pcfiledir}/../..
Name: myriad-sdk
Description: headers for environments of Myriad, plugin ABI %s
Version: %s
Cflags: -I${prefix}/include
"""
CLIENT_PC = """prefix=${pcfiledir}/../..
Name: myriad-client
Description: simulators and games in processes of their own, for Myriad
Version: %s
Requires: myriad-sdk
Libs: -L${prefix}/lib -lmyriad_client -Wl,-rpath,${prefix}/lib
"""

# Libraries that the programs open: nothing to link.
ALGORITHM_PC = """prefix=${pcfiledir}/../..
torch=%s
Name: myriad-algorithm
Description: headers for algorithms of Myriad, interface %s
Version: %s
Requires: fmt
Cflags: -I${prefix}/include -I${prefix}/include/myriad -idirafter${torch}/include
"""
MODULE_PC = """prefix=${pcfiledir}/../..
Name: myriad-module
Description: headers for networks of Myriad, interface %s
Version: %s
Cflags: -I${prefix}/include -I${prefix}/include/myriad
"""
WRAPPER_PC = MODULE_PC.replace("myriad-module", "myriad-wrapper").replace("networks", "wrappers of environments")


def torch_root(build: pathlib.Path) -> str:
    """The libtorch that the build was configured with, as learners/meson.build finds it."""
    options = json.loads((build / "meson-info/intro-buildoptions.json").read_text())
    given = next(option["value"] for option in options if option["name"] == "torch")
    wheels = sorted((ROOT / ".venv/lib").glob("python3*/site-packages/torch"))
    return given or str(wheels[0] if wheels else "")


def main() -> int:
    usage = "usage: ./myriad install-sdk PREFIX    headers, templates and pkg-config files for what is built out of tree, into the folder PREFIX"
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(usage)
        return 0
    prefix = sys.argv[1] if len(sys.argv) == 2 else os.environ.get("MESON_INSTALL_DESTDIR_PREFIX")
    if not prefix or prefix.startswith("-") or len(sys.argv) > 2:
        print(f"error[usage] install-sdk got {' '.join(sys.argv[1:]) or 'no folder'}; {usage}", file=sys.stderr)
        return 2
    prefix = pathlib.Path(prefix).resolve()
    headers, pkgconfig = prefix / "include/myriad", prefix / "lib/pkgconfig"
    for folder in (headers, pkgconfig):
        folder.mkdir(parents=True, exist_ok=True)
    for header in (ROOT / "sdk/include/myriad").iterdir():
        shutil.copy(header, headers)
    abi = re.search(r"#define MYRIAD_ENV_ABI (\d+)", (headers / "env.h").read_text())[1]
    version = re.search(r"version: '([^']*)'", (ROOT / "meson.build").read_text())[1]
    build = pathlib.Path(os.environ.get("MESON_BUILD_ROOT", ROOT / "build"))
    interface, generated = plugin_interface.digest(), build / "rl/plugin_interface_generated.h"
    if f'"{interface}"' not in generated.read_text():
        print("error[stale-build] the headers are newer than the programs, which would refuse what is built with them: ./myriad install-sdk builds both", file=sys.stderr)
        return 4
    for path in plugin_interface.headers():
        target = headers / plugin_interface.ENTRIES.get(path, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target)
    shutil.copy(generated, headers)
    (pkgconfig / "myriad-algorithm.pc").write_text(ALGORITHM_PC % (torch_root(build), interface, version))
    (pkgconfig / "myriad-module.pc").write_text(MODULE_PC % (interface, version))
    (pkgconfig / "myriad-wrapper.pc").write_text(WRAPPER_PC % (interface, version))
    (pkgconfig / "myriad-sdk.pc").write_text(PC % (abi, version))
    (pkgconfig / "myriad-client.pc").write_text(CLIENT_PC % version)
    shutil.copy(build / "sdk/libmyriad_client.so", prefix / "lib")
    shutil.copytree(ROOT / "sdk/python", prefix / "share/myriad/python", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "sdk/templates", prefix / "share/myriad/templates", dirs_exist_ok=True)
    print(f"installed into {prefix}; for pkg-config: export PKG_CONFIG_PATH={pkgconfig}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
