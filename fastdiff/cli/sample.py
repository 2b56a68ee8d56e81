"""``fastdiff sample``: images from a model or a pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fastdiff.cli.files import prepare_files
from fastdiff.errors import InvalidArgument
from fastdiff.sampling import list_solvers

_STEPS = 50


def sample(
    model: Annotated[
        str,
        typer.Argument(
            help="`digits` or another name; a folder in the diffusers layout, of a denoiser or "
            "of a whole pipeline; an .onnx file; or a saved .fastdiff file."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(help="What to draw, for a pipeline that reads text.")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What not to draw, for a pipeline that reads text.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class labels with commas between: 3,7. Each gets N images.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Images (of each class).")] = 1,
    solver: Annotated[
        str | None,
        typer.Option(
            help="One of: " + ", ".join(list_solvers()) + ". (ddim if left out; a pipeline has its "
            "scheduler's)"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help=f"Solver steps. ({_STEPS} if left out)")] = None,
    sigmas: Annotated[
        str | None, typer.Option(help="Noise levels instead of steps, descending: 80,24.4,5.84.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Noise seed; the same seed gives the same images.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale; 1 is none.")
    ] = None,
    guidance_rescale: Annotated[
        float | None, typer.Option(help="0 to 1: undo the contrast that guidance adds.")
    ] = None,
    guidance_interval: Annotated[
        str | None, typer.Option(help="Guide between two noise levels sigma/alpha only: 0.3,5.")
    ] = None,
    eta: Annotated[float | None, typer.Option(help="Noise of DDIM, 0 to 1.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to start from instead of noise.", exists=True)
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="With --image: how much of it to change, 0 to 1.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="With --image: a picture, white where to paint anew.", exists=True),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="What to write: a .png (grid of pictures), .webp or .gif (videos), .wav (sound), "
            "or .npy (float32 array of any samples)."
        ),
    ] = Path("samples.png"),
    fps: Annotated[float, typer.Option(min=0.1, help="Of a video: frames per second.")] = 8.0,
    sample_rate: Annotated[
        int | None, typer.Option(min=1, help="Of sound: values per second, such as 44100.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="auto, or a backend; `fastdiff doctor` lists them.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, float32, bfloat16, float16 or int8.")
    ] = "auto",
    save: Annotated[
        Path | None, typer.Option(help="Keep the compiled model in this .fastdiff file.")
    ] = None,
) -> None:
    """Sample images from a model and write them as a grid or as an array.

    Examples
    --------
    fastdiff sample digits --classes 3,7 -n 8 --guidance 2 --seed 1 --out threes.png

    fastdiff sample digits --classes 8 --image three.png --strength 0.6 --out eight.png

    fastdiff sample ./stable-diffusion --prompt "a lighthouse at night" --seed 1
    """
    import fastdiff
    from fastdiff.cli import media, pipelines

    media.check_format(out)
    prepare_files(out, save)
    labels = None if classes is None else _numbers("--classes", classes, int)
    interval = None if guidance_interval is None else _pair(guidance_interval)
    levels = None if sigmas is None else _numbers("--sigmas", sigmas, float)
    compiled: Any
    if model.endswith(".fastdiff"):
        compiled = fastdiff.load(model, progress=True)
    else:
        compiled = fastdiff.compile(model, backend=backend, precision=precision, progress=True)
    options: dict[str, Any] = {
        "steps": steps,
        "guidance_scale": guidance,
        "guidance_rescale": guidance_rescale,
        "eta": eta,
        "strength": strength,
    }
    of_samplers = {"solver": solver, "sigmas": levels, "guidance_interval": interval}
    of_pipelines = {"prompt": prompt, "negative_prompt": negative_prompt}
    begin = time.perf_counter()
    if isinstance(compiled, fastdiff.Sampler):
        _refuse(of_pipelines, "is for a pipeline that reads text")
        if save is not None:
            compiled.save(save)
        shape = compiled.network.sample_shape
        options |= of_samplers | {
            "image": None if image is None else media.read(image, shape),
            "mask": None if mask is None else media.read_mask(mask, shape),
            "class_labels": None if labels is None else [a for a in labels for _ in range(n)],
        }
        begin = time.perf_counter()
        images = compiled.sample(
            n * len(labels or [0]),
            seed=seed,
            progress=True,
            **{name: value for name, value in options.items() if value is not None},
        )
    else:
        _refuse(of_samplers, "is for a denoiser; a pipeline's scheduler says it")
        _refuse({"save": save}, "is for a denoiser")
        options |= of_pipelines | {"image": image, "mask": mask}
        images = pipelines.sample(compiled, n, seed, labels, options)
    seconds = time.perf_counter() - begin
    columns = media.columns_of(len(images), 1 if labels is None else n)
    files = media.save(images, out, columns, fps=fps, sample_rate=sample_rate)
    count, what = len(images), "images" if images.ndim == 4 else "samples"
    typer.echo(f"{compiled}: {count} {what} in {seconds:.2f} s, {count / seconds:.1f} {what}/s")
    typer.echo(f"wrote {', '.join(map(str, files))}")


def _numbers(option: str, text: str, kind: type[Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidArgument(
            f"{option}: expected numbers with commas between, such as 3,7, got {text!r}"
        ) from error


def _pair(text: str) -> tuple[float, float]:
    numbers = _numbers("--guidance-interval", text, float)
    if len(numbers) != 2:
        raise InvalidArgument(f"--guidance-interval: expected two numbers, got {text!r}")
    return numbers[0], numbers[1]


def _refuse(options: dict[str, Any], reason: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise InvalidArgument(f"--{name.replace('_', '-')} {reason}")
