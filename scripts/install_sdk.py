#!/usr/bin/env python3
"""Installs what a simulator's author needs: `install_sdk.py PREFIX`. `ninja install` calls it without one."""
import os
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PC = """prefix=${pcfiledir}/../..
Name: myriad-sdk
Description: headers for environments of Myriad, plugin ABI %s
Version: %s
Cflags: -I${prefix}/include
"""


def main() -> int:
    prefix = sys.argv[1] if len(sys.argv) == 2 else os.environ.get("MESON_INSTALL_DESTDIR_PREFIX")
    if not prefix:
        print("usage: ./myriad install-sdk PREFIX", file=sys.stderr)
        return 2
    prefix = pathlib.Path(prefix).resolve()
    headers, pkgconfig = prefix / "include/myriad", prefix / "lib/pkgconfig"
    for folder in (headers, pkgconfig):
        folder.mkdir(parents=True, exist_ok=True)
    for header in (ROOT / "sdk/include/myriad").iterdir():
        shutil.copy(header, headers)
    abi = re.search(r"#define MYRIAD_ENV_ABI (\d+)", (headers / "env.h").read_text())[1]
    version = re.search(r"version: '([^']*)'", (ROOT / "meson.build").read_text())[1]
    (pkgconfig / "myriad-sdk.pc").write_text(PC % (abi, version))
    shutil.copytree(ROOT / "sdk/templates", prefix / "share/myriad/templates", dirs_exist_ok=True)
    shutil.copytree(ROOT / "sdk/python/myriad_client", prefix / "share/myriad/python/myriad_client", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"))
    print(f"installed into {prefix}; for pkg-config: export PKG_CONFIG_PATH={pkgconfig}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
