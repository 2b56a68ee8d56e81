// Reads the fields of a node (network/kind.h) from the keyword arguments of a Python call.
// Addresses are passed as integers.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../network/kinds.h"
#include "array.h"

namespace fastdiff {

/// Returns the enumerator called `name`. `names` lists the names in the order of the enumerators;
/// `what` says in the error what they are.
template <class Enumeration, size_t kCount>
Enumeration named(const char* const (&names)[kCount], const std::string& name, const char* what) {
  std::string known;
  for (size_t i = 0; i < kCount; ++i) {
    if (name == names[i]) return Enumeration(i);
    known += (i ? ", " : "") + std::string(names[i]);
  }
  throw Error{ErrorKind::kInvalidArgument,
              std::string("unknown ") + what + " " + name + "; there are: " + known};
}

/// The keyword arguments of one node. The node's `describe` asks for them field by field; after
/// that, `finish` raises TypeError if an argument is left that no field has asked for.
class Fields {
 public:
  Fields(const char* kind, const pybind11::kwargs& given) : kind_(kind), left_(given) {}

  /// Reads an argument that must be given.
  template <class T>
  void operator()(const char* name, T& to) {
    take(name, to, true);
  }
  /// Reads an argument if it is given; otherwise `to` keeps its value.
  template <class T>
  void optional(const char* name, T& to) {
    take(name, to, false);
  }
  /// Reads an argument that is a pair.
  template <class T>
  void pair(const char* name, T& first, T& second) {
    std::pair<T, T> both(first, second);
    take(name, both, true);
    std::tie(first, second) = both;
  }
  template <class T>
  void optional_pair(const char* name, T& first, T& second) {
    std::pair<T, T> both(first, second);
    take(name, both, false);
    std::tie(first, second) = both;
  }
  /// Reads a pair of an address and the distance, in elements, from one image to the next.
  template <class T>
  void vector(const char* name, T*& data, int64_t& image) {
    std::pair<uintptr_t, int64_t> both;
    take(name, both, true);
    data = reinterpret_cast<T*>(both.first), image = both.second;
  }

  void finish() const {
    if (left_.empty()) return;
    const std::string first = pybind11::str(left_.begin()->first);
    throw pybind11::type_error(std::string(kind_) + " has no argument " + first);
  }

 private:
  template <class T>
  void take(const char* name, T& to, bool required) {
    if (!left_.contains(name)) {
      if (!required) return;
      throw pybind11::type_error(std::string(kind_) + " needs the argument " + name);
    }
    set(left_.attr("pop")(name), to);
  }

  template <class T>
  static void set(const pybind11::object& value, T& to) {
    to = value.cast<T>();
  }
  template <class T>
  static void set(const pybind11::object& value, T*& to) {
    to = reinterpret_cast<T*>(value.cast<uintptr_t>());
  }
  static void set(const pybind11::object& value, network::Pixels& to) {
    if (value.is_none()) return;
    const auto [data, image, pixel] = value.cast<std::tuple<uintptr_t, int64_t, int64_t>>();
    to = {reinterpret_cast<float*>(data), image, pixel};
  }
  static void set(const pybind11::object& value, network::PerImage& to) {
    if (value.is_none()) return;
    const auto [data, image] = value.cast<std::tuple<uintptr_t, int64_t>>();
    to = {reinterpret_cast<const float*>(data), image};
  }
  static void set(const pybind11::object& value, network::Heads& to) {
    const auto [data, image, head, token] =
        value.cast<std::tuple<uintptr_t, int64_t, int64_t, int64_t>>();
    to = {reinterpret_cast<float*>(data), image, head, token};
  }
  static void set(const pybind11::object& value, std::optional<network::Quantization>& to) {
    if (value.is_none()) return;
    const auto [inputs, outputs, zeros, zero] =
        value.cast<std::tuple<uintptr_t, uintptr_t, uintptr_t, int32_t>>();
    to = network::Quantization{reinterpret_cast<const float*>(inputs),
                               reinterpret_cast<const float*>(outputs),
                               reinterpret_cast<const int32_t*>(zeros), zero};
  }
  static void set(const pybind11::object& value, network::Activation& to) {
    to = named<network::Activation>(network::kActivationNames, value.cast<std::string>(),
                                    "activation");
  }
  static void set(const pybind11::object& value, network::Reduction& to) {
    to =
        named<network::Reduction>(network::kReductionNames, value.cast<std::string>(), "reduction");
  }
  static void set(const pybind11::object& value, network::Algorithm& to) {
    to =
        named<network::Algorithm>(network::kAlgorithmNames, value.cast<std::string>(), "algorithm");
  }
  static void set(const pybind11::object& value, network::Strided& to) {
    const auto [data, strides] = value.cast<std::tuple<uintptr_t, std::vector<int64_t>>>();
    to = {reinterpret_cast<float*>(data), strides};
  }
  static void set(const pybind11::object& value, std::vector<network::Strided>& to) {
    for (const pybind11::handle each : value) {
      set(pybind11::reinterpret_borrow<pybind11::object>(each), to.emplace_back());
    }
  }
  static void set(const pybind11::object& value, std::vector<network::MapStep>& to) {
    using Step = std::tuple<std::string, int32_t, int32_t, float>;
    for (const auto& [op, a, b, constant] : value.cast<std::vector<Step>>()) {
      to.push_back({named<network::MapOp>(network::kMapOpNames, op, "operation"), a, b, constant});
    }
  }

  const char* kind_;
  pybind11::kwargs left_;
};

}  // namespace fastdiff
