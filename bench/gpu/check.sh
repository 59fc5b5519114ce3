#!/bin/sh
# Verifies and measures on a machine with one NVIDIA GPU, nvcc, Python, torch and pytest, from a bare checkout, offline:
#   OUT=FOLDER bench/gpu/check.sh build                  compiles for this GPU alone
#   OUT=FOLDER bench/gpu/check.sh test                   op tests on cuda, graphs, streams, compile; every kernel's error
#   OUT=FOLDER bench/gpu/check.sh sanitize               memcheck, racecheck, initcheck over every kernel
#   OUT=FOLDER bench/gpu/check.sh bench [FAMILY ...]     against eager torch, torch.compile and the copy bandwidth
#   OUT=FOLDER bench/gpu/check.sh paper --data DIR       replayed steps; the paper's main comparison, as far as the time goes, resumable
# Each stage ends within 8 minutes and prints its summary last. LADA_COMMIT names the commit where git cannot.
cd "$(dirname "$0")/../.." || exit 1
exec "${PYTHON:-python3}" -m bench.gpu.check "$@"
