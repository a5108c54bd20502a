/* Sixteen lanes as two registers of AVX2, with FMA and F16C. Included twice, with ISA and AVX_VNNI defined: `vpdpbusd`
 * of AVX-VNNI multiplies u8 by s8 as the tiles hold them. Without it `vpmaddubsw` adds pairs of such products in 16
 * bits and would saturate on weights above 127, so they are flipped to s8, and their signs are moved to the inputs: 128
 * * 127 * 2 fits. Nibbles are small enough unflipped, even for two such pairs. */
typedef struct { __m256 lo, hi; } FN(f32x16);
typedef struct { __m256i lo, hi; } FN(i32x16), FN(u64x8);
#if AVX_VNNI
typedef struct { __m256i lo, hi; } FN(weights8);
#else
typedef struct { __m256i signed_lo, signed_hi, size_lo, size_hi; } FN(weights8);
#endif
typedef struct { __m256i low_lo, low_hi, high_lo, high_hi; } FN(weights4);

#define PAIR(type, operation_lo, operation_hi) ((type){operation_lo, operation_hi})

ALWAYS_INLINE FN(f32x16) FN(splat)(float a) { __m256 r = _mm256_set1_ps(a); return PAIR(FN(f32x16), r, r); }
ALWAYS_INLINE FN(f32x16) FN(load)(const float *p) {
    return PAIR(FN(f32x16), _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
ALWAYS_INLINE void FN(store)(float *p, FN(f32x16) a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
ALWAYS_INLINE FN(f32x16) FN(load_half)(const uint16_t *p) {
    return PAIR(FN(f32x16), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))));
}
ALWAYS_INLINE void FN(store_half)(uint16_t *p, FN(f32x16) a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}

#define LANEWISE(name, operation) \
    ALWAYS_INLINE FN(f32x16) FN(name)(FN(f32x16) a, FN(f32x16) b) { \
        return PAIR(FN(f32x16), operation(a.lo, b.lo), operation(a.hi, b.hi)); \
    }
LANEWISE(add, _mm256_add_ps)
LANEWISE(sub, _mm256_sub_ps)
LANEWISE(mul, _mm256_mul_ps)
LANEWISE(div, _mm256_div_ps)
LANEWISE(max, _mm256_max_ps)
LANEWISE(min, _mm256_min_ps)
#undef LANEWISE

ALWAYS_INLINE FN(f32x16) FN(fma)(FN(f32x16) a, FN(f32x16) b, FN(f32x16) c) {
    return PAIR(FN(f32x16), _mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
ALWAYS_INLINE FN(f32x16) FN(abs)(FN(f32x16) a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return PAIR(FN(f32x16), _mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi));
}
ALWAYS_INLINE float FN(sum)(FN(f32x16) a) {
    __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
ALWAYS_INLINE float FN(largest)(FN(f32x16) a) {
    __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
ALWAYS_INLINE FN(i32x16) FN(bits)(FN(f32x16) a) {
    return PAIR(FN(i32x16), _mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi));
}
ALWAYS_INLINE FN(f32x16) FN(exp2_of_shifted)(FN(f32x16) a) {
    __m256i one = _mm256_set1_epi32(0x3f800000);
    __m256i lo = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(a.lo), 23), one);
    __m256i hi = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(a.hi), 23), one);
    return PAIR(FN(f32x16), _mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi));
}

ALWAYS_INLINE FN(i32x16) FN(splat_i32)(int32_t a) {
    __m256i r = _mm256_set1_epi32(a);
    return PAIR(FN(i32x16), r, r);
}
ALWAYS_INLINE FN(f32x16) FN(to_float)(FN(i32x16) a) {
    return PAIR(FN(f32x16), _mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi));
}
ALWAYS_INLINE __m256i FN(low_bytes)(__m256i a) { return _mm256_srai_epi32(_mm256_slli_epi32(a, 24), 24); }
ALWAYS_INLINE FN(i32x16) FN(add_low_bytes)(FN(i32x16) sum, FN(i32x16) a) {
    return PAIR(FN(i32x16), _mm256_add_epi32(sum.lo, FN(low_bytes)(a.lo)),
                _mm256_add_epi32(sum.hi, FN(low_bytes)(a.hi)));
}
ALWAYS_INLINE int32_t FN(sum_i32)(FN(i32x16) a) {
    __m256i eight = _mm256_add_epi32(a.lo, a.hi);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
ALWAYS_INLINE void FN(store_low_bytes)(int8_t *p, FN(i32x16) a) {
    /* Saturation never acts: the bytes were sign-extended. */
    __m256i words = _mm256_packs_epi32(FN(low_bytes)(a.lo), FN(low_bytes)(a.hi));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)p, bytes);
}

ALWAYS_INLINE FN(u64x8) FN(add_words)(FN(u64x8) a, const uint8_t *p) {
    return PAIR(FN(u64x8), _mm256_add_epi64(a.lo, _mm256_loadu_si256((const __m256i *)p)),
                _mm256_add_epi64(a.hi, _mm256_loadu_si256((const __m256i *)(p + 32))));
}
ALWAYS_INLINE void FN(store_words)(uint64_t *p, FN(u64x8) a) {
    _mm256_storeu_si256((__m256i *)p, a.lo);
    _mm256_storeu_si256((__m256i *)(p + 4), a.hi);
}

ALWAYS_INLINE FN(weights4) FN(load_weights4)(const uint8_t *p) {
    __m256i lo = _mm256_loadu_si256((const __m256i *)p), hi = _mm256_loadu_si256((const __m256i *)(p + 32));
    __m256i nibble = _mm256_set1_epi8(15);
    return (FN(weights4)){_mm256_and_si256(lo, nibble), _mm256_and_si256(hi, nibble),
                           _mm256_and_si256(_mm256_srli_epi16(lo, 4), nibble),
                           _mm256_and_si256(_mm256_srli_epi16(hi, 4), nibble)};
}

#if AVX_VNNI
ALWAYS_INLINE FN(weights8) FN(load_weights8)(const uint8_t *p) {
    return (FN(weights8)){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
ALWAYS_INLINE FN(i32x16) FN(dot4)(FN(i32x16) acc, FN(weights8) w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    __m256i inputs = _mm256_set1_epi32(four);
#if defined(__GNUC__) && !defined(__clang__)
    /* As in lanes_avx512.h. */
    __asm__(AVX_VNNI_PREFIX "vpdpbusd %2, %1, %0" : "+x"(acc.lo) : "x"(w.lo), "x"(inputs));
    __asm__(AVX_VNNI_PREFIX "vpdpbusd %2, %1, %0" : "+x"(acc.hi) : "x"(w.hi), "x"(inputs));
    return acc;
#else
    return PAIR(FN(i32x16), _mm256_dpbusd_avx_epi32(acc.lo, w.lo, inputs),
                _mm256_dpbusd_avx_epi32(acc.hi, w.hi, inputs));
#endif
}
ALWAYS_INLINE FN(i32x16) FN(dot8)(FN(i32x16) acc, FN(weights4) w, const int8_t *x) {
    acc = FN(dot4)(acc, (FN(weights8)){w.low_lo, w.low_hi}, x);
    return FN(dot4)(acc, (FN(weights8)){w.high_lo, w.high_hi}, x + 4);
}
#else
ALWAYS_INLINE FN(weights8) FN(load_weights8)(const uint8_t *p) {
    __m256i flip = _mm256_set1_epi8(-128);
    __m256i lo = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p), flip);
    __m256i hi = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(p + 32)), flip);
    return (FN(weights8)){lo, hi, _mm256_abs_epi8(lo), _mm256_abs_epi8(hi)};
}
ALWAYS_INLINE __m256i FN(dot4_half)(__m256i acc, __m256i size, __m256i sign, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, sign));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
ALWAYS_INLINE FN(i32x16) FN(dot4)(FN(i32x16) acc, FN(weights8) w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    __m256i inputs = _mm256_set1_epi32(four);
    return PAIR(FN(i32x16), FN(dot4_half)(acc.lo, w.size_lo, w.signed_lo, inputs),
                FN(dot4_half)(acc.hi, w.size_hi, w.signed_hi, inputs));
}
ALWAYS_INLINE __m256i FN(dot8_half)(__m256i acc, __m256i low, __m256i high, __m256i x0, __m256i x4) {
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, x0), _mm256_maddubs_epi16(high, x4));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
ALWAYS_INLINE FN(i32x16) FN(dot8)(FN(i32x16) acc, FN(weights4) w, const int8_t *x) {
    int32_t four[2];
    memcpy(four, x, 8);
    __m256i x0 = _mm256_set1_epi32(four[0]), x4 = _mm256_set1_epi32(four[1]);
    return PAIR(FN(i32x16), FN(dot8_half)(acc.lo, w.low_lo, w.high_lo, x0, x4),
                FN(dot8_half)(acc.hi, w.low_hi, w.high_hi, x0, x4));
}
#endif
#undef PAIR
