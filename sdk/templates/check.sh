#!/bin/sh
# check.sh LIBRARY: the environment steps, and does the same from the same seed. MYRIAD names the program; else it is on PATH, or the one
# that wrote this file.
set -eu
myriad=${MYRIAD:-$(command -v myriad || echo @MYRIAD@)}
play() { "$myriad" play "plugin:$1" --seed 1 --steps 1000 --json; }
first=$(play "$1") && second=$(play "$1")
[ -n "$first" ] && [ "$first" = "$second" ]
