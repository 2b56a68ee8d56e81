// What the host asks of the CUDA runtime, other than launches.
#include "intrinsics.cuh"
#include "launch.h"

const char* fastdiff_cuda_error_text(int error) { return fastdiff::cuda::error_text(error); }
int fastdiff_cuda_status() { return fastdiff::cuda::status(); }
const char* fastdiff_cuda_device() { return fastdiff::cuda::kDevice; }
