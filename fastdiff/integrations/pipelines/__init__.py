"""Whole pipelines of diffusers, with fastdiff's engine in the place of their denoising loop."""

from fastdiff.integrations.pipelines.describing import describe_pipeline, load_pipeline
from fastdiff.integrations.pipelines.families import PIPELINE_CLASSES
from fastdiff.integrations.pipelines.pipeline import CompiledPipeline

__all__ = ["PIPELINE_CLASSES", "CompiledPipeline", "describe_pipeline", "load_pipeline"]
