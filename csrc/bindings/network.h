// The native backend as Python classes and functions.
#pragma once

#include <pybind11/pybind11.h>

namespace fastdiff {

void bind_network(pybind11::module_& module);

}  // namespace fastdiff
