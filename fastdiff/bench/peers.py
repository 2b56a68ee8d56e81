"""The peers, each used as its own documentation says, in diffusers' own sampling loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdiff.bench.contenders import Contender, TurnTimes, Workload, inputs
from fastdiff.compiler import describe
from fastdiff.errors import InvalidArgument, Unavailable
from fastdiff.networks.precision import DTYPES

Denoise = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]

#: Solver of fastdiff: class in diffusers, and what is set besides the model's own config.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "dpmpp_single": ("DPMSolverSinglestepScheduler", {}),
    "dpmpp_1": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
}
DETERMINISTIC = (
    "ddim",
    "deis",
    "dpmpp_1",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_single",
    "euler",
    "heun",
    "kdpm2",
    "pndm",
    "unipc",
)


class PeerRunner:
    """Diffusers' denoising loop around one way to evaluate the network.

    The loop is the one of diffusers' guide "Understanding pipelines, models and schedulers":
    ``scale_model_input``, the model, ``scheduler.step``.
    """

    error: float | None = None

    def __init__(self, model: str, contender: Contender, onnx: Path | None) -> None:
        self.backend = contender.backend
        self.network, self._schedule = describe(model)
        self._onnx = onnx
        self._module = self.network.require_module().eval()
        self.precision = "float32" if contender.precision == "auto" else contender.precision
        self._dtype = DTYPES[self.precision]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module.to(self._device, self._dtype)
        self._denoise: Denoise | None = None

    def prepare(self, load: Workload) -> None:
        """Make the denoiser for this batch size, and the scheduler for this solver."""
        self._denoise, precision = _MAKERS[self.backend](self._module, load, self._onnx)
        self.precision = precision or self.precision
        self._scheduler = make_scheduler(load.solver, self._schedule.to_config())

    @torch.inference_mode()
    def sample(self, load: Workload, latents: Tensor) -> tuple[Tensor, TurnTimes]:
        """Run diffusers' loop and time it.

        On a GPU the host runs ahead of the work, so there every step counts the same share.
        """
        if self._denoise is None:
            raise InvalidArgument("prepare comes before sample")
        given = inputs(self.network, load.batch)[1]
        conditioning = {name: value.to(self._device) for name, value in given.items()}
        scheduler, seconds = self._scheduler, []
        channels = self.network.sample_shape[0]
        generator = torch.Generator().manual_seed(0)
        extra = {} if load.solver in DETERMINISTIC else {"generator": generator}
        begin = last = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # diffusers warns of NumPy's and its own deprecations
            scheduler.set_timesteps(load.steps)
            x = (latents * scheduler.init_noise_sigma).to(self._device, self._dtype)
            for t in scheduler.timesteps:
                output = self._denoise(scheduler.scale_model_input(x, t), t, conditioning)
                if scheduler.config.get("variance_type") not in {"learned", "learned_range"}:
                    output = output[:, :channels]
                x = scheduler.step(output, t, x, **extra).prev_sample
                now = time.perf_counter()
                seconds.append(now - last)
                last = now
            images = x.float().cpu()
        total = time.perf_counter() - begin
        if self._device.type == "cuda":
            seconds = [total / load.steps] * load.steps
        return images, TurnTimes(total, seconds)


def make_scheduler(solver: str, config: Mapping[str, Any]) -> Any:
    """Return diffusers' scheduler for a solver of fastdiff and a model's schedule.

    Raises
    ------
    Unavailable
        Diffusers is not installed, or has no such solver.
    """
    try:
        import diffusers
    except ImportError as error:
        raise Unavailable(
            "peers run in diffusers' loop: pip install 'fastdiff-runtime[bench]', or --peers none"
        ) from error
    if solver not in SCHEDULERS:
        raise Unavailable(f"there is no scheduler of diffusers for solver {solver!r} here")
    name, extra = SCHEDULERS[solver]
    config = {k: v for k, v in config.items() if v is not None}
    if name != "DDPMScheduler":  # the others have no learned variance of their own
        config.pop("variance_type", None)
    return getattr(diffusers, name).from_config({**config, **extra})


def _eager(module: nn.Module, load: Workload, onnx: Path | None) -> tuple[Denoise, str | None]:
    def denoise(x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        floats = {k: v.to(x.dtype) if v.is_floating_point() else v for k, v in conditioning.items()}
        output: Tensor = module(x, t.to(x.device).float().expand(len(x)), **floats)
        return output

    return denoise, None


def _compiled(module: nn.Module, load: Workload, onnx: Path | None) -> tuple[Denoise, str | None]:
    """``torch.compile(model, fullgraph=True)``, anew for each batch size to have fixed shapes.

    On a GPU with ``mode="max-autotune"``, as diffusers advises; on a CPU that takes many minutes.
    """
    torch.compiler.reset()
    mode = "max-autotune" if torch.cuda.is_available() else None
    compiled = torch.compile(module, fullgraph=True, dynamic=False, mode=mode)

    def denoise(x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = compiled(x, t.to(x.device).float().repeat(len(x)), **conditioning)
        return output

    return denoise, None


def _onnxruntime(
    module: nn.Module, load: Workload, onnx: Path | None
) -> tuple[Denoise, str | None]:
    """``InferenceSession(path)`` and ``session.run`` with its defaults, on the GPU if it can."""
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in offered]
    session = onnxruntime.InferenceSession(str(onnx), providers=providers)

    def denoise(x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        (output,) = session.run(None, _feed(x, t, conditioning))
        return torch.from_numpy(output).to(x.device)

    return denoise, None


def _openvino(module: nn.Module, load: Workload, onnx: Path | None) -> tuple[Denoise, str | None]:
    """``compile_model(path, "CPU")`` with the latency hint and, as advised, a fixed batch size."""
    try:
        import openvino
    except ImportError as error:
        raise Unavailable("not installed; pip install openvino") from error
    core = openvino.Core()
    model = core.read_model(str(onnx))
    model.reshape(
        {port: [load.batch, *list(port.get_partial_shape())[1:]] for port in model.inputs}
    )
    compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()

    def denoise(x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        return torch.from_numpy(compiled(_feed(x, t, conditioning))[0]).to(x.device)

    return denoise, {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(used, used)


_MAKERS: dict[str, Callable[[nn.Module, Workload, Path | None], tuple[Denoise, str | None]]] = {
    "diffusers": _eager,
    "torch.compile": _compiled,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _feed(x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> dict[str, Any]:
    times = t.float().repeat(len(x))
    return {k: v.cpu().numpy() for k, v in {"x": x, "t": times, **conditioning}.items()}
