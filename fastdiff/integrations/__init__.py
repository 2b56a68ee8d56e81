"""Models of other libraries, described so that fastdiff can run them."""

from fastdiff.integrations.architectures import MODEL_NAMES, cached_weights, named_model
from fastdiff.integrations.describing import Model, ScheduleLike, describe
from fastdiff.integrations.diffusers import from_diffusers
from fastdiff.integrations.folders import is_pipeline, load_diffusers
from fastdiff.integrations.onnx_files import from_onnx
from fastdiff.integrations.programs import from_program

__all__ = [
    "MODEL_NAMES",
    "Model",
    "ScheduleLike",
    "cached_weights",
    "describe",
    "from_diffusers",
    "from_onnx",
    "from_program",
    "is_pipeline",
    "load_diffusers",
    "named_model",
]
