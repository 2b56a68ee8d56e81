// Every kernel on memory of exactly its size, for a build with sanitizers: whatever is read or
// written beside it ends the program. Two policies, of 4 and of 16 lanes, must agree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "network/builder.h"
#include "network/kernels.h"
#include "network/pack.h"

using namespace fastdiff::network;
using Floats = std::vector<float>;

namespace {

template <int kWidth, int kTileRows>
struct Plain : Vectors<kWidth> {
  using F = typename Vectors<kWidth>::F;
  static constexpr int kRows = kTileRows;

  static F broadcast(const float* from) { return Vectors<kWidth>::splat(*from); }
  static F fma(F a, F b, F c) { return a * b + c; }
};

const Level kNarrow = level_of<Plain<4, 6>>("narrow", "nothing", [] { return true; });
const Level kWide = level_of<Plain<16, 14>>("wide", "nothing", [] { return true; });

Floats numbers(int64_t count, float scale = 1.0f) {
  static uint32_t state = 1;
  Floats values(static_cast<size_t>(count));
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = scale * (float(state >> 8) / float(1 << 23) - 1.0f);
  }
  return values;
}

int failures = 0;

/// Runs what `add` puts into a plan of each level, with a result of `count` floats.
template <class Add>
void compare(const char* name, int64_t count, float tolerance, const Add& add) {
  Floats results[2];
  for (int i = 0; i < 2; ++i) {
    const Level& level = i ? kWide : kNarrow;
    results[i].assign(size_t(count), NAN);
    Plan plan(level);
    add(plan, results[i].data());
    plan.run(2);
  }
  for (int64_t j = 0; j < count; ++j) {
    const float a = results[0][size_t(j)], b = results[1][size_t(j)];
    if (!(std::fabs(a - b) <= tolerance * (1 + std::fabs(a)))) {
      std::printf("%s: element %lld is %g and %g\n", name, (long long)j, a, b);
      ++failures;
      return;
    }
  }
  std::printf("%s: ok\n", name);
}

struct ConvCase {
  int64_t images, height, width, channels, out_channels;
  int kernel, stride, upsample;
};

/// Of packed weights, by the bytes of an element.
size_t tile_bytes(const ConvCase& c, int64_t taps, int64_t element) {
  const int64_t steps = divided_up(c.channels, tile_depth(element)) * taps;
  return size_t(divided_up(c.out_channels, kTilePanel) * steps * 2 * kTileBytes);
}

void check_conv(const ConvCase& c, Algorithm algorithm, const char* name) {
  const bool narrow = algorithm == Algorithm::kTiles || algorithm == Algorithm::kInt8;
  const bool by_phases = narrow && c.upsample && c.height * c.width >= 4 * kLeastPhasePixels;
  const int64_t phases = by_phases ? 4 : 1;  // of 2 x 2 taps
  const int64_t taps = phases == 4 ? 4 : c.kernel * c.kernel, pad = c.kernel / 2;
  const int64_t out_height = (c.height - 1) / c.stride + 1,
                out_width = (c.width - 1) / c.stride + 1;
  const int64_t in = (c.height >> c.upsample) * (c.width >> c.upsample) * c.channels;
  const int64_t out = out_height * out_width * c.out_channels;
  const Floats x = numbers(c.images * in), residual = numbers(c.images * out);
  const Floats bias = numbers(c.out_channels), shift = numbers(c.images * c.out_channels);
  const int64_t part = taps * c.channels * c.out_channels;
  const Floats weights = numbers(phases * part, 0.3f);

  compare(name, c.images * out, 1e-3f, [&](Plan& plan, float* y) {
    const int64_t panel = plan.level().panel;
    const int64_t columns = divided_up(c.out_channels, panel) * panel;
    const int m = algorithm == Algorithm::kWinograd2 ? 2 : 4;
    static std::vector<Floats> kept;
    static std::vector<std::vector<uint16_t>> kept_tiles;
    static std::vector<std::vector<int8_t>> kept_integers;
    static std::vector<Floats> kept_scales;
    static std::vector<std::vector<int32_t>> kept_zeros;
    std::optional<Quantization> quantization;
    Conv conv = {};
    if (algorithm == Algorithm::kDirect) {
      kept.emplace_back(size_t(taps * c.channels * columns));
      pack_panels(weights.data(), taps, c.channels, c.out_channels, panel, kept.back().data());
      conv.weights = kept.back().data();
    } else if (algorithm == Algorithm::kTiles) {
      const size_t size = tile_bytes(c, taps, 2) / 2;
      kept_tiles.emplace_back(size_t(phases) * size);
      for (int64_t i = 0; i < phases; ++i) {
        pack_tiles(weights.data() + i * part, taps, c.channels, c.out_channels,
                   kept_tiles.back().data() + size_t(i) * size);
      }
      conv.weights = reinterpret_cast<const float*>(kept_tiles.back().data());
    } else if (algorithm == Algorithm::kInt8) {
      std::vector<int8_t> integers(weights.size());
      for (size_t i = 0; i < weights.size(); ++i) integers[i] = int8_t(weights[i] * 100);
      const size_t size = tile_bytes(c, taps, 1);
      kept_integers.emplace_back(size_t(phases) * size);
      for (int64_t i = 0; i < phases; ++i) {
        pack_int8(integers.data() + i * part, taps, c.channels, c.out_channels,
                  kept_integers.back().data() + size_t(i) * size);
      }
      conv.weights = reinterpret_cast<const float*>(kept_integers.back().data());
      kept_scales.push_back(Floats(size_t(c.channels), 100.0f));
      kept_scales.push_back(Floats(size_t(phases * c.out_channels), 1e-4f));
      kept_zeros.push_back(std::vector<int32_t>(size_t(phases * c.out_channels), 7));
      quantization = Quantization{kept_scales.end()[-2].data(), kept_scales.back().data(),
                                  kept_zeros.back().data(), 100};
    } else {
      kept.emplace_back(size_t((m + 2) * (m + 2) * c.channels * columns));
      pack_winograd(weights.data(), c.channels, c.out_channels, m, panel, 1, kept.back().data());
      conv.weights = kept.back().data();
    }
    conv.x = {const_cast<float*>(x.data()), in, c.channels};
    conv.y = {y, out, c.out_channels};
    conv.images = c.images, conv.height = c.height, conv.width = c.width,
    conv.channels = c.channels;
    conv.out_height = out_height, conv.out_width = out_width, conv.out_channels = c.out_channels;
    conv.kernel_height = conv.kernel_width = c.kernel;
    conv.stride = c.stride, conv.pad_top = conv.pad_left = int(pad), conv.upsample = c.upsample;
    conv.epilogue.bias = bias.data();
    conv.epilogue.shift = {shift.data(), c.out_channels};
    conv.epilogue.residual = {const_cast<float*>(residual.data()), out, c.out_channels};
    conv.epilogue.activation = Activation::kSilu;
    add(plan, name, ConvNode{conv, algorithm, quantization});
  });
}

void check_norms(int64_t images, int64_t pixels, int64_t channels, int64_t groups) {
  const int64_t count = images * pixels * channels;
  const Floats x = numbers(count), gamma = numbers(channels), beta = numbers(channels);
  const Floats scale = numbers(images * channels), shift = numbers(images * channels);
  const Pixels from = {const_cast<float*>(x.data()), pixels * channels, channels};
  compare("group_norm", count, 1e-3f, [&](Plan& plan, float* y) {
    add(plan, "norm",
        GroupNorm{from,
                  {y, pixels * channels, channels},
                  images,
                  pixels,
                  channels,
                  groups,
                  gamma.data(),
                  beta.data(),
                  1e-5f,
                  Activation::kSilu});
  });
  compare("layer_norm", count, 1e-3f, [&](Plan& plan, float* y) {
    add(plan, "norm",
        LayerNorm{from,
                  {y, pixels * channels, channels},
                  images,
                  pixels,
                  channels,
                  gamma.data(),
                  beta.data(),
                  {scale.data(), channels},
                  {shift.data(), channels},
                  1e-5f,
                  true});
  });
}

/// A convolution that rounds its output for the next one.
void check_rounded_ahead(Algorithm algorithm, const char* name) {
  const int64_t channels = 64, pixels = 5 * 7, count = 2 * pixels * channels;
  const Floats x = numbers(count), first = numbers(channels * channels, 0.1f);
  const std::vector<uint8_t> weights(tile_bytes({2, 5, 7, channels, channels, 3, 1, 0}, 9, 1) * 2);
  const Floats scales(size_t(channels), 1.0f);
  const std::vector<int32_t> zeros(size_t(channels), 0);
  compare(name, count, 1e-3f, [&](Plan& plan, float* y) {
    static std::vector<Floats> kept;
    kept.emplace_back(size_t(channels * channels));
    pack_panels(first.data(), 1, channels, channels, plan.level().panel, kept.back().data());
    Conv conv = {};
    conv.x = {const_cast<float*>(x.data()), pixels * channels, channels};
    conv.images = 2, conv.height = conv.out_height = 5, conv.width = conv.out_width = 7;
    conv.channels = conv.out_channels = channels;
    conv.kernel_height = conv.kernel_width = conv.stride = 1;
    conv.weights = kept.back().data();
    add(plan, "before", ConvNode{conv});  // its y is null: nothing is stored
    conv.y = {y, pixels * channels, channels};
    conv.kernel_height = conv.kernel_width = 3, conv.pad_top = conv.pad_left = 1;
    conv.weights = reinterpret_cast<const float*>(weights.data());
    std::optional<Quantization> quantization;
    if (algorithm == Algorithm::kInt8) {
      quantization = Quantization{scales.data(), scales.data(), zeros.data(), 7};
    }
    add(plan, name, ConvNode{conv, algorithm, quantization, true});
  });
}

void check_attention(int64_t images, int64_t heads, int64_t queries, int64_t keys, int64_t depth) {
  const int64_t q_floats = heads * queries * depth, k_floats = heads * keys * depth;
  const Floats q = numbers(images * q_floats, 2), k = numbers(images * k_floats, 2);
  const Floats v = numbers(images * k_floats);
  const auto view = [&](const float* data, int64_t tokens) {
    return Heads{const_cast<float*>(data), heads * tokens * depth, depth, heads * depth};
  };
  const auto check = [&](const char* name, Algorithm algorithm, float tolerance) {
    compare(name, images * q_floats, tolerance, [&](Plan& plan, float* y) {
      add(plan, "attention",
          AttentionNode{{view(q.data(), queries), view(k.data(), keys), view(v.data(), keys),
                         view(y, queries), images, heads, queries, keys, depth, depth,
                         1 / std::sqrt(float(depth))},
                        algorithm});
    });
  };
  check("attention", Algorithm::kDirect, 1e-3f);
  check("tile attention", Algorithm::kTiles, 1e-2f);  // a probability may round to its neighbour
}

void check_average_pool(int64_t images, const Windows& down, const Windows& across,
                        int64_t channels) {
  const int64_t in = down.size * across.size * channels;
  const int64_t out = down.count * across.count * channels;
  const Floats x = numbers(images * in);
  compare("average_pool", images * out, 0, [&](Plan& plan, float* y) {
    const Pixels from = {const_cast<float*>(x.data()), in, channels};
    add(plan, "pool", AveragePool{from, {y, out, channels}, images, channels, down, across, false});
  });
}

void check_product(int64_t images, int64_t heads, int64_t rows, int64_t depth, int64_t columns) {
  const Floats a = numbers(images * heads * rows * depth);
  const Floats b = numbers(images * heads * depth * columns);
  const auto view = [&](const float* data, int64_t height, int64_t row, int64_t width) {
    return Heads{const_cast<float*>(data), heads * height * width, height * width, row};
  };
  const auto check = [&](const char* name, int64_t b_row, int64_t b_step) {
    compare(name, images * heads * rows * columns, 1e-4f, [&](Plan& plan, float* y) {
      Product product = {view(a.data(), rows, depth, depth),
                         view(b.data(), depth, b_row, columns),
                         view(y, rows, columns, columns),
                         1,
                         b_step,
                         images,
                         heads,
                         rows,
                         depth,
                         columns};
      add(plan, "product", product);
    });
  };
  check("product", columns, 1);
  check("product with columns that lie together", 1, depth);
}

void check_rows(int64_t images, int64_t rows, int64_t channels) {
  const int64_t count = images * rows * channels;
  Floats x = numbers(count);
  const Pixels from = {x.data(), rows * channels, channels};
  compare("softmax", count, 1e-5f, [&](Plan& plan, float* y) {
    add(plan, "softmax", RowSoftmax{from, {y, rows * channels, channels}, images, rows, channels});
  });
  const auto check = [&](const char* name, int64_t row, int64_t step, Reduction reduction) {
    compare(name, images * rows, 1e-4f, [&](Plan& plan, float* y) {
      add(plan, "reduce",
          Reduce{x.data(), y, rows * channels, row, step, rows, images, rows, channels, reduction});
    });
  };
  check("sums along rows", channels, 1, Reduction::kSquares);
  check("sums down columns", 1, rows, Reduction::kMagnitudes);
  check("extremes along rows", channels, 1, Reduction::kSmallest);
  check("extremes down columns", 1, rows, Reduction::kLargest);
}

void check_map(int64_t images, int64_t channels, int64_t pixels) {
  const int64_t count = images * channels * pixels;
  const Floats a = numbers(count), b = numbers(pixels);
  compare("map", count, 1e-4f, [&](Plan& plan, float* y) {
    MapNode map;
    map.shape = {images, channels, pixels};
    map.inputs = {{const_cast<float*>(a.data()), {channels * pixels, 1, channels}},  // transposed
                  {const_cast<float*>(b.data()), {0, 0, 1}}};                        // repeated
    map.output = {y, {channels * pixels, pixels, 1}};
    map.program = {{MapOp::kMultiply, 0, 1, 0}, {MapOp::kGelu, 2, 2, 0}, {MapOp::kAdd, 3, 0, 0}};
    add(plan, "map", map);
  });
}

void check_gather() {
  const int64_t labels[] = {2, 0, 7, -1};  // of a table of three rows
  const Floats table = numbers(3 * 5);
  Floats y(4 * 5, 0.0f);
  Plan plan(kNarrow);
  add(plan, "gather", Gather{labels, table.data(), false, y.data(), 4, 1, 5, 3, 5});
  plan.run(1);
  const bool right =
      y[0] == table[10] && y[9] == table[4] && std::isnan(y[10]) && std::isnan(y[19]);
  if (!right) ++failures;
  std::printf("gather: %s\n", right ? "ok" : "wrong");
}

}  // namespace

int main() {
  const ConvCase same[] = {{2, 7, 5, 3, 4, 3, 1, 0},
                           {1, 1, 1, 33, 20, 3, 1, 0},
                           {3, 4, 4, 40, 33, 3, 1, 0},
                           {1, 6, 8, 5, 37, 3, 1, 1},
                           {1, 17, 16, 8, 7, 3, 1, 0}};
  for (const ConvCase& c : same) {
    check_conv(c, Algorithm::kDirect, "direct");
    check_conv(c, Algorithm::kWinograd2, "winograd2");
    check_conv(c, Algorithm::kWinograd4, "winograd4");
    check_conv(c, Algorithm::kTiles, "tiles");
    check_conv(c, Algorithm::kInt8, "int8");
  }
  const ConvCase others[] = {
      {2, 9, 7, 5, 19, 3, 2, 0}, {5, 1, 33, 12, 35, 1, 1, 0}, {1, 32, 36, 5, 7, 3, 1, 1}};
  for (const ConvCase& c : others) {
    check_conv(c, Algorithm::kDirect, "direct");
    check_conv(c, Algorithm::kTiles, "tiles");
    check_conv(c, Algorithm::kInt8, "int8");
  }
  check_rounded_ahead(Algorithm::kTiles, "tiles, rounded ahead");
  check_rounded_ahead(Algorithm::kInt8, "int8, rounded ahead");
  check_norms(2, 1, 33, 3);
  check_norms(3, 63, 20, 5);
  check_norms(1, 130, 4, 4);
  check_attention(2, 3, 7, 63, 33);
  check_attention(1, 1, 1, 1, 3);
  check_attention(1, 2, 65, 77, 40);
  check_attention(1, 1, 33, 270, 700);
  check_average_pool(2, {7, 4, 3, 2, 1}, {6, 2, 2, 3}, 33);
  check_average_pool(1, {16, 1, 16, 16}, {16, 1, 16, 16}, 67);
  check_product(2, 3, 7, 33, 20);
  check_product(1, 1, 1, 1, 1);
  check_product(1, 2, 101, 40, 290);
  check_rows(2, 7, 33);
  check_rows(1, 1, 1);
  check_rows(1, 130, 77);
  check_map(3, 4, 63);
  check_map(1, 1, 1);
  check_gather();
  return failures != 0;
}
