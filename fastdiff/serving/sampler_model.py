"""A compiled sampler as a served model: what it takes, and how a request becomes the engine's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastdiff.engine.requests import Request
from fastdiff.errors import InvalidArgument, InvalidShape, UnknownName
from fastdiff.networks import Conditioning
from fastdiff.sampler import Sampler
from fastdiff.sampling import Solver, get_solver
from fastdiff.serving.faults import invalid
from fastdiff.serving.images import Pixels, to_pixels
from fastdiff.serving.jobs import Job
from fastdiff.serving.models import CheckedRequest
from fastdiff.serving.protocol import ImageRequest
from fastdiff.serving.solvers import UsableSolver, usable_solvers

DEFAULT_STEPS = 50


@dataclass(frozen=True)
class TextInput:
    """How a model is told what to draw in words.

    Attributes
    ----------
    name : str
        The network's input.
    encode : callable
        Turns texts into (n, ...) tensors, in the thread pool; raises `ApiError` for one that is
        too long.
    """

    name: str
    encode: Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Decoder:
    """How latents become pictures.

    Attributes
    ----------
    scale : int
        Pixels per latent along each side.
    decode : callable
        Turns (n, C, H, W) latents into (n, 3, scale H, scale W) in [-1, 1], in the thread pool.
    """

    scale: int
    decode: Callable[[Tensor], Tensor]


class SamplerModel:
    """A sampler as a served model: told what to draw by nothing, by class labels or by text.

    Parameters
    ----------
    samplers : Sampler or sequence of Sampler
        Several where one network makes several sizes, the usual one first.
    text : TextInput, optional
        For a model that reads text.
    decoder : Decoder, optional
        For a model whose samples are latents.
    default_solver : Solver, optional
        With its options, of a request that does not say or says its name; DDIM unless given.
    default_guidance : float

    Raises
    ------
    InvalidArgument, InvalidShape
        The model needs an input that a request cannot give, or makes no pictures.
    """

    def __init__(
        self,
        samplers: Sampler | Sequence[Sampler],
        *,
        text: TextInput | None = None,
        decoder: Decoder | None = None,
        default_solver: Solver | None = None,
        default_guidance: float = 1.0,
    ) -> None:
        self.samplers = (samplers,) if isinstance(samplers, Sampler) else tuple(samplers)
        sampler, network = self.samplers[0], self.samplers[0].network
        channels = network.sample_shape[0]
        if decoder is None and channels not in (1, 3):
            raise InvalidShape(
                f"{network.name} makes samples of {channels} channels, which are no pictures: "
                "serve the folder of its whole pipeline"
            )
        known = {"class_labels"} if text is None else {"class_labels", text.name}
        others = sorted(network.conditioning.keys() - known)
        if others:
            raise InvalidArgument(
                f"{network.name} needs {', '.join(others)}, which a request for images cannot "
                "give: serve the folder of its whole pipeline"
            )
        self._network, self._text, self._decoder = network, text, decoder
        scale = 1 if decoder is None else decoder.scale
        shapes = [each.network.sample_shape for each in self.samplers]
        self._sizes = {
            (scale * width, scale * height): each
            for (_, height, width), each in zip(shapes, self.samplers, strict=True)
        }
        self.labels: Conditioning | None = network.conditioning.get("class_labels")
        default = default_solver or get_solver("ddim")
        self.solvers = usable_solvers(sampler, default)
        if default.name not in self.solvers:
            raise InvalidArgument(f"{default.name!r} cannot sample {network.name} from noise")
        self.default_solver = default.name
        self.max_steps = sampler.schedule.num_train_timesteps
        self.default_steps = min(DEFAULT_STEPS, self.max_steps)
        self.default_guidance = default_guidance

    @property
    def backend(self) -> str:
        """The measured choices of backend and precision, the usual size's first."""
        return ", ".join(dict.fromkeys(each.report.chosen.name for each in self.samplers))

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What clients may ask for."""
        return {
            "prompt": self._text is not None,
            "negative_prompt": self._text is not None,
            "num_classes": None if self.labels is None else self.labels.num_classes,
            "guidance_scale": self._network.guidable,
            "default_guidance_scale": self.default_guidance,
            "sizes": [*map(_size_name, self._sizes)],
            "solvers": sorted(self.solvers),
            "default_solver": self.default_solver,
            "max_steps": self.max_steps,
            "default_steps": self.default_steps,
        }

    def examples(self) -> list[ImageRequest]:
        """Return short requests that the model can serve, one of each size."""
        example = ImageRequest(
            prompt=None if self._text is None else "a photograph",
            class_labels=None if self.labels is None or self._text is not None else 0,
            num_inference_steps=min(4, self.max_steps),  # Some solvers take no fewer.
            seed=0,
        )
        sizes = map(_size_name, self._sizes)
        return [example.model_copy(update={"size": size}) for size in sizes]

    def check(self, ask: ImageRequest) -> CheckedRequest:
        """Check the parameters of a request that has its seeds."""
        size = ask.wanted_size or next(iter(self._sizes))
        if size not in self._sizes:
            known = ", ".join(map(_size_name, self._sizes))
            raise invalid("size", f"size: this model makes {known}, got {ask.size}")
        sampler = self._sizes[size]
        steps = ask.num_inference_steps or self.default_steps
        if steps > self.max_steps:
            raise invalid(
                "num_inference_steps",
                f"num_inference_steps: expected at most {self.max_steps}, got {steps}",
            )
        guidance = self._guidance(ask)
        usable = self._solver(ask)
        options = {
            "solver": usable.solver,
            "steps": steps,
            "eta": ask.eta,
            "guidance_scale": guidance,
            "seed": ask.seed,
            **self._labels(ask),
        }
        texts = self._texts(ask, guided=guidance != 1)

        def build() -> Request:
            return sampler.request(ask.count, **options, **self._encode(*texts))

        _, height, width = sampler.network.sample_shape
        job = Job(ask.count, usable.rows(steps), (height, width), guided=guidance != 1)
        return CheckedRequest(ask, *size, steps, job, build)

    def pixels(self, samples: Tensor) -> Pixels:
        """Turn samples into bytes."""
        return to_pixels(samples if self._decoder is None else self._decoder.decode(samples))

    def _guidance(self, ask: ImageRequest) -> float:
        scale = self.default_guidance if ask.guidance_scale is None else ask.guidance_scale
        if scale != 1 and not self._network.guidable:
            raise invalid("guidance_scale", "this model cannot be guided; leave it out or give 1")
        return scale

    def _solver(self, ask: ImageRequest) -> UsableSolver:
        name = ask.solver or self.default_solver
        if name not in self.solvers:
            raise invalid("solver", str(UnknownName("solver for this model", name, self.solvers)))
        try:
            get_solver(self.solvers[name].solver, **({} if ask.eta is None else {"eta": ask.eta}))
        except InvalidArgument as error:
            raise invalid("eta", str(error)) from error
        return self.solvers[name]

    def _texts(self, ask: ImageRequest, *, guided: bool) -> tuple[str | None, str | None]:
        """Return prompt and negative prompt of a model that reads text."""
        if self._text is None:
            if ask.negative_prompt:
                raise invalid("negative_prompt", "this model takes no text", "unsupported")
            return None, None
        if not ask.prompt:
            raise invalid("prompt", "prompt: expected a text")
        if ask.negative_prompt and not guided:
            raise invalid("negative_prompt", "negative_prompt needs a guidance_scale other than 1")
        return ask.prompt, ask.negative_prompt or None

    def _encode(self, prompt: str | None, negative: str | None) -> dict[str, Any]:
        """Return the text as the network's inputs; without a negative one its null stays."""
        if self._text is None or prompt is None:
            return {}
        name, encode = self._text.name, self._text.encode
        if negative is None:
            return {name: encode([prompt])}
        texts = encode([prompt, negative])
        return {name: texts[:1], "negative": {name: texts[1:]}}

    def _labels(self, ask: ImageRequest) -> dict[str, Any]:
        """Return the labels, from the prompt or by themselves."""
        labels, source = ask.class_labels, "class_labels"
        if self.labels is None:
            if labels is not None:
                raise invalid("class_labels", "this model has no classes", "unsupported")
            if ask.prompt and self._text is None:
                raise invalid("prompt", "prompt: expected none, this model draws what it likes")
            return {}
        if ask.prompt and self._text is None:
            if labels is not None:
                raise invalid("class_labels", "expected prompt or class_labels, got both")
            labels, source = self._label_in(ask.prompt), "prompt"
        if labels is None:
            if self.labels.null is None:
                raise invalid("class_labels", f"class_labels: expected {self._range()}")
            return {}
        known = range(self.labels.num_classes or 1 << 31)
        for label in labels if isinstance(labels, list) else [labels]:
            if label not in known:
                raise invalid(source, f"{source}: expected {self._range()}, got {label}")
        return {"class_labels": labels}

    def _label_in(self, prompt: str) -> int:
        text = prompt.strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise invalid("prompt", f"prompt: this model draws by class; expected {self._range()}")
        return int(text)

    def _range(self) -> str:
        if self.labels is None or self.labels.num_classes is None:
            return "a class label"
        return f"a class label from 0 to {self.labels.num_classes - 1}"


def _size_name(size: tuple[int, int]) -> str:
    """Return (width, height) as requests say it."""
    return "{}x{}".format(*size)
