#include "pack.h"

#include "../cpu/thread_pool.h"
#include "conv_spec.h"
#include "lanes.h"

namespace fastdiff::network {
namespace {

// The kernel transforms G of F(2 x 2, 3 x 3) and F(4 x 4, 3 x 3), arXiv 1509.09308, section 4.
constexpr double kG2[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
constexpr double kG4[6][3] = {{1 / 4.0, 0, 0},
                              {-1 / 6.0, -1 / 6.0, -1 / 6.0},
                              {-1 / 6.0, 1 / 6.0, -1 / 6.0},
                              {1 / 24.0, 1 / 12.0, 1 / 6.0},
                              {1 / 24.0, -1 / 12.0, 1 / 6.0},
                              {0, 0, 1}};

using Columns = double[64];  // the columns of a panel, with room for the widest instruction level

/// Computes to = g[0] a + g[1] b + g[2] c for each column.
void combine(const double (&g)[3], const Columns& a, const Columns& b, const Columns& c,
             int64_t columns, Columns& to) {
  for (int64_t j = 0; j < columns; ++j) to[j] = g[0] * a[j] + g[1] * b[j] + g[2] * c[j];
}

/// Packs one panel for pack_winograd: the first `live` columns of `weights`. The matrices of two
/// consecutive points are `matrix` floats apart.
template <int kIn>
void pack_panel(const double (&g)[kIn][3], const float* weights, int64_t depth, int64_t live,
                int64_t panel, int64_t matrix, float* out) {
  Columns kernel[3][3] = {}, down[kIn][3], point;
  for (int64_t c = 0; c < depth; ++c, out += panel) {
    for (int64_t j = 0; j < live; ++j) {
      const float* from = weights + (j * depth + c) * 9;
      for (int i = 0; i < 9; ++i) kernel[i / 3][i % 3][j] = from[i];
    }
    for (int y = 0; y < kIn; ++y) {
      for (int x = 0; x < 3; ++x) {
        combine(g[y], kernel[0][x], kernel[1][x], kernel[2][x], panel, down[y][x]);
      }
      for (int x = 0; x < kIn; ++x) {
        combine(g[x], down[y][0], down[y][1], down[y][2], panel, point);
        float* to = out + (y * kIn + x) * matrix;
        for (int64_t j = 0; j < panel; ++j) to[j] = float(point[j]);
      }
    }
  }
}

/// Packs weights into tiles of elements of type E. read(at, live, row) copies `live` columns to
/// `row`, beginning with element `at` of the weights, and converts them to E.
template <class E, class Read>
void pack(int64_t taps, int64_t depth, int64_t columns, E* out, const Read& read) {
  constexpr int64_t kDepth = kTileRowBytes / sizeof(E), kGroup = kDepth / 16;
  constexpr int64_t kElements = kTileBytes / sizeof(E);
  for (int64_t first = 0; first < columns; first += kTilePanel) {
    const int64_t live = columns - first < kTilePanel ? columns - first : kTilePanel;
    for (int64_t block = 0; block < depth; block += kDepth) {
      for (int64_t tap = 0; tap < taps; ++tap, out += 2 * kElements) {
        for (int64_t k = 0; k < kDepth; ++k) {
          E row[kTilePanel] = {};
          if (block + k < depth) read((tap * depth + block + k) * columns + first, live, row);
          for (int64_t j = 0; j < kTilePanel; ++j) {
            const int64_t in_tile = (k / kGroup * kTileColumns + j % kTileColumns) * kGroup;
            out[j / kTileColumns * kElements + in_tile + k % kGroup] = row[j];
          }
        }
      }
    }
  }
}

}  // namespace

void pack_panels(const float* weights, int64_t taps, int64_t depth, int64_t columns, int64_t panel,
                 float* out) {
  for (int64_t p = 0; p < divided_up(columns, panel); ++p) {
    const int64_t first = p * panel, live = columns - first < panel ? columns - first : panel;
    for (int64_t row = 0; row < taps * depth; ++row, out += panel) {
      for (int64_t j = 0; j < live; ++j) out[j] = weights[row * columns + first + j];
      for (int64_t j = live; j < panel; ++j) out[j] = 0.0f;
    }
  }
}

void pack_winograd(const float* weights, int64_t depth, int64_t columns, int m, int64_t panel,
                   int threads, float* out) {
  const int64_t panels = divided_up(columns, panel), matrix = panels * depth * panel;
  cpu::parallel_for(cpu::Threads::kTorch, threads, panels, [&](int64_t p) {
    const int64_t first = p * panel, live = columns - first < panel ? columns - first : panel;
    const float* from = weights + first * depth * 9;
    float* to = out + p * depth * panel;
    if (m == 2) {
      pack_panel(kG2, from, depth, live, panel, matrix, to);
    } else {
      pack_panel(kG4, from, depth, live, panel, matrix, to);
    }
  });
}

void pack_tiles(const float* weights, int64_t taps, int64_t depth, int64_t columns, uint16_t* out) {
  pack<uint16_t>(taps, depth, columns, out, [&](int64_t at, int64_t live, uint16_t* row) {
    float values[kTilePanel] = {};
    memcpy(values, weights + at, size_t(live) * sizeof(float));
    Vectors<kTilePanel>::store_bf16(row, Vectors<kTilePanel>::load(values));
  });
}

void pack_int8(const int8_t* weights, int64_t taps, int64_t depth, int64_t columns, int8_t* out) {
  pack<int8_t>(taps, depth, columns, out, [&](int64_t at, int64_t live, int8_t* row) {
    memcpy(row, weights + at, size_t(live));
  });
}

}  // namespace fastdiff::network
