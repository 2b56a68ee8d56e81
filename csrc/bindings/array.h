// Arrays that Python passes, and checks of them that read like a signature.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <string>

#include "dlpack.h"

namespace fastdiff {

/// The class of fastdiff.errors that an Error becomes in Python.
enum class ErrorKind { kInvalidArgument, kInvalidShape, kInvalidDtype };

/// What the bindings throw; module.cpp translates it into an exception of Python.
struct Error {
  ErrorKind kind;
  std::string message;
};

/// A dimension of a shape. Its size is given, or taken from the first array whose shape has it.
class Dim {
 public:
  explicit Dim(const char* name) : name_(name) {}
  Dim(int64_t size) : size_(size) {}

  int64_t size() const { return size_; }
  bool accepts(int64_t size) { return size_ < 0 ? (size_ = size, true) : size_ == size; }
  std::string text() const { return size_ < 0 ? name_ : std::to_string(size_); }

 private:
  const char* name_ = "";
  int64_t size_ = -1;
};

/// The element types that the kernels know.
enum class Type { kFloat32, kBFloat16, kFloat16, kInt8, kUint32, kUint64, kOther };

/// A contiguous array in CPU memory, from an object with the buffer protocol or from a DLPack
/// capsule, which is consumed.
class Array {
 public:
  Array(const char* name, pybind11::handle object) : Array(name, object, 0) {}
  /// An array of records of `record_bytes` each, whose fields the caller has checked.
  Array(const char* name, pybind11::handle object, int64_t record_bytes);
  ~Array();
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  /// Raises InvalidDtype unless the element type is one of `types`.
  Array& of(std::initializer_list<Type> types);
  /// Raises InvalidShape unless the array has this shape. A Dim without a size gets that of the
  /// array.
  Array& shaped(std::initializer_list<Dim*> shape);
  /// Raises InvalidArgument if the array is read-only.
  Array& writable();

  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  Type type() const { return type_; }
  const char* name() const { return name_; }
  /// Whether the two arrays share memory.
  bool overlaps(const Array& other) const;

 private:
  void read_capsule(PyObject* capsule);
  void read_buffer(PyObject* object, int64_t record_bytes);
  void release();
  void require_contiguous(const int64_t* strides, int64_t unit);
  std::string dtype_text() const;
  std::string shape_text() const;

  const char* name_;
  void* data_ = nullptr;
  int ndim_ = 0;
  int64_t shape_[4] = {};
  int64_t item_bytes_ = 0;
  Type type_ = Type::kOther;
  bool read_only_ = false;
  std::string foreign_dtype_;
  dlpack::ManagedTensor* managed_ = nullptr;
  Py_buffer buffer_ = {};
};

}  // namespace fastdiff
