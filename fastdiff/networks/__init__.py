"""What a trained network is: a module or somebody's file, its inputs, and its weights."""

from fastdiff.networks.network import Conditioning, Network, on_host
from fastdiff.networks.onnx_file import OnnxFile
from fastdiff.networks.session import first_line
from fastdiff.networks.weights import evaluation_copy, skeleton, with_weights
from fastdiff.networks.whole_times import WholeTimes
from fastdiff.networks.wrappers import unwrapped

__all__ = [
    "Conditioning",
    "Network",
    "OnnxFile",
    "WholeTimes",
    "evaluation_copy",
    "first_line",
    "on_host",
    "skeleton",
    "unwrapped",
    "with_weights",
]
