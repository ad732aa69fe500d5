#!/usr/bin/env bash
# make demo: builds the plugin where need be and runs examples/demo. INPUT: a video file, else a clip is made.
set -eu
. "$(dirname "$0")/lib.sh"

input=${INPUT:-}
[ -z "$input" ] || [ -f "$input" ] || die "INPUT=$input: no such file"

scripts/build.sh
need_python demo
say "demo: restoring ${input:-a degraded clip}"
exec env PYTHONPATH=models .venv/bin/python examples/demo/demo.py --plugin-path "$release" -- ${input:+"$input"}
