#!/usr/bin/env bash
# make fuzz: each target of fuzz/ for five minutes (SECONDS_TO_FUZZ). Needs a nightly toolchain, for its sanitizers.
set -eu
. "$(dirname "$0")/lib.sh"

need_packages "${apt_packages[@]}"
need_rust
cargo +nightly --version >/dev/null 2>&1 || die "no nightly toolchain; run: rustup toolchain install nightly"
cargo fuzz --version >/dev/null 2>&1 || die "no cargo-fuzz; run: cargo install cargo-fuzz --locked"

# The targets write a file for each input.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm

for name in manifest graph window; do
    say "cargo fuzz: $name"
    corpus=$target/fuzz-corpus/$name
    mkdir -p "$corpus"
    # What is found goes to the first folder; the seeds in the repository stay as they are.
    cargo +nightly fuzz run "$name" "$corpus" "fuzz/corpus/$name" -- \
        -max_total_time="${SECONDS_TO_FUZZ:-300}" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
say "nothing found"
