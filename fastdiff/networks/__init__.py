"""What a trained network is: a module or somebody's file, its inputs, and its weights."""

from fastdiff.networks.network import (
    MAX_SAMPLE_AXES,
    Conditioning,
    Network,
    SampleShape,
    checked_sample_shape,
    on_host,
    picture_shape,
)
from fastdiff.networks.onnx_file import OnnxFile
from fastdiff.networks.session import first_line
from fastdiff.networks.weights import evaluation_copy, skeleton, with_weights
from fastdiff.networks.whole_times import WholeTimes
from fastdiff.networks.wrappers import unwrapped

__all__ = [
    "MAX_SAMPLE_AXES",
    "Conditioning",
    "Network",
    "OnnxFile",
    "SampleShape",
    "WholeTimes",
    "checked_sample_shape",
    "evaluation_copy",
    "first_line",
    "on_host",
    "picture_shape",
    "skeleton",
    "unwrapped",
    "with_weights",
]
