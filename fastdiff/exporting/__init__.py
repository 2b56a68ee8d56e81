"""What a network is, and its export to ONNX: the network alone, or a whole sampler."""

from fastdiff.exporting.loop import export_sampler
from fastdiff.exporting.metadata import Metadata, read_metadata
from fastdiff.exporting.network import Conditioning, Network, on_host
from fastdiff.exporting.onnx import export_onnx
from fastdiff.exporting.onnx_file import OnnxFile
from fastdiff.exporting.session import first_line
from fastdiff.exporting.weights import evaluation_copy, skeleton, with_weights
from fastdiff.exporting.whole_times import WholeTimes
from fastdiff.exporting.wrappers import unwrapped

__all__ = [
    "Conditioning",
    "Metadata",
    "Network",
    "OnnxFile",
    "WholeTimes",
    "evaluation_copy",
    "export_onnx",
    "export_sampler",
    "first_line",
    "on_host",
    "read_metadata",
    "skeleton",
    "unwrapped",
    "with_weights",
]
