"""Finished images as responses and events, built in the thread pool."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastdiff.serving.events import Finished, Progress
from fastdiff.serving.faults import ApiError
from fastdiff.serving.images import ImageStore, encode
from fastdiff.serving.models import CheckedRequest, Model
from fastdiff.serving.protocol import image_fields


@dataclass(frozen=True)
class Replies:
    """Writes what the client of one request gets.

    Attributes
    ----------
    name : str
        The model's name.
    model : Model
    checked : CheckedRequest
        Its job has a place, and so an estimate.
    """

    name: str
    model: Model
    checked: CheckedRequest

    def response(self, finished: Finished, store: ImageStore, url: Callable[[str], str]) -> bytes:
        """Return the JSON of an answer without streaming.

        Parameters
        ----------
        finished : Finished
        store : ImageStore
            Keeps the images of a request that wants URLs.
        url : callable
            Makes a file's URL of its name.
        """
        data = []
        for index, file in enumerate(self._files(finished.samples)):
            if self.checked.ask.response_format == "url":
                content = {"url": url(store.put(file, self.checked.ask.format))}
            else:
                content = {"b64_json": _text(file)}
            data.append({**content, **image_fields(self.checked.ask, index)})
        reply = {"data": data, **self._picture_fields(), **self._run_fields(finished)}
        created = reply.pop("created_at")
        return json.dumps({"created": created, **reply}).encode()

    def partials(self, progress: list[Progress], sent: Counter[int]) -> list[bytes]:
        """Return the events of estimates; `sent` counts those that each image has had."""
        events = []
        for event in progress:
            for image, file in zip(event.images.tolist(), self._files(event.denoised), strict=True):
                fields = {
                    "b64_json": _text(file),
                    "partial_image_index": sent[image],
                    "image_index": image,
                    "step": event.step,
                    "steps": event.total,
                    **image_fields(self.checked.ask, image),
                    **self._picture_fields(),
                }
                events.append(_event("image_generation.partial_image", fields))
                sent[image] += 1
        return events

    def completed(self, finished: Finished) -> list[bytes]:
        """Return one event for each image."""
        return [
            _event(
                "image_generation.completed",
                {
                    "b64_json": _text(file),
                    "image_index": index,
                    **image_fields(self.checked.ask, index),
                    **self._picture_fields(),
                    **self._run_fields(finished),
                    "usage": _NO_TOKENS,
                },
            )
            for index, file in enumerate(self._files(finished.samples))
        ]

    def _files(self, samples: Tensor) -> list[bytes]:
        quality = self.checked.ask.output_compression
        return [
            encode(pixels, self.checked.ask.format, 100 if quality is None else quality)
            for pixels in self.model.pixels(samples)
        ]

    def _picture_fields(self) -> dict[str, Any]:
        return {
            "created_at": int(time.time()),
            "size": f"{self.checked.width}x{self.checked.height}",
            "output_format": self.checked.ask.format,
            "background": "opaque",
            "quality": "auto",
        }

    def _run_fields(self, finished: Finished) -> dict[str, Any]:
        return {
            "model": self.name,
            "backend": self.model.backend,
            "steps": self.checked.steps,
            "queue_seconds": round(finished.queue_seconds, 6),
            "run_seconds": round(finished.run_seconds, 6),
            "estimate_seconds": round(self.checked.job.estimate_seconds, 6),
            "ignored": self.checked.ask.ignored,
        }


# OpenAI's type of the event requires it; fastdiff counts no tokens.
_NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}


def error_event(error: ApiError) -> bytes:
    """Return the event that ends a stream which cannot go on."""
    return _event("error", error.body)


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def _text(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")
