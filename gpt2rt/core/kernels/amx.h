/* int8 products of sixteen tokens on the tile registers of AMX; all else is avx512's. Included after avx512's ops.h,
 * with ISA still avx512.
 *
 * `tdpbsud` multiplies a register of s8, 16 tokens by 64 inputs, by one of u8, and adds to a register of i32, 16 tokens
 * by 16 outputs. A row of the second has four inputs of each output: a line of a tile as stored. */

#define AMX_TOKENS 16 /* rows of a register */

/* As `ldtilecfg` reads it. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} AmxShapes;
_Static_assert(sizeof(AmxShapes) == 64, "shapes of the registers");

/* Register 0 is the sums, 1 the inputs, 2 the weights. The shapes are constants because GCC doesn't know that
 * `ldtilecfg` reads all 64 bytes. */
#define SHAPES(inputs) \
    {.palette = 1, .row_bytes = {4 * TILE, inputs, TILE_LINE}, .rows = {AMX_TOKENS, AMX_TOKENS, inputs / 4}}
static const AmxShapes amx_shapes_16 = SHAPES(16), amx_shapes_32 = SHAPES(32), amx_shapes_64 = SHAPES(64);
#undef SHAPES

/* The inputs that one instruction multiplies. */
ALWAYS_INLINE int64_t amx_inputs(int64_t group) { return group % 64 == 0 ? 64 : group % 32 == 0 ? 32 : 16; }

ALWAYS_INLINE FN(i32x16) FN(with_offset)(const int32_t *dot, int32_t offset) {
    return _mm512_add_epi32(_mm512_loadu_si512(dot), FN(splat_i32)(offset));
}

/* Sixteen tokens of a tile, as in FN(block_int). The register of sums starts at 0; the offset is added to its rows. */
static void amx_block(const MatmulArgs *args, int64_t tile, int64_t token) {
    const Block row = {TYPE_INT8, 1, 1};
    const Matrix *m = args->matrix;
    const int64_t stride = m->layout.stride, n_in = m->layout.n_in, group = m->layout.group, groups = n_in / group;
    const int64_t step = amx_inputs(group);
    const int prefetch = token == 0 && stride <= MAX_PREFETCH; /* as in FN(block_int) */
    const uint8_t *scales = m->data + tile * stride, *lines = scales + m->layout.values;
    const int8_t *q = args->inputs->q + token * n_in;
    const float *input_scale = args->inputs->scale + token * groups;
    const int32_t *offset = args->inputs->offset + token * groups;
    float *out = args->out + token * args->out_stride + tile * TILE;
    FN(f32x16) acc[AMX_TOKENS][MAX_BLOCK_TOKENS]; /* only [t][0] is used */
    UNROLL for (int t = 0; t < AMX_TOKENS; t++)
        acc[t][0] = m->bias ? FN(load)(m->bias + tile * TILE) : FN(splat)(0.0f);
    for (int64_t g = 0; g < groups; g++, scales += scale_offset(1, 0)) {
        int32_t dot[AMX_TOKENS][TILE];
        _tile_zero(0);
        for (int64_t i = 0; i < group; i += step, lines += step / 4 * TILE_LINE, q += step) {
            for (int64_t line = 0; prefetch && line < step / 4; line++) PREFETCH(lines + stride + line * TILE_LINE);
            _tile_loadd(1, q, n_in);
            _tile_loadd(2, lines, TILE_LINE);
            _tile_dpbsud(0, 1, 2);
        }
        _tile_stored(0, dot, sizeof dot[0]);
        const FN(f32x16) scale = FN(load_half)((const uint16_t *)scales);
        UNROLL for (int t = 0; t < AMX_TOKENS; t++)
            acc[t][0] = FN(add_group)(acc[t][0], FN(with_offset)(dot[t], offset[t * groups + g]), scale,
                                      input_scale[t * groups + g]);
    }
    UNROLL for (int t = 0; t < AMX_TOKENS; t++) FN(finish)(acc + t, row, args, out + t * args->out_stride);
}

/* Sixteen tokens at a time, and the rest as avx512 does. The shapes of a thread's registers are set before and released
 * after, for a call of at least four tiles. */
static void amx_matmul(const MatmulArgs *args, int64_t first_tile, int64_t end_tile) {
    const MatmulArgs copy = *args;
    const Inputs *in = args->inputs;
    const int64_t n_in = args->matrix->layout.n_in, group = args->matrix->layout.group;
    const int64_t whole = args->matrix->layout.type == TYPE_INT8 ? args->n_rows / AMX_TOKENS * AMX_TOKENS : 0;
    if (!whole) {
        FN(matmul)(args, first_tile, end_tile);
        return;
    }
    const int64_t inputs = amx_inputs(group), groups = n_in / group;
    _tile_loadconfig(inputs == 64 ? &amx_shapes_64 : inputs == 32 ? &amx_shapes_32 : &amx_shapes_16);
    for (int64_t tile = first_tile; tile < end_tile; tile++)
        for (int64_t token = 0; token < whole; token += AMX_TOKENS) amx_block(&copy, tile, token);
    _tile_release();
    if (whole == args->n_rows) return;
    const Inputs rest = {.q = in->q + whole * n_in, .scale = in->scale + whole * groups,
                         .offset = in->offset + whole * groups};
    const MatmulArgs last = {.matrix = args->matrix, .inputs = &rest, .n_rows = args->n_rows - whole,
                             .out = args->out + whole * args->out_stride, .out_stride = args->out_stride,
                             .mode = args->mode};
    FN(matmul)(&last, first_tile, end_tile);
}

static const Kernels kernels_amx = {
    .name = "amx",
    .layernorm = FN(layernorm),
    .quantize_inputs = FN(quantize_inputs),
    .matmul = amx_matmul,
    .kv_store = FN(kv_store),
    .attention = FN(attention),
    .evaluate = FN(evaluate),
    .read_bytes = FN(read_bytes),
};
#undef AMX_TOKENS
