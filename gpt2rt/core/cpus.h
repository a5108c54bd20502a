/* How many threads to run a forward pass with on this machine, as gpt2rt/threads.py finds it: on Linux the smallest of
 * CPU affinity, control group quota and physical cores, elsewhere the number of processors. */
#ifndef GPT2RT_CPUS_H
#define GPT2RT_CPUS_H

#include "platform.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <windows.h>
#else
#include <sched.h>
#include <unistd.h>
#endif

#define MAX_CPUS 1024
#define CPU_LINE 1024 /* bytes of a file that are read */

#if defined(__linux__)

/* Reads the first bytes of a file in /proc or /sys. Returns whether it is there. OUT: text (CPU_LINE), ends with 0. */
static inline int cpu_file(char *text, const char *path) {
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    const size_t n = fread(text, 1, CPU_LINE - 1, file);
    fclose(file);
    text[n] = 0;
    return 1;
}

/* Counts the cores among the processors that this process may use: threads of one core share its units. */
static inline int physical_cores(const cpu_set_t *allowed) {
    static const char topology[] = "/sys/devices/system/cpu";
    char path[CPU_LINE], text[CPU_LINE];
    uint8_t is_first[MAX_CPUS] = {0}; /* processors that are the first of their core */
    int n = 0;
    snprintf(path, sizeof(path), "%s/smt/active", topology);
    const int has_threads = cpu_file(text, path) && text[0] == '1';
    for (int i = 0; i < MAX_CPUS; i++) {
        if (!CPU_ISSET((size_t)i, allowed)) continue;
        long first = i;
        snprintf(path, sizeof(path), "%s/cpu%d/topology/thread_siblings_list", topology, i);
        if (has_threads && cpu_file(text, path)) first = strtol(text, NULL, 10);
        if (first < 0 || first >= MAX_CPUS) first = i;
        n += !is_first[first];
        is_first[first] = 1;
    }
    return n;
}

/* Returns how many CPUs a control group allows, or `most`, if that is less. IN: its path, and whether it is of v2. */
static inline double group_quota(const char *group, size_t n, int is_v2, double most) {
    char path[CPU_LINE], quota[CPU_LINE], period[CPU_LINE];
    const char *base = is_v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    snprintf(path, sizeof(path), "%s%.*s/%s", base, (int)n, group, is_v2 ? "cpu.max" : "cpu.cfs_quota_us");
    if (!cpu_file(quota, path)) return most;
    char *second = is_v2 ? strchr(quota, ' ') : period;
    snprintf(path, sizeof(path), "%s%.*s/cpu.cfs_period_us", base, (int)n, group);
    if (!is_v2 && !cpu_file(period, path)) return most;
    const long allowed = strtol(quota, NULL, 10), of = second ? strtol(second, NULL, 10) : 0;
    return allowed > 0 && of > 0 && (double)allowed / (double)of < most ? (double)allowed / (double)of : most;
}

/* Returns how many CPUs the control groups of this process and their parents allow, at most `most`. */
static inline double cpu_quota(double most) {
    char line[CPU_LINE];
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && fgets(line, sizeof(line), file)) { /* NUMBER:CONTROLLERS:GROUP */
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        int is_cpu = !controllers[1];
        for (char *name = strtok(controllers + 1, ","); name; name = strtok(NULL, ",")) is_cpu |= !strcmp(name, "cpu");
        if (!is_cpu) continue;
        /* In a container the group's own path is not mounted; its files are at the root. */
        for (size_t n = strlen(group);; n--) {
            if (!n || group[n] == '/' || !group[n]) most = group_quota(group, n, !controllers[1], most);
            if (!n) break;
        }
    }
    if (file) fclose(file);
    return most;
}

/* Returns how many threads to use, at least 1. OUT: most, how many this process may use. */
static inline int default_threads(int *most) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof(allowed), &allowed)) return *most = 1;
    const int n = CPU_COUNT(&allowed), cores = physical_cores(&allowed);
    const int quota = (int)cpu_quota(n);
    *most = quota > 1 ? quota : 1;
    return cores < *most ? cores : *most;
}

#else

static inline int default_threads(int *most) {
#if defined(_WIN32)
    const long n = (long)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
#else
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
#endif
    return *most = n < 1 ? 1 : n > MAX_CPUS ? MAX_CPUS : (int)n;
}

#endif

#endif
