#!/usr/bin/env bash
# make memcheck: Valgrind over element tests with the tiny bundles. It fails on an error, or on memory that is lost, of our code.
set -eu
. "$(dirname "$0")/lib.sh"

need_packages "${apt_packages[@]}" valgrind libc6-dbg
need_rust
need_runtime

ORT_DYLIB_PATH=$(realpath "$release/libonnxruntime.so")
export ORT_DYLIB_PATH
# GLib's and GStreamer's own allocators would hide what is lost.
export G_SLICE=always-malloc G_DEBUG=gc-friendly GST_REGISTRY_FORK=no

say "cargo: building the tests"
cargo test --locked --no-run --test element # tells what does not compile
binary=$(cargo test --locked --no-run --test element 2>&1 | sed -n 's/.*(\(.*\/element-[0-9a-f]*\)).*/\1/p')
[ -x "$binary" ] || die "no test binary: $binary"

# Tests of every way through the element. Those of time, of thousands of frames and of other processes would take hours.
tests=(
    order::identity_gives_the_same_pixels order::metas_are_kept
    cuts::caps_change_size_and_format_in_the_middle_of_a_window cuts::events_keep_their_place_among_held_frames
    cuts::sticky_events_outlive_a_flush cuts::reconfigure_in_the_middle_of_a_window_loses_nothing
    downstream::where_a_run_fails_every_held_frame_is_sent_before_the_error
    faces::frames_without_a_face_lie_as_downstream_can_read_them faces::metas_of_strangers_do_no_harm
    faces::a_detector_finds_the_face paste::overlapping_faces_are_not_changed_twice
    failures::held_frames_fade_and_events_keep_their_place failures::a_flush_in_a_pause
    overload::a_late_window_is_bypassed_and_restoring_comes_back overload::what_is_held_fades_before_unrestored_frames
    overload::qos_messages_count_what_was_done
    pixels::odd_and_extreme_sizes pixels::padded_rows_and_planes_of_the_input pixels::output_comes_from_downstreams_pool_with_its_padding
    scenes::a_cut_ends_the_window_and_changes_nothing_else
    states::elements_share_their_sessions_and_let_go_of_them
    streams::odd_times_are_kept streams::caps_change_every_few_frames
    streams::reverse_playback_passes_frames_unrestored_and_says_so_once
    strength::a_controlled_strength_has_each_frames_own_value
    strength::changes_while_playing_lose_nothing_and_tell_of_the_latency
)
say "valgrind: ${#tests[@]} tests"
exec valgrind --tool=memcheck --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
    --num-callers=40 --suppressions=tests/valgrind.supp --log-file="$target/memcheck.log" \
    "$binary" --test-threads=1 --exact "${tests[@]}"
