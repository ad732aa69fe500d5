#!/usr/bin/env bash
# make bench: criterion benches of the element's parts, the pipeline bench, and how cost grows. Arguments go to the pipeline
# bench.
set -eu
. "$(dirname "$0")/lib.sh"

scripts/build.sh
need_rust
need_python runtime demo dev

say "criterion: the element's parts"
cargo bench --locked --bench parts
say "pipeline: the clip through the element"
export PYTHONPATH=examples/demo:benches/pipeline
.venv/bin/python benches/pipeline/bench.py --plugin-path "$release" "$@"
say "scaling: length, size, threads, overlap"
.venv/bin/python benches/pipeline/scaling.py --plugin-path "$release"
