// What PyTorch asks of CUDA's runtime beyond stand_in.c, where an answer is needed. All else succeeds (torch.sh).
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#define OK return cudaSuccess

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int other) { *can = 0; OK; }
cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device) { snprintf(id, size, "0000:00:00.0"); OK; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0, *greatest = -5; OK; }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) { *milliseconds = 1; OK; }
const char *cudaGetErrorName(cudaError_t error) { return "of a stand-in"; }
const char *cudaGetErrorString(cudaError_t error) { return "of a stand-in"; }
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) { *count = 1; OK; }
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t of, unsigned long long flags) {
    *made = malloc(8);
    OK;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *made, unsigned flags, int priority) { *made = malloc(8); OK; }
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) { *priority = 0; OK; }
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
    static int any;
    enum cudaStreamCaptureStatus now;
    cudaStreamIsCapturing(stream, &now);
    if (status) *status = now;
    if (id) *id = 1;
    if (graph) *graph = (cudaGraph_t)&any;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    OK;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) { *pool = malloc(8); OK; }
cudaError_t cudaUserObjectCreate(cudaUserObject_t *made, void *of, cudaHostFn_t end, unsigned count, unsigned flags) {
    *made = malloc(8);
    OK;
}

static dim3 next_grid, next_block;
static size_t next_shared;
static void *next_stream;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *on) {
    next_grid = grid, next_block = block, next_shared = shared, next_stream = on;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *on) {
    *grid = next_grid, *block = next_block, *shared = next_shared, *(void **)on = next_stream;
    OK;
}
void **__cudaRegisterFatBinary(void *binary) { static void *any; return &any; }
void __cudaRegisterFatBinaryEnd(void **binary) {}
void __cudaUnregisterFatBinary(void **binary) {}
void __cudaRegisterFunction(void **binary, const char *host, char *device, const char *name, int limit, void *thread,
                            void *block, void *block_size, void *grid_size, int *warp) {}
void __cudaRegisterVar(void **binary, char *host, char *device, const char *name, int external, size_t size,
                       int constant, int global) {}
char __cudaInitModule(void **binary) { return 1; }

int cudnnCreate(void **handle) { static int any; *handle = &any; return 0; }
unsigned long cudnnGetVersion(void) { return 90000; }
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *of, void *a, void *b, void *c, void *d, void *how, int wanted,
                                   void *results, int *found) {
    *found = 1;
    return 0;
}
