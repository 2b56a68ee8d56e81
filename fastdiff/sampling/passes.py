"""The two numbers of a whole image, k and s, that some steps need before they are taken.

A row of a table is computed element by element. Dynamic thresholding first needs a quantile of the
whole image, and guidance rescale two standard deviations. Each of them becomes one number, which
changes a copy of the coefficients that belongs to this image:

- thresholding, D = clip(p x + q m, -s, s) / s: the clip limit becomes s, and the columns of D are
  divided by s;
- guidance rescale, k m instead of m: q and the columns of m are multiplied by k.

This is their definition in NumPy. The first axis of the arrays counts the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Thresholding:
    """Dynamic thresholding: Imagen, arXiv 2205.11487, sec. 2.3.

    Parameters
    ----------
    ratio : float
        Quantile of |D| over an image, in [0, 1].
    max_value : float
        Greatest limit s. With 1 it is plain clipping to [-1, 1]; below 1, s is always this value.
    """

    ratio: float = 0.995
    max_value: float = 1.0

    def limits(self, D: npt.ArrayLike) -> Float64Array:
        """Return s = min(max(quantile(abs(D), ratio), 1), max_value) of each image.

        Parameters
        ----------
        D : (B, ...) array
            Denoised estimates. The quantile is linear between neighbouring elements.

        Returns
        -------
        (B,) float64
        """
        values = np.abs(_by_image(D))
        quantiles = np.quantile(values, self.ratio, axis=1)
        return np.asarray(np.minimum(np.maximum(quantiles, 1.0), self.max_value))


def rescale_factors(m_c: npt.ArrayLike, m: npt.ArrayLike, rescale: float) -> Float64Array:
    """Return k = rescale std(m_c) / std(m) + 1 - rescale of each image.

    See "Common Diffusion Noise Schedules ...", arXiv 2305.08891, eq. 15 and 16.

    Parameters
    ----------
    m_c, m : (B, ...) array
        The conditional output, and the guided one.
    rescale : float
        phi in [0, 1].

    Returns
    -------
    (B,) float64
    """
    of_condition, guided = (np.std(_by_image(output), axis=1) for output in (m_c, m))
    # Both deviations are 0 for a constant output without guidance, which needs no rescaling.
    ratio = np.divide(of_condition, guided, out=np.ones_like(guided), where=guided > 0)
    return np.asarray(rescale * ratio + (1.0 - rescale))


def _by_image(values: npt.ArrayLike) -> Float64Array:
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(len(array), -1)
