#!/bin/sh
# check.sh LIBRARY: the environment steps, and does the same from the same seed. MYRIAD names the program.
set -eu
play() { "${MYRIAD:-myriad}" play "plugin:$1" --seed 1 --steps 1000 --json; }
first=$(play "$1") && second=$(play "$1")
[ -n "$first" ] && [ "$first" = "$second" ]
