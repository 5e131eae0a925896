# `./myriad bench NAME [arguments]`: a script or a program of bench/, after the programs that it runs are built. Sourced by
# ./myriad.
# shellcheck shell=bash disable=SC2154
# shellcheck source=scripts/set_up.sh
source "$root/scripts/set_up.sh"

build_benchmarks() {
  local ninja=("$root/.venv/bin/ninja" -C "$build")
  mkdir -p "$logs"
  exec 9>>"$build/.lock"
  flock 9
  trap interrupted INT TERM HUP
  if ! "${ninja[@]}" -n "$@" | grep -q 'no work to do'; then
    say "building $*"
    step_or_stop "building $*" bench "${ninja[@]}" -j "$(compilers)" "$@"
  fi
  trap - INT TERM HUP
  exec 9>&-
}

run_benchmark() {
  local name=${1-} known programs=()
  known=$(cd "$root/bench" && printf '%s\n' *.py *_bench.cpp | sed 's/\.py$//; s/\.cpp$//' | sort | tr '\n' ' ')
  [[ $name == -h || $name == --help ]] && { echo "usage: ./myriad bench NAME [arguments]; builds and runs one of: $known"; exit 0; }
  if [[ $name =~ ^[a-z_]+$ && -f $root/bench/$name.py ]]; then
    mapfile -t programs < <(grep -o 'build/bench/[a-z_]*_bench' "$root/bench/$name.py" | sed 's,^build/,,' | sort -u)
    ((${#programs[@]})) && build_benchmarks "${programs[@]}"
    exec "$root/.venv/bin/python" "$root/bench/$name.py" "${@:2}"
  elif [[ $name =~ ^[a-z_]+_bench$ && -f $root/bench/$name.cpp ]]; then
    build_benchmarks "bench/$name"
    exec "$build/bench/$name" "${@:2}"
  fi
  echo "error[unknown-benchmark] myriad bench has no '$name'; known: $known" >&2
  exit 2
}
