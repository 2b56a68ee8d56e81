"""What the code blocks of each page find in place: the models, files and servers of its reader.

A preamble is a context manager that is entered in an empty working folder, before the first block
of its page. It gives the names that the blocks use and do not define.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import onnx.parser
import pytest
import torch
from torch import Tensor, nn

from fastdiff.sampling.solvers.base import REGISTRY

Names = dict[str, Any]
ADDRESS = "http://127.0.0.1:8000"
"""The server of the documents; where ``names["address"]`` is given, blocks are told that one."""

QUICK = {"tune": 0.01, "max_batch": 8, "cache": False, "progress": False}
"""What `fastdiff.compile` is told, wherever a block leaves the choice to it."""

CONSISTENCY_MODEL = """
<ir_version: 8, opset_import: ["": 18]>
denoiser (float[N, 3, 8, 8] sample, float[N] sigma) => (float[N, 3, 8, 8] prediction)
<int64[4] per_row = {-1, 1, 1, 1}, float one = {1}> {
    level = Reshape(sigma, per_row)
    scale = Add(level, one)
    prediction = Div(sample, scale)
}
"""
"""A network that takes sigma and returns the data, as ``onnx.parser`` reads it."""


class LabelledDenoiser(nn.Module):
    """A network that is called as ``model(x, t, class_labels)``, with one label more for none."""

    def __init__(self, channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.labels = nn.Embedding(num_classes + 1, channels)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        """Return the predicted noise."""
        hidden = self.conv(x) + self.labels(class_labels)[:, :, None, None]
        return torch.tanh(hidden) * torch.cos(t / 1000)[:, None, None, None]


@contextlib.contextmanager
def nothing() -> Iterator[Names]:
    """The page's blocks define all that they use."""
    yield {}


@contextlib.contextmanager
def readme() -> Iterator[Names]:
    """A network of 1000 classes, its scheduler's file, a picture, and a folder of a pipeline."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra diffusers")
    import pipelines

    diffusers.DDPMScheduler().save_config(".")
    pipelines.text_to_image().save_pretrained("stable-diffusion")
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    yield {
        "model": LabelledDenoiser(num_classes=1000),
        "picture": torch.linspace(-1, 1, 64).expand(1, 3, 64, 64),
        "mask": mask,
        "folder": "stable-diffusion",
        "generator": torch.Generator().manual_seed(0),
    }


@contextlib.contextmanager
def contributing() -> Iterator[Names]:
    """One step of a solver: two noise levels, and the step between them."""
    from fastdiff.sampling.solvers.rows import Columns

    yield {"Columns": Columns, "sigma": 2.0, "sigma_to": 1.0, "h": -1.0}


@contextlib.contextmanager
def models() -> Iterator[Names]:
    """Two ONNX files of somebody else's."""
    import foreign_onnx

    onnx.save(onnx.parser.parse_model(CONSISTENCY_MODEL), "consistency.onnx")
    foreign_onnx.write_denoiser("denoiser.onnx", scale="style")
    yield {}


@contextlib.contextmanager
def pipelines_page() -> Iterator[Names]:
    """The folder of a small Stable Diffusion, by the name of the published one."""
    pytest.importorskip("diffusers", reason="needs the extra diffusers")
    import pipelines

    pipelines.text_to_image().save_pretrained("stable-diffusion-v1-5")
    yield {}


@contextlib.contextmanager
def server() -> Iterator[Names]:
    """A server of the digits model, unmeasured, on a free port."""
    import serving

    with serving.digits_service() as service, serving.running(service) as address:
        yield {"address": address}


@contextlib.contextmanager
def serving_page() -> Iterator[Names]:
    """A server, and an end for the worker that the page's last block starts."""
    with server() as names:
        yield names
        names["worker"].close()


@contextlib.contextmanager
def ray_serve() -> Iterator[Names]:
    """Ray Serve without a cluster: it checks what it is told to deploy, and starts nothing."""
    serve = pytest.importorskip("ray.serve", reason="needs the extra ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve, "start", lambda http_options: None)
        patch.setattr(serve, "run", lambda application, name, route_prefix: None)
        yield {}


@contextlib.contextmanager
def solvers() -> Iterator[Names]:
    """Forget the solver that the page adds."""
    known = dict(REGISTRY)
    try:
        yield {}
    finally:
        for name in REGISTRY.keys() - known.keys():
            del REGISTRY[name]


@contextlib.contextmanager
def training() -> Iterator[Names]:
    """The module of the reader's own project."""
    project = ModuleType("my_project")
    project.MyUNet = LabelledDenoiser
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "my_project", project)
        yield {}


PREAMBLES: dict[str, Callable[[], AbstractContextManager[Names]]] = {
    "README.md": readme,
    "CONTRIBUTING.md": contributing,
    "clients.md": server,
    "models.md": models,
    "onnx.md": nothing,
    "pipelines.md": pipelines_page,
    "scale-out.md": ray_serve,
    "serving.md": serving_page,
    "solvers.md": solvers,
    "training.md": training,
}
