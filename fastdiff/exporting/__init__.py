"""A network, or a whole sampler, as an ONNX file."""

from fastdiff.exporting.loop import export_sampler
from fastdiff.exporting.metadata import Metadata, read_metadata
from fastdiff.exporting.onnx import export_onnx

__all__ = ["Metadata", "export_onnx", "export_sampler", "read_metadata"]
