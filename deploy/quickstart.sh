#!/usr/bin/env bash
# Portolan on this one machine, in one command: builds, starts a server, enrols a satellite, scans the loopback.
#
#   deploy/quickstart.sh [--name HOST]   build, start what does not run yet, scan 127.0.0.1, say what to type next
#   deploy/quickstart.sh --stop          end server and satellite; their data stays
#   deploy/quickstart.sh --clean         end them and remove their data
#
#   --name HOST   for satellites on other machines: a name or address of this machine that they can reach (IPv6 in
#                 brackets). The server then listens on every address instead of 127.0.0.1 alone.
#
# A second run reuses what is there. No root is needed. Everything is kept in one directory; the console contexts of
# your own account are not touched.
#
# Environment:
#   PORTOLAN_HOME      that directory (default: $XDG_DATA_HOME/portolan-quickstart, or the same below ~/.local/share)
#   PORTOLAN_BIN_DIR   use the three binaries in this directory and build nothing
#   PORTOLAN_PROFILE   release (default) or dev: what to build
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
script=${BASH_SOURCE[0]}

satellite=local
segment=this-machine
scope=127.0.0.0/8,::1/128
first_port=8443
last_port=8499
marker=.portolan-quickstart

# === What is printed

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$script"; }
step() { printf '%s==> %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '    %s\n' "$*"; }

fail() { # MESSAGE [LINE]...: the lines say what to do about it
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

fail_with_log() { # MESSAGE LOG
  printf 'error: %s\n' "$1" >&2
  if [ -s "$2" ]; then
    printf '  the last lines of %s:\n' "$2" >&2
    tail -n 15 -- "$2" | cut -c 1-400 | sed 's/^/    /' >&2
  fi
  exit 1
}

# === The command line

mode=start name=''
while [ $# -gt 0 ]; do
  case $1 in
    --stop | --clean) mode=${1#--} ;;
    --name)
      [ $# -gt 1 ] || { echo "error: --name needs a host name or address (try --help)" >&2; exit 2; }
      name=$2
      shift ;;
    --name=*) name=${1#--name=} ;;
    -h | --help) usage; exit 0 ;;
    *) printf 'error: unknown argument: %s (try --help)\n' "$1" >&2; exit 2 ;;
  esac
  shift
done
if [ -n "$name" ] && ! [[ $name =~ ^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])$ ]]; then
  # shellcheck disable=SC2016 # a quotation mark
  printf 'error: --name takes a host name or address without a port, IPv6 in brackets: not `%s`\n' "$name" >&2
  exit 2
fi

case ${PORTOLAN_PROFILE:-release} in
  release) profile_args=(--release) profile_dir=release profile_words='in release mode' ;;
  dev | debug) profile_args=() profile_dir=debug profile_words='in debug mode' ;;
  *) fail "PORTOLAN_PROFILE is \`$PORTOLAN_PROFILE\`: it may be release or dev" ;;
esac

[ "$(uname -s)" = Linux ] || fail "Portolan runs on Linux, and this is $(uname -s)"

home=${PORTOLAN_HOME:-}
if [ -z "$home" ]; then
  [ -n "${XDG_DATA_HOME:-}${HOME:-}" ] || fail "neither HOME nor XDG_DATA_HOME is set: name a directory in PORTOLAN_HOME"
  home=${XDG_DATA_HOME:-$HOME/.local/share}/portolan-quickstart
fi
home=$(realpath -m -- "$home")
context=$home/admin.toml
# Commands get their context from here, whatever the caller's environment says.
export PORTOLAN_CONTEXT=$context

# === Processes

is_ours() { # PID ROLE: whether the process is this quickstart's server or satellite
  local exe word words=()
  exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
  exe=${exe% (deleted)}
  [ "${exe##*/}" = "portolan-$2" ] || return 1
  mapfile -d '' -t words 2>/dev/null <"/proc/$1/cmdline" || return 1
  for word in "${words[@]}"; do
    [ "$word" != "$home/$2" ] || return 0
  done
  return 1
}

find_process() { # ROLE: prints the process's number; fails when it does not run
  local pid='' comm
  [ ! -e "$home/$1.pid" ] || read -r pid <"$home/$1.pid" || true
  if [[ $pid =~ ^[0-9]+$ ]] && is_ours "$pid" "$1"; then
    echo "$pid"
    return 0
  fi
  # The note is stale or was lost. Nobody else runs one of our programs on our data.
  for pid in /proc/[0-9]*; do
    # Cheap, and rules out nearly all of them; the kernel keeps 15 characters of a name.
    read -r comm 2>/dev/null <"$pid/comm" || continue
    [[ $comm == portolan-s* ]] || continue
    pid=${pid#/proc/}
    if is_ours "$pid" "$1"; then
      echo "$pid"
      return 0
    fi
  done
  return 1
}

stop_process() { # ROLE: ends it, gently at first; fails when it did not run
  local pid waited=0
  pid=$(find_process "$1") || { rm -f -- "$home/$1.pid"; return 1; }
  kill -TERM "$pid" 2>/dev/null || true
  while is_ours "$pid" "$1"; do
    if [ $waited -ge 100 ]; then
      say "the $1 (process $pid) does not end by itself: killing it"
      kill -KILL "$pid" 2>/dev/null || true
      sleep 0.5
      break
    fi
    sleep 0.1
    waited=$((waited + 1))
  done
  rm -f -- "$home/$1.pid"
  say "stopped the $1 (process $pid)"
}

start_process() { # ROLE ARGUMENT...
  local role=$1 log=$home/$1.log
  shift
  [ ! -e "$log" ] || mv -f -- "$log" "$log.old"
  # Descriptor 9 is this run's lock, which must not outlive it.
  { cd /; exec setsid "$bin/portolan-$role" "$@"; } >"$log" 2>&1 </dev/null 9>&- &
  started=$!
  echo "$started" >"$home/$role.pid"
  # Until it is the program that it is to become, or gone already.
  until is_ours "$started" "$role" || ! kill -0 "$started" 2>/dev/null; do sleep 0.02; done
}

# Whether a running process is the binary that would be started: a rebuild replaces the file under it.
is_current() { [ "$(readlink "/proc/$1/exe")" = "$(realpath -- "$bin/portolan-$2")" ]; }

# === Ports

is_taken() { # PORT: whether something listens there
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
  [ -n "$name" ] && [ -s /proc/net/if_inet6 ] && (exec 3<>"/dev/tcp/::1/$1") 2>/dev/null
}

free_port() {
  local candidate
  for ((candidate = first_port; candidate <= last_port; candidate++)); do
    if ! is_taken "$candidate"; then
      echo "$candidate"
      return 0
    fi
  done
  fail "every port from $first_port to $last_port is taken on this machine"
}

owner_of() { # PORT: who listens there, as far as this user may know
  local who=''
  command -v ss >/dev/null && who=$(ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1, process \2/p' | head -n 1)
  echo "${who:-another program}"
}

# === Building

check_tools() {
  local have want missing=()
  if ! command -v cargo >/dev/null; then
    missing+=("cargo, the Rust toolchain; for this user alone:"
      "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\"")
    command -v curl >/dev/null || missing+=("curl, to get it with; on Debian and Ubuntu: sudo apt-get install curl")
  fi
  if ! command -v cc >/dev/null; then
    missing+=("a C compiler (cc), for the cryptographic library and the linker; on Debian and Ubuntu:"
      "  sudo apt-get install build-essential")
  elif ! echo '#include <stdlib.h>' | cc -E -x c - >/dev/null 2>&1; then
    missing+=("the C library's headers, for the cryptographic library; on Debian and Ubuntu:"
      "  sudo apt-get install build-essential")
  fi
  [ ${#missing[@]} -eq 0 ] || fail "what Portolan is built with is missing:" "${missing[@]}"
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo/Cargo.toml")
  # With rustup this fetches the pinned toolchain, which takes a while and says so itself.
  have=$(cd "$repo" && cargo --version) || fail "cargo does not work here; its message stands above"
  have=${have#cargo }
  have=${have%% *}
  if [ -n "$want" ] && [ "$(printf '%s\n' "$want" "${have%%-*}" | sort -V | head -n 1)" != "$want" ]; then
    fail "cargo $have is too old: Portolan needs Rust $want" \
      "get it from https://rustup.rs, which installs beside a distribution's own Rust"
  fi
}

# For logs and pipes: cargo's lines go to a file, and now and then one is printed that says how far it is.
build_in_lines() { # ARGUMENT...
  local log
  log=$(mktemp "${TMPDIR:-/tmp}/portolan-build.XXXXXX")
  if (cd "$repo" && cargo "$@") 2>&1 | {
    line='' last='' crates=0 told=$SECONDS
    while :; do
      if IFS= read -r -t 5 line; then
        printf '%s\n' "$line" >>"$log"
        if [[ $line =~ ^\ *Compiling\ ([^ ]+) ]]; then
          crates=$((crates + 1)) last=${BASH_REMATCH[1]}
        fi
      elif [ $? -le 128 ]; then
        break
      fi
      if [ $((SECONDS - told)) -ge 10 ]; then
        say "after ${SECONDS} s: $crates crates${last:+, the latest is $last}"
        told=$SECONDS
      fi
    done
  }; then
    rm -f -- "$log"
  else
    printf 'error: the build failed; the last lines of %s:\n' "$log" >&2
    tail -n 30 -- "$log" | sed 's/^/    /' >&2
    exit 1
  fi
}

build() {
  local args=(build "${profile_args[@]}" --workspace --bins --locked) target
  check_tools
  step "Building $profile_words (the first time takes minutes)"
  if [ -t 2 ]; then
    (cd "$repo" && cargo "${args[@]}") || fail "the build failed; cargo's message stands above"
  else
    build_in_lines "${args[@]}"
  fi
  target=$(cd "$repo" && cargo metadata --format-version 1 --no-deps --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
  bin=${target:-$repo/target}/$profile_dir
}

find_binaries() {
  local program
  if [ -n "${PORTOLAN_BIN_DIR:-}" ]; then
    bin=$(realpath -m -- "$PORTOLAN_BIN_DIR")
    step "Using the binaries in $bin"
  else
    build
  fi
  for program in portolan portolan-server portolan-satellite; do
    [ -x "$bin/$program" ] || fail "there is no program $bin/$program"
  done
}

# === The directory

# Files are ours alone; cargo's are not concerned.
claim_home() {
  umask 077
  if [ -e "$home" ] && [ ! -d "$home" ]; then
    fail "$home is not a directory: name another one in PORTOLAN_HOME"
  fi
  if [ -d "$home" ] && [ ! -e "$home/$marker" ] && [ -n "$(ls -A -- "$home")" ]; then
    fail "$home was not made by this script and is not empty: name another directory in PORTOLAN_HOME"
  fi
  mkdir -p -- "$home" || fail "cannot make $home: name a directory that you may write to in PORTOLAN_HOME"
  chmod 700 -- "$home"
  echo "Made by Portolan's quickstart; quickstart.sh --clean removes this directory with all that is in it." \
    >"$home/$marker" || fail "cannot write to $home"
}

lock_home() {
  command -v flock >/dev/null || return 0
  exec 9>"$home/.lock"
  flock -n 9 || fail "another run of this script is at work in $home: wait for it to end"
}

# === The server

# The server's own record: names = ["HOST:PORT", "localhost:PORT", "127.0.0.1:PORT"], the first only after --name.
read_names() {
  local names known
  names=$(grep '^names = ' "$home/server/deployment.toml" || true)
  port=$(sed -n 's/.*"localhost:\([0-9]*\)".*/\1/p' <<<"$names")
  [ -n "$port" ] || fail "there is no localhost:PORT among the names in $home/server/deployment.toml" \
    "put it back, as in names = [\"localhost:$first_port\", \"127.0.0.1:$first_port\"], or start afresh with --clean"
  known=$(sed -n 's/^names = \["\([^"]*\):[0-9]*".*/\1/p' <<<"$names")
  if [ -z "$name" ] && [ "$known" != localhost ]; then name=$known; fi
}

# Another program took the port while the server was down. The server's certificate names hosts, not ports; whoever
# dials it finds the port in these files.
leave_taken_port() {
  local owner new file
  owner=$(owner_of "$port")
  if [ -n "$name" ]; then
    fail "port $port is taken by $owner, and satellites on other machines look for the server there" \
      "end that program and run this again, or start afresh with --clean"
  fi
  new=$(free_port)
  say "port $port is taken now ($owner): moving to port $new"
  for file in "$home/server/deployment.toml" "$context" "$home/satellite/enrollment.json"; do
    [ ! -e "$file" ] || sed -i "s/\"\(localhost\|127\.0\.0\.1\):$port\"/\"\1:$new\"/g" "$file"
  done
  port=$new
}

initialise() {
  local names out
  port=$(free_port)
  names=(--name "localhost:$port" --name "127.0.0.1:$port")
  [ -z "$name" ] || names=(--name "$name:$port" "${names[@]}")
  # From an initialisation that died half-way; without deployment.toml nothing of it was ever used.
  rm -f -- "$context"
  out=$("$bin/portolan-server" init --data-dir "$home/server" "${names[@]}" --admin-out "$context" 2>&1) ||
    fail "the server cannot be initialised" "${out#error: }"
  say "initialised a new server in $home/server"
}

# Makes a server that was initialised without this name known by it.
add_name() {
  local file=$home/server/deployment.toml
  grep -qF "\"$name:$port\"" "$file" && return 0
  sed -i "s/^names = \[/&\"$name:$port\", /" "$file"
  grep -qF "\"$name:$port\"" "$file" || fail "cannot add $name:$port to the names in $file: add it by hand"
  say "the server is now also known as $name:$port"
  ! find_process server >/dev/null || stop_process server
}

wait_until_ready() {
  local pid=$1 waited=0 out=''
  until out=$("$bin/portolan" status 2>&1); do
    is_ours "$pid" server || fail_with_log "the server ended while starting" "$home/server.log"
    if [ $waited -ge 150 ]; then
      printf '%s\n' "$out" >&2
      fail_with_log "the server does not answer within 15 s" "$home/server.log"
    fi
    sleep 0.1
    waited=$((waited + 1))
  done
}

serve() {
  local pid='' listen out
  step "Server"
  if [ -e "$home/server/deployment.toml" ]; then
    say "using the server in $home/server"
    read_names
    [ -z "$name" ] || add_name
  else
    ! find_process server >/dev/null || stop_process server
    initialise
  fi
  if [ ! -e "$context" ]; then
    out=$("$bin/portolan-server" admin --data-dir "$home/server" --admin-out "$context" 2>&1) ||
      fail "cannot issue an operator's certificate" "${out#error: }"
    say "issued a new operator's certificate: the old one is gone"
  fi
  # Its own settings, so that a server.toml of the whole machine does not apply.
  [ -e "$home/server.toml" ] || echo "# Settings of this server; docs/server.md lists them." >"$home/server.toml"

  if pid=$(find_process server) && ! is_current "$pid" server; then
    say "another build of the server is running"
    stop_process server
    pid=''
  fi
  if [ -n "$pid" ]; then
    say "already running (process $pid, port $port)"
  else
    ! is_taken "$port" || leave_taken_port
    # What reconnects by itself waits for up to half a minute; what starts anew does not.
    ! find_process satellite >/dev/null || stop_process satellite
    listen=127.0.0.1:$port
    if [ -n "$name" ]; then
      if [ -s /proc/net/if_inet6 ]; then listen="[::]:$port"; else listen=0.0.0.0:$port; fi
    fi
    start_process server run --data-dir "$home/server" --listen "$listen" --config "$home/server.toml"
    pid=$started
  fi
  wait_until_ready "$pid"
  echo "$pid" >"$home/server.pid"
  [ -z "${listen:-}" ] || say "answers on $listen (process $pid)"
}

# === The satellite

registered() { # prints what the server knows of it, as one line of JSON; nothing when it does not know it
  local list
  list=$("$bin/portolan" satellite list -o jsonl) || fail "the server does not list its satellites"
  grep -F "{\"name\":\"$satellite\"," <<<"$list" || true
}

field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

is_expired() { # TIME
  local at
  at=$(date -d "$1" +%s 2>/dev/null) || return 1
  [ "$at" -le "$(date +%s)" ]
}

enroll() {
  local answer token out
  answer=$("$bin/portolan" satellite add "$satellite" --segment "$segment" --scope "$scope" -o json 2>&1) ||
    fail "the satellite cannot be added" "${answer#error: }"
  token=$(sed -n 's/.*"token": "\(ptl1_[^"]*\)".*/\1/p' <<<"$answer")
  [ -n "$token" ] || fail "the server gave no join token" "$answer"
  out=$("$bin/portolan-satellite" enroll - --data-dir "$home/satellite" <<<"$token" 2>&1) ||
    fail "the satellite cannot be enrolled" "${out#error: }"
  say "enrolled \`$satellite\` with a join token; what it may probe stands in $home/satellite/satellite.toml"
}

# Ends the old one on both sides. The administrator's file, satellite.toml, stays.
forget() { # STATUS
  ! find_process satellite >/dev/null || stop_process satellite
  case $1 in
    online | offline) "$bin/portolan" satellite revoke "$satellite" >/dev/null ;;
  esac
  case $1 in
    online | offline | revoked) "$bin/portolan" satellite remove "$satellite" >/dev/null ;;
  esac
  rm -f -- "$home/satellite/"{identity.pem,root.crt,enrollment.json,assignment.json,enroll.key}
}

watch_from_here() {
  local line status expires pid='' waited=0
  step "Satellite"
  line=$(registered)
  status=$(field status <<<"$line")
  expires=$(field certificate_expires_at <<<"$line")
  if [ ! -e "$home/satellite/identity.pem" ]; then
    case $status in
      '' | pending) ;;
      *)
        say "the server knows \`$satellite\`, but its data is gone here: enrolling it anew"
        forget "$status" ;;
    esac
    enroll
  elif [ "$status" != online ] && [ "$status" != offline ]; then
    case $status in
      revoked) say "\`$satellite\` was revoked: enrolling it anew" ;;
      *) say "the server does not know this \`$satellite\`: enrolling it anew" ;;
    esac
    forget "$status"
    enroll
  elif is_expired "$expires"; then
    say "the certificate of \`$satellite\` expired at $expires: enrolling it anew"
    forget "$status"
    enroll
  else
    say "using the satellite in $home/satellite"
  fi

  if pid=$(find_process satellite) && ! is_current "$pid" satellite; then
    say "another build of the satellite is running"
    stop_process satellite
    pid=''
  fi
  if [ -n "$pid" ]; then
    say "already running (process $pid)"
  else
    start_process satellite run --data-dir "$home/satellite"
    pid=$started
  fi
  until [ "$(registered 2>/dev/null | field status)" = online ]; do
    is_ours "$pid" satellite || fail_with_log "the satellite ended while starting" "$home/satellite.log"
    [ $waited -lt 450 ] || fail_with_log "the satellite does not come online within 45 s" "$home/satellite.log"
    sleep 0.1
    waited=$((waited + 1))
  done
  echo "$pid" >"$home/satellite.pid"
  say "\`$satellite\` is online (process $pid)"
}

# === The scan, and what comes after it

scan() {
  local code=0
  step "Scanning every TCP port of 127.0.0.1 from \`$satellite\`"
  echo
  "$bin/portolan" scan 127.0.0.1 -p- --from "$satellite" || code=$?
  case $code in
    0) ;;
    130) exit 130 ;;
    *) fail_with_log "the scan did not go as it should (exit code $code)" "$home/satellite.log" ;;
  esac
}

# A policy to begin with; one that stands there is its owner's.
write_policy() {
  [ ! -e "$home/policy.toml" ] || return 0
  cat >"$home/policy.toml" <<END
# What must be so, as seen from the satellite: \`portolan policy apply\` puts it in force.
version = 1

[[check]]
name    = "this-machine"
from    = ["satellite:$satellite"]
targets = ["127.0.0.1"]
open    = "$port"                # the server itself
closed  = "23,2323"
every   = "5s"
END
}

what_next() {
  local again
  again=$(printf '%q' "$repo/deploy/quickstart.sh")
  [ -z "${PORTOLAN_HOME:-}" ] || again="PORTOLAN_HOME=$(printf '%q' "$home") $again"
  printf '\n%sServer and satellite keep running. What to type next:%s\n\n' "$bold" "$plain"
  # shellcheck disable=SC2016 # for the reader's shell
  printf '  export PATH=%q:$PATH\n' "$bin"
  printf '  export PORTOLAN_CONTEXT=%q\n\n' "$context"
  printf '  %-58s %s\n' \
    'portolan status' 'the server at a glance' \
    'portolan satellite list' 'who watches from where' \
    'portolan ports' 'what is known to be open' \
    'portolan history 127.0.0.1' 'what changed; start or stop a service, scan again' \
    "portolan scan localhost -p top-100 --from $satellite" 'names, lists; --help shows more' \
    "portolan scan 127.0.0.1 -p 22,80 --from $satellite -o json" 'for scripts' \
    "portolan policy apply $(printf '%q' "$home/policy.toml")" 'watch what must be open or closed' \
    'portolan check list' 'how it is' \
    'portolan alert watch' 'what is wrong, as it happens'
  echo
  if [ -n "$name" ]; then
    printf 'A satellite on another machine: copy %q there, then type here\n' "$bin/portolan-satellite"
  else
    printf 'A satellite on another machine: make the server reachable under a name or address of this one,\n'
    printf '\n  %s --name HOST\n\n' "$again"
    printf 'copy %q there, then type here\n' "$bin/portolan-satellite"
  fi
  printf '\n  portolan satellite add office-1 --segment office\n\n'
  printf 'which prints the two commands to run there.\n\n'
  printf 'Logs: %q, %q\n' "$home/server.log" "$home/satellite.log"
  printf 'Stop: %s --stop\nRemove everything: %s --clean\n' "$again" "$again"
}

# === What was asked for

stop_all() {
  local any=no
  stop_process satellite && any=yes
  stop_process server && any=yes
  [ $any = yes ] || say "nothing is running"
}

case $mode in
  start)
    find_binaries
    claim_home
    lock_home
    serve
    watch_from_here
    scan
    write_policy
    what_next
    ;;
  stop)
    step "Stopping what runs in $home"
    [ ! -d "$home" ] || lock_home
    stop_all
    ;;
  clean)
    if [ ! -e "$home" ]; then
      echo "There is nothing to remove: $home does not exist."
      exit 0
    fi
    [ -f "$home/$marker" ] || fail "$home was not made by this script (it has no file $marker): not removed"
    step "Removing $home"
    lock_home
    stop_all
    rm -rf -- "$home"
    say "removed"
    ;;
esac
