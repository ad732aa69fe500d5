#!/usr/bin/env bash
# A broadcast over RTMP on this machine: one process restores and sends a video, another (FFmpeg, which can be an RTMP server)
# receives, decodes and counts.
#
#     examples/broadcast/rtmp.sh VIDEO [PROPERTY=VALUE…]
set -eu
. "$(dirname "$0")/common.sh"

command -v ffmpeg >/dev/null || die "no ffmpeg, the receiver here; run: apt install ffmpeg"
port=${PORT:-1936}
url=rtmp://127.0.0.1:$port/live/face
printf 'ffmpeg -listen 1 -i %s -f null -\n' "$url"
ffmpeg -nostdin -hide_banner -loglevel info -listen 1 -i "$url" -vsync passthrough -f null - >"$folder/received" 2>&1 &
receiver=$!
is_listening() { grep -qi ":$(printf %04X "$port") .* 0A " /proc/net/tcp; }
wait_until 10 is_listening || die "the receiver does not listen: $(cat "$folder/received")"

send rtmp flvmux streamable=true ! rtmp2sink "location=$url"

wait $receiver || die "the receiver failed: $(cat "$folder/received")"
# FFmpeg writes its count over and over in one line.
report rtmp "$(tr '\r' '\n' <"$folder/received" | sed -n 's/^frame= *\([0-9]*\).*/\1/p' | tail -1)"
