// Packing: copies weights into the order in which the kernels read them.
#pragma once

#include <cstdint>

namespace fastdiff::network {

/// Packs weights (taps, depth, columns) into panels of `panel` columns for the direct algorithm:
/// out[p][tap][k][j] = weights[tap][k][p * panel + j], and zero after the last column. `out` has
/// divided_up(columns, panel) * taps * depth * panel floats.
void pack_panels(const float* weights, int64_t taps, int64_t depth, int64_t columns, int64_t panel,
                 float* out);

/// Transforms and packs weights (columns, depth, 3, 3) for F(m x m, 3 x 3), m = 2 or 4.
///
/// Each kernel g becomes G g G^T, computed in float64. `out` gets t * t matrices (depth, columns),
/// t = m + 2, each in panels as pack_panels makes them. Source: arXiv 1509.09308, section 4.
void pack_winograd(const float* weights, int64_t depth, int64_t columns, int m, int64_t panel,
                   int threads, float* out);

/// Rounds weights (taps, depth, columns) to bfloat16 and packs them into tiles of B (conv_spec.h).
///
/// The layout is out[p][step][2][16][16][2]: panels of 32 columns, and steps in the order of
/// tiles.h, where the outer loop is over blocks of 32 channels and the inner one over taps. It is
/// zero after the last channel and the last column. `out` has divided_up(columns, 32) * (depth
/// rounded up to 32) * taps * 32 elements.
void pack_tiles(const float* weights, int64_t taps, int64_t depth, int64_t columns, uint16_t* out);

/// Packs 8-bit integers in the same way: out[p][step][2][16][16][4], with steps of 64 channels.
void pack_int8(const int8_t* weights, int64_t taps, int64_t depth, int64_t columns, int8_t* out);

}  // namespace fastdiff::network
