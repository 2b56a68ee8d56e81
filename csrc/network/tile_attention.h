// Attention by products of bfloat16 tiles (tile_math.h), on the online softmax of softmax.h.
//
// K and V^T are rounded to bfloat16 once for each head, and are the matrix A of the two products. B
// of the first product is a panel of queries, and B of the second its exponentials. The softmax
// itself is computed in float32.
#pragma once

#include "attention_spec.h"
#include "softmax.h"
#include "tile_math.h"

namespace fastdiff::network {

/// The kernels of tile attention for the lane type L; T multiplies tiles.
template <class L, class T>
struct AttendTiles {
  using F = typename L::F;

  /// Rounds the keys and values of one head, 32 keys in a unit. For each group of 32 keys it stores
  /// the steps of K, each 32 keys by 32 channels, then those of V^T, each 32 channels by 32 keys.
  /// Keys and channels after the last ones become zero.
  static void round_keys(const Attention& spec, float* scratch, int64_t unit) {
    constexpr int64_t kStep = kStepBytes / sizeof(uint16_t);
    const Head<L> head(spec, unit / key_groups(spec));
    const int64_t first = unit % key_groups(spec) * kTileSide, keys = spec.keys - first;
    auto* to = reinterpret_cast<uint16_t*>(rounded_keys(spec, scratch) + unit * group_bytes(spec));
    const float* k = head.k + first * spec.k.token;
    for (int64_t r = 0; r < kTileSide; ++r) {
      for (int64_t d = 0; d < depth_steps(spec) * kTileSide; d += L::kLanes) {
        const F x = r < keys ? load_live<L>(k + r * spec.k.token + d, spec.depth - d) : F{};
        L::store_bf16(to + d / kTileSide * kStep + r * kTileSide + d % kTileSide, x);
      }
    }
    to += depth_steps(spec) * kStep;
    const float* v = head.v + first * spec.v.token;
    for (int64_t d = 0; d < value_steps(spec) * kTileSide; d += L::kLanes) {
      for (int64_t r = 0; r < kTileSide; r += L::kLanes) {
        F columns[L::kLanes];
        load_columns<L>(v + r * spec.v.token + d, spec.v.token, keys - r, spec.value_depth - d,
                        columns);
        for (int c = 0; c < L::kLanes; ++c) L::store_bf16(to + (d + c) * kTileSide + r, columns[c]);
      }
    }
  }

  /// Computes the output of one block of queries of one head, which is one unit.
  static void run(const Attention& spec, float* scratch, int64_t unit) {
    TileHead head(spec, scratch, unit / query_blocks(spec));
    attend<Panel>(head, scratch, unit);
  }

 private:
  static constexpr int kVectors = kTilePanel / L::kLanes;
  using Base = Softmax<L, kVectors>;
  using Sums = float[2][kTileRows][kTilePanel];

  static FASTDIFF_INLINE uint8_t* rounded_keys(const Attention& spec, float* scratch) {
    return reinterpret_cast<uint8_t*>(scratch + attention_scratch(spec));
  }

  struct TileHead : Head<L> {
    const uint8_t* keys;  // the rounded keys and values of the head
    T tiles;

    FASTDIFF_INLINE TileHead(const Attention& spec, float* scratch, int64_t index)
        : Head<L>(spec, index),
          keys(rounded_keys(spec, scratch) + index * key_groups(spec) * group_bytes(spec)) {}
  };

  class Panel : public Base {
   public:
    /// The keys of a block, after which the sums are rescaled. Rescaling takes as long as two of
    /// the eight steps that a block has. Most of the time goes to exponentials.
    static constexpr int64_t kKeys = 256;

    FASTDIFF_INLINE void begin(const TileHead& head, int64_t first, float* memory) {
      const int64_t steps = depth_steps(head.spec);
      q_ = reinterpret_cast<uint8_t*>(memory);
      Base::begin(first, memory + steps * kStepBytes / int64_t(sizeof(float)));
      for (int v = 0; v < kVectors; ++v) {
        for (int64_t d = 0; d < steps * kTileSide; d += L::kLanes) {
          F columns[L::kLanes];
          this->load_queries(head, v, d, columns);
          for (F& lanes : columns) lanes = L::round_bf16(lanes);
          for (int c = 0; c < L::kLanes; c += 2) {
            store_pair(q_, (d + c) / 2, v, columns[c], columns[c + 1]);
          }
        }
      }
    }

    /// Takes the keys [key, key + keys) and their values into the running softmax.
    void attend(TileHead& head, int64_t key, int64_t keys) {
      alignas(64) float scores[kKeys * kTilePanel];
      alignas(64) uint8_t p[kKeys / kTileSide * kStepBytes];
      const uint8_t* groups = head.keys + key / kTileSide * group_bytes(head.spec);
      F factor[kVectors];
      multiply_keys(head, groups, keys, scores, factor);
      exponentiate(keys, scores, p, factor);
      multiply_values(head, groups, key, keys, p, factor);
    }

   private:
    using Base::column, Base::sums_, Base::top_;

    /// Computes the scores of a block of keys and raises the running maximum. `factor` gets what
    /// the sums of earlier blocks must be multiplied by, since the maximum has changed.
    FASTDIFF_INLINE void multiply_keys(TileHead& head, const uint8_t* k, int64_t keys,
                                       float* scores, F (&factor)[kVectors]) {
      const int64_t steps = depth_steps(head.spec);
      for (int64_t row = 0; row < keys; row += kTileSide, k += group_bytes(head.spec)) {
        head.tiles.zero();
        for (int64_t i = 0; i < steps; ++i) step(head, k + i * kStepBytes, q_ + i * kStepBytes);
        head.tiles.store(sums_at(scores, row));
      }
      F top[kVectors];
      for (int v = 0; v < kVectors; ++v) top[v] = top_[v];
      for (int64_t row = 0; row < keys; ++row) {
        FASTDIFF_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          top[v] = L::max(top[v], L::load(column(scores, row, v)));
        }
      }
      this->raise(top, factor);
    }

    /// Computes the numerators of the softmax in bfloat16; those of keys after the last one are 0.
    ///
    /// The total adds up the rounded numerators. The probabilities thus add up to 1, and the
    /// rounding error of one is weighted only by how far its value is from the mean of the values.
    FASTDIFF_INLINE void exponentiate(int64_t keys, float* scores, uint8_t* p,
                                      const F (&factor)[kVectors]) {
      F sums[kVectors] = {}, top[kVectors];
      for (int v = 0; v < kVectors; ++v) top[v] = top_[v] + 0.5f;
      const auto numerator = [&](int64_t row, int v) {
        return row < keys ? rounded_exp2<L>(L::load(column(scores, row, v)) - top[v]) : F{};
      };
      const int64_t rows = divided_up(keys, kTileSide) * kTileSide;
      for (int64_t row = 0; row < rows; row += 2) {
        FASTDIFF_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const F even = numerator(row, v), odd = numerator(row + 1, v);
          store_pair(p, row / 2, v, even, odd);
          sums[v] += even + odd;
        }
      }
      this->add_to_total(sums, factor);
    }

    /// Rescales the sums of earlier blocks by `factor` and adds the weighted values of this block.
    FASTDIFF_INLINE void multiply_values(TileHead& head, const uint8_t* groups, int64_t key,
                                         int64_t keys, const uint8_t* p,
                                         const F (&factor)[kVectors]) {
      const Attention& spec = head.spec;
      for (int64_t c = 0; c < value_steps(spec); ++c) {
        const uint8_t* v = groups + (depth_steps(spec) + c) * kStepBytes;
        head.tiles.zero();
        for (int64_t i = 0; i < divided_up(keys, kTileSide); ++i, v += group_bytes(spec)) {
          step(head, v, p + i * kStepBytes);
        }
        if (key == 0) {
          head.tiles.store(sums_at(sums_, c * kTileSide));
        } else {
          alignas(64) float sums[kTileSide * kTilePanel];
          head.tiles.store(sums_at(sums, 0));
          add(sums, column(sums_, c * kTileSide, 0), factor);
        }
      }
    }

    /// Computes to = to * factor + sums.
    static FASTDIFF_INLINE void add(float* sums, float* to, const F (&factor)[kVectors]) {
      for (int64_t row = 0; row < kTileSide; ++row) {
        FASTDIFF_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const F sum =
              L::fma(L::load(column(to, row, v)), factor[v], L::load(column(sums, row, v)));
          L::store(column(to, row, v), sum);
        }
      }
    }

    static FASTDIFF_INLINE void step(TileHead& head, const uint8_t* a, const uint8_t* b) {
      head.tiles.step(a, a + kTileBytes, kTileRowBytes, b);
    }

    uint8_t* q_;  // the queries as B of the first product, step after step over the depth
  };

  /// Returns 32 rows of a panel as the array that T::store() takes.
  static FASTDIFF_INLINE Sums& sums_at(float* panel, int64_t row) {
    return *reinterpret_cast<Sums*>(panel + row * kTilePanel);
  }

  /// Stores vector v of rows 2 i and 2 i + 1 of B, counted from its first step. The values are
  /// rounded to bfloat16 already, so a lane of each is combined into 32 bits without a shuffle.
  static FASTDIFF_INLINE void store_pair(uint8_t* b, int64_t i, int v, F even, F odd) {
    const int64_t lane = v * L::kLanes;
    const int64_t at = i % kTileRows * kTileColumns + lane % kTileColumns;
    b += i / kTileRows * kStepBytes + lane / kTileColumns * kTileBytes + at * 4;
    const auto pairs = (typename L::U)even >> 16 | (typename L::U)odd;
    memcpy(b, &pairs, sizeof pairs);
  }
};

}  // namespace fastdiff::network
