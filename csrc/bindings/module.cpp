// The module fastdiff._native: the kernels as Python functions, which fastdiff/_native.pyi
// describes.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <vector>

#include "../cpu/dispatch.h"
#include "array.h"
#include "fastdiff/scalar.h"
#include "network.h"
#include "records.h"

namespace py = pybind11;

namespace fastdiff {
namespace {

using cpu::ElementType;
using cpu::Level;

constexpr auto kFloats = {Type::kFloat32, Type::kBFloat16, Type::kFloat16};

ElementType element_type(Type type) {
  return type == Type::kFloat32    ? ElementType::kFloat32
         : type == Type::kBFloat16 ? ElementType::kBFloat16
                                   : ElementType::kFloat16;
}

const Level& find_level(const std::string& name) {
  for (const Level* level : cpu::levels()) {
    if (name == level->name) return *level;
  }
  throw Error{ErrorKind::kInvalidArgument, "this build has no CPU level " + name};
}

const Level& usable_level(const std::string& name) {
  const Level& level = find_level(name);
  if (level.supported()) return level;
  throw Error{ErrorKind::kInvalidArgument, "this CPU lacks " + std::string(level.needs)};
}

/// Raises InvalidArgument if an array that is written shares memory with another or with `output`.
void check_apart(std::initializer_list<const Array*> written, const Array& output) {
  for (auto a = written.begin(); a != written.end(); ++a) {
    if (!*a) continue;
    for (auto b = a + 1; b != written.end(); ++b) {
      if (*b && (*a)->overlaps(**b)) {
        throw Error{ErrorKind::kInvalidArgument,
                    std::string((*a)->name()) + " and " + (*b)->name() + " share memory"};
      }
    }
    if ((*a)->overlaps(output)) {
      throw Error{ErrorKind::kInvalidArgument,
                  std::string((*a)->name()) + " and output share memory"};
    }
  }
}

void check_threads(int threads) {
  if (threads < 1) {
    throw Error{ErrorKind::kInvalidArgument,
                "threads must be at least 1, got " + std::to_string(threads)};
  }
}

cpu::Threads whose(bool own) { return own ? cpu::Threads::kOwn : cpu::Threads::kTorch; }

std::unique_ptr<Array> optional_array(const char* name, py::handle object) {
  return object.is_none() ? nullptr : std::make_unique<Array>(name, object);
}

py::array_t<uint8_t> step(py::handle table_, py::handle rows_, py::handle state_,
                          py::handle output_, py::handle history_, py::handle next_input_,
                          py::handle denoised_, int threads, bool own_threads) {
  Dim R("R"), B("B"), S("S"), n("n"), E("E"), m("m"), K("K");
  Array table("table", table_, sizeof(TableRow)), rows("rows", rows_, sizeof(BatchRow));
  Array state("state", state_), output("output", output_);
  const std::unique_ptr<Array> history = optional_array("history", history_);
  const std::unique_ptr<Array> next_input = optional_array("next_input", next_input_);
  const std::unique_ptr<Array> denoised = optional_array("denoised", denoised_);

  table.shaped({&R});
  rows.shaped({&B});
  state.of({Type::kFloat32}).shaped({&S, &n}).writable();
  output.of(kFloats).shaped({&E, &m});
  if (history) history->of({Type::kFloat32}).shaped({&K, &S, &n}).writable();
  if (next_input) next_input->of(kFloats).shaped({&S, &n}).writable();
  if (denoised) denoised->of({Type::kFloat32}).shaped({&S, &n}).writable();
  if (m.size() < n.size()) {
    throw Error{ErrorKind::kInvalidShape,
                "output: expected rows of at least n = " + n.text() + " elements, got " + m.text()};
  }
  check_apart({&state, history.get(), next_input.get(), denoised.get()}, output);
  check_records(table.data<TableRow>(), rows.data<BatchRow>(), B.size(),
                {R.size(), S.size(), E.size(), history ? K.size() : 0, n.size(), m.size()});

  cpu::StepBatch batch = {};
  batch.table = table.data<TableRow>();
  batch.rows = rows.data<BatchRow>();
  batch.row_count = B.size();
  batch.state = state.data<float>();
  batch.history = history ? history->data<float>() : nullptr;
  batch.slots = S.size();
  batch.elements = n.size();
  batch.output = output.data<void>();
  batch.output_elements = m.size();
  batch.output_type = element_type(output.type());
  batch.next_input = next_input ? next_input->data<void>() : nullptr;
  batch.next_type = next_input ? element_type(next_input->type()) : ElementType::kFloat32;
  batch.denoised = denoised ? denoised->data<float>() : nullptr;

  check_threads(threads);
  const cpu::StepPlan plan = cpu::plan(batch);
  py::array_t<uint8_t> not_finite(B.size());
  uint8_t* flags = not_finite.mutable_data();
  {
    py::gil_scoped_release release;
    cpu::run(plan, whose(own_threads), threads, flags);
  }
  return not_finite;
}

void fill_normal(py::handle out_, py::handle seeds_, py::handle images_, uint32_t draw,
                 uint32_t tag, uint64_t first, float scale, int threads, bool own_threads) {
  constexpr uint64_t kElements = uint64_t(1) << 42;
  Dim rows("rows"), n("n");
  Array out("out", out_), seeds("seeds", seeds_), images("images", images_);
  out.of({Type::kFloat32}).shaped({&rows, &n}).writable();
  seeds.of({Type::kUint64}).shaped({&rows});
  images.of({Type::kUint64}).shaped({&rows});
  if (first > kElements || uint64_t(n.size()) > kElements - first) {
    throw Error{ErrorKind::kInvalidArgument, "first + n must be at most 2^42"};
  }
  check_threads(threads);
  if (tag >> 8) throw Error{ErrorKind::kInvalidArgument, "tag must be below 2^8"};
  for (int64_t r = 0; r < rows.size(); ++r) {
    if (images.data<uint64_t>()[r] >> 48) {
      throw Error{ErrorKind::kInvalidArgument, "images must be below 2^48"};
    }
  }
  const cpu::NormalFill fill = {out.data<float>(),
                                rows.size(),
                                n.size(),
                                seeds.data<uint64_t>(),
                                images.data<uint64_t>(),
                                draw,
                                tag,
                                first,
                                scale};
  py::gil_scoped_release release;
  cpu::fill_normal(fill, whose(own_threads), threads);
}

py::tuple philox_words(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  uint64_t c[4][1] = {{counter[0]}, {counter[1]}, {counter[2]}, {counter[3]}};
  fastdiff::philox<Scalar>(c, RoundKeys<Scalar>(key[0], key[1]));
  return py::make_tuple(uint32_t(c[0][0]), uint32_t(c[1][0]), uint32_t(c[2][0]), uint32_t(c[3][0]));
}

py::tuple box_muller_pairs(py::handle radius_, py::handle angle_) {
  Dim n("n");
  Array radius("radius_words", radius_), angle("angle_words", angle_);
  radius.of({Type::kUint32}).shaped({&n});
  angle.of({Type::kUint32}).shaped({&n});
  py::array_t<float> z0(n.size()), z1(n.size());
  cpu::active_level().box_muller(radius.data<uint32_t>(), angle.data<uint32_t>(), z0.mutable_data(),
                                 z1.mutable_data(), n.size());
  return py::make_tuple(z0, z1);
}

py::array_t<float> exponentials(py::handle x_) {
  Dim n("n");
  Array x("x", x_);
  x.of({Type::kFloat32}).shaped({&n});
  py::array_t<float> out(n.size());
  cpu::active_level().exponential(x.data<float>(), out.mutable_data(), n.size());
  return out;
}

py::dict levels() {
  py::dict reasons;
  for (const Level* level : cpu::levels()) {
    reasons[level->name] = level->supported()
                               ? py::object(py::none())
                               : py::str("this CPU lacks " + std::string(level->needs));
  }
  return reasons;
}

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const Error& error) {
    const char* name = error.kind == ErrorKind::kInvalidShape   ? "InvalidShape"
                       : error.kind == ErrorKind::kInvalidDtype ? "InvalidDtype"
                                                                : "InvalidArgument";
    const py::object type = py::module_::import("fastdiff.errors").attr(name);
    py::set_error(type, error.message.c_str());
  }
}

}  // namespace
}  // namespace fastdiff

PYBIND11_MODULE(_native, module) {
  using namespace fastdiff;
  using py::arg;
  module.doc() = "The compiled kernels of fastdiff.";
  py::register_local_exception_translator(translate);

  module.def("step", step, arg("table"), arg("rows"), arg("state"), arg("output"), arg("history"),
             arg("next_input"), arg("denoised"), arg("threads"), arg("own_threads") = false);
  module.def("fill_normal", fill_normal, arg("out"), arg("seeds"), arg("images"), arg("draw"),
             arg("tag"), arg("first"), arg("scale"), arg("threads"), arg("own_threads") = false);
  module.def("philox", philox_words, arg("counter"), arg("key"));
  module.def("box_muller", box_muller_pairs, arg("radius_words"), arg("angle_words"));
  module.def("exponential", exponentials, arg("x"));

  module.def("levels", levels);
  module.def("active_level", [] { return cpu::active_level().name; });
  module.def(
      "use_level", [](const std::string& name) { cpu::set_active_level(usable_level(name)); },
      arg("name"));
  module.def(
      "fingerprint", [](const std::string& name) { return cpu::fingerprint(usable_level(name)); },
      arg("name"));

  bind_network(module);
}
