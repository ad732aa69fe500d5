# shellcheck shell=bash
# What the two broadcasts share. Sourced, after `set -eu`, by bash; goes to the root of the repository.

# A relative path counts from where the user is.
video=${1:+$(realpath -m -- "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
release=${CARGO_TARGET_DIR:-target}/release

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

[ $# -ge 1 ] || die "usage: $0 VIDEO [PROPERTY=VALUE…]   (properties of dvfacerestore)"
shift
properties=("$@")
[ -f "$video" ] || die "$video: no such file"
[ -f "$release/libgstdvface.so" ] || die "$release/libgstdvface.so: no such file; run: make build"
command -v gst-launch-1.0 >/dev/null || die "no gst-launch-1.0; run: make build"

# A window waits in each queue while another is restored or sent.
room=(queue max-size-buffers=100 max-size-bytes=0 max-size-time=0)
folder=$(mktemp -d)
# The receiver, where something goes wrong before it ends by itself, and its text.
trap 'kill $(jobs -p) 2>/dev/null || :; rm -rf "$folder"' EXIT

# send NAME WORD…: sends the video, in real time, to a sink that the words name. Prints the line.
send() {
    local name=$1 line
    shift
    line=(
        filesrc "location=$video" ! decodebin ! videoconvert ! identity sync=true ! "${room[@]}" !
        dvfacerestore overload=bypass "${properties[@]}" ! "${room[@]}" ! videoconvert !
        x264enc tune=zerolatency speed-preset=veryfast bitrate=2000 key-int-max=25 ! h264parse config-interval=1 ! "$@"
    )
    printf 'GST_PLUGIN_PATH=%s gst-launch-1.0 %s\n' "$release" "${line[*]}"
    GST_PLUGIN_PATH=$release GST_DEBUG=dvfacerestore:4 GST_DEBUG_NO_COLOR=1 GST_DEBUG_FILE="$folder/$name.log" \
        gst-launch-1.0 -q "${line[@]}" || die "the sender failed"
}

# stat_of NAME FIELD: a number of the element's statistics.
stat_of() {
    sed -n "s/.*statistics: .*$2=(guint64)\([0-9]*\).*/\1/p" "$folder/$1.log" | tail -1
}

# wait_until SECONDS COMMAND…: until the command is true.
wait_until() {
    local left=$(($1 * 10))
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}

# report NAME RECEIVED
report() {
    local sent
    sent=$(stat_of "$1" frames-out)
    printf '%s: %s frames sent (%s restored, %s as they came), %s received and decoded\n' \
        "$1" "$sent" "$(stat_of "$1" frames-restored)" "$(stat_of "$1" frames-bypassed)" "$2"
    if [ "${sent:-0}" = 0 ] || [ "$sent" != "$2" ]; then
        die "what was sent was not received"
    fi
}
