#!/usr/bin/env bash
# PyTorch for CUDA and Triton on a machine without a GPU: bash tests/cuda_dry_run/torch.sh [COMMAND ...]
#
# They are installed in an environment of their own (6 GB, kept in $DAPS_DRY_RUN or /tmp), and stand-ins take the place of
# CUDA: memory is the host's, kernels do nothing, and cuDNN is switched off. What comes out is nonsense, but the whole
# way to a GPU is gone: Triton compiles its kernels, graphs are captured, and what is copied or waited for in a capture is
# told. Without a command it encodes, decodes and trains (torch_path.py). Data is in $DAPS_DATA (../shared/data).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
kept=${DAPS_DRY_RUN:-/tmp/daps-cuda-dry-run}
mkdir -p "$kept/torch-driver"
kept=$(cd "$kept" && pwd)
if [ ! -f "$kept/torch.installed" ]; then
    python3 -m venv "$kept/torch"
    "$kept/torch/bin/python" -m pip install -q "$root[torch]" accelerate pyyaml matplotlib
    "$kept/torch/bin/python" -m pip install -q --no-deps --target "$kept/headers" nvidia-cuda-runtime nvidia-cuda-crt
    touch "$kept/torch.installed"
fi
include=$(dirname "$(find -L "$kept/headers" -name cuda_runtime_api.h | head -1)")
site=$("$kept/torch/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Functions that are asked for and that no stand-in has: each succeeds.
compile() { gcc -shared -fPIC -O1 -w -I"$include" "$@"; }
stand_in() { # library to make, names of functions on stdin, sources
    local made=$1
    shift
    compile -o "$kept/known.so" "$@"
    nm -D --defined-only "$kept/known.so" | awk '$2 == "T" { print $3 }' >"$kept/known.txt"
    sort -u | grep -vxFf "$kept/known.txt" | sed 's/.*/int &(void) { return 0; }/' >"$kept/generic.c"
    compile -Wl,-soname,"$(basename "$made")" -o "$made" "$@" "$kept/generic.c"
}
asked() { for library in "$@"; do nm -D --undefined-only "$library"; done | grep -oE ' U (__)?cu[A-Za-z0-9_]+' | cut -c4-; }
asked "$site"/torch/lib/lib{c10_cuda,torch_cuda,torch_python,torch_cuda_linalg}.so |
    stand_in "$kept/torch-runtime.so" "$here/stand_in.c" "$here/stand_in_torch.c"
{
    asked "$site/torch/lib/libcaffe2_nvrtc.so"
    grep -ohE '\bcu[A-Z][A-Za-z0-9_]+' "$site/triton/backends/nvidia/driver.c" | grep -vE '_t$|^cu[A-Z]+_'
} | stand_in "$kept/torch-driver/libcuda.so.1" "$here/stand_in_driver.c"

export PATH="$kept/torch/bin:$PATH" PYTHONPATH="$here/site:$root" DAPS_DATA="${DAPS_DATA:-$root/../shared/data}"
export LD_PRELOAD="$kept/torch-runtime.so" LD_LIBRARY_PATH="$kept/torch-driver"
cd "$root"
[ $# -gt 0 ] || set -- python3 "$here/torch_path.py"
exec "$@"
