#!/usr/bin/env bash
# A broadcast over SRT on this machine: one process restores and sends a video, another receives, decodes and counts.
#
#     examples/broadcast/srt.sh VIDEO [PROPERTY=VALUE…]
set -eu
. "$(dirname "$0")/common.sh"

# What SRT still holds back when the sender leaves is lost, so little is held back; a network needs several round trips.
port=${PORT:-7001}
receive="srtsrc uri=srt://127.0.0.1:$port?mode=listener latency=1 ! tsdemux ! h264parse ! avdec_h264 ! \
identity name=counter silent=false ! fakesink sync=false"
printf 'gst-launch-1.0 %s\n' "$receive"
# shellcheck disable=SC2086  # words
stdbuf -oL gst-launch-1.0 -v $receive >"$folder/received" 2>&1 &
receiver=$!
# An SRT listener is an UDP socket.
is_listening() { grep -qi ":$(printf %04X "$port") " /proc/net/udp; }
wait_until 10 is_listening || die "the receiver does not listen: $(cat "$folder/received")"

send srt mpegtsmux alignment=7 ! srtsink "uri=srt://127.0.0.1:$port?mode=caller" latency=1

count() { grep -c 'counter: last-message = chain' "$folder/received" || true; }
all_there() { [ "$(count)" -ge "$(stat_of srt frames-out)" ]; }
wait_until 10 all_there || true
kill -INT $receiver 2>/dev/null || true
wait $receiver || true
report srt "$(count)"
