// In place of libcuda for PyTorch and Triton: an H100 that loads kernels and runs none. All else succeeds (torch.sh).
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = 0; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "a stand-in", size); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    switch (which) {
        case 1: *value = 1024; break;     // threads of a block
        case 8: *value = 49152; break;    // bytes of shared memory, without opting in
        case 10: *value = 32; break;      // threads of a warp
        case 12: *value = 65536; break;   // registers of a block
        case 16: *value = 132; break;     // multiprocessors
        case 39: *value = 2048; break;    // threads of a multiprocessor
        case 75: *value = 9; break;       // compute capability 9.0
        case 76: *value = 0; break;
        case 81: *value = 233472; break;  // bytes of shared memory of a multiprocessor
        case 82: *value = 65536; break;   // registers of a multiprocessor
        case 97: *value = 232448; break;  // bytes of shared memory, having opted in
        default: *value = 1;
    }
    return 0;
}

static int any;
int cuCtxGetCurrent(void **context) { *context = &any; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &any; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "of a stand-in"; return 0; }
int cuModuleLoadData(void **module, const void *image) { *module = malloc(8); return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = malloc(8); return 0; }
int cuFuncGetAttribute(int *value, int which, void *function) { *value = which == 0 ? 1024 : 0; return 0; }
int cuPointerGetAttribute(void *value, int which, unsigned long long at) { memcpy(value, &at, 8); return 0; }
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, void *status) {
    *found = NULL;
    return 0;
}
