"""Sample many images on all machines of a Ray cluster, or on the cores of this one.

    pip install 'fastdiff-runtime[ray]'
    python examples/bulk_sampling.py --count 50000 --workers 4 --folder samples

Image i is a function of the seed and i: it has the same bits however the work is cut and whoever
does it. Finished parts are files `samples/<first>-<end>.npy`, so a run that was interrupted is
resumed by the same command, and one with a larger count goes on where the last one ended. The
model is compiled once, into `samples/model.fastdiff`: all workers run the same backend.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

import fastdiff
from fastdiff.errors import InvalidArgument

_PART = re.compile(r"(\d{12})-(\d{12})\.npy")


@dataclass(frozen=True)
class Job:
    """All that the images depend on, besides their numbers."""

    model: str
    backend: str
    solver: str
    steps: int
    guidance_scale: float
    seed: int


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example with command line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="digits", help="a name, or the folder of a denoiser")
    parser.add_argument("--backend", default="auto", help="a backend of `fastdiff doctor`")
    parser.add_argument("--solver", default="dpmpp_2m", help="see fastdiff.list_solvers()")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="images")
    parser.add_argument("--part", type=int, default=256, help="images of a file")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=1, help="of each worker")
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    parser.add_argument("--folder", type=Path, default=Path("samples"), help="on a shared disk")
    options = parser.parse_args(argv)

    job = Job(**{name: getattr(options, name) for name in Job.__annotations__})
    folder = options.folder.resolve()
    begin(folder, job)
    parts = [*missing(folder, options.count, options.part)]
    images = sum(end - first for first, end in parts)
    print(f"{options.count - images} of {options.count} images are there")
    if parts:
        workers = min(options.workers, len(parts))
        share = {"num_cpus": options.cpus, "num_gpus": options.gpus}
        ray.get(ray.remote(**share)(prepare).remote(folder, job))
        done = ray.data.from_items(
            [{"first": first, "end": end} for first, end in parts],
            override_num_blocks=len(parts),  # a task for each, without one that cuts the list
        ).map(Worker, fn_constructor_args=(folder, job), concurrency=workers, **share)
        for row in done.iter_rows():
            print(f"wrote {row['file']}")


def begin(folder: Path, job: Job) -> None:
    """Note the job in its folder, or check that it is the one that was begun there."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "job.json"
    if not note.exists():
        write(note, (json.dumps(asdict(job), indent=2) + "\n").encode())
    elif json.loads(note.read_text(encoding="utf-8")) != asdict(job):
        raise InvalidArgument(f"{note} is of another job; give this one a folder of its own")


def missing(folder: Path, count: int, part: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of image numbers, first and end, of which `folder` has no file."""
    found = (_PART.fullmatch(file.name) for file in folder.iterdir())
    known = sorted((int(match[1]), int(match[2])) for match in found if match)
    at = 0
    for first, end in [*known, (count, count)]:
        stop = min(first, count)
        yield from ((i, min(i + part, stop)) for i in range(at, stop, part))
        at = max(at, end)


def prepare(folder: Path, job: Job) -> None:
    """Compile the model with the threads that a worker has, unless that was done."""
    path = folder / "model.fastdiff"
    if not path.exists():
        fastdiff.compile(job.model, backend=job.backend).save(path)


class Worker:
    """Samples ranges of images, on a process and a device of its own."""

    def __init__(self, folder: Path, job: Job) -> None:
        self._folder, self._job = folder, job
        # The company in which an image is computed depends on the cut; its bits shall not.
        self._sampler = fastdiff.load(folder / "model.fastdiff", batch_invariant=True)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Sample one range and write it."""
        first, end = row["first"], row["end"]
        numbers = np.arange(first, end, dtype=np.uint64)
        labels = self._sampler.network.conditioning.get("class_labels")
        inputs = {}
        if labels is not None and labels.num_classes:
            inputs["class_labels"] = (numbers % labels.num_classes).astype(np.int64)
        request = self._sampler.request(
            end - first,
            solver=self._job.solver,
            steps=self._job.steps,
            guidance_scale=self._job.guidance_scale,
            seed=self._job.seed,
            **inputs,
        )
        engine = self._sampler.engine
        # One seed, from which every image draws its noise by its number: of the whole job, here.
        ticket = engine.submit(replace(request, images=numbers))
        while not ticket.done:
            engine.advance(ticket)
        file = io.BytesIO()
        np.save(file, ticket.result().numpy())
        path = self._folder / f"{first:012d}-{end:012d}.npy"
        write(path, file.getvalue())
        return {"file": path.name}


def write(path: Path, data: bytes) -> None:
    """Write a file that is never half there."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(data)
    temporary.replace(path)


if __name__ == "__main__":
    main()
