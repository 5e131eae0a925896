# The slow path of ./myriad, which sources this file: packages, wheels, meson, ninja. Never run alone.
#
# One process at a time holds the lock on build/.lock; the steps inherit it, so that a step which outlives a killed
# ./myriad still keeps others out. Every step looks at what is there and does only what is missing. Each step's output
# goes to build/setup-logs/; the terminal shows one line a step.
# shellcheck shell=bash disable=SC2154

logs=$root/build/setup-logs
step_pid='' ticker_pid=''

say() { printf 'myriad: %s\n' "$*" >&2; }

# stop CODE MESSAGE: the one error line, and for tests the totals that scripts look for.
stop() {
  printf 'error[%s] %s\n' "$1" "$2" >&2
  [[ $goal == apps ]] || echo '0 passed, 1 failed'
  exit 4
}

interrupted() {
  trap '' INT TERM HUP
  [[ -n $ticker_pid ]] && kill -- "-$ticker_pid" 2>/dev/null
  [[ -n $step_pid ]] && kill -- "-$step_pid" 2>/dev/null && wait "$step_pid" 2>/dev/null
  say 'interrupted; the next ./myriad goes on from here'
  exit 130
}

# What a running step is doing, from the end of its log: ninja's [12/214], otherwise the seconds only.
progress() {
  local log=$1 seconds=0 count pause=30
  [[ -t 2 ]] && pause=1
  while sleep "$pause" && kill -0 $$ 2>/dev/null; do  # $$: the set-up itself, which may have been killed
    seconds=$((seconds + pause))
    count=$(tail -c 4000 "$log" 2>/dev/null | grep -o '^\[[0-9]*/[0-9]*\]' | tail -n 1)
    if [[ -t 2 ]]; then printf '\r  %s %d s ' "$count" "$seconds" >&2; else say "  ... $count $seconds s"; fi
  done
}

# step LOG COMMAND...: runs the command in its own process group, its output in build/setup-logs/LOG.log.
step() {
  local log=$logs/$1.log status
  shift
  set -m
  "$@" </dev/null >"$log" 2>&1 &
  step_pid=$!
  progress "$log" </dev/null 9>&- &
  ticker_pid=$!
  disown "$ticker_pid"
  set +m
  wait "$step_pid"
  status=$?
  step_pid=''
  kill -- "-$ticker_pid" 2>/dev/null
  ticker_pid=''
  [[ -t 2 ]] && printf '\r%30s\r' '' >&2
  return "$status"
}

# stop_with_log WHAT LOG: ends set-up with the last lines of a failed step.
stop_with_log() {
  tail -n 20 "$logs/$2.log" >&2
  stop setup "$1 failed; the lines above end build/setup-logs/$2.log"
}

# step_or_stop WHAT LOG COMMAND...: a step that prints how long it took, or ends set-up.
step_or_stop() {
  local what=$1 log=$2 started=$SECONDS
  shift 2
  step "$log" "$@" || stop_with_log "$what" "$log"
  say "  done in $((SECONDS - started)) s"
}

packages() {
  local wanted missing
  wanted=$(sed 's/#.*//' "$root/scripts/debian-packages.txt")
  if ! command -v dpkg-query >/dev/null; then
    say "this is not Debian: what scripts/debian-packages.txt names must be installed already"
    return
  fi
  # shellcheck disable=SC2086
  missing=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null | sed -n 's/^installed //p' |
    grep -vxFf - <(printf '%s\n' $wanted) | tr '\n' ' ')
  missing=${missing% }
  [[ -z $missing ]] && return
  if [[ $EUID != 0 ]]; then
    say "these Debian packages are missing: $missing"
    stop missing-packages "install them once, then call again: sudo apt-get install --no-install-recommends $missing"
  fi
  say "first run here: installing Debian packages ($missing), about a minute, once"
  # shellcheck disable=SC2086
  step_or_stop 'installing Debian packages' packages apt_install $missing
}

# Finishes what an interrupted dpkg left, waits up to ten minutes for locks held by others, then installs.
apt_install() {
  local try options=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)
  export DEBIAN_FRONTEND=noninteractive
  dpkg --configure -a
  for ((try = 0; try < 60; ++try)); do  # the lock of the package lists has no timeout of its own
    apt-get "${options[@]}" update 2>&1 | tee "$logs/update.log"
    grep -q 'Could not get lock' "$logs/update.log" || break
    sleep 10
  done
  apt-get "${options[@]}" install -y --no-install-recommends "$@"
}

wheels() {
  local python=/usr/bin/python3 installed=$root/.venv/requirements.txt size='650 MB' need_gb=5 wanted version
  wanted=$(grep -v -e '^#' -e '^$' "$root/scripts/requirements.txt")
  if [[ -n ${MYRIAD_TORCH-} ]]; then
    [[ -d $MYRIAD_TORCH/include && -d $MYRIAD_TORCH/lib ]] || stop torch "MYRIAD_TORCH=$MYRIAD_TORCH has no include/ and lib/"
    wanted=$(sed '/^torch==/d; /^nvidia-/d' <<<"$wanted")
    size='60 MB, libtorch is in MYRIAD_TORCH' need_gb=2
  fi
  "$root/.venv/bin/python" -c 'import pip' 2>/dev/null || rm -rf "$root/.venv"  # absent, half made, or its python is gone
  [[ -e $installed ]] && ! grep -qvxFf "$installed" <<<"$wanted" && return
  if [[ ! -d $root/.venv ]]; then
    [[ -x $python ]] || python=$(command -v python3) || stop missing-python 'python3 is not on PATH'
    require_gb "$need_gb"
    say 'making .venv'
    step_or_stop 'making .venv' venv "$python" -m venv "$root/.venv"
  fi
  version=$("$root/.venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  printf '%s\n' "$wanted" >"$root/build/requirements.txt"
  if [[ $version != 3.11 || $(uname -m) != x86_64 ]]; then
    say "the hashes are of wheels for Python 3.11 on x86-64, this is $version on $(uname -m): the same versions without hashes"
    sed -i 's/ --hash=.*//' "$root/build/requirements.txt"
  fi
  sed -n '/^box2d-py==/p' "$root/build/requirements.txt" >"$root/build/sources.txt"
  sed -i '/^box2d-py==/d' "$root/build/requirements.txt"
  say "fetching libtorch, MuJoCo and the build tools into .venv (about $size to download), about a minute, once"
  rm -f "$installed"
  step_or_stop 'fetching the wheels' wheels "$root/.venv/bin/python" -m pip install --disable-pip-version-check --no-input \
    --progress-bar off --no-compile --no-deps -r "$root/build/requirements.txt"
  step_or_stop 'fetching the sources' sources fetch_sources "$version"
  rm -f "$root"/build*/.configured  # other libraries, perhaps another meson
  printf '%s\n' "$wanted" >"$installed.new"
  mv "$installed.new" "$installed"
}

# Source distributions, unpacked into .venv/src. Pip asks each for its name: with the venv's own setuptools where Python
# 3.11 brings them, else with those it fetches.
fetch_sources() {
  local archives=$root/build/sources isolation=()
  [[ $1 == 3.11 ]] && isolation=(--no-build-isolation)
  rm -rf "$archives" "$root/.venv/src"
  mkdir -p "$root/.venv/src"
  "$root/.venv/bin/python" -m pip download --disable-pip-version-check --no-input --progress-bar off --no-deps \
    --no-binary :all: "${isolation[@]}" -d "$archives" -r "$root/build/sources.txt" &&
    tar -xzf "$archives"/*.tar.gz -C "$root/.venv/src"
}

# require_gb N: the disk of the clone has that much left.
require_gb() {
  local free_kb
  free_kb=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
  ((free_kb > $1 * 1024 * 1024)) ||
    stop disk "$((free_kb / 1024 / 1024)) GB free on the disk of this clone, set-up needs $1 GB"
}

# How many compilers run at once: a libtorch translation unit takes up to 1.5 GB.
compilers() {
  local cores free_gb
  [[ -n ${MYRIAD_JOBS-} ]] && { echo "$MYRIAD_JOBS"; return; }
  cores=$(nproc)
  free_gb=$(awk '/^MemAvailable/ { print int($2 / 1024 / 1024) }' /proc/meminfo)
  echo $((free_gb / 2 < 1 ? 1 : free_gb / 2 < cores ? free_gb / 2 : cores))
}

configure() {
  local configured='' options=("-Dtorch=${MYRIAD_TORCH-}")
  [[ -n $sanitize ]] && options+=("-Db_sanitize=$sanitize" -Doptimization=1 -Dwerror=false)
  { read -r configured <"$build/.configured"; } 2>/dev/null
  [[ $configured == "$setting" && -e $build/build.ninja ]] && return
  say "configuring ${build##*/}"
  rm -f "$build/.configured"  # half made until it is written again
  if [[ -z $configured || ${configured%|*} != "$root" ]]; then  # new, half made, or the clone was moved
    find "$build" -mindepth 1 -maxdepth 1 ! -name .lock ! -name setup-logs ! -name requirements.txt -exec rm -rf {} +
    step_or_stop 'configuring' configure "$root/.venv/bin/python" -m mesonbuild.mesonmain setup "${options[@]}" "$build" "$root"
  else
    step_or_stop 'configuring' configure "$root/.venv/bin/python" -m mesonbuild.mesonmain setup --reconfigure "${options[@]}" "$build" "$root"
  fi
  printf '%s\n' "$setting" >"$build/.configured"
}

compile() {
  local ninja=("$root/.venv/bin/ninja" -C "$build") targets=() count
  touch "$build/.started"  # a source edited while it compiles is newer than this
  # build.ninja itself first: a changed meson.build can change the list of targets
  step reconfigure "${ninja[@]}" build.ninja || stop_with_log configuring reconfigure
  mapfile -t targets < <("$root/.venv/bin/python" "$root/scripts/targets.py" "$build" "$goal")
  ((${#targets[@]})) || stop setup "scripts/targets.py names nothing to build for $goal"
  count=$("${ninja[@]}" -n "${targets[@]}" 2>/dev/null | sed -n 's,^\[[0-9]*/\([0-9]*\)\].*,\1,p' | tail -n 1)
  if [[ -n $count ]]; then
    if [[ -e $stamp ]]; then
      say "building: $count steps"
    else
      say "first run here: building, $count steps with $(compilers) at once, some minutes, once"
    fi
    step_or_stop building build "${ninja[@]}" -j "$(compilers)" "${targets[@]}"
  fi
  printf '%s\n' "$setting" >"$build/.started.new"
  touch -r "$build/.started" "$build/.started.new"
  [[ $goal == all ]] && cp -p "$build/.started.new" "$build/.ready-apps"
  mv "$build/.started.new" "$stamp"
}

set_up() {
  mkdir -p "$logs" "$build" || stop setup 'this clone cannot be written to'
  exec 9>>"$root/build/.lock"
  if ! flock -n 9; then
    say 'another ./myriad is setting this clone up: waiting for it'
    flock 9
  fi
  trap interrupted INT TERM HUP
  if ! ready; then
    packages
    wheels
    export PATH=$root/.venv/bin:$PATH CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS-pch_defines,time_macros}
    configure
    compile
  fi
  trap - INT TERM HUP
  exec 9>&-
}
