# `./myriad plugin NAME`: plugins of simulators that are not part of Myriad, fetched and built on demand. Sourced by
# ./myriad after the program is built. Every step looks at what is there and does only what is missing.
# shellcheck shell=bash disable=SC2154
# shellcheck source=scripts/set_up.sh
source "$root/scripts/set_up.sh"

# The source distribution has ALE's C++ library and the ROMs. Under GPL-2.0: it is never part of what install-sdk or ninja
# install puts anywhere.
ale_version=0.12.1
ale_hash=sha256:c503d574c5983e1063b451201ccb779d935919c0f6bf116fb0f4f8aa4c86d249

# Pip makes the metadata of what it downloads, for which it fetches the package's own build tools.
fetch_ale() {
  local folder=$1
  rm -rf "$folder/archives" "$folder/source"
  mkdir -p "$folder/archives" "$folder/source"
  echo "ale-py==$ale_version --hash=$ale_hash" >"$folder/archives/requirements.txt"
  "$root/.venv/bin/python" -m pip download --disable-pip-version-check --no-input --progress-bar off --no-deps \
    --no-binary ale-py -d "$folder/archives" -r "$folder/archives/requirements.txt" &&
    tar -xzf "$folder/archives/ale_py-$ale_version.tar.gz" -C "$folder/source" --strip-components=1 &&
    echo "$ale_hash" >"$folder/source/.fetched"
}

configure_ale() {
  cmake -G Ninja -DCMAKE_MAKE_PROGRAM="$root/.venv/bin/ninja" -DCMAKE_BUILD_TYPE=Release -DALE_SOURCE="$1/source" -S "$root/sims/ale" -B "$1"
}

plugin_ale() {
  local folder=$build/plugins/ale fetched=''
  mkdir -p "$folder" "$logs"
  { read -r fetched <"$folder/source/.fetched"; } 2>/dev/null
  if [[ $fetched != "$ale_hash" ]]; then
    require_gb 1
    say "fetching the Arcade Learning Environment $ale_version (GPL-2.0, 11 MB) and its ROMs, once"
    step_or_stop 'fetching the Arcade Learning Environment' plugin-ale-fetch fetch_ale "$folder"
  fi
  [[ -e $folder/libmyriad_ale.so ]] || say 'building it and its plugin, about a minute, once'
  step plugin-ale-configure configure_ale "$folder" || stop_with_log 'configuring the plugin' plugin-ale-configure
  step_or_stop 'building the plugin' plugin-ale-build "$root/.venv/bin/ninja" -C "$folder" -j "$(compilers)"
  say "$(find "$folder/roms" -name '*.bin' | wc -l) games are ready, for example ale:Pong; the others are in docs/environments.md"
}

build_plugin() {
  [[ ${1-} == -h || ${1-} == --help ]] && { echo 'usage: ./myriad plugin ale    fetch and build the Arcade Learning Environment: ale:Pong, ale:Breakout, ...'; exit 0; }
  [[ ${1-} == ale && $# == 1 ]] || { echo "error[unknown-plugin] myriad plugin has no '$*'; known: ale" >&2; exit 2; }
  exec 9>>"$build/.lock"
  flock 9
  trap interrupted INT TERM HUP
  plugin_ale
  exit 0
}
