"""What follows from the settings of a schedule: noise levels, times, and the forward process."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.sampling.betas import named_betas, products

Float64Array = npt.NDArray[np.float64]


class Levels:
    """The arithmetic of noise levels, for a `Schedule`, whose fields are the settings named here.

    A noise level is a pair (alpha, sigma), which a process makes from one number (see `Schedule`).
    The methods convert times to levels and levels to times, and give the scale of the network's
    input. All numbers are float64.
    """

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    trained_betas: tuple[float, ...] | None
    rescale_betas_zero_snr: bool
    lambda_min_clipped: float | None
    sigma_data: float
    process: str

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
        return _frozen(products(self._plain_betas, zero_snr=self.rescale_betas_zero_snr))

    @cached_property
    def ratios(self) -> Float64Array:
        """Ratio sigma / alpha of every discrete time, (T,) float64, read-only."""
        with np.errstate(divide="ignore"):
            return _frozen(np.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod))

    @cached_property
    def spaced_range(self) -> int:
        """How many of the T times are spaced over; `lambda_min_clipped` leaves some out."""
        if self.lambda_min_clipped is None:
            return self.num_train_timesteps
        with np.errstate(divide="ignore"):
            return int(np.sum(-np.log(self.ratios) >= self.lambda_min_clipped))

    @cached_property
    def _plain_betas(self) -> Float64Array:
        if self.trained_betas is not None:
            return np.array(self.trained_betas)
        return named_betas(
            self.beta_schedule, self.beta_start, self.beta_end, self.num_train_timesteps
        )

    def level(self, t: npt.ArrayLike) -> tuple[Any, Any]:
        """Return (alpha, sigma) at time `t`.

        Parameters
        ----------
        t : float or array
            A time of the process. Between two discrete times sigma / alpha is linear, as in the
            Euler samplers of k-diffusion and diffusers.

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
        times = np.asarray(t, dtype=np.float64)
        low, high = self.time_range
        if not np.all((times >= low) & (times <= high)):
            raise InvalidArgument(f"t must lie in {low:g}..{high:g}, got {t!r}")
        if self.process == "vp":
            alpha, sigma = self._discrete_level(times)
        else:
            if self.process == "edm":
                times = np.exp(4 * times)
            alpha, sigma = self.level_at(times / high if self.process == "flow" else times)
        return (float(alpha), float(sigma)) if times.ndim == 0 else (alpha, sigma)

    @property
    def time_range(self) -> tuple[float, float]:
        """Least and greatest time of the process."""
        T = float(self.num_train_timesteps)
        ranges = {"vp": (0.0, T - 1), "ve": (0.0, math.inf), "flow": (0.0, T)}
        return ranges.get(self.process, (-math.inf, math.inf))

    def _discrete_level(self, times: Float64Array) -> tuple[Float64Array, Float64Array]:
        lower = np.floor(times).astype(np.int64)
        alphas_cumprod = self.alphas_cumprod[lower]
        alpha, sigma = np.sqrt(alphas_cumprod), np.sqrt(1.0 - alphas_cumprod)
        between = times > lower
        if np.any(between):
            ratio = np.interp(times, np.arange(self.num_train_timesteps), self.ratios)
            ratio = np.where(between, ratio, 0.0)
            if not np.all(np.isfinite(ratio)):
                last = self.num_train_timesteps - 1
                raise InvalidArgument(
                    f"t={times!r} lies between {last - 1} and {last}, where zero terminal SNR "
                    "makes sigma / alpha infinite; use a whole time"
                )
            alpha, sigma = np.where(between, self.level_at(ratio), (alpha, sigma))
        return alpha, sigma

    def level_at(self, sigma: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return (alpha, sigma) of levels given by the sigma of the process."""
        sigma = np.asarray(sigma, dtype=np.float64)
        if self.process == "vp":
            norm = np.hypot(1.0, sigma)
            return 1.0 / norm, sigma / norm
        return (1.0 - sigma if self.process == "flow" else np.ones_like(sigma)), sigma

    def time_at(self, sigma: Float64Array) -> Float64Array:
        """Return the times of levels given by the sigma of the process.

        Between two discrete times it is linear in log(sigma), as in k-diffusion; outside the range
        of training it is the first or the last time.
        """
        if self.process == "vp":
            T = self.num_train_timesteps
            return np.interp(np.log(sigma), np.log(self.ratios), np.arange(T, dtype=np.float64))
        if self.process == "edm":
            return np.asarray(np.log(sigma) / 4)
        return np.asarray(sigma * (self.num_train_timesteps if self.process == "flow" else 1.0))

    @property
    def data_scale(self) -> float:
        """Deviation of the data in which ``v_prediction`` and ``edm`` measure X."""
        return self.sigma_data if self.process == "edm" else 1.0

    def input_scale(self, alpha: Float64Array, sigma: Float64Array) -> Float64Array:
        """Return c_in: the network sees c_in x, for x of these levels of the process."""
        if self.process == "edm":
            return 1.0 / np.hypot(alpha * self.data_scale, sigma)
        return np.ones_like(sigma)

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
    """Return coefficients as an array of the kind, dtype and device of `x0`."""
    if hasattr(x0, "new_tensor"):
        return x0.new_tensor(values.tolist())
    return values.astype(x0.dtype)


def _frozen(array: npt.NDArray[Any]) -> Float64Array:
    array.setflags(write=False)
    return array
