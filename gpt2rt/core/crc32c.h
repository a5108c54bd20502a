/* CRC32C (Castagnoli; RFC 3720, appendix B.4), the checksum of the file's sections and of TensorFlow checkpoints.
 *
 * The portable implementation takes eight bytes per step through eight tables. On x86-64 with SSE4.2 the processor's
 * instruction runs over three stretches at once, since it has a latency of three cycles and a throughput of one per
 * cycle; the checksums of the stretches are combined with tables that append a stretch of zeros to a checksum. */
#ifndef GPT2RT_CRC32C_H
#define GPT2RT_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu.h"

#define CRC32C_POLYNOMIAL 0x82F63B78u /* reflected */
#define CRC32C_STRETCH 4096           /* bytes, a power of two */

static uint32_t crc32c_table[8][256];
#ifdef GPT2RT_X86_64
static uint32_t crc32c_shift[4][256]; /* appends CRC32C_STRETCH zeros, by byte of the checksum */
static int crc32c_has_instruction;
#endif

static inline uint32_t crc32c_portable(uint32_t sum, const uint8_t *p, size_t n) {
    while (n >= 8) {
        uint32_t low = sum ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        sum = crc32c_table[7][low & 255] ^ crc32c_table[6][low >> 8 & 255] ^ crc32c_table[5][low >> 16 & 255] ^
              crc32c_table[4][low >> 24] ^ crc32c_table[3][p[4]] ^ crc32c_table[2][p[5]] ^ crc32c_table[1][p[6]] ^
              crc32c_table[0][p[7]];
        p += 8;
        n -= 8;
    }
    while (n--) sum = sum >> 8 ^ crc32c_table[0][(sum ^ *p++) & 255];
    return sum;
}

#ifdef GPT2RT_X86_64
static inline uint32_t crc32c_shifted(uint32_t sum) {
    return crc32c_shift[0][sum & 255] ^ crc32c_shift[1][sum >> 8 & 255] ^ crc32c_shift[2][sum >> 16 & 255] ^
           crc32c_shift[3][sum >> 24];
}

#if defined(__clang__) && __clang_major__ >= 14
ISA_BEGIN("sse4.2,crc32") /* a separate feature there, which build options may disable */
#else
ISA_BEGIN("sse4.2")
#endif
static inline uint32_t crc32c_sse42(uint32_t sum32, const uint8_t *p, size_t n) {
    uint64_t sum = sum32;
    while (n >= 3 * CRC32C_STRETCH) {
        uint64_t second = 0, third = 0, word;
        for (size_t i = 0; i < CRC32C_STRETCH; i += 8) {
            memcpy(&word, p + i, 8);
            sum = _mm_crc32_u64(sum, word);
            memcpy(&word, p + CRC32C_STRETCH + i, 8);
            second = _mm_crc32_u64(second, word);
            memcpy(&word, p + 2 * CRC32C_STRETCH + i, 8);
            third = _mm_crc32_u64(third, word);
        }
        sum = crc32c_shifted(crc32c_shifted((uint32_t)sum) ^ (uint32_t)second) ^ (uint32_t)third;
        p += 3 * CRC32C_STRETCH;
        n -= 3 * CRC32C_STRETCH;
    }
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        sum = _mm_crc32_u64(sum, word);
    }
    while (n--) sum = _mm_crc32_u8((uint32_t)sum, *p++);
    return (uint32_t)sum;
}
ISA_END
#endif

#ifdef GPT2RT_X86_64
/* Returns the product of two polynomials modulo CRC32C's, all reflected: the highest bit is the constant term. */
static inline uint32_t crc32c_product(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (; a; a <<= 1) {
        product ^= b & (0u - (a >> 31));
        b = b >> 1 ^ (CRC32C_POLYNOMIAL & (0u - (b & 1)));
    }
    return product;
}
#endif

/* Call once, before any thread calls crc32c(). */
static inline void crc32c_init(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (CRC32C_POLYNOMIAL & (0u - (sum & 1)));
        crc32c_table[0][byte] = sum;
    }
    for (int byte = 0; byte < 256; byte++)
        for (int k = 1; k < 8; k++)
            crc32c_table[k][byte] =
                crc32c_table[k - 1][byte] >> 8 ^ crc32c_table[0][crc32c_table[k - 1][byte] & 255];
#ifdef GPT2RT_X86_64
    /* Appending a zero bit multiplies by x, so the stretch by x^(8 * CRC32C_STRETCH); that is linear: computed for
     * single bits, combined for bytes. */
    uint32_t power = 1u << 30; /* x */
    for (int bits = 1; bits < 8 * CRC32C_STRETCH; bits *= 2) power = crc32c_product(power, power);
    for (int k = 0; k < 4; k++) {
        crc32c_shift[k][0] = 0;
        for (int bit = 0; bit < 8; bit++) {
            const uint32_t shifted = crc32c_product(power, 1u << (8 * k + bit));
            for (int byte = 0; byte < 1 << bit; byte++) crc32c_shift[k][byte | 1 << bit] = crc32c_shift[k][byte] ^ shifted;
        }
    }
    crc32c_has_instruction = cpu_has_sse42();
#endif
}

/* Extends the CRC32C `sum` (0 at the start) by n bytes. */
static inline uint32_t crc32c(uint32_t sum, const uint8_t *p, size_t n) {
#ifdef GPT2RT_X86_64
    if (crc32c_has_instruction) return ~crc32c_sse42(~sum, p, n);
#endif
    return ~crc32c_portable(~sum, p, n);
}

#endif
