/* The kernels of all instruction sets in this build, and the choice among them.
 *
 * With GPT2RT_STANDALONE, the build is small: it lacks what only Python and tests call, caches of int8, and avx512f,
 * without which its processors run avx2. */
#ifndef GPT2RT_KERNELS_H
#define GPT2RT_KERNELS_H

#include <math.h>

#include "cpu.h"
#include "matrix.h"

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 8")
#else
#define UNROLL
#endif

/* A part of a matrix product, constant at compile time, so that its sums stay in registers. */
typedef struct {
    int type;
    int tiles;  /* at most MAX_BLOCK_TILES */
    int tokens; /* at most MAX_BLOCK_TOKENS */
} Block;

#define MAX_KERNELS 8 /* instruction sets that a processor can run */
#define MAX_BLOCK_TILES 4
#define MAX_BLOCK_TOKENS 6
#define MAX_PREFETCH (64 << 10) /* bytes of the tiles that a block prefetches: a fraction of any L2 cache */

#define STRING_(text) #text
#define STRING(text) STRING_(text)
#define JOIN_(name, isa) name##_##isa
#define JOIN(name, isa) JOIN_(name, isa)
#define FN(name) JOIN(name, ISA) /* a name in one instruction set */

#include "lanes_portable.h"
#define ISA portable
#define TILES 1
#define TILES_ALONE 1
#define TOKENS_FLOAT 2
#define TOKENS_INT 2
#define EXCESS 128
#include "ops.h"

#ifdef GPT2RT_X86_64
ISA_BEGIN("avx2,fma,f16c")
#define ISA avx2
#define AVX_VNNI 0
#include "lanes_avx2.h"
#define TILES 1
#define TILES_ALONE 4
#define TOKENS_FLOAT 6
#define TOKENS_INT 4
#define EXCESS 0
#include "ops.h"
#undef AVX_VNNI
ISA_END

#ifdef GPT2RT_AVX_VNNI
ISA_BEGIN(AVX_VNNI_TARGET)
#define ISA avxvnni
#define AVX_VNNI 1
#include "lanes_avx2.h"
#define TILES 1
#define TILES_ALONE 4
#define TOKENS_FLOAT 6
#define TOKENS_INT 6
#define EXCESS 128
#include "ops.h"
#undef AVX_VNNI
ISA_END
#endif

#ifndef GPT2RT_STANDALONE
ISA_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#define ISA avx512f
#define AVX512_VNNI 0
#include "lanes_avx512.h"
#define TILES 2
#define TILES_ALONE 4
#define TOKENS_FLOAT 6
#define TOKENS_INT 6
#define EXCESS 0
#include "ops.h"
#undef AVX512_VNNI
ISA_END
#endif

ISA_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#define ISA avx512
#define AVX512_VNNI 1
#include "lanes_avx512.h"
#define TILES 2
#define TILES_ALONE 4
#define TOKENS_FLOAT 6
#define TOKENS_INT 6
#define EXCESS 128
#include "ops.h"
#undef AVX512_VNNI
ISA_END
#endif

#ifdef GPT2RT_ARM64
#define ISA neon
#define NEON_DOTPROD 0
#include "lanes_neon.h"
#define TILES 1
#define TILES_ALONE 2
#define TOKENS_FLOAT 4
#define TOKENS_INT 4
#define EXCESS 0
#include "ops.h"
#undef NEON_DOTPROD

#ifdef GPT2RT_DOTPROD
ISA_BEGIN(ARM64_DOTPROD)
#define ISA neon_dotprod
#define NEON_DOTPROD 1
#include "lanes_neon.h"
#define TILES 1
#define TILES_ALONE 2
#define TOKENS_FLOAT 4
#define TOKENS_INT 4
#define EXCESS 0
#include "ops.h"
#undef NEON_DOTPROD
ISA_END
#endif
#endif

/* Lists the kernels that this processor can run, best first; returns their number. */
static inline int kernels_here(const Kernels *found[MAX_KERNELS]) {
    int n = 0;
#ifdef GPT2RT_X86_64
    if (cpu_has_avx512(1)) found[n++] = &kernels_avx512;
#ifndef GPT2RT_STANDALONE
    if (cpu_has_avx512(0)) found[n++] = &kernels_avx512f;
#endif
#ifdef GPT2RT_AVX_VNNI
    if (cpu_has_avx_vnni()) found[n++] = &kernels_avxvnni;
#endif
    if (cpu_has_avx2()) found[n++] = &kernels_avx2;
#endif
#ifdef GPT2RT_ARM64
#ifdef GPT2RT_DOTPROD
    if (cpu_has_dotprod()) found[n++] = &kernels_neon_dotprod;
#endif
    found[n++] = &kernels_neon; /* every 64-bit Arm has it */
#endif
    found[n++] = &kernels_portable;
    return n;
}

#endif
