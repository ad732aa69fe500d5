#!/usr/bin/env bash
# make clean: removes what building and the demo wrote. .venv stays, for it takes long to fill.
set -eu
. "$(dirname "$0")/lib.sh"

say "removing $target and the demo's files"
rm -rf "$target"
rm -f demo/{clean,input,restored,side_by_side}.mp4 demo/contact.png demo/restored.log
