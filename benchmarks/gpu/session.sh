#!/usr/bin/env bash
# Measure everything on a machine with an NVIDIA GPU, within 10 minutes: OUT=/tmp/gpu bash benchmarks/gpu/session.sh
# Its python needs PyTorch for CUDA with Triton, and this package's own dependencies; nothing is downloaded.
# The most important part comes first, each part has its own time limit, and finished parts are kept when time runs out.
set -uo pipefail
cd "$(dirname "$0")/../.."
: "${OUT:?set OUT to the folder to write to}"
mkdir -p "$OUT"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 DAPS_CACHE="${DAPS_CACHE:-/tmp/daps-cache}"

part() { # seconds, name, command
    local limit=$1 name=$2
    shift 2
    echo "== $name ($(date +%T))"
    timeout "$limit" "$@" 2>&1 | tee -a "$OUT/log.txt" | tail -n 25 | cut -c1-400
    echo "exit ${PIPESTATUS[0]} of $name"
}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit,memory.total --format=csv | tee "$OUT/log.txt"
part 60 info python3 -m daps_tokenizer info
part 240 parity python3 -m benchmarks.gpu.parity --out "$OUT/parity.json"
part 150 latency python3 -m benchmarks latency --model daps-photo-256 --device cuda --precision float32 \
    --precision bfloat16 --batch 1 --batch 8 --batch 64 --batch 256 --seconds 1 --rounds 1 --out "$OUT"
part 60 tests python3 -m pytest -q -p no:cacheprovider tests/backends/test_gpu.py tests/model/test_stepping.py
part 60 kernel python3 -m pytest -q -p no:cacheprovider tests/backends/test_triton_step.py
