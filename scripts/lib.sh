# shellcheck shell=bash
# What the scripts of the Makefile share. Sourced, after `set -eu`, by bash; goes to the root of the repository.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Cargo's output folder; relative to the root, or absolute. Said to cargo too, whatever its configuration says.
# shellcheck disable=SC2034  # clean.sh asks
is_own_target=${CARGO_TARGET_DIR:-yes}
target=${CARGO_TARGET_DIR:-target}
# Absolute: some of what is run here runs in other folders.
CARGO_TARGET_DIR=$(realpath -m "$target")
export CARGO_TARGET_DIR
unset CARGO_BUILD_TARGET_DIR
release=$target/release

# ONNX Runtime's own releases tell Microsoft of every process that they run in.
export ORT_DISABLE_TELEMETRY=${ORT_DISABLE_TELEMETRY:-1}

# shellcheck disable=SC2034  # the scripts use it
# To build: a linker, GStreamer's headers. To run: its tools, decoders and encoders.
apt_packages=(
    build-essential pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
    gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-ugly gstreamer1.0-libav
    # Without it autovideosink takes a sink of plugins-bad that crashes.
    gstreamer1.0-x
)

say() { printf '==> %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

[ -z "${CARGO_BUILD_TARGET:-}" ] || die "CARGO_BUILD_TARGET=$CARGO_BUILD_TARGET: these scripts build for this machine; unset it"

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "no root and no sudo"
    fi
}

# need_packages NAME...: installs those Debian packages that are missing.
need_packages() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null; then
        say "no dpkg here: not checked that these are installed: $*"
        return
    fi
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        die "no root and no sudo; run as root: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    say "apt: installing ${missing[*]} (this may take minutes)"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# need_rust: a cargo that is new enough on PATH. Debian's is not, and may be found before rustup's.
need_rust() {
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    is_new_cargo "$wanted" || PATH=${CARGO_HOME:-${HOME:-~}/.cargo}/bin:$PATH
    is_new_cargo "$wanted" || die "cargo $wanted or newer is needed, found $(cargo --version 2>/dev/null || echo none): install Rust with rustup"
}

# is_new_cargo VERSION: whether there is a cargo of that version or a newer one.
is_new_cargo() {
    local found
    found=$(cargo --version 2>/dev/null | cut -d' ' -f2)
    [ -n "$found" ] && printf '%s\n' "$1" "$found" | sort -C -V
}

# need_component COMMAND NAME: a component of rustup that gives cargo a command.
need_component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    say "rustup: installing $2"
    rustup component add "$2"
}

is_python311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

# need_venv: .venv with Python 3.11.
need_venv() {
    local candidate python=
    # One that was interrupted while it was made has no pip.
    if is_python311 .venv/bin/python && .venv/bin/python -I -m pip --version >/dev/null 2>&1; then
        return
    fi
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 /usr/bin/python3.11; do
        if is_python311 "$candidate" && "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        need_packages python3 python3-venv
        python=/usr/bin/python3.11
        is_python311 $python || die "no Python 3.11; set PYTHON to one"
    fi
    say "python: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

# need_python NAME...: installs models/requirements-NAME.txt in .venv, unless it already did.
need_python() {
    local name file stamp options
    need_venv
    for name in "$@"; do
        file=models/requirements-$name.txt
        stamp=.venv/.installed-$name-$(sha256sum "$file" | cut -c1-16)
        [ -e "$stamp" ] && continue
        say "pip: installing $file (this may take minutes)"
        # Both list all that they need, but for the dependencies of onnxruntime's Python part, which is not used there.
        case $name in
            runtime) options=(--require-hashes --no-deps --only-binary :all:) ;;
            demo) options=(--no-deps) ;;
            *) options=() ;;
        esac
        # -I: what the user's PYTHONPATH has is not installed here.
        .venv/bin/python -I -m pip install --quiet --disable-pip-version-check "${options[@]}" -r "$file"
        touch "$stamp"
    done
}

# need_runtime: libonnxruntime.so beside the plugin, from the wheel.
need_runtime() {
    local library
    need_python runtime
    library=$(echo .venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.*)
    [ -f "$library" ] || die "$library: not in the wheel"
    if ! cmp -s "$library" "$release/libonnxruntime.so"; then
        say "copying ${library##*/} to $release/libonnxruntime.so"
        mkdir -p "$release"
        # A process that has the old file open keeps it.
        cp "$library" "$release/.libonnxruntime.so"
        mv -f "$release/.libonnxruntime.so" "$release/libonnxruntime.so"
    fi
}
