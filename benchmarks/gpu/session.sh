#!/usr/bin/env bash
# Measure and train on a machine with an NVIDIA GPU:   OUT=/tmp/gpu bash benchmarks/gpu/session.sh
#
# SECONDS_IN_ALL (default 540) is how long all of it may take, and PARTS which parts run; the default order is that of
# worth. A part has a limit of its own, writes its results after every row, and what it has is kept when it is cut off;
# training gets the time that is left. Work is done in WORK (default /tmp/daps-gpu-session): run again with PARTS=train,
# training resumes there. What is worth keeping is in a few archives in OUT: results.tar, and one for each training.
# DRY_RUN=1 goes through all of it on a CPU in tiny sizes.
#
# Its python needs PyTorch for CUDA with Triton, and this package's own dependencies; nothing is downloaded. Data for
# training is in DAPS_DATA (default: shared/data). ONNX Runtime for CUDA can be brought as a wheel in pieces:
# benchmarks/gpu/pieces.sh. Where the checkout is too large to travel: benchmarks/gpu/lean.sh.
set -uo pipefail
cd "$(dirname "$0")/../.."
: "${OUT:?set OUT to the folder to write to}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 DAPS_CACHE="${DAPS_CACHE:-/tmp/daps-cache}"
export DAPS_DATA="${DAPS_DATA:-$PWD/shared/data}"
total=${SECONDS_IN_ALL:-540}
work=${WORK:-/tmp/daps-gpu-session}
results=$work/results
mkdir -p "$results" "$OUT"
device=cuda
if [ -n "${DRY_RUN:-}" ]; then
    device=cpu
    tiny_calls=(--model daps-mnist --dtype float32 --batch 1 --seconds 0.01)
    tiny_parity=(--model daps-mnist --batch 1 --items 1)
    tiny_train=(--set batch_size=2 --set evaluation_items=2 --set validation_items=2)
    tiny_training=(--config train/configs/cifar10_counterfactual.yaml --batch 1 --steps 2)
fi

part() { # seconds, name, command: at most these seconds, and at most what is left
    local limit=$1 name=$2 left=$((total - SECONDS))
    shift 2
    if [ "$left" -lt 5 ]; then
        echo "== $name: no time was left" | tee -a "$results/log.txt"
        return
    fi
    if [ "$left" -lt "$limit" ] || [ -n "${DRY_RUN:-}" ]; then
        limit=$left # a dry run says nothing about time
    fi
    echo "== $name, $limit s at most, $left s left" | tee -a "$results/log.txt"
    timeout --signal=INT --kill-after=10 "$limit" "$@" 2>&1 | tee -a "$results/log.txt" | tail -n 25 | cut -c1-400
    echo "exit ${PIPESTATUS[0]} of $name" | tee -a "$results/log.txt"
    tar -cf "$OUT/results.tar" -C "$work" results
}

doctor() { part 60 doctor python3 -m daps_tokenizer doctor; }
warm() { # compile all kernels side by side, which the parts after it would do one after the other
    local models=(daps-photo-256 daps-cifar10) dtypes=(float32 float16 bfloat16) batches=(1 64 256) model dtype batch
    [ -n "${DRY_RUN:-}" ] && models=(daps-mnist) dtypes=(float32) batches=(1 2)
    mkdir -p "$work/warm"
    {
        for model in "${models[@]}"; do for dtype in "${dtypes[@]}"; do for batch in "${batches[@]}"; do
            echo "timeout -s KILL 55 python3 -m benchmarks.gpu.calls --no-search --seconds 0.01 --device $device --model $model" \
                "--dtype $dtype --batch $batch --out $work/warm/$model-$dtype-$batch.json &"
        done; done; done
        echo wait
    } >"$work/warm/all.sh"
    part 60 warm bash "$work/warm/all.sh"
}
parity() {
    part 120 parity python3 -m benchmarks.gpu.parity --no-drawing --device "$device" --until 100 --out "$results/parity.json" \
        ${tiny_parity[@]+"${tiny_parity[@]}"}
}
calls() {
    part 120 calls python3 -m benchmarks.gpu.calls --device "$device" --until 100 --out "$results/calls.json" \
        ${tiny_calls[@]+"${tiny_calls[@]}"}
}
onnx() {
    part 60 onnx python3 -m benchmarks.gpu.calls --backend onnx --device "$device" --dtype float32 --until 50 \
        --no-search --out "$results/onnx.json" ${tiny_calls[@]+"${tiny_calls[@]}"}
}
steps() {
    part 60 steps python3 -m benchmarks.gpu.training --out "$results/training.json" \
        ${tiny_training[@]+"${tiny_training[@]}"}
}
drawing() {
    local drawn=(--model daps-photo-256 --model daps-cifar10 --batch 1 --batch 64)
    [ -n "${DRY_RUN:-}" ] && drawn=("${tiny_parity[@]}")
    part 60 drawing python3 -m benchmarks.gpu.parity --no-parity --device "$device" --until 45 --out "$results/drawing.json" \
        "${drawn[@]}"
}
tests() {
    [ -n "${DRY_RUN:-}" ] && return
    part 45 tests python3 -m pytest -q -p no:cacheprovider tests/backends/test_gpu.py
}

train_one() { # name, config, seconds: as CUDA graphs where these were measured to be faster
    local name=$1 config=$2 seconds=$3 graph=()
    python3 - "$results/training.json" "$config" <<'PY' && graph=(--cuda-graph)
import json, pathlib, sys
path = pathlib.Path(sys.argv[1])
rows = json.loads(path.read_text())["rows"] if path.exists() else []
times = {row["step"]: row["median_ms"] for row in rows if row["config"] == sys.argv[2] and "median_ms" in row}
sys.exit(0 if times.get("CUDA graph", float("inf")) < times.get("eager", float("inf")) else 1)
PY
    part $((seconds + 30)) "train $name" python3 -m train fit "$config" --run "$work/$name" --quiet \
        --max-seconds "$seconds" ${graph[@]+"${graph[@]}"} \
        ${tiny_train[@]+"${tiny_train[@]}"}
    if [ -f "$work/$name/checkpoint/model.safetensors" ]; then
        tar -cf "$OUT/$name.tar" -C "$work" "$name/metrics.jsonl" "$name/checkpoint/config.json" \
            "$name/checkpoint/training.json" "$name/checkpoint/model.safetensors"
    fi
}
train() { # photographs two thirds of what is left, then CIFAR-10
    local left=$((total - SECONDS - 70))
    [ -n "${DRY_RUN:-}" ] && left=3
    if [ "$left" -lt 3 ] || [ ! -d "$DAPS_DATA" ]; then
        echo "== train: ${left} s left, data in $DAPS_DATA: not done" | tee -a "$results/log.txt"
        return
    fi
    if ls "$DAPS_DATA"/photos256-train-*.tar >/dev/null 2>&1; then
        train_one photo train/configs/photo_counterfactual_gpu.yaml $((left * 2 / 3))
        left=$((total - SECONDS - 40))
        [ -n "${DRY_RUN:-}" ] && left=2
    fi
    if [ -d "$DAPS_DATA/cifar10" ] && [ "$left" -ge 2 ]; then
        train_one cifar10 train/configs/cifar10_counterfactual.yaml "$left"
    fi
}

if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit,memory.total --format=csv >"$results/gpu.csv"
fi
for name in ${PARTS:-doctor warm parity calls steps onnx drawing tests train}; do
    "$name"
done
