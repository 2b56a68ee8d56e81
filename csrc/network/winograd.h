// Convolution by Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308, section 4).
// Compared with the direct sum, F(2 x 2, 3 x 3) needs 2.25 times fewer products and F(4 x 4, 3 x 3)
// 4 times fewer.
//
// An output tile of m x m pixels is computed from an input tile of t x t pixels, t = m + 2. In the
// transform domain, each of the t x t points is a matrix product of its own, (tiles, C) by (C, N).
#pragma once

#include "conv_spec.h"
#include "epilogue.h"
#include "multiply.h"

namespace fastdiff::network {

/// The input and output transforms of one tile size along one axis, B^T d and A^T p in the paper.
/// They read d(i) or p(i) and pass results on by calling v(i, value) or y(i, value). F is a vector
/// of channels.
template <class F, int kOut>
struct Transform;

template <class F>
struct Transform<F, 2> {
  template <class D, class V>
  static FASTDIFF_INLINE void input(const D& d, V&& v) {
    v(0, d(0) - d(2));
    v(1, d(1) + d(2));
    v(2, d(2) - d(1));
    v(3, d(1) - d(3));
  }
  template <class P, class Y>
  static FASTDIFF_INLINE void output(const P& p, Y&& y) {
    y(0, p(0) + p(1) + p(2));
    y(1, p(1) - p(2) - p(3));
  }
};

template <class F>
struct Transform<F, 4> {
  template <class D, class V>
  static FASTDIFF_INLINE void input(const D& d, V&& v) {
    const F a = d(4) - 4.0f * d(2), b = d(3) - 4.0f * d(1);
    const F c = d(4) - d(2), e = 2.0f * (d(3) - d(1));
    v(0, 4.0f * d(0) - 5.0f * d(2) + d(4));
    v(1, a + b);
    v(2, a - b);
    v(3, c + e);
    v(4, c - e);
    v(5, 4.0f * d(1) - 5.0f * d(3) + d(5));
  }
  template <class P, class Y>
  static FASTDIFF_INLINE void output(const P& p, Y&& y) {
    const F a = p(1) + p(2), b = p(1) - p(2), c = p(3) + p(4), e = p(3) - p(4);
    y(0, p(0) + a + c);
    y(1, b + 2.0f * e);
    y(2, a + 4.0f * c);
    y(3, b + 8.0f * e + p(5));
  }
};

/// The kernels of F(kOut x kOut, 3 x 3) for the lane type L.
template <class L, int kOut>
struct WinogradOf {
  using F = typename L::F;
  using M = Multiply<L>;
  using T = Transform<F, kOut>;
  static constexpr int kIn = kOut + 2;
  static constexpr int kPoints = kIn * kIn;

  /// Transforms the pixels of one tile, which is one unit, and stores them at
  /// domain[point][tile][channel].
  static void to_domain(const Winograd& spec, float* scratch, int64_t unit) {
    const Conv& conv = spec.conv;
    const Tile at = tile(spec, unit);
    const float* pixels[kIn][kIn];
    for (int y = 0; y < kIn; ++y) {
      for (int x = 0; x < kIn; ++x) {
        pixels[y][x] =
            input_pixel(conv, at.image, at.row - conv.pad_top + y, at.column - conv.pad_left + x);
      }
    }
    const int64_t point = domain_stride(spec);
    float* to = scratch + unit * conv.channels;
    for (int64_t c = 0; c < conv.channels; c += L::kLanes) {
      const int64_t rest = conv.channels - c;
      const bool whole = rest >= L::kLanes;
      F down[kIn][kIn];  // transformed along y
      FASTDIFF_UNROLL
      for (int x = 0; x < kIn; ++x) {
        F d[kIn];
        FASTDIFF_UNROLL
        for (int y = 0; y < kIn; ++y) {
          d[y] = whole ? L::load(pixels[y][x] + c) : L::load_part(pixels[y][x] + c, rest);
        }
        T::input([&](int y) { return d[y]; }, [&](int y, F v) { down[y][x] = v; });
      }
      FASTDIFF_UNROLL
      for (int y = 0; y < kIn; ++y) {
        T::input([&](int x) { return down[y][x]; },
                 [&](int x, F v) {
                   float* at_point = to + (y * kIn + x) * point + c;
                   if (whole) {
                     L::store(at_point, v);
                   } else {
                     L::store_part(at_point, v, rest);
                   }
                 });
      }
    }
  }

  /// Computes one unit: products[point][tile][:] of all tiles, for one point and a block of panels.
  static void multiply(const Winograd& spec, float* scratch, int64_t unit) {
    const Conv& conv = spec.conv;
    const int64_t panels = spec.product_columns / M::kPanel;
    const int64_t blocks = (panels + conv.panel_block - 1) / conv.panel_block;
    const int64_t point = unit / blocks, first_panel = unit % blocks * conv.panel_block;
    const int64_t last = first_panel + conv.panel_block;
    const float* domain = scratch + point * domain_stride(spec);
    float* products = scratch + products_start(spec, kPoints) + point * product_stride(spec);
    for (int64_t p = first_panel; p < (last < panels ? last : panels); ++p) {
      const float* weights = conv.weights + (point * panels + p) * conv.channels * M::kPanel;
      M::for_tiles(spec.tile_count, [&](auto size, int64_t first) {
        constexpr int kRows = decltype(size)::value;
        const float* a[kRows];
        for (int r = 0; r < kRows; ++r) a[r] = domain + (first + r) * conv.channels;
        F sums[kRows][kPanelVectors] = {};
        M::template accumulate<kRows, true>(a, weights, conv.channels, sums);
        for (int r = 0; r < kRows; ++r) {
          float* to = products + (first + r) * spec.product_columns + p * M::kPanel;
          for (int v = 0; v < kPanelVectors; ++v) L::store(to + v * L::kLanes, sums[r][v]);
        }
      });
    }
  }

  /// Transforms the products of one tile, which is one unit, back into output pixels.
  static void from_domain(const Winograd& spec, float* scratch, int64_t unit) {
    const Conv& conv = spec.conv;
    const Tile at = tile(spec, unit);
    const int64_t point = product_stride(spec);
    const float* from = scratch + products_start(spec, kPoints) + unit * spec.product_columns;
    for (int64_t c = 0; c < conv.out_channels; c += M::kPanel) {
      F y[kOut][kOut][1][kPanelVectors];
      FASTDIFF_UNROLL
      for (int v = 0; v < kPanelVectors; ++v) {
        F down[kOut][kIn];  // transformed along y
        FASTDIFF_UNROLL
        for (int x = 0; x < kIn; ++x) {
          F p[kIn];
          FASTDIFF_UNROLL
          for (int i = 0; i < kIn; ++i) {
            p[i] = L::load(from + (i * kIn + x) * point + c + v * L::kLanes);
          }
          T::output([&](int i) { return p[i]; }, [&](int i, F value) { down[i][x] = value; });
        }
        FASTDIFF_UNROLL
        for (int i = 0; i < kOut; ++i) {
          T::output([&](int x) { return down[i][x]; },
                    [&](int x, F value) { y[i][x][0][v] = value; });
        }
      }
      const int64_t rest = conv.out_channels - c, columns = rest < M::kPanel ? rest : M::kPanel;
      for (int i = 0; i < kOut && at.row + i < conv.out_height; ++i) {
        for (int x = 0; x < kOut && at.column + x < conv.out_width; ++x) {
          const OutputPixel pixel(conv, {at.image, at.row + i, at.column + x});
          finish<L, 1>(conv, &pixel, c, columns, y[i][x]);
        }
      }
    }
  }

 private:
  struct Tile {
    int64_t image, row, column;  // those of the tile's first output pixel
  };

  static FASTDIFF_INLINE Tile tile(const Winograd& spec, int64_t unit) {
    const int64_t per_image = spec.tiles_down * spec.tiles_across, i = spec.first_tile + unit;
    const int64_t within = i % per_image;
    return {i / per_image, within / spec.tiles_across * kOut, within % spec.tiles_across * kOut};
  }
};

template <class A>
struct KernelsOf<Winograd, A> {
  using Two = WinogradOf<typename A::L, 2>;
  using Four = WinogradOf<typename A::L, 4>;
  static constexpr Stages<Winograd> stages = {{Two::to_domain, Two::multiply, Two::from_domain,
                                               Four::to_domain, Four::multiply, Four::from_domain}};
};

}  // namespace fastdiff::network
