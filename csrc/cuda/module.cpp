// The module fastdiff._cuda: the launchers as Python functions of addresses and sizes, which
// fastdiff/_cuda.pyi describes. Their callers in fastdiff/kernels check the tensors.
#include <pybind11/pybind11.h>

#include <string>

#include "attention.h"
#include "launch.h"

namespace py = pybind11;

namespace fastdiff::cuda {
namespace {

/// Converts the address of a device array to a pointer. 0 means that there is no array.
template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void raise_if(int error, const char* kernel) {
  if (error == 0) return;
  const std::string message =
      std::string("the CUDA kernel ") + kernel + ": " + fastdiff_cuda_error_text(error);
  py::set_error(py::module_::import("fastdiff.errors").attr("Unavailable"), message.c_str());
  throw py::error_already_set();
}

void step(uintptr_t table, uintptr_t rows, int64_t row_count, uintptr_t state, uintptr_t history,
          int64_t slots, int64_t elements, uintptr_t output, int64_t output_elements,
          uintptr_t next_input, uintptr_t denoised, uintptr_t flags, uintptr_t tickets,
          int32_t output_type, int32_t next_type, uintptr_t stream) {
  const StepArguments arguments = {at<TableRow>(table),
                                   at<BatchRow>(rows),
                                   row_count,
                                   at<float>(state),
                                   at<float>(history),
                                   slots,
                                   elements,
                                   at<void>(output),
                                   output_elements,
                                   at<void>(next_input),
                                   at<float>(denoised),
                                   at<uint8_t>(flags),
                                   at<uint32_t>(tickets),
                                   ElementType(output_type),
                                   ElementType(next_type)};
  raise_if(fastdiff_cuda_step(&arguments, at<void>(stream)), "step");
}

void gather(uintptr_t table, uintptr_t rows, int64_t row_count, uintptr_t next_input, uintptr_t x,
            uintptr_t t, int64_t elements, int32_t element_bytes, uintptr_t stream) {
  const GatherArguments arguments = {
      at<TableRow>(table), at<BatchRow>(rows), row_count, at<void>(next_input),
      at<void>(x),         at<float>(t),       elements,  element_bytes};
  raise_if(fastdiff_cuda_gather(&arguments, at<void>(stream)), "gather");
}

void fill_normal(uintptr_t out, uintptr_t seeds, uintptr_t images, int64_t row_count,
                 int64_t elements, uint64_t first, uint32_t draw, uint32_t tag, float scale,
                 uintptr_t stream) {
  const FillArguments arguments = {at<float>(out),
                                   at<uint64_t>(seeds),
                                   at<uint64_t>(images),
                                   row_count,
                                   elements,
                                   first,
                                   draw,
                                   tag,
                                   scale};
  raise_if(fastdiff_cuda_fill_normal(&arguments, at<void>(stream)), "fill_normal");
}

AttentionStrides strides(const py::tuple& elements) {
  if (elements.size() != 3) throw py::value_error("expected strides (batch, head, row)");
  return {elements[0].cast<int64_t>(), elements[1].cast<int64_t>(), elements[2].cast<int64_t>()};
}

void attention(uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, const py::tuple& q_strides,
               const py::tuple& k_strides, const py::tuple& v_strides, const py::tuple& out_strides,
               int32_t batches, int32_t heads, int32_t queries, int32_t keys, int32_t head_size,
               float scale, int32_t type, uintptr_t stream) {
  const AttentionArguments arguments = {at<void>(q),
                                        at<void>(k),
                                        at<void>(v),
                                        at<void>(out),
                                        strides(q_strides),
                                        strides(k_strides),
                                        strides(v_strides),
                                        strides(out_strides),
                                        batches,
                                        heads,
                                        queries,
                                        keys,
                                        head_size,
                                        scale,
                                        ElementType(type)};
  raise_if(fastdiff_cuda_attention(&arguments, at<void>(stream)), "attention");
}

py::object status() {
  const int error = fastdiff_cuda_status();
  return error == 0 ? py::object(py::none()) : py::str(fastdiff_cuda_error_text(error));
}

}  // namespace
}  // namespace fastdiff::cuda

PYBIND11_MODULE(_cuda, module) {
  using namespace fastdiff::cuda;
  using py::arg;
  module.doc() = "The CUDA kernels of fastdiff.";
  module.attr("device") = fastdiff_cuda_device();
  module.def("status", status);
  module.def("step", step, arg("table"), arg("rows"), arg("row_count"), arg("state"),
             arg("history"), arg("slots"), arg("elements"), arg("output"), arg("output_elements"),
             arg("next_input"), arg("denoised"), arg("flags"), arg("tickets"), arg("output_type"),
             arg("next_type"), arg("stream"));
  module.def("gather", gather, arg("table"), arg("rows"), arg("row_count"), arg("next_input"),
             arg("x"), arg("t"), arg("elements"), arg("element_bytes"), arg("stream"));
  module.def("fill_normal", fill_normal, arg("out"), arg("seeds"), arg("images"), arg("row_count"),
             arg("elements"), arg("first"), arg("draw"), arg("tag"), arg("scale"), arg("stream"));
  module.def("attention", attention, arg("q"), arg("k"), arg("v"), arg("out"), arg("q_strides"),
             arg("k_strides"), arg("v_strides"), arg("out_strides"), arg("batches"), arg("heads"),
             arg("queries"), arg("keys"), arg("head_size"), arg("scale"), arg("type"),
             arg("stream"));
}
