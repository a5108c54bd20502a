/* The processor state that controls rounding and subnormal numbers, which a host program may have changed. Each thread
 * has its own. */
#ifndef GPT2RT_FLOAT_STATE_H
#define GPT2RT_FLOAT_STATE_H

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif defined(_M_ARM64) && !defined(__clang__)
#include <intrin.h>
#define FPCR_REGISTER 0x5A20 /* ARM64_SYSREG(3, 3, 4, 4, 0) in Microsoft's terms */
#endif

/* Rounds to nearest, keeps subnormal numbers and disables traps, until float_state_end() with the value returned
 * here. */
static inline uint64_t float_state_begin(void) {
#if defined(__x86_64__) || defined(_M_X64)
    const unsigned old = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return old;
#elif defined(_M_ARM64) && !defined(__clang__)
    const uint64_t old = (uint64_t)_ReadStatusReg(FPCR_REGISTER);
    _WriteStatusReg(FPCR_REGISTER, 0);
    return old;
#elif defined(__aarch64__)
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return old;
#else
    return 0;
#endif
}

static inline void float_state_end(uint64_t old) {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_setcsr((unsigned)old);
#elif defined(_M_ARM64) && !defined(__clang__)
    _WriteStatusReg(FPCR_REGISTER, (int64_t)old);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
#else
    (void)old;
#endif
}

#endif
