/* Sixteen lanes as one register of AVX-512 (F, BW, DQ, VL). Included twice, with ISA and AVX512_VNNI defined:
 * `vpdpbusd` of VNNI multiplies u8 by s8 as the tiles hold them and adds four products to a lane without saturation.
 * Without it, products are computed as with AVX2 (lanes_avx2.h). */
typedef __m512 FN(f32x16);
typedef __m512i FN(i32x16), FN(u64x8);
#if AVX512_VNNI
typedef __m512i FN(weights8);
#else
typedef struct { __m512i size; __mmask64 negative; } FN(weights8);
#endif
typedef struct { __m512i low, high; } FN(weights4);

ALWAYS_INLINE FN(f32x16) FN(splat)(float a) { return _mm512_set1_ps(a); }
ALWAYS_INLINE FN(f32x16) FN(load)(const float *p) { return _mm512_loadu_ps(p); }
ALWAYS_INLINE void FN(store)(float *p, FN(f32x16) a) { _mm512_storeu_ps(p, a); }
ALWAYS_INLINE FN(f32x16) FN(load_half)(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
ALWAYS_INLINE void FN(store_half)(uint16_t *p, FN(f32x16) a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
ALWAYS_INLINE FN(f32x16) FN(add)(FN(f32x16) a, FN(f32x16) b) { return _mm512_add_ps(a, b); }
ALWAYS_INLINE FN(f32x16) FN(sub)(FN(f32x16) a, FN(f32x16) b) { return _mm512_sub_ps(a, b); }
ALWAYS_INLINE FN(f32x16) FN(mul)(FN(f32x16) a, FN(f32x16) b) { return _mm512_mul_ps(a, b); }
ALWAYS_INLINE FN(f32x16) FN(div)(FN(f32x16) a, FN(f32x16) b) { return _mm512_div_ps(a, b); }
ALWAYS_INLINE FN(f32x16) FN(max)(FN(f32x16) a, FN(f32x16) b) { return _mm512_max_ps(a, b); }
ALWAYS_INLINE FN(f32x16) FN(min)(FN(f32x16) a, FN(f32x16) b) { return _mm512_min_ps(a, b); }
ALWAYS_INLINE FN(f32x16) FN(fma)(FN(f32x16) a, FN(f32x16) b, FN(f32x16) c) {
    return _mm512_fmadd_ps(a, b, c);
}
ALWAYS_INLINE FN(f32x16) FN(abs)(FN(f32x16) a) { return _mm512_abs_ps(a); }
ALWAYS_INLINE __m256 FN(upper)(FN(f32x16) a) { return _mm512_extractf32x8_ps(a, 1); }
ALWAYS_INLINE float FN(sum)(FN(f32x16) a) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), FN(upper)(a));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
ALWAYS_INLINE float FN(largest)(FN(f32x16) a) {
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), FN(upper)(a));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
ALWAYS_INLINE FN(i32x16) FN(bits)(FN(f32x16) a) { return _mm512_castps_si512(a); }
ALWAYS_INLINE FN(f32x16) FN(exp2_of_shifted)(FN(f32x16) a) {
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(a), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
}
ALWAYS_INLINE FN(i32x16) FN(splat_i32)(int32_t a) { return _mm512_set1_epi32(a); }
ALWAYS_INLINE FN(f32x16) FN(to_float)(FN(i32x16) a) { return _mm512_cvtepi32_ps(a); }
ALWAYS_INLINE FN(i32x16) FN(add_low_bytes)(FN(i32x16) sum, FN(i32x16) a) {
    return _mm512_add_epi32(sum, _mm512_srai_epi32(_mm512_slli_epi32(a, 24), 24));
}
ALWAYS_INLINE int32_t FN(sum_i32)(FN(i32x16) a) { return _mm512_reduce_add_epi32(a); }
ALWAYS_INLINE void FN(store_low_bytes)(int8_t *p, FN(i32x16) a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}
ALWAYS_INLINE FN(u64x8) FN(add_words)(FN(u64x8) a, const uint8_t *p) {
    return _mm512_add_epi64(a, _mm512_loadu_si512(p));
}
ALWAYS_INLINE void FN(store_words)(uint64_t *p, FN(u64x8) a) { _mm512_storeu_si512(p, a); }
ALWAYS_INLINE FN(weights4) FN(load_weights4)(const uint8_t *p) {
    __m512i both = _mm512_loadu_si512(p), nibble = _mm512_set1_epi8(15);
    return (FN(weights4)){_mm512_and_si512(both, nibble), _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble)};
}

#if AVX512_VNNI
ALWAYS_INLINE FN(weights8) FN(load_weights8)(const uint8_t *p) { return _mm512_loadu_si512(p); }
ALWAYS_INLINE FN(i32x16) FN(dot4)(FN(i32x16) acc, FN(weights8) w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    __m512i inputs = _mm512_set1_epi32(four);
#if defined(__GNUC__) && !defined(__clang__)
    /* GCC 12 copies every accumulator back and forth around the intrinsic. */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(inputs));
    return acc;
#else
    return _mm512_dpbusd_epi32(acc, w, inputs);
#endif
}
ALWAYS_INLINE FN(i32x16) FN(dot8)(FN(i32x16) acc, FN(weights4) w, const int8_t *x) {
    return FN(dot4)(FN(dot4)(acc, w.low, x), w.high, x + 4);
}
#else
ALWAYS_INLINE FN(weights8) FN(load_weights8)(const uint8_t *p) {
    __m512i w = _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128));
    return (FN(weights8)){_mm512_abs_epi8(w), _mm512_movepi8_mask(w)};
}
ALWAYS_INLINE FN(i32x16) FN(dot4)(FN(i32x16) acc, FN(weights8) w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    __m512i inputs = _mm512_set1_epi32(four);
    inputs = _mm512_mask_sub_epi8(inputs, w.negative, _mm512_setzero_si512(), inputs);
    __m512i pairs = _mm512_maddubs_epi16(w.size, inputs);
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
ALWAYS_INLINE FN(i32x16) FN(dot8)(FN(i32x16) acc, FN(weights4) w, const int8_t *x) {
    int32_t four[2];
    memcpy(four, x, 8);
    __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(w.low, _mm512_set1_epi32(four[0])),
                                     _mm512_maddubs_epi16(w.high, _mm512_set1_epi32(four[1])));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif
