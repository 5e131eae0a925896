#!/bin/sh
# check.sh LIBRARY: two iterations train, and the same seed gives the same parameters. MYRIAD names the
# program; else it is on PATH, or the one that wrote this file.
set -eu
myriad=${MYRIAD:-$(command -v myriad || echo @MYRIAD@)}
folder=$(cd "$(dirname "$0")" && pwd)
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
for run in first second; do
  "$myriad" train "$folder/train.toml" --out "$runs/$run" "@SETTING@" stop.training_iteration=2 evaluation.evaluate_at_end=false
done
parameters=checkpoints/000000002/learner_group/modules/default_policy.safetensors
cmp "$runs/first/$parameters" "$runs/second/$parameters"
