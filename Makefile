# Each target works alone and in any order; what is missing gets installed (apt packages, .venv, ONNX Runtime).
.PHONY: help build install demo test bench soak fuzz memcheck clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

INPUT ?=
export INPUT

help:
	@echo 'make build              the plugin and ONNX Runtime, in target/release'
	@echo 'make install            plugin, ONNX Runtime and bundle into the system (PREFIX, DESTDIR, PLUGIN_DIR)'
	@echo 'make demo               restores a degraded clip, into demo/'
	@echo 'make demo INPUT=my.mp4  restores your own file, into demo/'
	@echo 'make test               formatting, lints, all tests'
	@echo 'make soak               half an hour of random seeks, caps, state and property changes'
	@echo 'make fuzz               manifests, graphs and window operations, five minutes each (nightly toolchain, cargo-fuzz)'
	@echo 'make memcheck           element tests in Valgrind'
	@echo 'make bench              how fast, beside what the graphs allow; results in docs/bench'
	@echo 'make clean              removes what is built and what the demo wrote; keeps .venv'

build:
	@scripts/build.sh

install:
	@scripts/install.sh

demo:
	@scripts/demo.sh

test:
	@scripts/test.sh

soak:
	@scripts/soak.sh

fuzz:
	@scripts/fuzz.sh

memcheck:
	@scripts/memcheck.sh

bench:
	@scripts/bench.sh

clean:
	@scripts/clean.sh
