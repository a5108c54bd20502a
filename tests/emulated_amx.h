/* The instructions of AMX in plain C, instead of the compiler's. Ends the program where a processor would refuse an
 * instruction, and where kernels rely on state that they did not set. Include it before kernels.h. */
#include "cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The shapes of the registers as `ldtilecfg` reads them, and their contents. */
static struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_shapes;
static uint8_t amx_registers[8][16][64];

static void amx_check(int holds, const char *fact) {
    if (holds) return;
    fprintf(stderr, "amx: not so: %s\n", fact);
    exit(1);
}

static void amx_loadconfig(const void *shapes) {
    const uint8_t none[14] = {0};
    amx_check(amx_shapes.palette == 0, "the shapes were released before others are set");
    memcpy(&amx_shapes, shapes, 64);
    amx_check(amx_shapes.palette == 1 && amx_shapes.start_row == 0, "the palette is 1");
    amx_check(!memcmp(amx_shapes.reserved, none, 14), "reserved bytes are 0");
    for (int i = 0; i < 16; i++) {
        amx_check(amx_shapes.rows[i] <= (i < 8 ? 16 : 0) && amx_shapes.row_bytes[i] <= (i < 8 ? 64 : 0),
                  "a register has at most 16 rows of 64 bytes");
        amx_check(!amx_shapes.rows[i] == !amx_shapes.row_bytes[i], "rows and bytes are both 0 or neither");
    }
    memset(amx_registers, 0, sizeof amx_registers);
}

static void amx_release(void) { memset(&amx_shapes, 0, sizeof amx_shapes); }

static void amx_check_register(int i) { amx_check(amx_shapes.rows[i] > 0, "the register has a shape"); }

static void amx_zero(int i) {
    amx_check_register(i);
    memset(amx_registers[i], 0, sizeof amx_registers[i]);
}

/* Rows after those of the shape, and bytes after those of a row, become 0. */
static void amx_loadd(int i, const void *p, int64_t stride) {
    amx_zero(i);
    for (int row = 0; row < amx_shapes.rows[i]; row++)
        memcpy(amx_registers[i][row], (const uint8_t *)p + row * stride, amx_shapes.row_bytes[i]);
}

static void amx_stored(int i, void *p, int64_t stride) {
    amx_check_register(i);
    for (int row = 0; row < amx_shapes.rows[i]; row++)
        memcpy((uint8_t *)p + row * stride, amx_registers[i][row], amx_shapes.row_bytes[i]);
}

/* Adds a (m, k / 4 words of four s8) times b (k / 4, n words of four u8) to sums (m, n words of i32). */
static void amx_dpbsud(int sums, int a, int b) {
    amx_check(sums != a && sums != b && a != b, "the registers differ");
    amx_check_register(sums), amx_check_register(a), amx_check_register(b);
    amx_check(amx_shapes.rows[sums] == amx_shapes.rows[a] && amx_shapes.row_bytes[sums] == amx_shapes.row_bytes[b] &&
                  amx_shapes.row_bytes[a] == 4 * amx_shapes.rows[b] && amx_shapes.row_bytes[b] % 4 == 0,
              "the shapes are of a product");
    for (int m = 0; m < amx_shapes.rows[a]; m++)
        for (int n = 0; n < amx_shapes.row_bytes[b] / 4; n++) {
            uint32_t sum; /* wraps around */
            memcpy(&sum, &amx_registers[sums][m][4 * n], 4);
            for (int k = 0; k < amx_shapes.row_bytes[a]; k++)
                sum += (uint32_t)((int8_t)amx_registers[a][m][k] * amx_registers[b][k / 4][4 * n + k % 4]);
            memcpy(&amx_registers[sums][m][4 * n], &sum, 4);
        }
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#define _tile_loadconfig amx_loadconfig
#define _tile_release amx_release
#define _tile_zero amx_zero
#define _tile_loadd amx_loadd
#define _tile_stored amx_stored
#define _tile_dpbsud amx_dpbsud
