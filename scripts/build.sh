#!/usr/bin/env bash
# make build: libgstdvface.so, libonnxruntime.so and the bundle dvface-nano in target/release.
set -eu
. "$(dirname "$0")/lib.sh"

need_packages "${apt_packages[@]}"
need_rust
need_runtime

say "cargo: building the plugin"
# The plugin alone: window-bench and what it needs are for those who measure (cargo window-bench).
cargo build --release --locked --lib --no-default-features --features element

# Where the element looks for a bundle by its name, without a variable being set.
[ -f models/dvface-nano/bundle.toml ] || die "models/dvface-nano/bundle.toml: no such file"
ln -sfnr models/dvface-nano "$release/dvface-nano"

GST_PLUGIN_PATH=$release gst-inspect-1.0 dvfacerestore >/dev/null ||
    die "GStreamer does not load $release/libgstdvface.so; see: GST_DEBUG=3 GST_PLUGIN_PATH=$release gst-inspect-1.0 dvfacerestore"
say "built: GST_PLUGIN_PATH=$release gst-inspect-1.0 dvfacerestore"
