"""Noise schedules, prediction types and solvers: sampling as data, in NumPy float64."""

from fastdiff.sampling.passes import Thresholding, rescale_factors
from fastdiff.sampling.prediction import (
    PREDICTION_TYPES,
    convert_prediction,
    denoised_coefficients,
    epsilon_to_score,
    score_to_epsilon,
)
from fastdiff.sampling.reference import Guidance, Inpainting, moments, run_table
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers import (
    Solver,
    get_solver,
    known_schedulers,
    list_solvers,
    solver_from_config,
)
from fastdiff.sampling.table import PackedTable, StepTable
from fastdiff.sampling.timesteps import SPACINGS, spaced_timesteps

__all__ = [
    "PREDICTION_TYPES",
    "SPACINGS",
    "Guidance",
    "Inpainting",
    "PackedTable",
    "Schedule",
    "Solver",
    "StepTable",
    "Thresholding",
    "convert_prediction",
    "denoised_coefficients",
    "epsilon_to_score",
    "get_solver",
    "known_schedulers",
    "list_solvers",
    "moments",
    "rescale_factors",
    "run_table",
    "score_to_epsilon",
    "solver_from_config",
    "spaced_timesteps",
]
