"""Goldens of games that the simulators' tests replay: what align_minatar.py and align_car_racing.py do with them."""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterable


@dataclasses.dataclass
class Goldens:
    folder: pathlib.Path
    kept: Callable[[], Iterable[tuple[str, str]]]  # each file's name and text
    long: Callable[[int], Iterable[tuple[str, str]]]
    summary: Callable[[str], str]  # of a text, in words
    test_case: str  # that replays the folder which the variable names
    variable: str

    def add_actions(self, parser: argparse.ArgumentParser, length: str):
        action = parser.add_mutually_exclusive_group(required=True)
        action.add_argument("--write", action="store_true", help="write the goldens")
        action.add_argument("--check", metavar="BUILD_DIR", nargs="?", const="", help="compare with the goldens")
        action.add_argument("--long", metavar=(length, "BUILD_DIR"), nargs=2, help="replay long ones")
        return action

    def run(self, arguments: argparse.Namespace) -> int:
        if arguments.check is not None:
            return self.check(arguments.check)
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary) if arguments.long else self.folder
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in self.long(int(arguments.long[0])) if arguments.long else self.kept():
                (folder / name).write_text(text)
                print(f"{name}: {self.summary(text)}, {len(text)} bytes", flush=True)
            return self.replay(arguments.long[1], folder) if arguments.long else 0

    def check(self, build_dir: str) -> int:
        failed = False
        for name, text in self.kept():
            same = text == (self.folder / name).read_text()
            failed |= not same
            print(f"{'ok  ' if same else 'FAIL'} {name}")
        return failed | (bool(build_dir) and self.replay(build_dir, self.folder))

    def replay(self, build_dir: str, folder: pathlib.Path) -> int:
        program = pathlib.Path(build_dir) / "tests" / "sims" / "sims_test"
        environment = dict(os.environ) | {self.variable: str(folder)}
        return subprocess.run([program, f"--test-case={self.test_case}"], check=False, env=environment).returncode != 0
