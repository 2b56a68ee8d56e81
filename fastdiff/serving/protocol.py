"""`POST /v1/images/generations`: what a request may say, and how it is read.

The parameters are those of OpenAI's images API (https://platform.openai.com/docs/api-reference/images)
and fastdiff's own. What OpenAI has for its accounts, and the defaults of what fastdiff has not,
change no picture: they are taken, and the reply names them as ignored. All else that is unknown
here is refused by name, for the picture would be another one than was asked for.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastdiff.serving.faults import ApiError, invalid

MAX_SEED = (1 << 64) - 1
_DRAWN_SEED_BITS = 53  # A JavaScript number holds integers of up to so many bits exactly.
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_OPENAI_ONLY = ("complexity", "frame_count", "frame_duration_ms", "svg")
_WITHOUT_EFFECT = ("moderation", "safety_identifier", "style", "user")
_NO_EFFECT = "Has no effect here; the reply names it in `ignored`."
_ADVICE = {
    "background": "the images are opaque",
    "output_format": "the images are still pictures",
    "quality": "num_inference_steps decides how much work goes into an image",
    "style": "the style is the model's",
}

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class ImageRequest(BaseModel):
    """Body of ``POST /v1/images/generations``; null means left out."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    prompt: str | None = Field(
        default=None,
        description="The text, or the class label of a class-conditional model, as in `7`.",
    )
    model: str | None = Field(
        default=None, description="One of `GET /v1/models`; may be left out if only one is served."
    )
    n: int | None = Field(default=None, ge=1, description="Images, 1 unless given.")
    size: str | None = Field(default=None, description="`auto` or WIDTHxHEIGHT in pixels.")
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description="Quality of jpeg and webp, 100 unless given."
    )
    background: Literal["auto", "opaque"] | None = None
    quality: Literal["auto", "standard"] | None = None
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    partial_images: int | None = Field(
        default=None, ge=0, le=100, description="Estimates of each image to send while it is made."
    )
    seed: Seed | list[Seed] | None = Field(
        default=None,
        description="One seed for all images, which draw their noise by number; or one each.",
    )
    num_inference_steps: int | None = Field(default=None, ge=1, description="Solver steps.")
    guidance_scale: float | None = Field(
        default=None, ge=0, le=100, description="Classifier-free guidance; 1 is none."
    )
    solver: str | None = Field(
        default=None, description="One of the model's solvers (`/v1/status`)."
    )
    eta: float | None = Field(default=None, ge=0, le=1, description="Noise of DDIM.")
    negative_prompt: str | None = None
    class_labels: int | list[int] | None = Field(
        default=None, description="One label for all images, or one each."
    )
    deadline_ms: int | None = Field(
        default=None, ge=1, le=86_400_000, description="Refuse or give up what takes longer."
    )
    style: Literal["vivid"] | None = Field(default=None, description=_NO_EFFECT)
    moderation: Literal["low", "auto"] | None = Field(default=None, description=_NO_EFFECT)
    user: str | None = Field(default=None, description=_NO_EFFECT)
    safety_identifier: str | None = Field(default=None, description=_NO_EFFECT)

    @property
    def count(self) -> int:
        """Images: `n`, or as many as there are seeds or labels."""
        given = [len(v) for v in (self.seed, self.class_labels) if isinstance(v, list)]
        return self.n or max(given, default=1)

    @property
    def format(self) -> Literal["png", "jpeg", "webp"]:
        """The file format of the answer."""
        return self.output_format or "png"

    @property
    def ignored(self) -> list[str]:
        """Names of the parameters that were given and change nothing."""
        given = {name: getattr(self, name) is not None for name in _WITHOUT_EFFECT}
        given["quality"] = self.quality == "standard"
        given["output_compression"] = self.output_compression is not None and self.format == "png"
        return sorted(name for name, is_given in given.items() if is_given)

    @property
    def deadline_seconds(self) -> float | None:
        """Time for the images to be made, from the arrival of the request; None for any."""
        return None if self.deadline_ms is None else self.deadline_ms / 1000

    @property
    def wanted_size(self) -> tuple[int, int] | None:
        """(width, height) in pixels; None if the model's own will do."""
        found = _SIZE.fullmatch(self.size or "")
        return (int(found[1]), int(found[2])) if found else None

    def seeded(self) -> ImageRequest:
        """Return the request with a seed of its own for every image, if it gave none."""
        if self.seed is not None:
            return self
        seeds = [secrets.randbits(_DRAWN_SEED_BITS) for _ in range(self.count)]
        return self.model_copy(update={"seed": seeds})

    def seed_of(self, index: int) -> tuple[int, int]:
        """Return the seed and the image number under it that image `index` is a function of."""
        if isinstance(self.seed, list):
            return self.seed[index], 0
        if self.seed is None:
            raise ValueError("the request has no seed yet; see seeded()")
        return self.seed, index


def parse_request(body: bytes) -> ImageRequest:
    """Parse a body, and check what needs neither a model nor the limits of a server.

    Raises
    ------
    ApiError
        400, with the parameter's name.
    """
    try:
        request = ImageRequest.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from error
    _check_combination(request)
    return request


def _explain(error: ValidationError) -> ApiError:
    """Return the first fault of a body, without what the body said."""
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:
        return invalid(None, f"expected a JSON object of parameters: {first['msg']}", "bad_json")
    param = str(first["loc"][0])
    if first["type"] != "extra_forbidden":
        advice = f"; {_ADVICE[param]}" if param in _ADVICE else ""
        return invalid(param, f"{param}: {first['msg']}{advice}")
    if param in _OPENAI_ONLY:
        return invalid(param, f"{param} is not supported here; leave it out", "unsupported")
    known = ", ".join(sorted(ImageRequest.model_fields))
    return invalid(param, f"unknown parameter {param!r}; known: {known}", "unknown_parameter")


def _check_combination(request: ImageRequest) -> None:
    """Refuse parameters that contradict each other."""
    for name in ("seed", "class_labels"):
        values = getattr(request, name)
        if isinstance(values, list) and (not values or len(values) != request.count):
            raise invalid(name, f"{name}: expected one or {request.count}, got {len(values)}")
    if request.size not in (None, "auto") and request.wanted_size is None:
        raise invalid("size", "size: expected auto or WIDTHxHEIGHT, such as 512x512")
    if request.output_compression not in (None, 100) and request.format == "png":
        raise invalid("output_compression", "output_compression is for jpeg and webp; png has none")
    if not request.stream and request.partial_images:
        raise invalid("partial_images", "partial_images needs stream=true")
    if request.stream and request.response_format == "url":
        raise invalid("response_format", "a stream carries its images: expected b64_json, got url")


def image_fields(request: ImageRequest, index: int) -> dict[str, Any]:
    """Return what reproduces image `index`: ``Sampler.sample(seed=[seed])`` gives image 0."""
    seed, image = request.seed_of(index)
    return {"seed": seed, "image": image}
