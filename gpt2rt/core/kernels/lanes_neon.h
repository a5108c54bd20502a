/* Sixteen lanes as four registers of NEON. Included twice, with ISA and NEON_DOTPROD defined: `sdot` of ARMv8.2 adds
 * four products to a lane at once; without it they are computed in 16 bits, where two of them fit (128 * 127 * 2), and
 * added in pairs. Weights are flipped to s8; nibbles are small enough unflipped, even for two such pairs. */
typedef struct { float32x4_t v[4]; } FN(f32x16);
typedef struct { int32x4_t v[4]; } FN(i32x16);
typedef struct { uint64x2_t v[4]; } FN(u64x8);
typedef struct { int8x16_t v[4]; } FN(weights8);
typedef struct { FN(weights8) low, high; } FN(weights4);

#define QUARTERS UNROLL for (int k = 0; k < 4; k++)

ALWAYS_INLINE FN(f32x16) FN(splat)(float a) { FN(f32x16) r; QUARTERS r.v[k] = vdupq_n_f32(a); return r; }
ALWAYS_INLINE FN(f32x16) FN(load)(const float *p) { FN(f32x16) r; QUARTERS r.v[k] = vld1q_f32(p + 4 * k); return r; }
ALWAYS_INLINE void FN(store)(float *p, FN(f32x16) a) { QUARTERS vst1q_f32(p + 4 * k, a.v[k]); }
ALWAYS_INLINE FN(f32x16) FN(load_half)(const uint16_t *p) {
    FN(f32x16) r;
    QUARTERS r.v[k] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * k)));
    return r;
}
ALWAYS_INLINE void FN(store_half)(uint16_t *p, FN(f32x16) a) {
    QUARTERS vst1_u16(p + 4 * k, vreinterpret_u16_f16(vcvt_f16_f32(a.v[k])));
}

/* NEON's own maximum and minimum are NaN if either operand is; these take b, as the portable reference does. */
ALWAYS_INLINE float32x4_t FN(max4)(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
ALWAYS_INLINE float32x4_t FN(min4)(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

#define LANEWISE(name, operation) \
    ALWAYS_INLINE FN(f32x16) FN(name)(FN(f32x16) a, FN(f32x16) b) { \
        QUARTERS a.v[k] = operation(a.v[k], b.v[k]); \
        return a; \
    }
LANEWISE(add, vaddq_f32)
LANEWISE(sub, vsubq_f32)
LANEWISE(mul, vmulq_f32)
LANEWISE(div, vdivq_f32)
LANEWISE(max, FN(max4))
LANEWISE(min, FN(min4))
#undef LANEWISE

ALWAYS_INLINE FN(f32x16) FN(fma)(FN(f32x16) a, FN(f32x16) b, FN(f32x16) c) {
    QUARTERS c.v[k] = vfmaq_f32(c.v[k], a.v[k], b.v[k]);
    return c;
}
ALWAYS_INLINE FN(f32x16) FN(abs)(FN(f32x16) a) { QUARTERS a.v[k] = vabsq_f32(a.v[k]); return a; }
ALWAYS_INLINE float FN(sum)(FN(f32x16) a) {
    float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
ALWAYS_INLINE float FN(largest)(FN(f32x16) a) {
    float v[4];
    vst1q_f32(v, FN(max4)(FN(max4)(a.v[0], a.v[2]), FN(max4)(a.v[1], a.v[3])));
    float first = v[0] > v[2] ? v[0] : v[2], second = v[1] > v[3] ? v[1] : v[3];
    return first > second ? first : second;
}
ALWAYS_INLINE FN(i32x16) FN(bits)(FN(f32x16) a) {
    FN(i32x16) r;
    QUARTERS r.v[k] = vreinterpretq_s32_f32(a.v[k]);
    return r;
}
ALWAYS_INLINE FN(f32x16) FN(exp2_of_shifted)(FN(f32x16) a) {
    QUARTERS a.v[k] = vreinterpretq_f32_s32(
        vaddq_s32(vshlq_n_s32(vreinterpretq_s32_f32(a.v[k]), 23), vdupq_n_s32(0x3f800000)));
    return a;
}

ALWAYS_INLINE FN(i32x16) FN(splat_i32)(int32_t a) { FN(i32x16) r; QUARTERS r.v[k] = vdupq_n_s32(a); return r; }
ALWAYS_INLINE FN(f32x16) FN(to_float)(FN(i32x16) a) {
    FN(f32x16) r;
    QUARTERS r.v[k] = vcvtq_f32_s32(a.v[k]);
    return r;
}
ALWAYS_INLINE FN(i32x16) FN(add_low_bytes)(FN(i32x16) sum, FN(i32x16) a) {
    QUARTERS sum.v[k] = vaddq_s32(sum.v[k], vshrq_n_s32(vshlq_n_s32(a.v[k], 24), 24));
    return sum;
}
ALWAYS_INLINE int32_t FN(sum_i32)(FN(i32x16) a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}
ALWAYS_INLINE void FN(store_low_bytes)(int8_t *p, FN(i32x16) a) {
    vst1_s8(p, vmovn_s16(vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]))));
    vst1_s8(p + 8, vmovn_s16(vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]))));
}

ALWAYS_INLINE FN(u64x8) FN(add_words)(FN(u64x8) a, const uint8_t *p) {
    QUARTERS a.v[k] = vaddq_u64(a.v[k], vreinterpretq_u64_u8(vld1q_u8(p + 16 * k)));
    return a;
}
ALWAYS_INLINE void FN(store_words)(uint64_t *p, FN(u64x8) a) { QUARTERS vst1q_u64(p + 2 * k, a.v[k]); }

ALWAYS_INLINE FN(weights8) FN(load_weights8)(const uint8_t *p) {
    FN(weights8) r;
    QUARTERS r.v[k] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * k), vdupq_n_u8(0x80)));
    return r;
}
ALWAYS_INLINE FN(i32x16) FN(dot4)(FN(i32x16) acc, FN(weights8) w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    int8x16_t inputs = vreinterpretq_s8_s32(vdupq_n_s32(four));
#if NEON_DOTPROD
    QUARTERS acc.v[k] = vdotq_s32(acc.v[k], w.v[k], inputs);
#else
    QUARTERS {
        int16x8_t low = vmull_s8(vget_low_s8(w.v[k]), vget_low_s8(inputs));
        int16x8_t high = vmull_s8(vget_high_s8(w.v[k]), vget_high_s8(inputs));
        acc.v[k] = vpadalq_s16(acc.v[k], vpaddq_s16(low, high));
    }
#endif
    return acc;
}
ALWAYS_INLINE FN(weights4) FN(load_weights4)(const uint8_t *p) {
    FN(weights4) r;
    QUARTERS {
        uint8x16_t both = vld1q_u8(p + 16 * k);
        r.low.v[k] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
        r.high.v[k] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
    }
    return r;
}
ALWAYS_INLINE FN(i32x16) FN(dot8)(FN(i32x16) acc, FN(weights4) w, const int8_t *x) {
#if NEON_DOTPROD
    return FN(dot4)(FN(dot4)(acc, w.low, x), w.high, x + 4);
#else
    int32_t four[2];
    memcpy(four, x, 8);
    int8x8_t x0 = vreinterpret_s8_s32(vdup_n_s32(four[0])), x4 = vreinterpret_s8_s32(vdup_n_s32(four[1]));
    QUARTERS {
        int16x8_t low = vmull_s8(vget_low_s8(w.low.v[k]), x0), high = vmull_high_s8(w.low.v[k], vcombine_s8(x0, x0));
        low = vmlal_s8(low, vget_low_s8(w.high.v[k]), x4);
        high = vmlal_high_s8(high, w.high.v[k], vcombine_s8(x4, x4));
        acc.v[k] = vpadalq_s16(acc.v[k], vpaddq_s16(low, high));
    }
    return acc;
#endif
}
#undef QUARTERS
