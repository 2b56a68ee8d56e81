"""Models of other libraries, described so that fastdiff can run them."""

from fastdiff.integrations.architectures import MODEL_NAMES, cached_weights, named_model
from fastdiff.integrations.diffusers import from_diffusers
from fastdiff.integrations.folders import is_pipeline, load_diffusers

__all__ = [
    "MODEL_NAMES",
    "cached_weights",
    "from_diffusers",
    "is_pipeline",
    "load_diffusers",
    "named_model",
]
