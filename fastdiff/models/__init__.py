"""Models that ship with fastdiff."""

from fastdiff.models.digits import (
    MAX_WEIGHTS_BYTES,
    NULL_CLASS,
    NUM_CLASSES,
    SAMPLE_SHAPE,
    DigitsUNet,
    digits_schedule_config,
    load_digits,
)

__all__ = [
    "MAX_WEIGHTS_BYTES",
    "NULL_CLASS",
    "NUM_CLASSES",
    "SAMPLE_SHAPE",
    "DigitsUNet",
    "digits_schedule_config",
    "load_digits",
]
