#!/usr/bin/env bash
# Exports a model with random weights and measures its windows on a GPU, in ONNX Runtime and in PyTorch; ends in a table.
#
#     scripts/gpu-bench.sh [OUT]
#
# Needs no GStreamer. Needs cargo, Python 3.11 or later in .venv or $PYTHON with models/requirements-dev.txt (PyTorch with CUDA), and
# a CUDA build of ONNX Runtime: ORT_DYLIB_PATH, see the README. Variables:
#     CONFIG      wan-1.3b      config of models/configs
#     DTYPES      "f16 bf16"    element types
#     PROVIDERS   "cuda tensorrt"   of window-bench; one that is not available is reported, and the rest goes on
#     DEVICE      cuda          of PyTorch; empty leaves PyTorch out
#     COMPILE     1             torch.compile too; empty leaves it out
#     WINDOWS     20            windows measured
#     BENCH                     a window-bench built elsewhere, for a machine without cargo
#     PEAK        790           dense TFLOP/s of the GPU (H200, measured, in f16 and bf16)
# So `CONFIG=tiny DTYPES=f32 PROVIDERS=cpu DEVICE=cpu COMPILE= WINDOWS=3 scripts/gpu-bench.sh` runs anywhere.
set -eu
. "$(dirname "$0")/lib.sh"

out=${1:-$target/gpu-bench}
config=${CONFIG:-wan-1.3b}
device=${DEVICE-cuda}
windows=${WINDOWS:-20}
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=models
mkdir -p "$out"
bench=${BENCH:-$target/gpu/release/window-bench}
if [ -z "${BENCH:-}" ]; then
    need_rust
    cargo build --release --locked --no-default-features --features window-bench --bin window-bench --target-dir "$target/gpu"
fi
results=()

# run NAME JSON COMMAND...: a measurement that may fail, for want of a library; the table has those that did not.
run() {
    local name=$1 json=$2
    shift 2
    say "$name"
    rm -f "$json"
    if "$@" --windows "$windows" --json "$json" && [ -f "$json" ]; then
        results+=("$name=$json")
    else
        say "NOT MEASURED: $name"
    fi
}

for dtype in ${DTYPES:-f16 bf16}; do
    for provider in ${PROVIDERS:-cuda tensorrt}; do
        # TensorRT knows standard operators only.
        kind=fused options=()
        [ "$provider" != tensorrt ] || kind=plain options=(--plain-attention)
        bundle=$out/$config-$dtype-$kind
        [ -f "$bundle/bundle.toml" ] ||
            "$python" -m dvface.export "$config" random "$bundle" --dtype "$dtype" --unchecked "${options[@]}"
        run "ONNX Runtime, $provider, $dtype" "$out/$provider-$dtype.json" "$bench" --bundle "$(realpath "$bundle")" \
            --provider "$provider" --engine-cache "$out/engines" --profile "$out/profile-$provider-$dtype"
        [ "$provider" = cpu ] || run "ONNX Runtime, $provider, $dtype, CUDA graphs" "$out/$provider-$dtype-graphs.json" \
            "$bench" --bundle "$(realpath "$bundle")" --provider "$provider" --engine-cache "$out/engines-graphs" --cuda-graphs
    done
    [ -n "$device" ] || continue
    run "PyTorch, $dtype" "$out/torch-$dtype.json" "$python" -m dvface.torch_bench "$config" random --dtype "$dtype" \
        --device "$device"
    [ -z "${COMPILE-1}" ] || run "torch.compile, $dtype" "$out/compile-$dtype.json" \
        "$python" -m dvface.torch_bench "$config" random --dtype "$dtype" --device "$device" --compile
done
[ ${#results[@]} -gt 0 ] || die "nothing could be measured"
"$python" benches/gpu/table.py --peak "${PEAK:-790}" "${results[@]}" | tee "$out/table.md"
