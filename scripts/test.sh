#!/usr/bin/env bash
# make test: formatting, lints and all tests. Builds the release plugin first: the demo's tests run it.
#
# The Rust tests have cargo's dev profile: overflow checks and debug assertions catch what a release build passes over,
# and each test binary links in a moment, where the release profile does LTO.
set -eu
. "$(dirname "$0")/lib.sh"

scripts/build.sh
need_rust
need_component fmt rustfmt
need_component clippy clippy
need_python runtime demo dev

python=$PWD/.venv/bin/python
# Where the tests find ONNX Runtime; a warning of GLib or GStreamer aborts.
ORT_DYLIB_PATH=$(realpath "$release/libonnxruntime.so")
export ORT_DYLIB_PATH G_DEBUG=fatal_warnings

say "cargo fmt"
cargo fmt --check
say "cargo clippy"
cargo clippy --locked --all-targets -- -D warnings
# The fuzz targets need a nightly toolchain; that their lock file is of these dependencies can be seen without.
cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
say "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps --lib
# The live tests play a real clip, too.
say "a clip"
mkdir -p "$target/test-clip"
DVFACE_TEST_CLIP=$(realpath "$target/test-clip")/input.mp4
PYTHONPATH=models:examples/demo "$python" -B -c 'import pathlib, sys, demo; demo.make_input(pathlib.Path(sys.argv[1]).parent)' \
    "$DVFACE_TEST_CLIP"
export DVFACE_TEST_CLIP
say "cargo test"
cargo test --locked
say "ruff"
# models/ finds its own settings; the rest is told where they are.
"$python" -m ruff format --check models
"$python" -m ruff check models
"$python" -m ruff format --config models/pyproject.toml --check examples tests benches
"$python" -m ruff check --config models/pyproject.toml examples tests benches
say "pytest models"
(cd models && "$python" -m pytest -q)
say "pytest examples/demo"
(cd examples/demo && PYTHONPATH=../../models "$python" -m pytest -q -p no:cacheprovider)
say "pytest benches"
(cd benches/pipeline && PYTHONPATH=../../examples/demo "$python" -m pytest -q -p no:cacheprovider)
say "all passed"
