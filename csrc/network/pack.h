// Weights in the order in which the kernels read them.
#pragma once

#include <cstdint>

namespace fastdiff::network {

/// Panels of `panel` columns: out[p][tap][k][j] = weights[tap][k][p * panel + j], zero behind the
/// last column. `out` has divided_up(columns) * taps * depth * panel floats.
void pack_panels(const float* weights, int64_t taps, int64_t depth, int64_t columns, int64_t panel,
                 float* out);

/// The kernels of F(m x m, 3 x 3), G g G^T in float64, as t * t packed matrices, t = m + 2: from
/// weights (columns, depth, 3, 3). Source: arXiv 1509.09308, section 4.
void pack_winograd(const float* weights, int64_t depth, int64_t columns, int m, int64_t panel,
                   int threads, float* out);

/// bfloat16 tiles for products: out[p][step][2][16][16][2], panels of 32 columns, steps in the
/// order of tiles.h: blocks of 32 channels outside, taps inside; zero behind the last channel and
/// column. `out` has divided_up(columns, 32) * (depth rounded up to 32) * taps * 32 elements.
void pack_tiles(const float* weights, int64_t taps, int64_t depth, int64_t columns, uint16_t* out);

/// The same of 8-bit integers, out[p][step][2][16][16][4], steps of 64 channels.
void pack_int8(const int8_t* weights, int64_t taps, int64_t depth, int64_t columns, int8_t* out);

}  // namespace fastdiff::network
