#!/usr/bin/env bash
# make soak: half an hour of random seeks, caps, state and property changes. SECONDS_TO_SOAK and SEED may be given.
set -eu
. "$(dirname "$0")/lib.sh"

need_packages "${apt_packages[@]}"
need_rust
need_runtime

ORT_DYLIB_PATH=$(realpath "$release/libonnxruntime.so")
export ORT_DYLIB_PATH G_DEBUG=fatal_warnings DVFACE_SOAK_SECONDS=${SECONDS_TO_SOAK:-1800}
[ -z "${SEED:-}" ] || export DVFACE_SOAK_SEED=$SEED
exec cargo test --locked --test soak -- --nocapture
