/* Runs every kernel of every instruction set of this processor on random inputs, and prints a digest of the bits of the
 * results in lines "operation isa digest". All digests of an operation must be equal, on every architecture. */
#ifdef EVEX_FOR_AVX_VNNI /* AVX-512 VNNI replaces AVX-VNNI: the same instruction in another encoding */
#define AVX_VNNI_TARGET "avx2,fma,f16c,avx512vl,avx512vnni"
#define AVX_VNNI_PREFIX ""
#include "cpu.h"
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
#endif
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t state;

static uint32_t random_bits(void) { /* a linear congruential generator; Knuth's constants */
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static float random_float(void) { return (float)(int32_t)random_bits() / 2147483648.0f * 4.0f; }

static void *allocate(size_t n) {
    void *p = calloc(n + 64, 1);
    if (!p) abort();
    return (void *)(((uintptr_t)p + 63) / 64 * 64); /* never freed */
}

#define NOTHING_YET 14695981039346656037u /* FNV-1a */
static uint64_t digest = NOTHING_YET;

static void add_to_digest(const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) digest = (digest ^ ((const uint8_t *)p)[i]) * 1099511628211u;
}

/* The digest of everything added since the last one. */
static void print_digest(const char *operation, const char *isa) {
    printf("%s %s %016llx\n", operation, isa, (unsigned long long)digest);
    digest = NOTHING_YET;
}

static void run_functions(const Kernels *k) {
    const char *names[] = {"exp", "gelu", "fma"};
    enum { N = 4096 };
    float *x = allocate(4 * N), *y = allocate(4 * N), *z = allocate(4 * N);
    for (int function = 0; function < 3; function++) {
        state = 1;
        for (int i = 0; i < N; i++) {
            float scale = i % 3 ? 10.0f : 1e-38f;
            x[i] = random_float() * scale, y[i] = random_float(), z[i] = random_float() * 1e-7f;
        }
        k->evaluate(function, x, y, z, N);
        add_to_digest(x, 4 * N);
        print_digest(names[function], k->name);
    }
}

static void run_layernorm(const Kernels *k) {
    enum { N = 773 };
    float *x = allocate(4 * N), *g = allocate(4 * 784), *b = allocate(4 * 784), *out = allocate(4 * 784);
    state = 2;
    for (int i = 0; i < N; i++) x[i] = random_float(), g[i] = random_float(), b[i] = random_float();
    for (int n = N - 20; n <= N; n++) {
        k->layernorm(out, x, g, b, n);
        add_to_digest(out, 4 * (size_t)n);
    }
    print_digest("layernorm", k->name);
}

/* A matrix of random bits where every bit pattern is valid, times several numbers of tokens. If `extreme`, integers are
 * only the smallest and the largest, so that sums that saturate are detected. */
static void run_matmul(const Kernels *k, int type, const char *name, int64_t group, int extreme) {
    enum { ROWS = 7 * TILE, INPUTS = 256, TOKENS = 13 };
    Matrix m = {.tiles = ROWS / TILE, .layout = tile_layout(type, INPUTS, group)};
    const int64_t groups = group ? INPUTS / group : 0, stride = m.layout.stride;
    uint8_t *data = allocate((size_t)(m.tiles * stride));
    float *bias = allocate(4 * ROWS), *out = allocate(4 * ROWS * TOKENS);
    Inputs in = {.x = allocate(4 * INPUTS * TOKENS), .x_stride = INPUTS, .q = allocate(INPUTS * TOKENS),
                 .scale = allocate(4 * INPUTS * TOKENS), .offset = allocate(4 * INPUTS * TOKENS)};
    state = 3;
    for (int64_t tile = 0; tile < m.tiles; tile++) {
        uint8_t *p = data + tile * stride;
        for (int64_t i = 0; i < stride; i++) p[i] = extreme ? (random_bits() & 7 ? 0 : 255) : (uint8_t)random_bits();
        for (int64_t i = 0; i < groups * 16; i++) {
            uint16_t half = half_from_float(random_float() / 100);
            memcpy(p + 2 * i, &half, 2);
        }
        for (int64_t i = 0; type == TYPE_F32 && i < INPUTS * TILE; i++) ((float *)p)[i] = random_float();
        for (int64_t i = 0; type == TYPE_F16 && i < INPUTS * TILE; i++)
            ((uint16_t *)p)[i] = half_from_float(random_float());
    }
    for (int i = 0; i < ROWS; i++) bias[i] = random_float();
    for (int i = 0; i < INPUTS * TOKENS; i++) in.x[i] = extreme ? (random_bits() & 7 ? -1.0f : 1.0f) : random_float();
    m.data = data;
    m.bias = bias;
    for (int64_t t = 0; t < TOKENS; t++)
        k->quantize_inputs(&in, t, &m);
    add_to_digest(in.q, INPUTS * TOKENS); /* without the offsets, which depend on the instruction set */
    add_to_digest(in.scale, 4 * (size_t)groups * TOKENS);
    int modes[] = {MATMUL_STORE, MATMUL_ADD, MATMUL_GELU};
    for (int64_t T = 1; T <= TOKENS; T++)
        for (int64_t first = 0; first < 3; first++) { /* 7, 6 and 5 tiles */
            for (int i = 0; i < ROWS * TOKENS; i++) out[i] = in.x[i % (INPUTS * TOKENS)];
            const MatmulArgs args = {&m, &in, T, out, ROWS, modes[(T + first) % 3]};
            k->matmul(&args, first, m.tiles);
            add_to_digest(out, 4 * ROWS * TOKENS);
        }
    print_digest(name, k->name);
}

/* Ends the program if a condition does not hold. */
static void check(int holds, const char *fact) {
    if (holds) return;
    fprintf(stderr, "not so: %s\n", fact);
    exit(1);
}

static void check_weights(const AttentionArgs *args) {
    for (int64_t t = 0; t < args->n_queries; t++) {
        const float *row = args->weights + t * args->weights_stride;
        float sum = 0;
        for (int64_t i = 0; i <= args->position + t; i++) sum += row[i];
        check(fabsf(sum - 1) < 1e-5f, "a query's weights sum to 1");
        for (int64_t i = args->position + t + 1; i < args->position + args->n_queries; i++)
            check(row[i] == 0, "a query's weights are 0 after its own position");
        add_to_digest(row, 4 * (size_t)(args->position + args->n_queries));
    }
}

static void run_attention(const Kernels *k, int type, const char *name) {
    enum { HEADS = 3, DIM = 40, CONTEXT = 128, POSITIONS = 101, WIDTH = HEADS * DIM };
    size_t size = HEADS * CONTEXT * 48 * 4; /* of f32, the largest */
    KVCache cache = {.k = allocate(size), .v = allocate(size), .type = type, .n_head = HEADS, .head_dim = DIM,
                     .n_ctx = CONTEXT};
    float *q = allocate(4 * POSITIONS * WIDTH), *keys = allocate(4 * WIDTH);
    float *out = allocate(4 * POSITIONS * WIDTH + 64), *again = allocate(4 * POSITIONS * WIDTH + 64);
    float *weights = allocate(4 * ATTENTION_QUERIES * CONTEXT);
    float *scratch = allocate(4 * (size_t)attention_scratch(CONTEXT, DIM));
    state = 4;
    for (int i = 0; i < POSITIONS * WIDTH; i++) q[i] = random_float();
    for (int64_t position = 0; position < POSITIONS; position++)
        for (int64_t head = 0; head < HEADS; head++) {
            for (int i = 0; i < WIDTH; i++) keys[i] = random_float();
            k->kv_store(&cache, keys, keys + DIM, head, position);
        }
    for (int traced = 0; traced < 2; traced++) /* writing the softmax to `weights` changes nothing else */
        for (int64_t head = 0; head < HEADS; head++)
            for (int64_t position = 0; position < POSITIONS; position += 5) {
                const AttentionArgs args = {
                    .cache = &cache, .q = q + position * WIDTH + head * DIM, .q_stride = WIDTH, .head = head,
                    .position = position, .n_queries = POSITIONS - position < 5 ? POSITIONS - position : 5,
                    .out = (traced ? again : out) + position * WIDTH + head * DIM, .out_stride = WIDTH,
                    .scratch = scratch, .weights = traced ? weights : NULL, .weights_stride = CONTEXT};
                k->attention(&args);
                if (traced) check_weights(&args);
            }
    check(!memcmp(out, again, 4 * POSITIONS * WIDTH), "attention is the same with and without weights");
    add_to_digest(cache.k, size);
    add_to_digest(cache.v, size);
    add_to_digest(out, 4 * POSITIONS * WIDTH);
    print_digest(name, k->name);
}

static void run_read_bytes(const Kernels *k) {
    enum { N = 300000 };
    uint8_t *p = allocate(N);
    state = 5;
    for (int i = 0; i < N; i++) p[i] = (uint8_t)random_bits();
    for (int64_t n = 0; n < 200; n++) {
        uint64_t sum = k->read_bytes(p + n, N - 1400 * n);
        add_to_digest(&sum, sizeof sum);
    }
    print_digest("read-bytes", k->name);
}

int main(void) {
    const Kernels *found[MAX_KERNELS];
    int n = kernels_here(found);
#ifdef EVEX_FOR_AVX_VNNI
    if (cpu_has_avx512(1) && !cpu_has_avx_vnni()) found[n++] = &kernels_avxvnni;
#endif
    for (int i = 0; i < n; i++) {
        run_functions(found[i]);
        run_layernorm(found[i]);
        run_matmul(found[i], TYPE_F32, "matmul-f32", 0, 0);
        run_matmul(found[i], TYPE_F16, "matmul-f16", 0, 0);
        for (int extreme = 0; extreme < 2; extreme++) {
            run_matmul(found[i], TYPE_INT8, "matmul-int8", 64, extreme);
            run_matmul(found[i], TYPE_INT8, "matmul-int8", 16, extreme);
            run_matmul(found[i], TYPE_INT4, "matmul-int4", 32, extreme);
            run_matmul(found[i], TYPE_INT4, "matmul-int4", 256, extreme);
        }
        run_attention(found[i], TYPE_F32, "attention-f32");
        run_attention(found[i], TYPE_F16, "attention-f16");
        run_attention(found[i], TYPE_INT8, "attention-int8");
        run_read_bytes(found[i]);
    }
    return 0;
}
