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

# shellcheck disable=SC2034  # the scripts use it
# To build: a linker, GStreamer's headers. To run: its tools, decoders and encoders.
apt_packages=(
    build-essential pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
    gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-ugly gstreamer1.0-libav
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
    say "apt: installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# need_rust: cargo on PATH.
need_rust() {
    command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "no cargo: install a Rust toolchain (rustup), at least the rust-version in Cargo.toml"
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
        say "pip: installing $file"
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
