"""How a model was trained: its noise levels, its times, and what it predicts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.betas import BETA_SCHEDULES, trained_betas
from fastdiff.sampling.checks import (
    check_flag,
    check_number,
    plain,
    positive_number,
    whole_number,
)
from fastdiff.sampling.config import read_config, schedule_settings
from fastdiff.sampling.levels import Levels
from fastdiff.sampling.prediction import PREDICTION_TYPES
from fastdiff.sampling.timesteps import SPACINGS

VARIANCE_TYPES = (
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
)
FINAL_SIGMAS_TYPES = ("zero", "sigma_min")
PROCESSES = ("vp", "ve", "edm", "flow")
TIME_SHIFT_TYPES = ("exponential", "linear")
MAX_TRAIN_TIMESTEPS = 1_000_000
"""Far above what any model is trained with, and small enough for an array of as many numbers."""


@dataclass(frozen=True)
class Schedule(Levels):
    """How noise was added in training: x = alpha X + sigma N.

    The fields have the names and defaults of the diffusers scheduler configurations, and
    everything derived from them is float64. The ``process`` says how a level is made from one
    number, its sigma, and how the network is told of it:

    ======= =============================== ==================== ===========================
    process level                           time                 network input
    ======= =============================== ==================== ===========================
    vp      alpha^2 + sigma^2 = 1, its      0..T - 1, discrete   x
            sigma is the ratio sigma/alpha
    ve      alpha = 1                       sigma                x
    edm     alpha = 1                       log(sigma) / 4       x / hypot(sigma, sigma_data)
    flow    alpha = 1 - sigma               sigma T              x
    ======= =============================== ==================== ===========================

    Parameters
    ----------
    num_train_timesteps : int
        T, at most a million; discrete times run from 0 (nearly data) to T - 1 (nearly noise).
    beta_start, beta_end : float
        Ends of the range of betas, each in (0, 1).
    beta_schedule : {"linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"}
        Linear in beta (DDPM, sec. 4), linear in sqrt(beta) (latent diffusion), the cosine schedule
        (Improved DDPM, eq. 17), or a sigmoid.
    trained_betas : sequence of float, optional
        The T betas themselves; the three fields above are then ignored.
    prediction_type : {"epsilon", "sample", "v_prediction", "flow_prediction", "edm"}
        What the network predicts, see `fastdiff.sampling.prediction`.
    timestep_spacing : {"leading", "trailing", "linspace"}, steps_offset : int
        See `spaced_timesteps`.
    clip_sample : bool, clip_sample_range : float
        Whether DDPM and DDIM clip the denoised estimate, and to which magnitude.
    thresholding : bool
        Dynamic thresholding of the denoised estimate instead of a clip (`Thresholding`).
    dynamic_thresholding_ratio, sample_max_value : float
        Its quantile, in [0, 1], and its greatest limit.
    variance_type : str
        The noise of DDPM, see `DDPM`.
    set_alpha_to_one : bool
        Whether DDIM ends at alpha = 1 (the data) or at the level of time 0.
    final_sigmas_type : {"zero", "sigma_min"}
        The same choice for the Euler and DPM-Solver families.
    rescale_betas_zero_snr : bool
        Rescale to zero terminal SNR: alpha_{T-1} = 0 (arXiv 2305.08891, Algorithm 1).
    lambda_min_clipped : float, optional
        Times whose log(alpha / sigma) is below this are left out of the spacing.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas : bool
        Space sigma instead of time, see `fastdiff.sampling.spacing`; at most one.
    sigma_min, sigma_max : float, optional
        Ends of such a spacing; for ve and edm 0.002 and 80 if None.
    sigma_data : float
        Standard deviation of the data, for edm.
    rho : float
        Exponent of the Karras spacing.
    process : {"vp", "ve", "edm", "flow"}
        See above.
    shift : float
        For flow, sigma becomes shift sigma / (1 + (shift - 1) sigma) (arXiv 2403.03206, eq. 23).
    use_dynamic_shifting : bool, time_shift_type : {"exponential", "linear"}
        The shift depends on the image size: sampling needs `shifted`.
    shift_terminal : float, optional
        Stretch the visited sigmas of flow to end here.

    Raises
    ------
    InvalidArgument
        If a value is out of range, or two do not go together.
    UnknownName
        If a name is unknown.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    variance_type: str = "fixed_small"
    set_alpha_to_one: bool = True
    final_sigmas_type: str = "zero"
    rescale_betas_zero_snr: bool = False
    lambda_min_clipped: float | None = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    sigma_data: float = 0.5
    rho: float = 7.0
    process: str = "vp"
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    time_shift_type: str = "exponential"
    shift_terminal: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        for name, known in _NAMES.items():
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        for field in fields(self):
            if field.type == "bool":
                check_flag(field.name, getattr(self, field.name))
        for name, least in (("num_train_timesteps", 1), ("steps_offset", 0)):
            number = whole_number(name, getattr(self, name), least, MAX_TRAIN_TIMESTEPS)
            object.__setattr__(self, name, number)
        for name in _POSITIVE:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive_number(name, getattr(self, name)))
        if self.trained_betas is not None:
            betas = trained_betas(self.trained_betas, self.num_train_timesteps)
            object.__setattr__(self, "trained_betas", betas)
        self._check_numbers()
        self._check_combination()

    def _check_numbers(self) -> None:
        check_number("dynamic_thresholding_ratio", self.dynamic_thresholding_ratio, 0.0, 1.0)
        if self.lambda_min_clipped is not None:
            check_number("lambda_min_clipped", self.lambda_min_clipped, -1e6, 1e6)

    def _check_combination(self) -> None:
        spacings = [name for name in _SIGMA_SPACINGS if getattr(self, name)]
        if len(spacings) > 1:
            raise InvalidArgument(f"{' and '.join(spacings)} are both True; choose one")
        for kind, process in (("edm", "edm"), ("flow_prediction", "flow")):
            if self.prediction_type == kind and self.process != process:
                raise InvalidArgument(
                    f"prediction_type {kind!r} belongs to process {process!r}, got {self.process!r}"
                )
        if self.shift_terminal is not None and self.shift_terminal >= 1:
            raise InvalidArgument(f"shift_terminal must be below 1, got {self.shift_terminal}")
        if self.process == "vp":
            self.alphas_cumprod  # noqa: B018  refuses betas that do not make a schedule
            if self.spaced_range == 0:
                raise InvalidArgument(
                    f"lambda_min_clipped={self.lambda_min_clipped:g} leaves no time; the log-SNR "
                    f"of time 0 is {-np.log(self.ratios[0]):g}"
                )
        elif self.process == "flow" and self.sigma_max is not None and self.sigma_max > 1:
            raise InvalidArgument(f"sigma_max of a flow is at most 1, got {self.sigma_max}")

    @classmethod
    def from_config(cls, source: Mapping[str, Any] | str | os.PathLike[str]) -> Schedule:
        """Return the schedule of a diffusers scheduler configuration.

        Parameters
        ----------
        source : mapping or path
            ``scheduler.config``, a ``scheduler_config.json``, or the folder of one (or of a whole
            pipeline). Keys that start with ``_`` are metadata, of which ``_class_name`` decides
            the defaults; keys of one solver are accepted and left to `solver_from_config`.

        Raises
        ------
        InvalidArgument
            If a key is unknown, or changes the samples in a way that is not supported.
        """
        names = frozenset(field.name for field in fields(cls))
        return cls(**schedule_settings(read_config(source), names))

    def to_config(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dict that `from_config` reads back."""
        config = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.trained_betas is not None:
            config["trained_betas"] = list(self.trained_betas)
        return config

    def shifted(self, mu: float) -> Schedule:
        """Return this flow schedule with the shift of one image size, exp(mu) or mu itself.

        Parameters
        ----------
        mu : float
            What the pipeline derives from the size (``calculate_shift`` in diffusers).

        Raises
        ------
        InvalidArgument
            If the schedule does not use dynamic shifting, or mu gives no positive shift.
        """
        if not self.use_dynamic_shifting:
            raise InvalidArgument("shifted(mu) needs a schedule with use_dynamic_shifting=True")
        shift = math.exp(mu) if self.time_shift_type == "exponential" else mu
        return replace(self, shift=shift, use_dynamic_shifting=False)


_NAMES: dict[str, tuple[str, ...]] = {
    "beta_schedule": BETA_SCHEDULES,
    "prediction_type": PREDICTION_TYPES,
    "timestep_spacing": SPACINGS,
    "variance_type": VARIANCE_TYPES,
    "final_sigmas_type": FINAL_SIGMAS_TYPES,
    "process": PROCESSES,
    "time_shift_type": TIME_SHIFT_TYPES,
}
_POSITIVE = (
    "beta_start",
    "beta_end",
    "clip_sample_range",
    "sigma_min",
    "sigma_max",
    "sigma_data",
    "rho",
    "sample_max_value",
    "shift",
    "shift_terminal",
)
_SIGMA_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
