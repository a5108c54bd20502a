/* Detects the instruction sets that the processor supports and whose registers the operating system saves, and compiles
 * functions for one of them. The compiler's baseline stays at the ABI's minimum: vector code is only between ISA_BEGIN
 * and ISA_END, and runs only if cpu_has_*() allows it. */
#ifndef GPT2RT_CPU_H
#define GPT2RT_CPU_H

#include "platform.h"

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#define GPT2RT_X86_64 1
#include <immintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define GPT2RT_ARM64 1
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#endif
#endif

#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define ISA_BEGIN(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define ISA_END PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#define ISA_BEGIN(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define ISA_END PRAGMA(GCC pop_options)
#else /* MSVC accepts every intrinsic everywhere */
#define ISA_BEGIN(features)
#define ISA_END
#endif

#ifndef AVX_VNNI_TARGET
#define AVX_VNNI_TARGET "avx2,fma,f16c,avxvnni"
#define AVX_VNNI_PREFIX "%{vex%} "
#endif
/* GCC 10 and clang 11 don't have AVX-VNNI. */
#if __has_include(<avxvnniintrin.h>) || (defined(_MSC_VER) && _MSC_VER >= 1930)
#define GPT2RT_AVX_VNNI 1
#endif
/* GCC 10 and clang 11 don't have all of AMX; macOS runs on no processor that does. */
#if defined(GPT2RT_X86_64) && (defined(__linux__) || defined(_WIN32)) && \
    (__has_include(<amxint8intrin.h>) || __has_include(<amxintrin.h>))
#define GPT2RT_AMX 1
#endif
/* Before clang 16, dot products are declared only if the whole build has them. */
#if !defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_DOTPROD)
#define GPT2RT_DOTPROD 1
#endif
#if defined(__clang__) /* clang takes the feature alone, GCC the architecture as well */
#define ARM64_DOTPROD "dotprod"
#else
#define ARM64_DOTPROD "arch=armv8.2-a+dotprod"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define ALWAYS_INLINE static __forceinline
#define NEVER_INLINE __declspec(noinline)
#else
#define NEVER_INLINE __attribute__((noinline))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#endif

/* Prefetches the cache line at p into L2, for a single later read. Any address is allowed. */
#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(p) __builtin_prefetch(p, 0, 2)
#elif defined(GPT2RT_X86_64)
#define PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
#else
#define PREFETCH(p) ((void)(p))
#endif

#ifdef GPT2RT_X86_64
#ifdef _MSC_VER
#include <intrin.h>
static inline void cpu_id(uint32_t leaf, uint32_t subleaf, uint32_t r[4]) { __cpuidex((int *)r, (int)leaf, (int)subleaf); }
#else
#include <cpuid.h>
static inline void cpu_id(uint32_t leaf, uint32_t subleaf, uint32_t r[4]) {
    r[0] = r[1] = r[2] = r[3] = 0;
    __get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]);
}
#endif

/* The register state that the operating system saves (XCR0); 0 for none. */
static inline uint64_t cpu_saved_state(void) {
    uint32_t r[4];
    cpu_id(1, 0, r);
    if (!(r[2] >> 27 & 1)) return 0; /* OSXSAVE */
#ifdef _MSC_VER
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#endif
}

static inline int cpu_has_sse42(void) {
    uint32_t r[4];
    cpu_id(1, 0, r);
    return r[2] >> 20 & 1;
}

/* AVX2, FMA and F16C, with the 256-bit registers saved. */
static inline int cpu_has_avx2(void) {
    uint32_t one[4], seven[4];
    if ((cpu_saved_state() & 0x6) != 0x6) return 0;
    cpu_id(1, 0, one);
    cpu_id(7, 0, seven);
    return (one[2] >> 12 & 1) && (one[2] >> 29 & 1) && (seven[1] >> 5 & 1);
}

/* AVX2 and the 256-bit vpdpbusd of AVX-VNNI. */
static inline int cpu_has_avx_vnni(void) {
    uint32_t seven[4];
    if (!cpu_has_avx2()) return 0;
    cpu_id(7, 1, seven);
    return seven[0] >> 4 & 1;
}

/* AVX-512 F, BW, DQ and VL, with the 512-bit registers saved; and VNNI if `vnni`. */
static inline int cpu_has_avx512(int vnni) {
    uint32_t seven[4];
    if (!cpu_has_avx2() || (cpu_saved_state() & 0xE6) != 0xE6) return 0;
    cpu_id(7, 0, seven);
    return (seven[1] >> 16 & 1) && (seven[1] >> 30 & 1) && (seven[1] >> 17 & 1) && (seven[1] >> 31 & 1) &&
           (!vnni || (seven[2] >> 11 & 1));
}

/* The tile registers of AMX and their products of int8, with the registers saved. Linux saves them once a process has
 * asked for it, which also raises the minimum size of the stacks of its signal handlers: call this only to use them. */
static inline int cpu_request_amx(void) {
    uint32_t seven[4];
    if ((cpu_saved_state() & 0x60000) != 0x60000) return 0; /* TILECFG and TILEDATA */
    cpu_id(7, 0, seven);
    if (!(seven[3] >> 24 & 1) || !(seven[3] >> 25 & 1)) return 0;
#if defined(__linux__)
    extern long syscall(long number, ...); /* declared by unistd.h only if _GNU_SOURCE came before other headers */
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* ARCH_REQ_XCOMP_PERM, TILEDATA; since Linux 5.16 */
#elif defined(_WIN32)
    return 1;
#else
    return 0;
#endif
}
#endif

#ifdef GPT2RT_ARM64
/* The dot products of s8 in ARMv8.2. */
static inline int cpu_has_dotprod(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) && has;
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(43); /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
#else
    return 0;
#endif
}
#endif

#endif
