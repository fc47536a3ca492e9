#!/usr/bin/env bash
# ONNX Runtime's CUDA provider on a machine without a GPU: bash tests/cuda_dry_run/run.sh [MODEL ...]
#
# Its packages are installed to a folder of their own (1 GB, kept in $DAPS_DRY_RUN or /tmp), and a stand-in takes the place
# of CUDA's runtime and driver, and of cuDNN: memory is the host's, kernels do nothing. What comes out is nonsense, but what ONNX Runtime
# would put on a GPU is seen: whether every operator has a kernel there, what is copied, and whether passes and steps are
# captured without a copy to or from the host, an allocation or a wait in them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kept=${DAPS_DRY_RUN:-/tmp/daps-cuda-dry-run}
mkdir -p "$kept/driver"
if [ ! -d "$kept/packages/onnxruntime" ]; then
    python3 -m pip install -q --no-deps --target "$kept/packages" onnxruntime-gpu==1.31.1 nvidia-cublas nvidia-curand \
        nvidia-cuda-runtime nvidia-cuda-crt
fi
include=$(dirname "$(find "$kept/packages" -name cuda_runtime_api.h | head -1)")
libraries=$(find "$kept/packages/nvidia" -name lib -type d | paste -sd:)
gcc -shared -fPIC -O1 -I"$include" -o "$kept/runtime.so" "$here/stand_in.c"
gcc -shared -fPIC -DDRIVER -Wl,-soname,libcuda.so.1 -o "$kept/driver/libcuda.so.1" "$here/stand_in.c"
# Every function of cuDNN that the provider asks for says that it succeeded; a handle is something that is not null.
strings -a "$(find "$kept/packages/onnxruntime" -name libonnxruntime_providers_cuda.so)" | grep -E '^cudnn[A-Z][A-Za-z0-9_]*$' |
    sort -u | sed -e '/^cudnnCreate$/d' -e '/^cudnnGetVersion$/d' -e '/String$/d' -e 's/.*/int &(void) { return 0; }/' >"$kept/cudnn.c"
cat >>"$kept/cudnn.c" <<'C'
int cudnnCreate(void **handle) { static int any; *handle = &any; return 0; }
unsigned long cudnnGetVersion(void) { return 90000; }
const char *cudnnGetErrorString(int status) { (void)status; return "a stand-in"; }
void cudnnGetLastErrorString(char *message, unsigned long size) { if (size) *message = 0; }
C
gcc -shared -fPIC -Wl,-soname,libcudnn.so.9 -o "$kept/driver/libcudnn.so.9" "$kept/cudnn.c"
export PYTHONPATH="$kept/packages:$here/../..${PYTHONPATH:+:$PYTHONPATH}"
export LD_PRELOAD="$kept/runtime.so" LD_LIBRARY_PATH="$kept/driver:$libraries"
for model in "${@:-daps-photo-256}"; do
    python3 "$here/encode.py" "$model"
done
