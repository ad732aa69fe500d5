#!/usr/bin/env bash
# make bench: criterion benches of the element's parts, the pipeline bench, and how cost grows. Arguments go to the pipeline
# bench. SHORT=1 runs all of it with little of each, into target/bench-short: that finds what is broken, and its figures mean
# nothing. STAGES names those to run, so that what was interrupted need not begin again.
set -eu
. "$(dirname "$0")/lib.sh"

stages=${STAGES:-criterion pipeline scaling}
for stage in $stages; do
    case $stage in
        criterion | pipeline | scaling) ;;
        *) die "STAGES: expected criterion, pipeline, scaling; found $stage" ;;
    esac
done
out=docs/bench criterion=() pipeline=() scaling=()
if [ -n "${SHORT:-}" ]; then
    out=$target/bench-short
    criterion=(-- --warm-up-time 0.1 --measurement-time 0.2 --sample-size 10)
    pipeline=(--rounds 1 --frames 34)
    scaling=(--frames 34 --longest 2000)
fi

scripts/build.sh
need_rust
need_python runtime demo dev
export PYTHONPATH=examples/demo:benches/pipeline

failed=
# run STAGE COMMAND...: what fails does not keep the other stages from running.
run() {
    local stage=$1 began=$SECONDS
    shift
    case " $stages " in *" $stage "*) ;; *) return 0 ;; esac
    say "$stage: $*"
    "$@" || failed="$failed $stage"
    say "$stage: $((SECONDS - began)) s"
}
run criterion cargo bench --locked --bench parts "${criterion[@]}"
run pipeline .venv/bin/python benches/pipeline/bench.py --plugin-path "$release" --out "$out" "${pipeline[@]}" "$@"
run scaling .venv/bin/python benches/pipeline/scaling.py --plugin-path "$release" --out "$out" "${scaling[@]}"
[ -z "$failed" ] || die "failed:$failed"
