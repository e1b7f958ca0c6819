#!/usr/bin/env bash
# Runs the whole suite: format, lints, build, unit tests, end-to-end tests in the lab.
#
#   tests/run.sh [--long] [--seed N] [--threads N] [--bench]
#
#   --long       20,000 kills, 5,000 broken links, 1,000 full disks and 1,000,000 simulations instead of 200, 50, 100
#                and 2,000, and every byte of a spool damaged in turn; PORTOLAN_LONG_KILLS, _PARTITIONS, _DISK_FULL,
#                _SIMULATIONS and _FLIPS set other numbers, with or without --long
#   --seed N     fixes what is random in the tests; printed otherwise, so that a failure can be repeated
#   --threads N  tests at a time (default: twice the cores; lab tests mostly wait)
#   --bench      afterwards measures the figures, in release mode
#
# The last line is `N passed, N failed, N skipped`. A skipped test said `SKIPPED: why` or is marked #[ignore]; a step
# before the tests (format, lints, build) that fails counts as one failure. The exit code is 0 only without failures
# and if any test ran at all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,16s/^# \{0,1\}//p' tests/run.sh; }

long=no bench=no seed=$((RANDOM * 32768 + RANDOM)) threads=$((2 * $(nproc)))
while [ $# -gt 0 ]; do
  case $1 in
    --long) long=yes ;;
    --bench) bench=yes ;;
    --seed | --threads)
      [[ ${2:-} =~ ^[0-9]+$ ]] || { echo "$1 needs a number" >&2; exit 2; }
      [ "$1" = --seed ] && seed=$2 || threads=$2
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1 (try --help)" >&2; exit 2 ;;
  esac
  shift
done

started=$SECONDS
say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }

# What the tests use: command, Debian package, and whether the lab cannot be built without it.
needed="ip:iproute2:yes ss:iproute2:no nft:nftables:yes unshare:util-linux:yes setpriv:util-linux:yes
  prlimit:util-linux:no openssl:openssl:no curl:curl:no jq:jq:no nmap:nmap:no ndiff:ndiff:no nginx:nginx-light:no
  c++:g++:no tar:tar:no gzip:gzip:no fallocate:util-linux:no
  sshd:openssh-server:no strace:strace:no script:bsdutils:no ssh-keygen:openssh-client:no redis-server:redis-server:no"
[ $bench = no ] || needed+=" masscan:masscan:no"
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing() { # prints `command:package:essential` for everything that is not there
  local entry
  for entry in $needed; do
    command -v "${entry%%:*}" >/dev/null || printf '%s\n' "$entry"
  done
}

install_missing() {
  local packages as_root=()
  packages=$(missing | cut -d: -f2 | sort -u)
  [ -n "$packages" ] || return 0
  command -v apt-get >/dev/null || return 0
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || return 0
    as_root=(sudo -n)
  fi
  say "installing what the tests need: ${packages//$'\n'/ }"
  # At run level 1 the packages' services are not started.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q || true
  # shellcheck disable=SC2086 # a list of names
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -q --no-install-recommends $packages || true
}

install_missing
if [ -n "$(missing)" ]; then
  echo "Missing, and not to be installed from here (as root: apt-get install the packages named):"
  missing | awk -F: '{ printf "  %-14s package %-16s %s\n", $1, $2, $3 == "yes" ? "nothing works without it" : "some tests are skipped or fail" }'
  if missing | grep -q ':yes$'; then
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
  fi
fi
if ! command -v cargo >/dev/null; then
  echo "Missing: cargo. Install the Rust toolchain that rust-toolchain.toml names, from https://rustup.rs"
  echo "0 passed, 1 failed, 0 skipped"
  exit 1
fi

steps_failed=0 steps_skipped=0
step() { # runs a command that is no test; its failure is counted and does not stop what follows
  say "$*"
  "$@" || { echo "FAILED: $*"; steps_failed=$((steps_failed + 1)); }
}

mkdir -p target
log=target/tests.log
: >"$log"

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
step cargo build --workspace --bins --locked

export PORTOLAN_TEST_SEED=$seed PROPTEST_RNG_SEED=$seed
test_options=(--test-threads="$threads")
if [ $long = yes ]; then
  test_options+=(--include-ignored)
  export PORTOLAN_LONG_KILLS=${PORTOLAN_LONG_KILLS:-20000}
  export PORTOLAN_LONG_PARTITIONS=${PORTOLAN_LONG_PARTITIONS:-5000}
  export PORTOLAN_LONG_DISK_FULL=${PORTOLAN_LONG_DISK_FULL:-1000}
  export PORTOLAN_LONG_FLIPS=${PORTOLAN_LONG_FLIPS:-1}
  export PORTOLAN_LONG_SIMULATIONS=${PORTOLAN_LONG_SIMULATIONS:-1000000}
fi
say "cargo test --workspace, $threads at a time, seed $seed"
tests_ok=yes
cargo test --workspace --locked --no-fail-fast -- "${test_options[@]}" 2>&1 | tee "$log" || tests_ok=no

# What reads packets from strangers, with libFuzzer's feedback but without its sanitizers, which stable compilers lack.
fuzz() {
  local coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Ccodegen-units=1"
  for what in inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$what"
  done
  local host runs=1000000
  host=$(rustc -vV | sed -n 's/^host: //p')
  [ $long = yes ] && runs=200000000
  RUSTFLAGS="--cfg fuzzing $coverage" CARGO_TARGET_DIR=target/fuzz \
    cargo run --release --locked --target "$host" --manifest-path packet/fuzz/Cargo.toml --bin read -- \
    -runs=$runs -max_len=256 -seed="$((seed + 1))" -verbosity=0 -artifact_prefix=target/fuzz/
}
if command -v c++ >/dev/null; then
  step fuzz
else
  echo "SKIPPED: fuzzing what reads packets: there is no C++ compiler to build libFuzzer with"
  steps_skipped=1
fi

if [ $bench = yes ]; then
  step cargo build --release --workspace --bins --locked
  step cargo bench --locked -p portolan-tests --bench figures
  step cargo bench --locked -p portolan-tests --bench fleet
  step cargo bench --locked -p portolan-tests --bench expectations
  step cargo bench --locked -p portolan-server --bench ingest
  step cargo bench --locked -p portolan-server --bench evaluate
  step cargo bench --locked -p portolan-policy --bench read
  step cargo bench --locked -p portolan-satellite --bench standing
  step cargo bench --locked -p portolan-satellite --bench spool
  # Packet sockets and a firewall of its own: only root has them.
  if [ "$(id -u)" = 0 ]; then
    step cargo run --locked -p portolan-scan-bench -- --peers fast
  fi
fi

read -r passed failed ignored < <(awk '
  /^test result:/ {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
      if ($i ~ /^ignored/) ignored += $(i - 1)
    }
  }
  END { printf "%d %d %d\n", passed, failed, ignored }' "$log")
# Programs under test may print bytes that are no text.
skipped=$(grep -ac 'SKIPPED: ' "$log" || true)
# A test binary that did not compile or died has no result line.
if [ $tests_ok = no ] && [ "$failed" = 0 ]; then
  echo "cargo test failed without a failed test: something did not compile, or died"
  steps_failed=$((steps_failed + 1))
fi
if [ $((passed + failed)) = 0 ]; then
  echo "no test ran at all"
  steps_failed=$((steps_failed + 1))
fi
if [ "$skipped" -gt 0 ]; then
  say "skipped"
  grep -ao 'SKIPPED: .*' "$log"
fi

if grep -aq 'FIGURE: ' "$log"; then
  say "measured on the way, seed $seed"
  grep -ao 'FIGURE: .*' "$log" | sed 's/^FIGURE: /  /'
fi

say "done"
echo "$((passed - skipped)) passed, $((failed + steps_failed)) failed, $((skipped + ignored + steps_skipped)) skipped"
[ $((failed + steps_failed)) = 0 ]
