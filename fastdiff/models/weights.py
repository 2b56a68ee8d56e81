"""Read weights files that come from somewhere else: nothing is unpickled, everything is checked."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastdiff.errors import WeightsError


def read_safetensors(path: Path, max_bytes: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read every tensor of a safetensors file, and its metadata.

    Parameters
    ----------
    path : Path
        The file.
    max_bytes : int
        A larger file is refused before any of it is read.

    Returns
    -------
    tensors : dict of str to Tensor
        In memory of their own: the file may change or vanish afterwards.
    metadata : dict of str to str
        The metadata that the file's header carries, empty where there is none.

    Raises
    ------
    WeightsError
        The file is missing, too large, truncated, or not a safetensors file.
    """
    if not path.is_file():
        raise WeightsError(f"expected a safetensors file at {path}, but no file is there")
    size = path.stat().st_size
    if size > max_bytes:
        raise WeightsError(
            f"{path} holds {size:,} bytes, expected at most {max_bytes:,}; "
            "it cannot be a weights file of this model"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a complete safetensors file ({error}); fetch or train it again"
        ) from error


def assign_weights(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Make `tensors` the parameters of `model`, without a copy.

    Parameters
    ----------
    model : nn.Module
        May live on the meta device.
    tensors : dict of str to Tensor
        Exactly the entries of ``model.state_dict()``.
    source : Path
        Where the tensors came from, for the error.

    Raises
    ------
    WeightsError
        A tensor is missing, unknown, of another shape or dtype, or not finite.
    """
    expected = model.state_dict()
    model_name = type(model).__name__
    missing, unknown = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unknown:
        raise WeightsError(
            f"{source} does not fit {model_name}: "
            f"missing tensors: {_listed(missing)}; unknown tensors: {_listed(unknown)}"
        )
    for name, wanted in expected.items():
        got = tensors[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise WeightsError(
                f"{source} does not fit {model_name}: tensor {name!r} "
                f"is {tuple(got.shape)} {got.dtype}, "
                f"expected {tuple(wanted.shape)} {wanted.dtype}"
            )
        if not got.isfinite().all():
            raise WeightsError(
                f"tensor {name!r} of {source} holds NaN or infinity; fetch or train it again"
            )
    model.load_state_dict(tensors, assign=True)


def _listed(names: set[str], shown: int = 4) -> str:
    """Name the first few of `names`, and count the rest."""
    listed = ", ".join(sorted(names)[:shown]) or "none"
    return listed if len(names) <= shown else f"{listed} and {len(names) - shown} more"
