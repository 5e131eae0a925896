"""Checks the format of the C++ sources with clang-format 14, the version .clang-format is written for.

Exit status 77 where that version is not installed (the test run counts it as skipped).
`check_format.py --fix` rewrites the files instead.
"""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("rl", "sims", "roles", "env_runners", "learners", "algorithms", "apps", "sdk", "bench", "tests")


def main() -> int:
    program = shutil.which("clang-format-14")
    if not program:
        print("SKIPPED: clang-format-14 is not installed")
        return 77
    files = sorted(str(file.relative_to(ROOT)) for folder in FOLDERS for file in (ROOT / folder).rglob("*.[hc]pp"))
    mode = ["-i"] if "--fix" in sys.argv[1:] else ["--dry-run", "-Werror", "--ferror-limit=3"]
    batches = [files[i:i + 16] for i in range(0, len(files), 16)]
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        runs = list(pool.map(lambda batch: subprocess.run([program, *mode, *batch], cwd=ROOT), batches))
    if any(run.returncode for run in runs):
        print("to rewrite them: scripts/check_format.py --fix")
        return 1
    print(f"{len(files)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
