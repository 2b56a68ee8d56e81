"""What a network predicts, and how one prediction becomes another.

With x = alpha X + sigma N (X the data, N unit noise) every prediction type is a fixed combination
of X and N, its *signature*:

=============== ============================================= =========================
type            value                                         source
=============== ============================================= =========================
epsilon         N                                             DDPM, arXiv 2006.11239
sample          X
v_prediction    (alpha N - sigma X) / hypot(alpha, sigma)     arXiv 2202.00512, sec. 4
flow_prediction N - X                                         arXiv 2209.03003, 2210.02747
edm             minus v_prediction                            arXiv 2206.00364, Table 1
score           -N / sigma                                    arXiv 2011.13456
=============== ============================================= =========================

``edm`` is the raw network F of Karras et al.: D = c_skip x + c_out F(c_in x). It and v_prediction
measure the data in units of their deviation `sigma_data`: write X = sigma_data X1, and both are
built from X1 at the level (sigma_data alpha, sigma).

A conversion solves the two by two system of x and the value at hand. Nothing here asks for
alpha^2 + sigma^2 = 1: the same formulas serve variance exploding coordinates (alpha = 1), where a
network trained with variance preservation sees x / hypot(alpha, sigma).
"""

from __future__ import annotations

from typing import Any

from fastdiff.errors import InvalidArgument, UnknownName

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction", "edm")
"""What a network may predict; ``score`` is one more form to convert from and to."""

# Scalars, NumPy arrays and torch tensors all support the arithmetic used here, and the room may
# not import torch to name the type.
Array = Any


def signature(
    kind: str, alpha: Array, sigma: Array, sigma_data: float = 1.0
) -> tuple[Array, Array]:
    """Return (mX, mN) with value = mX X + mN N.

    Parameters
    ----------
    kind : str
        One of `PREDICTION_TYPES`, or ``score``.
    alpha, sigma : float or array
        The level of x.
    sigma_data : float
        Standard deviation of the data in which ``v_prediction`` and ``edm`` measure X.

    Raises
    ------
    UnknownName
        If `kind` is none of these.
    """
    zero = 0.0 * alpha
    if kind == "epsilon":
        return zero, zero + 1.0
    if kind == "sample":
        return zero + 1.0, zero
    if kind in ("v_prediction", "edm"):
        scaled = sigma_data * alpha
        norm = (scaled * scaled + sigma * sigma) ** 0.5
        sign = 1.0 if kind == "v_prediction" else -1.0
        return -sign * sigma / (sigma_data * norm), sign * scaled / norm
    if kind == "flow_prediction":
        return zero - 1.0, zero + 1.0
    if kind == "score":
        _refuse_zero(sigma, "the score is infinite at sigma = 0")
        return zero, zero - 1.0 / sigma
    raise UnknownName("prediction type", kind, (*PREDICTION_TYPES, "score"))


def conversion_coefficients(
    source: str, target: str, alpha: Array, sigma: Array, sigma_data: float = 1.0
) -> tuple[Array, Array]:
    """Return (a, b) with target = a x + b source.

    Parameters
    ----------
    source, target : str
        Of `PREDICTION_TYPES`, or ``score``.
    alpha, sigma : float or array
        The level of x.
    sigma_data : float
        See `signature`.

    Raises
    ------
    InvalidArgument
        If x and `source` do not determine `target`: epsilon at alpha = 0 says nothing about the
        data, and a sample at sigma = 0 nothing about the noise.
    UnknownName
        If a name is unknown.
    """
    mX, mN = signature(source, alpha, sigma, sigma_data)
    tX, tN = signature(target, alpha, sigma, sigma_data)
    if source == target:
        return 0.0 * alpha, 0.0 * alpha + 1.0
    determinant = alpha * mN - sigma * mX
    _refuse_zero(
        determinant,
        f"{source!r} does not determine {target!r} at "
        + (
            "sigma = 0"
            if source == "sample"
            else "alpha = 0 (zero terminal SNR); use a network "
            "that predicts 'v_prediction' or 'sample', or a schedule without "
            "rescale_betas_zero_snr"
        ),
    )
    return (tX * mN - tN * mX) / determinant, (alpha * tN - sigma * tX) / determinant


def denoised_coefficients(
    prediction_type: str, alpha: Array, sigma: Array, sigma_data: float = 1.0
) -> tuple[Array, Array]:
    """Return (p, q) with D = p x + q m, the denoised estimate from the network's output m.

    Raises
    ------
    InvalidArgument
        For epsilon at alpha = 0, where x holds no data.
    UnknownName
        If `prediction_type` is unknown.
    """
    return conversion_coefficients(prediction_type, "sample", alpha, sigma, sigma_data)


def convert_prediction(
    value: Array, x: Array, alpha: Array, sigma: Array, *, source: str, target: str
) -> Array:
    """Convert a prediction into another form.

    Parameters
    ----------
    value : (B, ...) array
        What the network returned, of type `source`. NumPy or torch.
    x : (B, ...) array
        What the network saw, x = alpha X + sigma N, of the same kind and shape.
    alpha, sigma : float or (B,) array
        The level of x, of each row if arrays.
    source, target : str
        Of `PREDICTION_TYPES`, or ``score``.

    Returns
    -------
    (B, ...) array
        A new array.

    Raises
    ------
    InvalidArgument
        If the level makes the conversion singular.
    UnknownName
        If a name is unknown.
    """
    a, b = conversion_coefficients(source, target, alpha, sigma)
    return _per_row(a, x) * x + _per_row(b, x) * value


def epsilon_to_score(epsilon: Array, sigma: Array) -> Array:
    """Return the score grad log p(x) = -epsilon / sigma (arXiv 2011.13456, sec. 3.3).

    Parameters
    ----------
    epsilon : (B, ...) array
        Predicted noise, NumPy or torch.
    sigma : float or (B,) array
        Noise level of the sample it was predicted from, of each row if an array.

    Raises
    ------
    InvalidArgument
        If a level is 0, where the score is infinite.
    """
    _refuse_zero(sigma, "the score is infinite at sigma = 0")
    return -epsilon / _per_row(sigma, epsilon)


def score_to_epsilon(score: Array, sigma: Array) -> Array:
    """Return the noise epsilon = -sigma score; the inverse of `epsilon_to_score`.

    Parameters
    ----------
    score : (B, ...) array
        grad log p(x), NumPy or torch.
    sigma : float or (B,) array
        Noise level of x, of each row if an array.
    """
    return -_per_row(sigma, score) * score


def _per_row(coefficient: Array, x: Array) -> Array:
    """Let a coefficient of shape (B,) broadcast over (B, ...)."""
    if getattr(coefficient, "ndim", 0) == 0:
        return coefficient
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


def _refuse_zero(number: Array, message: str) -> None:
    zero = number == 0
    if zero if isinstance(zero, bool) else bool(zero.any()):
        raise InvalidArgument(message)
