#!/usr/bin/env bash
# make build: libgstdvface.so, libonnxruntime.so and the bundle dvface-nano in target/release.
set -eu
. "$(dirname "$0")/lib.sh"

need_rust
need_packages "${apt_packages[@]}"
need_runtime

say "cargo: building the plugin"
# The plugin alone: window-bench and what it needs are for those who measure (cargo window-bench).
cargo build --release --locked --lib --no-default-features --features element

[ -f "$release/libgstdvface.so" ] || die "$release/libgstdvface.so: cargo has not made it"

# Where the element looks for a bundle by its name, without a variable being set.
[ -f models/dvface-nano/bundle.toml ] || die "models/dvface-nano/bundle.toml: no such file"
ln -sfnr models/dvface-nano "$release/dvface-nano"

# Cargo keeps a second copy in deps, which GStreamer may find first; the element looks beside this one all the same.
loaded=$(GST_PLUGIN_PATH=$release gst-inspect-1.0 dvfacerestore | sed -n 's/^ *Filename *//p')
case $loaded in
    */release/libgstdvface.so | */release/deps/libgstdvface.so) ;;
    *) die "GStreamer does not load $release/libgstdvface.so; see: GST_DEBUG=3 GST_PLUGIN_PATH=${release@Q} gst-inspect-1.0 dvfacerestore" ;;
esac
say "built: GST_PLUGIN_PATH=${release@Q} gst-inspect-1.0 dvfacerestore"
