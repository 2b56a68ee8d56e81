// Arrays that cross from Python, and checks that read like signatures.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <string>

#include "dlpack.h"

namespace fastdiff {

/// Becomes the class of the same name in fastdiff.errors.
enum class ErrorKind { kInvalidArgument, kInvalidShape, kInvalidDtype };

struct Error {
  ErrorKind kind;
  std::string message;
};

/// A dimension whose size is fixed by the first array that has it.
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

enum class Type { kFloat32, kBFloat16, kFloat16, kInt8, kUint32, kUint64, kOther };

/// A contiguous CPU array seen through the buffer protocol or a DLPack capsule, which is consumed.
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
  /// Raises InvalidShape unless the shape fits; a Dim without a size takes the array's.
  Array& shaped(std::initializer_list<Dim*> shape);
  /// Raises InvalidArgument if the array is read-only.
  Array& writable();

  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  Type type() const { return type_; }
  const char* name() const { return name_; }
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
