// Products of two matrices that both depend on the inputs.
#pragma once

#include "kind.h"
#include "multiply.h"
#include "transpose.h"

namespace fastdiff::network {

/// y[h, m, n] = scale * sum over k of a[h, m, k] b[h, k, n], for each head of each image.
///
/// b is put into panels of columns first, as `Multiply` reads them: so it may have any strides.
struct Product {
  static constexpr const char* kName = "product";
  static constexpr int kStages = 2;  // panels of b, rows of y
  using Specs = TypeList<Product>;

  Heads a, b, y;           // their tokens are rows
  int64_t a_step, b_step;  // along a row; the elements of a row of y lie together
  int64_t images, heads;
  int64_t rows, depth, columns;
  float scale = 1;
  int64_t panel = 0;  // columns of one, at this level

  template <class Fields>
  void describe(Fields& fields) {
    fields("a", a);
    fields("a_step", a_step);
    fields("b", b);
    fields("b_step", b_step);
    fields("y", y);
    fields("images", images);
    fields("heads", heads);
    fields("rows", rows);
    fields("depth", depth);
    fields("columns", columns);
    fields("scale", scale);
  }
  template <class Builder>
  void build(Builder& node) const;
};

/// Rows and panels of a unit: what it reads of a and of b stays in the first levels of cache.
constexpr int64_t kProductRows = 48, kProductPanels = 8;

FASTDIFF_INLINE int64_t panel_count(const Product& product) {
  return divided_up(product.columns, product.panel);
}
FASTDIFF_INLINE int64_t panel_blocks(const Product& product) {
  return divided_up(panel_count(product), kProductPanels);
}
FASTDIFF_INLINE int64_t row_blocks(const Product& product) {
  return divided_up(product.rows, kProductRows);
}

template <class Builder>
void Product::build(Builder& node) const {
  Product spec = *this;
  spec.panel = node.level().panel;
  const int64_t blocks = images * heads * panel_blocks(spec);
  node.stage(spec, 0, blocks);
  node.stage(spec, 1, blocks * row_blocks(spec));
  node.scratch_floats = images * heads * panel_count(spec) * spec.panel * depth;
  node.flops = 2.0 * double(images * heads) * double(rows) * double(depth) * double(columns);
}

template <class L>
struct Products {
  /// A unit is some panels of a head; columns behind the last one are zeros.
  static void pack(const Product& spec, float* scratch, int64_t unit) {
    const int64_t blocks = panel_blocks(spec), index = unit / blocks;
    const float* b = of(spec.b, spec, index);
    for_panels(spec, unit % blocks, [&](int64_t panel) {
      pack_panel(spec, b + panel * kPanel * spec.b_step, spec.columns - panel * kPanel,
                 panel_of(spec, scratch, index, panel));
    });
  }

  /// A unit is some rows of some panels of a head.
  static void run(const Product& spec, float* scratch, int64_t unit) {
    const int64_t blocks = panel_blocks(spec), row_block = unit / blocks % row_blocks(spec);
    const int64_t index = unit / blocks / row_blocks(spec), first = row_block * kProductRows;
    const int64_t rows = spec.rows - first < kProductRows ? spec.rows - first : kProductRows;
    const float* a = of(spec.a, spec, index) + first * spec.a.token;
    float* y = of(spec.y, spec, index) + first * spec.y.token;
    for_panels(spec, unit % blocks, [&](int64_t panel) {
      const float* b = panel_of(spec, scratch, index, panel);
      const int64_t column = panel * kPanel, live = spec.columns - column;
      if (spec.a_step == 1) {
        multiply(spec, a, 1, b, rows, live, y + column);
      } else {
        multiply(spec, a, spec.a_step, b, rows, live, y + column);
      }
    });
  }

 private:
  using F = typename L::F;
  using Tiles = Multiply<L>;
  static constexpr int kPanel = Tiles::kPanel;

  static FASTDIFF_INLINE float* of(const Heads& operand, const Product& spec, int64_t index) {
    return operand.data + index / spec.heads * operand.image + index % spec.heads * operand.head;
  }
  static FASTDIFF_INLINE float* panel_of(const Product& spec, float* scratch, int64_t index,
                                         int64_t panel) {
    return scratch + (index * panel_count(spec) + panel) * spec.depth * kPanel;
  }
  template <class Function>
  static FASTDIFF_INLINE void for_panels(const Product& spec, int64_t block,
                                         const Function& function) {
    const int64_t count = panel_count(spec), first = block * kProductPanels;
    for (int64_t panel = first; panel < first + kProductPanels && panel < count; ++panel) {
      function(panel);
    }
  }

  static FASTDIFF_INLINE void pack_panel(const Product& spec, const float* from, int64_t live,
                                         float* to) {
    const int64_t row = spec.b.token, step = spec.b_step;
    if (step == 1) {
      for (int64_t k = 0; k < spec.depth; ++k) {
        for (int c = 0; c < kPanel; c += L::kLanes) {
          L::store(to + k * kPanel + c, load_live<L>(from + k * row + c, live - c));
        }
      }
    } else if (row == 1) {
      for (int c = 0; c < kPanel; c += L::kLanes) {
        for (int64_t k = 0; k < spec.depth; k += L::kLanes) {
          F columns[L::kLanes];
          load_columns<L>(from + c * step + k, step, live - c, spec.depth - k, columns);
          const int64_t count = at_most_lanes<L>(spec.depth - k);
          for (int64_t i = 0; i < count; ++i) L::store(to + (k + i) * kPanel + c, columns[i]);
        }
      }
    } else {
      for (int64_t k = 0; k < spec.depth; ++k) {
        for (int c = 0; c < kPanel; ++c) {
          to[k * kPanel + c] = c < live ? from[k * row + c * step] : 0.0f;
        }
      }
    }
  }

  static FASTDIFF_INLINE void multiply(const Product& spec, const float* a, int64_t step,
                                       const float* panel, int64_t rows, int64_t live, float* y) {
    const int64_t token = spec.a.token;
    Tiles::for_tiles(rows, [&](auto size, int64_t row) {
      constexpr int kRows = decltype(size)::value;
      F sums[kRows][kPanelVectors] = {};
      Tiles::template accumulate<kRows>(a + row * token, token, step, panel, spec.depth, sums);
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) {
        FASTDIFF_UNROLL
        for (int v = 0; v < kPanelVectors; ++v) {
          store_live<L>(y + (row + r) * spec.y.token + v * L::kLanes, sums[r][v] * spec.scale,
                        live - v * L::kLanes);
        }
      }
    });
  }
};

template <class A>
struct KernelsOf<Product, A> {
  using Kernels = Products<typename A::L>;
  static constexpr Stages<Product> stages = {{Kernels::pack, Kernels::run}};
};

}  // namespace fastdiff::network
