#!/usr/bin/env bash
# make demo: builds the plugin where need be and runs examples/demo. INPUT: a video file, else a clip is made.
set -eu
# A relative path counts from where the user is, which is the root when make runs this.
input=${INPUT:+$(realpath -m -- "$INPUT")}
. "$(dirname "$0")/lib.sh"

[ -z "$input" ] || [ -f "$input" ] || die "INPUT=$INPUT: not a file"

scripts/build.sh
need_python demo
say "demo: restoring ${input:-a degraded clip}"
exec env PYTHONPATH=models .venv/bin/python -u examples/demo/demo.py --plugin-path "$release" -- ${input:+"$input"}
