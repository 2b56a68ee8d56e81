#include "array.h"

#include <algorithm>
#include <cstring>

namespace fastdiff {
namespace {

constexpr int kMaxDims = 4;

[[noreturn]] void fail(ErrorKind kind, const std::string& message) { throw Error{kind, message}; }

const char* text(Type type) {
  switch (type) {
    case Type::kFloat32:
      return "float32";
    case Type::kBFloat16:
      return "bfloat16";
    case Type::kFloat16:
      return "float16";
    case Type::kInt8:
      return "int8";
    case Type::kUint32:
      return "uint32";
    case Type::kUint64:
      return "uint64";
    default:
      return "other";
  }
}

Type type_of(const char* format, int64_t bytes) {
  if (std::strcmp(format, "f") == 0) return Type::kFloat32;
  if (std::strcmp(format, "e") == 0) return Type::kFloat16;
  if (std::strcmp(format, "b") == 0) return Type::kInt8;
  if (std::strcmp(format, "I") == 0 && bytes == 4) return Type::kUint32;
  if ((std::strcmp(format, "L") == 0 || std::strcmp(format, "Q") == 0) && bytes == 8) {
    return Type::kUint64;
  }
  return Type::kOther;
}

}  // namespace

Array::Array(const char* name, pybind11::handle object, int64_t record_bytes) : name_(name) {
  try {
    if (record_bytes == 0 && PyCapsule_IsValid(object.ptr(), "dltensor")) {
      read_capsule(object.ptr());
    } else {
      read_buffer(object.ptr(), record_bytes);
    }
  } catch (...) {
    release();
    throw;
  }
}

Array::~Array() { release(); }

void Array::release() {
  if (managed_ && managed_->deleter) managed_->deleter(managed_);
  managed_ = nullptr;
  PyBuffer_Release(&buffer_);  // does nothing if the buffer was never filled
}

void Array::read_capsule(PyObject* capsule) {
  managed_ = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  PyCapsule_SetName(capsule, "used_dltensor");  // from here on, the deleter must be called here
  const dlpack::Tensor& tensor = managed_->tensor;
  if (tensor.device.type != dlpack::kCpu) {
    fail(ErrorKind::kInvalidArgument, std::string(name_) + ": expected an array in CPU memory");
  }
  if (tensor.ndim > kMaxDims) {
    fail(ErrorKind::kInvalidShape, std::string(name_) + ": too many dimensions");
  }
  data_ = static_cast<char*>(tensor.data) + tensor.byte_offset;
  ndim_ = tensor.ndim;
  std::copy_n(tensor.shape, ndim_, shape_);
  item_bytes_ = tensor.dtype.bits * tensor.dtype.lanes / 8;
  if (tensor.dtype.lanes == 1) {
    if (tensor.dtype.code == dlpack::kFloat && tensor.dtype.bits == 32) type_ = Type::kFloat32;
    if (tensor.dtype.code == dlpack::kFloat && tensor.dtype.bits == 16) type_ = Type::kFloat16;
    if (tensor.dtype.code == dlpack::kBfloat && tensor.dtype.bits == 16) type_ = Type::kBFloat16;
  }
  if (type_ == Type::kOther) {
    foreign_dtype_ = "DLPack type " + std::to_string(tensor.dtype.code) + " of " +
                     std::to_string(tensor.dtype.bits) + " bits";
  }
  if (tensor.strides) require_contiguous(tensor.strides, 1);
}

void Array::read_buffer(PyObject* object, int64_t record_bytes) {
  // The format string of records is slow to build, and is not needed.
  const int flags = PyBUF_STRIDES | (record_bytes == 0 ? PyBUF_FORMAT : 0);
  if (PyObject_GetBuffer(object, &buffer_, flags) != 0) {
    PyErr_Clear();
    fail(ErrorKind::kInvalidArgument,
         std::string(name_) + ": expected a torch CPU tensor or a NumPy array, got " +
             std::string(pybind11::str(pybind11::type::handle_of(object).attr("__name__"))));
  }
  if (buffer_.ndim > kMaxDims) {
    fail(ErrorKind::kInvalidShape, std::string(name_) + ": too many dimensions");
  }
  data_ = buffer_.buf;
  ndim_ = buffer_.ndim;
  int64_t strides[kMaxDims];
  for (int d = 0; d < ndim_; ++d) {
    shape_[d] = buffer_.shape[d];
    strides[d] = buffer_.strides[d];
  }
  item_bytes_ = buffer_.itemsize;
  read_only_ = buffer_.readonly != 0;
  if (record_bytes == 0) {
    type_ = type_of(buffer_.format, item_bytes_);
    foreign_dtype_ = std::string("buffer format ") + buffer_.format;
  } else if (item_bytes_ != record_bytes) {
    fail(ErrorKind::kInvalidDtype, std::string(name_) + ": expected records of " +
                                       std::to_string(record_bytes) + " bytes, got items of " +
                                       std::to_string(item_bytes_));
  }
  require_contiguous(strides, item_bytes_);
}

void Array::require_contiguous(const int64_t* strides, int64_t unit) {
  int64_t expected = unit;
  for (int d = ndim_ - 1; d >= 0; --d) {
    if (shape_[d] == 0) return;  // no element is ever addressed
    if (shape_[d] != 1 && strides[d] != expected) {
      fail(ErrorKind::kInvalidArgument, std::string(name_) +
                                            ": expected a C-contiguous array, got strides; pass "
                                            ".contiguous() or numpy.ascontiguousarray()");
    }
    expected *= shape_[d];
  }
}

Array& Array::of(std::initializer_list<Type> types) {
  std::string expected;
  for (Type type : types) {
    if (type == type_) return *this;
    expected += (expected.empty() ? "" : " or ") + std::string(text(type));
  }
  fail(ErrorKind::kInvalidDtype,
       std::string(name_) + ": expected " + expected + ", got " + dtype_text());
}

Array& Array::shaped(std::initializer_list<Dim*> shape) {
  bool fits = int(shape.size()) == ndim_;
  std::string expected;
  int d = 0;
  for (Dim* dim : shape) {
    expected += (expected.empty() ? "" : ", ") + dim->text();
    fits = fits && dim->accepts(shape_[d++]);
  }
  if (!fits) {
    fail(ErrorKind::kInvalidShape,
         std::string(name_) + ": expected shape (" + expected + "), got " + shape_text());
  }
  return *this;
}

Array& Array::writable() {
  if (read_only_) {
    fail(ErrorKind::kInvalidArgument,
         std::string(name_) + ": is written in place, but the array is read-only; pass a copy");
  }
  return *this;
}

bool Array::overlaps(const Array& other) const {
  const auto bytes = [](const Array& array) {
    int64_t total = array.item_bytes_;
    for (int d = 0; d < array.ndim_; ++d) total *= array.shape_[d];
    return total;
  };
  const char* begin = data<char>();
  const char* other_begin = other.data<char>();
  return begin < other_begin + bytes(other) && other_begin < begin + bytes(*this);
}

std::string Array::dtype_text() const {
  return type_ == Type::kOther ? foreign_dtype_ : text(type_);
}

std::string Array::shape_text() const {
  std::string out = "(";
  for (int d = 0; d < ndim_; ++d) out += (d ? ", " : "") + std::to_string(shape_[d]);
  return out + ")";
}

}  // namespace fastdiff
