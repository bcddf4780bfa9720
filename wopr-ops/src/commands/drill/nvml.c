/* NVIDIA's management library as far as the daemon asks it, for a card that is not there. It starts only where the card's
   device nodes are, as the real one does. */
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, DRIVER_NOT_LOADED = 9 };

struct memory {
    unsigned int version;
    unsigned long long total, reserved, free, used;
};

static int say(const char *text, char *to, unsigned int room) {
    snprintf(to, room, "%s", text);
    return SUCCESS;
}

int nvmlInit_v2(void) {
    const char *nodes[] = {"/dev/nvidiactl", "/dev/nvidia0"};
    for (int i = 0; i < 2; i++) {
        FILE *node = fopen(nodes[i], "r+");
        if (!node)
            return DRIVER_NOT_LOADED;
        fclose(node);
    }
    return SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) { return code ? "no card" : "success"; }

int nvmlSystemGetDriverVersion(char *to, unsigned int room) { return say("535.54.03", to, room); }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 1;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    static int card;
    *device = &card;
    return index ? INVALID_ARGUMENT : SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *to, unsigned int room) {
    (void)device;
    return say("GPU-00000000-0000-0000-0000-000000000001", to, room);
}

int nvmlDeviceGetName(void *device, char *to, unsigned int room) {
    (void)device;
    return say("Drill 9000", to, room);
}

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory *memory) {
    (void)device;
    memory->total = 24ULL << 30;
    memory->reserved = 0;
    memory->used = 1ULL << 30;
    memory->free = 23ULL << 30;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) {
    (void)device, (void)sensor;
    *celsius = 41;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
    (void)device;
    *milliwatts = 23456;
    return SUCCESS;
}
