// Adds the classes and functions of the native backend to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace fastdiff {

void bind_network(pybind11::module_& module);

}  // namespace fastdiff
