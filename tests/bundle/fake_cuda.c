/* The functions of the CUDA driver that a bundle calls, for one device whose memory is the host's.
   Environment: FAKE_CC, e.g. "8.7"; FAKE_DEVICES, e.g. "0". */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int part(int index) {
    int numbers[2] = {0, 0};
    sscanf(getenv("FAKE_CC"), "%d.%d", &numbers[0], &numbers[1]);
    return numbers[index];
}
int cuInit(unsigned flags) { return flags; }
int cuDeviceGetCount(int *count) {
    *count = getenv("FAKE_DEVICES") ? atoi(getenv("FAKE_DEVICES")) : 1;
    return 0;
}
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal; }
int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, size, "Fake");
    return device != 7;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = context; return device != 7; }
int cuCtxSetCurrent(void *context) { return context == 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = part(attribute - 75);
    return device != 7;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > (1u << 28)) return 2;
    *address = (uint64_t)malloc(size);
    return 0;
}
int cuMemFree_v2(uint64_t address) { free((void *)address); return 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) { memcpy((void *)to, from, size); return 0; }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) { memcpy(to, (void *)from, size); return 0; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)0x5eed; return flags; }
int cuStreamSynchronize(void *stream) { return stream != (void *)0x5eed; }
int cuGetErrorName(int error, const char **name) {
    *name = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return 0;
}
