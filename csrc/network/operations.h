// The element-wise operations: all that a map can do, and the activations that follow other
// kernels.
//
// An operation is one line of a table here: its enumerator, its name in plans, and what it computes
// of vectors u and v of the lane type L (math.h has the functions). The enumerations, the names
// that Python reads, and the cases of the kernels are made from these lines.
#pragma once

#include <cstdint>

namespace fastdiff::network {

// clang-format off
#define FASTDIFF_BINARY_OPERATIONS(X)               \
  X(kAdd, "add", u + v)                             \
  X(kSubtract, "subtract", u - v)                   \
  X(kMultiply, "multiply", u * v)                   \
  X(kDivide, "divide", u / v)                       \
  X(kMaximum, "maximum", maximum<L>(u, v))          \
  X(kMinimum, "minimum", minimum<L>(u, v))

#define FASTDIFF_UNARY_OPERATIONS(X)                \
  X(kNegate, "negate", -u)                          \
  X(kExp, "exp", exp<L>(u))                         \
  X(kLog, "log", log<L>(u))                         \
  X(kSqrt, "sqrt", sqrt<L>(u))                      \
  X(kReciprocalSqrt, "rsqrt", 1.0f / sqrt<L>(u))    \
  X(kSin, "sin", sin<L>(u))                         \
  X(kCos, "cos", cos<L>(u))                         \
  X(kTanh, "tanh", tanh<L>(u))                      \
  X(kSigmoid, "sigmoid", sigmoid<L>(u))             \
  X(kSilu, "silu", silu<L>(u))                      \
  X(kGelu, "gelu", gelu<L>(u))                      \
  X(kGeluTanh, "gelu_tanh", gelu_tanh<L>(u))        \
  X(kMish, "mish", mish<L>(u))                      \
  X(kRound, "round", round<L>(u))

// The activations that a convolution or a group norm can apply before it stores a result.
#define FASTDIFF_ACTIVATIONS(X)                     \
  X(kNone, "none", u)                               \
  X(kSilu, "silu", silu<L>(u))                      \
  X(kGelu, "gelu", gelu<L>(u))                      \
  X(kGeluTanh, "gelu_tanh", gelu_tanh<L>(u))
// clang-format on

#define FASTDIFF_ENUMERATOR(enumerator, name, value) enumerator,
#define FASTDIFF_NAME(enumerator, name, value) name,

/// An operation of a map. kConstant has no operand.
enum class MapOp : int32_t {
  kConstant,
  FASTDIFF_BINARY_OPERATIONS(FASTDIFF_ENUMERATOR) FASTDIFF_UNARY_OPERATIONS(FASTDIFF_ENUMERATOR)
};

enum class Activation { FASTDIFF_ACTIVATIONS(FASTDIFF_ENUMERATOR) };

constexpr const char* kBinaryNames[] = {FASTDIFF_BINARY_OPERATIONS(FASTDIFF_NAME)};
constexpr const char* kUnaryNames[] = {FASTDIFF_UNARY_OPERATIONS(FASTDIFF_NAME)};
/// The names, in the order of the enumerators.
constexpr const char* kMapOpNames[] = {
    "constant", FASTDIFF_BINARY_OPERATIONS(FASTDIFF_NAME) FASTDIFF_UNARY_OPERATIONS(FASTDIFF_NAME)};
constexpr const char* kActivationNames[] = {FASTDIFF_ACTIVATIONS(FASTDIFF_NAME)};

#undef FASTDIFF_ENUMERATOR
#undef FASTDIFF_NAME

}  // namespace fastdiff::network
