#!/usr/bin/env bash
# make install: the plugin among GStreamer's own, ONNX Runtime and the bundle under PREFIX (/usr/local). DESTDIR is put before all
# paths; PLUGIN_DIR is another folder for the plugin. `make build` comes first, as a user; this may need root.
set -eu
. "$(dirname "$0")/lib.sh"

prefix=${PREFIX:-/usr/local}
plugins=${PLUGIN_DIR:-$(pkg-config --variable=pluginsdir gstreamer-1.0)} || die "no gstreamer-1.0.pc; run: make build"
for file in "$release"/{libgstdvface,libonnxruntime}.so; do
    [ -f "$file" ] || die "$file: no such file; run: make build"
done

# put FOLDER FILE…
put() {
    local folder=${DESTDIR:-}$1
    shift
    say "$folder: ${*##*/}"
    # A process that has an old file open keeps it: this one removes before it writes.
    install -D -m 644 -t "$folder" "$@"
}
put "$plugins" "$release/libgstdvface.so"
put "$prefix/lib" "$release/libonnxruntime.so"
put "$prefix/share/dvface/models/dvface-nano" models/dvface-nano/*
if [ -n "${DESTDIR:-}" ]; then
    say "installed below $DESTDIR"
elif [ -z "${PREFIX:-}${PLUGIN_DIR:-}" ]; then
    say "installed: gst-inspect-1.0 dvfacerestore"
else
    say "installed; to use it from there: GST_PLUGIN_PATH=${plugins@Q} ORT_DYLIB_PATH=${prefix@Q}/lib/libonnxruntime.so DVFACE_MODEL_PATH=${prefix@Q}/share/dvface/models"
fi
