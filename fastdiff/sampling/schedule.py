"""The noise schedule that a model was trained with."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, InvalidShape, UnknownName
from fastdiff.sampling.config import read_config, schedule_settings
from fastdiff.sampling.prediction import PREDICTION_TYPES
from fastdiff.sampling.timesteps import SPACINGS

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
VARIANCE_TYPES = (
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
)
FINAL_SIGMAS_TYPES = ("zero", "sigma_min")

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """How noise was added in training: x_t = alpha_t X + sigma_t N, alpha_t^2 + sigma_t^2 = 1.

    The fields have the names and defaults of the diffusers scheduler configurations, and
    everything derived from them is float64.

    Parameters
    ----------
    num_train_timesteps : int
        T; times run from 0 (nearly data) to T - 1 (nearly noise).
    beta_start, beta_end : float
        Ends of the range of betas, each in (0, 1).
    beta_schedule : {"linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"}
        Linear in beta (DDPM, sec. 4), linear in sqrt(beta) (latent diffusion), the cosine schedule
        (Improved DDPM, eq. 17), or a sigmoid.
    trained_betas : sequence of float, optional
        The betas themselves, T of them; the three fields above then do not count.
    prediction_type : {"epsilon", "sample", "v_prediction"}
        What the network predicts.
    timestep_spacing : {"leading", "trailing", "linspace"}, steps_offset : int
        See `spaced_timesteps`.
    clip_sample : bool, clip_sample_range : float
        Whether DDPM and DDIM clip the denoised estimate, and to which magnitude.
    variance_type : str
        The noise of DDPM, see `DDPM`.
    set_alpha_to_one : bool
        Whether DDIM ends at alpha = 1 (the data) or at the level of time 0.
    final_sigmas_type : {"zero", "sigma_min"}
        The same choice for the Euler and DPM-Solver families.
    rescale_betas_zero_snr : bool
        Rescale to zero terminal SNR: alpha_{T-1} = 0 (arXiv 2305.08891, Algorithm 1).

    Raises
    ------
    InvalidArgument
        If a value is out of range.
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
    variance_type: str = "fixed_small"
    set_alpha_to_one: bool = True
    final_sigmas_type: str = "zero"
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("beta_schedule", BETA_SCHEDULES),
            ("prediction_type", PREDICTION_TYPES),
            ("timestep_spacing", SPACINGS),
            ("variance_type", VARIANCE_TYPES),
            ("final_sigmas_type", FINAL_SIGMAS_TYPES),
        ):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        for name in ("clip_sample", "set_alpha_to_one", "rescale_betas_zero_snr"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise InvalidArgument(f"{name} must be a bool, got {getattr(self, name)!r}")
        object.__setattr__(self, "num_train_timesteps", _whole(self, "num_train_timesteps", 1))
        object.__setattr__(self, "steps_offset", _whole(self, "steps_offset", 0))
        for name in ("beta_start", "beta_end", "clip_sample_range"):
            object.__setattr__(self, name, _positive(self, name))
        if self.trained_betas is not None:
            object.__setattr__(self, "trained_betas", _trained_betas(self.trained_betas))
            if len(self.trained_betas) != self.num_train_timesteps:
                raise InvalidArgument(
                    f"trained_betas has {len(self.trained_betas)} values, num_train_timesteps is "
                    f"{self.num_train_timesteps}; make them agree"
                )
        _check_decreasing(self.alphas_cumprod, zero_end=self.rescale_betas_zero_snr)

    @classmethod
    def from_config(cls, source: Mapping[str, Any] | str | os.PathLike[str]) -> Schedule:
        """Return the schedule of a diffusers scheduler configuration.

        Parameters
        ----------
        source : mapping or path
            ``scheduler.config``, a ``scheduler_config.json``, or the folder of one (or of a whole
            pipeline). Keys that start with ``_`` are metadata; keys of one solver are accepted
            and left to `solver_from_config`.

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

    @cached_property
    def betas(self) -> Float64Array:
        """Noise variance of each training step, (T,) float64, read-only."""
        betas = self._plain_betas
        if self.rescale_betas_zero_snr:
            ratios = self.alphas_cumprod[1:] / self.alphas_cumprod[:-1]
            betas = 1.0 - np.concatenate([self.alphas_cumprod[:1], ratios])
        return _frozen(betas)

    @cached_property
    def alphas_cumprod(self) -> Float64Array:
        """alpha_t^2 = prod_{s <= t} (1 - beta_s), (T,) float64, read-only."""
        alphas_cumprod = np.cumprod(1.0 - self._plain_betas)
        if self.rescale_betas_zero_snr:
            root = np.sqrt(alphas_cumprod)
            with np.errstate(divide="ignore", invalid="ignore"):  # T = 1 is refused afterwards
                alphas_cumprod = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
        return _frozen(alphas_cumprod)

    @cached_property
    def _ratios(self) -> Float64Array:
        """Ratio sigma / alpha of every time."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod))

    @cached_property
    def _plain_betas(self) -> Float64Array:
        T, start, end = self.num_train_timesteps, self.beta_start, self.beta_end
        if self.trained_betas is not None:
            return np.array(self.trained_betas)
        if self.beta_schedule == "linear":
            return np.linspace(start, end, T)
        if self.beta_schedule == "scaled_linear":
            return np.asarray(np.linspace(math.sqrt(start), math.sqrt(end), T) ** 2)
        if self.beta_schedule == "sigmoid":
            return np.asarray((end - start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, T))) + start)
        alpha_bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.asarray(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999))

    def level(self, t: npt.ArrayLike) -> tuple[Any, Any]:
        """Return (alpha, sigma) at time `t`.

        Parameters
        ----------
        t : float or array
            In 0..T - 1. Between two times sigma / alpha is linear, as in the Euler samplers of
            k-diffusion and diffusers.

        Returns
        -------
        alpha, sigma : float or float64 array
            Of the shape of `t`.

        Raises
        ------
        InvalidArgument
            If `t` is out of range, or between T - 2 and T - 1 with zero terminal SNR, where
            sigma / alpha grows without bound.
        """
        times, last = np.asarray(t, dtype=np.float64), self.num_train_timesteps - 1
        if not np.all((times >= 0) & (times <= last)):
            raise InvalidArgument(f"t must lie in 0..{last}, got {t!r}")
        lower = np.floor(times).astype(np.int64)
        alphas_cumprod = self.alphas_cumprod[lower]
        alpha, sigma = np.sqrt(alphas_cumprod), np.sqrt(1.0 - alphas_cumprod)
        between = times > lower
        if np.any(between):
            ratio = np.where(between, np.interp(times, np.arange(last + 1), self._ratios), 0.0)
            if not np.all(np.isfinite(ratio)):
                raise InvalidArgument(
                    f"t={t!r} lies between {last - 1} and {last}, where zero terminal SNR makes "
                    "sigma / alpha infinite; use a whole time"
                )
            norm = np.hypot(1.0, ratio)
            alpha, sigma = np.where(between, (1.0 / norm, ratio / norm), (alpha, sigma))
        return (float(alpha), float(sigma)) if times.ndim == 0 else (alpha, sigma)

    def add_noise(self, x0: Any, noise: Any, t: Any) -> Any:
        """Return x_t = alpha_t x0 + sigma_t noise, the forward process (DDPM, eq. 4).

        Parameters
        ----------
        x0, noise : (B, ...) floating array
            Data and standard normal noise, NumPy or torch, of one shape.
        t : float or (B,) array
            Time of all rows or of each.

        Returns
        -------
        (B, ...) array
            New, of the kind and dtype of `x0`.

        Raises
        ------
        InvalidArgument
            If a time is out of range.
        InvalidShape
            If the shapes do not fit.
        """
        times = np.asarray(t.tolist() if hasattr(t, "tolist") else t, dtype=np.float64)
        if tuple(noise.shape) != tuple(x0.shape):
            raise InvalidShape(
                f"noise must have the shape of x0, {tuple(x0.shape)}, got {tuple(noise.shape)}"
            )
        if times.ndim and times.shape != tuple(x0.shape[:1]):
            raise InvalidShape(
                f"t must be one time or one for each of the {x0.shape[0] if x0.ndim else 0} rows, "
                f"got shape {times.shape}"
            )
        alpha, sigma = self.level(times)
        if times.ndim:
            shape = (-1,) + (1,) * (x0.ndim - 1)
            alpha, sigma = (_like(x0, value).reshape(shape) for value in (alpha, sigma))
        return alpha * x0 + sigma * noise


def _like(x0: Any, values: Float64Array) -> Any:
    """Coefficients as an array of the kind, dtype and device of `x0`."""
    if hasattr(x0, "new_tensor"):
        return x0.new_tensor(values.tolist())
    return values.astype(x0.dtype)


def _frozen(array: npt.NDArray[Any]) -> Float64Array:
    array.setflags(write=False)
    return array


def _whole(schedule: Schedule, name: str, least: int) -> int:
    value = getattr(schedule, name)
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise InvalidArgument(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def _positive(schedule: Schedule, name: str) -> float:
    value = getattr(schedule, name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (0 < number < math.inf) or isinstance(value, (bool, str)):
        raise InvalidArgument(f"{name} must be a positive finite number, got {value!r}")
    return number


def _trained_betas(values: Any) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InvalidArgument("trained_betas must be a sequence of numbers") from None


def _check_decreasing(alphas_cumprod: Float64Array, *, zero_end: bool) -> None:
    """Refuse levels that do not descend within (0, 1); zero terminal SNR may end at 0."""
    inner = alphas_cumprod[:-1] if zero_end else alphas_cumprod
    descending = np.all(np.diff(alphas_cumprod) < 0)
    if not (descending and np.all((inner > 0) & (inner < 1)) and np.all(alphas_cumprod >= 0)):
        raise InvalidArgument(
            "the betas must lie in (0, 1) and leave alphas_cumprod strictly decreasing and "
            f"positive; it runs from {alphas_cumprod[0]:g} to {alphas_cumprod[-1]:g}: check "
            "beta_start, beta_end, trained_betas and num_train_timesteps"
        )
