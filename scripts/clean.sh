#!/usr/bin/env bash
# make clean: removes what building and the demo wrote. .venv stays, for it takes long to fill.
set -eu
. "$(dirname "$0")/lib.sh"

say "removing what is built in $target, and the demo's files"
if [ "$is_own_target" = yes ]; then
    rm -rf "$target"
else # others may build there, too
    need_rust
    cargo clean --quiet --package gst-plugin-dvface
    cargo clean --quiet --release --package gst-plugin-dvface
    rm -rf "$target"/{test-clip,gpu,gpu-bench,bench-short,memcheck.log} "$release"/{libonnxruntime.so,dvface-nano}
fi
rm -f demo/{clean,input,restored,side_by_side}.mp4 demo/contact.png demo/restored.log
