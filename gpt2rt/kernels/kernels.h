/* The kernels of every instruction set that this build knows, and the choice among them. */
#ifndef GPT2RT_KERNELS_H
#define GPT2RT_KERNELS_H

#include "matrix.h"

#define STRING_(text) #text
#define STRING(text) STRING_(text)

#include "lanes_portable.h"
#define ISA portable
#define TILES 1
#define TILES_ALONE 1
#define TOKENS_FLOAT 2
#define TOKENS_INT 2
#define EXCESS 128
#include "ops.h"
#undef ISA
#undef TILES
#undef TILES_ALONE
#undef TOKENS_FLOAT
#undef TOKENS_INT
#undef EXCESS

#ifdef GPT2RT_X86_64
ISA_BEGIN("avx2,fma,f16c")
#include "lanes_avx2.h"
#define ISA avx2
#define TILES 1
#define TILES_ALONE 4
#define TOKENS_FLOAT 6
#define TOKENS_INT 3
#define EXCESS 0
#include "ops.h"
#undef ISA
#undef TILES
#undef TILES_ALONE
#undef TOKENS_FLOAT
#undef TOKENS_INT
#undef EXCESS
ISA_END

ISA_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#include "lanes_avx512.h"
#define ISA avx512
#define TILES 2
#define TILES_ALONE 4
#define TOKENS_FLOAT 6
#define TOKENS_INT 6
#define EXCESS 128
#include "ops.h"
#undef ISA
#undef TILES
#undef TILES_ALONE
#undef TOKENS_FLOAT
#undef TOKENS_INT
#undef EXCESS
ISA_END
#endif

/* Writes the kernels that this processor can run, best first, and returns how many. */
static int kernels_here(const Kernels *found[8]) {
    int n = 0;
#ifdef GPT2RT_X86_64
    if (cpu_has_avx512_vnni()) found[n++] = &kernels_avx512;
    if (cpu_has_avx2()) found[n++] = &kernels_avx2;
#endif
    found[n++] = &kernels_portable;
    return n;
}

#endif
