/* Sixteen lanes as one register of AVX-512 (F, BW, DQ, VL). `vpdpbusd` of VNNI multiplies u8 by s8 as the tiles hold them
 * and adds four products to a lane without saturation. */
typedef __m512 f32x16_avx512;
typedef __m512i i32x16_avx512;
typedef __m512i weights8_avx512;
typedef struct { __m512i low, high; } weights4_avx512;

ALWAYS_INLINE f32x16_avx512 splat_avx512(float a) { return _mm512_set1_ps(a); }
ALWAYS_INLINE f32x16_avx512 load_avx512(const float *p) { return _mm512_loadu_ps(p); }
ALWAYS_INLINE void store_avx512(float *p, f32x16_avx512 a) { _mm512_storeu_ps(p, a); }
ALWAYS_INLINE f32x16_avx512 load_half_avx512(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
ALWAYS_INLINE void store_half_avx512(uint16_t *p, f32x16_avx512 a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
ALWAYS_INLINE f32x16_avx512 add_avx512(f32x16_avx512 a, f32x16_avx512 b) { return _mm512_add_ps(a, b); }
ALWAYS_INLINE f32x16_avx512 sub_avx512(f32x16_avx512 a, f32x16_avx512 b) { return _mm512_sub_ps(a, b); }
ALWAYS_INLINE f32x16_avx512 mul_avx512(f32x16_avx512 a, f32x16_avx512 b) { return _mm512_mul_ps(a, b); }
ALWAYS_INLINE f32x16_avx512 div_avx512(f32x16_avx512 a, f32x16_avx512 b) { return _mm512_div_ps(a, b); }
ALWAYS_INLINE f32x16_avx512 max_avx512(f32x16_avx512 a, f32x16_avx512 b) { return _mm512_max_ps(a, b); }
ALWAYS_INLINE f32x16_avx512 min_avx512(f32x16_avx512 a, f32x16_avx512 b) { return _mm512_min_ps(a, b); }
ALWAYS_INLINE f32x16_avx512 fma_avx512(f32x16_avx512 a, f32x16_avx512 b, f32x16_avx512 c) {
    return _mm512_fmadd_ps(a, b, c);
}
ALWAYS_INLINE f32x16_avx512 abs_avx512(f32x16_avx512 a) { return _mm512_abs_ps(a); }
ALWAYS_INLINE __m256 upper_avx512(f32x16_avx512 a) { return _mm512_extractf32x8_ps(a, 1); }
ALWAYS_INLINE float sum_avx512(f32x16_avx512 a) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), upper_avx512(a));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
ALWAYS_INLINE float largest_avx512(f32x16_avx512 a) {
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), upper_avx512(a));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
ALWAYS_INLINE i32x16_avx512 bits_avx512(f32x16_avx512 a) { return _mm512_castps_si512(a); }
ALWAYS_INLINE f32x16_avx512 exp2_of_shifted_avx512(f32x16_avx512 a) {
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(a), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
}
ALWAYS_INLINE i32x16_avx512 splat_i32_avx512(int32_t a) { return _mm512_set1_epi32(a); }
ALWAYS_INLINE f32x16_avx512 to_float_avx512(i32x16_avx512 a) { return _mm512_cvtepi32_ps(a); }
ALWAYS_INLINE i32x16_avx512 add_low_bytes_avx512(i32x16_avx512 sum, i32x16_avx512 a) {
    return _mm512_add_epi32(sum, _mm512_srai_epi32(_mm512_slli_epi32(a, 24), 24));
}
ALWAYS_INLINE int32_t sum_i32_avx512(i32x16_avx512 a) { return _mm512_reduce_add_epi32(a); }
ALWAYS_INLINE void store_low_bytes_avx512(int8_t *p, i32x16_avx512 a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}
ALWAYS_INLINE weights8_avx512 load_weights8_avx512(const uint8_t *p) { return _mm512_loadu_si512(p); }
ALWAYS_INLINE i32x16_avx512 dot4_avx512(i32x16_avx512 acc, weights8_avx512 w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    __m512i inputs = _mm512_set1_epi32(four);
#if defined(__GNUC__) && !defined(__clang__)
    /* GCC 12 copies every sum back and forth around the intrinsic. */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(inputs));
    return acc;
#else
    return _mm512_dpbusd_epi32(acc, w, inputs);
#endif
}
ALWAYS_INLINE weights4_avx512 load_weights4_avx512(const uint8_t *p) {
    __m512i both = _mm512_loadu_si512(p), nibble = _mm512_set1_epi8(15);
    return (weights4_avx512){_mm512_and_si512(both, nibble), _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble)};
}
ALWAYS_INLINE i32x16_avx512 dot8_avx512(i32x16_avx512 acc, weights4_avx512 w, const int8_t *x) {
    return dot4_avx512(dot4_avx512(acc, w.low, x), w.high, x + 4);
}
