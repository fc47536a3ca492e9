// In place of libcudart and cuBLAS, or with -DDRIVER of libcuda: everything succeeds, memory is the host's, kernels and
// products do nothing. What happens while a graph is captured is told, for there it matters. See run.sh.
#ifdef DRIVER
int cuInit(unsigned flags) { return 100; }  // no device: whoever asks the driver itself is told so
int cuTensorMapEncodeTiled(void) { return 999; }
#else
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK return cudaSuccess
#define SUCCEEDS(name, ...) cudaError_t name(__VA_ARGS__) { OK; }
#define MAKES(name, type, ...) cudaError_t name(type *made, ##__VA_ARGS__) { *made = malloc(8); OK; }

static int capturing, launches;

static void told(const char *what, size_t size) {
    if (capturing) printf("while capturing: %s, %zu bytes\n", what, size);
}

static cudaError_t allocate(void **memory, size_t size) {
    told("an allocation", size);
    *memory = calloc(1, size ? size : 1);
    OK;
}

static cudaError_t copy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    static const char *kinds[] = {"a copy on the host", "a copy to the device", "a copy to the host",
                                  "a copy on the device", "a copy"};
    told(kinds[kind], size);
    memcpy(to, from, size);
    OK;
}

// An H100, as far as anyone asks.
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *of, int device) {
    memset(of, 0, sizeof *of);
    strcpy(of->name, "none");
    of->major = 9, of->multiProcessorCount = 132, of->warpSize = 32, of->totalGlobalMem = 1ull << 36;
    of->maxBlocksPerMultiProcessor = 32, of->regsPerMultiprocessor = 65536;
    of->maxThreadsPerBlock = 1024, of->maxThreadsPerMultiProcessor = 2048, of->regsPerBlock = 65536;
    of->sharedMemPerBlock = 49152, of->sharedMemPerBlockOptin = 232448, of->sharedMemPerMultiprocessor = 233472;
    of->maxGridSize[0] = 2147483647, of->maxGridSize[1] = of->maxGridSize[2] = 65535;
    of->maxThreadsDim[0] = of->maxThreadsDim[1] = 1024, of->maxThreadsDim[2] = 64;
    OK;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) {
    *value = which == cudaDevAttrComputeCapabilityMajor           ? 9
             : which == cudaDevAttrComputeCapabilityMinor         ? 0
             : which == cudaDevAttrMultiProcessorCount            ? 132
             : which == cudaDevAttrMaxSharedMemoryPerBlockOptin   ? 232448
             : which == cudaDevAttrMaxSharedMemoryPerMultiprocessor ? 233472
                                                                  : 1;
    OK;
}
cudaError_t cudaGetDeviceCount(int *count) { *count = 1; OK; }
cudaError_t cudaGetDevice(int *device) { *device = 0; OK; }
SUCCEEDS(cudaSetDevice, int device)
SUCCEEDS(cudaDeviceSynchronize, void)
cudaError_t cudaDriverGetVersion(int *version) { *version = 13000; OK; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = 13000; OK; }
SUCCEEDS(cudaGetLastError, void)
SUCCEEDS(cudaPeekAtLastError, void)

cudaError_t cudaMalloc(void **memory, size_t size) { return allocate(memory, size); }
cudaError_t cudaMallocHost(void **memory, size_t size) { return allocate(memory, size); }
cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned flags) { return allocate(memory, size); }
cudaError_t cudaMallocFromPoolAsync(void **memory, size_t size, cudaMemPool_t pool, cudaStream_t on) {
    return allocate(memory, size);
}
cudaError_t cudaFree(void *memory) { free(memory); OK; }
cudaError_t cudaFreeHost(void *memory) { free(memory); OK; }
cudaError_t cudaFreeAsync(void *memory, cudaStream_t on) { free(memory); OK; }
cudaError_t cudaMemGetInfo(size_t *left, size_t *all) { *left = 1ull << 35, *all = 1ull << 36; OK; }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *of, const void *memory) {
    memset(of, 0, sizeof *of);
    of->type = cudaMemoryTypeDevice;
    OK;
}
MAKES(cudaMemPoolCreate, cudaMemPool_t, const struct cudaMemPoolProps *of)
SUCCEEDS(cudaMemPoolSetAttribute, cudaMemPool_t pool, enum cudaMemPoolAttr which, void *value)
SUCCEEDS(cudaMemPoolDestroy, cudaMemPool_t pool)

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    return copy(to, from, size, kind);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t on) {
    return copy(to, from, size, kind);
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t step, const void *from, size_t other, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t on) {
    for (size_t row = 0; row < height; row++) copy((char *)to + row * step, (char *)from + row * other, width, kind);
    OK;
}
cudaError_t cudaMemset(void *memory, int value, size_t size) { memset(memory, value, size); OK; }
cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t on) { memset(memory, value, size); OK; }

MAKES(cudaStreamCreate, cudaStream_t)
MAKES(cudaStreamCreateWithFlags, cudaStream_t, unsigned flags)
SUCCEEDS(cudaStreamDestroy, cudaStream_t stream)
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { told("a wait", 0); OK; }
SUCCEEDS(cudaStreamWaitEvent, cudaStream_t stream, cudaEvent_t event, unsigned flags)
MAKES(cudaEventCreate, cudaEvent_t)
MAKES(cudaEventCreateWithFlags, cudaEvent_t, unsigned flags)
SUCCEEDS(cudaEventDestroy, cudaEvent_t event)
SUCCEEDS(cudaEventRecord, cudaEvent_t event, cudaStream_t stream)
SUCCEEDS(cudaEventRecordWithFlags, cudaEvent_t event, cudaStream_t stream, unsigned flags)
SUCCEEDS(cudaEventSynchronize, cudaEvent_t event)
cudaError_t cudaLaunchHostFunc(cudaStream_t on, cudaHostFn_t work, void *data) { work(data); OK; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    capturing = 1, launches = 0;
    OK;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    capturing = 0, *graph = malloc(8);
    printf("captured %d kernels and products\n", launches), fflush(stdout);
    OK;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    OK;
}
MAKES(cudaGraphInstantiate, cudaGraphExec_t, cudaGraph_t graph, unsigned long long flags)
SUCCEEDS(cudaGraphLaunch, cudaGraphExec_t graph, cudaStream_t stream)
SUCCEEDS(cudaGraphDestroy, cudaGraph_t graph)
SUCCEEDS(cudaGraphExecDestroy, cudaGraphExec_t graph)

#define LAUNCHES(name, ...) cudaError_t name(__VA_ARGS__) { launches++; OK; }
LAUNCHES(cudaLaunchKernel, const void *kernel, dim3 grid, dim3 block, void **with, size_t shared, cudaStream_t on)
LAUNCHES(cudaLaunchKernelExC, const cudaLaunchConfig_t *how, const void *kernel, void **with)
LAUNCHES(cudaLaunchCooperativeKernel, const void *kernel, dim3 grid, dim3 block, void **with, size_t shared, cudaStream_t on)
LAUNCHES(__cudaLaunchKernel, cudaKernel_t kernel, dim3 grid, dim3 block, void **with, size_t shared, cudaStream_t on)
SUCCEEDS(__cudaGetKernel, cudaKernel_t *kernel, const void *function)
SUCCEEDS(cudaFuncSetAttribute, const void *kernel, enum cudaFuncAttribute which, int value)
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *of, const void *kernel) {
    memset(of, 0, sizeof *of);
    of->maxThreadsPerBlock = 1024, of->numRegs = 32, of->ptxVersion = of->binaryVersion = 90;
    OK;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads,
                                                                   size_t shared, unsigned flags) {
    *blocks = 2;
    OK;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    *found = NULL;
    OK;
}

int cublasCreate_v2(void **handle) { *handle = malloc(8); return 0; }
int cublasLtCreate(void **handle) { *handle = malloc(8); return 0; }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
#define BLAS(name, counted) int name(void) { launches += counted; return 0; }
BLAS(cublasDestroy_v2, 0)
BLAS(cublasLtDestroy, 0)
BLAS(cublasSetStream_v2, 0)
BLAS(cublasSetMathMode, 0)
BLAS(cublasSgemm_v2, 1)
BLAS(cublasGemmEx, 1)
BLAS(cublasSgemmBatched, 1)
BLAS(cublasSgemmStridedBatched, 1)
BLAS(cublasGemmBatchedEx, 1)
BLAS(cublasGemmStridedBatchedEx, 1)
BLAS(cublasSgeam, 1)
BLAS(cublasScopy_v2, 1)
BLAS(cublasSscal_v2, 1)
BLAS(cublasLtMatmul, 1)
#endif
