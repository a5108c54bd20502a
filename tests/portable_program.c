/* The standalone program with the portable kernels alone, which any compiler builds in seconds. */
#define GPT2RT_STANDALONE 1
#include "cpu.h"
#undef GPT2RT_X86_64
#undef GPT2RT_ARM64
#include "main.c"
