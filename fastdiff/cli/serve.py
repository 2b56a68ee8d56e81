"""``fastdiff serve``: images over HTTP."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from fastdiff.errors import InvalidArgument, Unavailable, UnknownName

_PACKAGES = ("starlette", "pydantic", "uvicorn", "prometheus_client")


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            help="What to serve: names such as `digits`, folders in the diffusers layout (a "
            "denoiser's or a whole pipeline's), .fastdiff files. NAME=MODEL says what clients "
            "call it.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that clients must send; repeat it for several. A command line can be seen by "
            "other users: prefer the variable (keys with spaces between) or the file.",
            envvar="FASTDIFF_API_KEY",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with a key on each line.", exists=True, dir_okay=False)
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Images that may wait or run; more are refused with 429.")
    ] = 256,
    max_wait: Annotated[
        float, typer.Option(min=0, help="Seconds of work that may lie before a request.")
    ] = 60.0,
    policy: Annotated[
        str,
        typer.Option(
            help="Who goes first: `shortest-remaining` for the least mean latency, `first-come`, "
            "or `deadline`; nobody waits for ever."
        ),
    ] = "shortest-remaining",
    batching: Annotated[
        str,
        typer.Option(
            help="`step`: requests join and leave at every step. `request`: a batch runs to its "
            "end before the next one forms, for comparison."
        ),
    ] = "step",
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="After SIGTERM, time for running requests to finish.")
    ] = 30.0,
    max_n: Annotated[int, typer.Option(min=1, help="Images of one request.")] = 16,
    max_steps: Annotated[int, typer.Option(min=1, help="Solver steps of one request.")] = 1000,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels of one request, all its images together.")
    ] = 1 << 22,
    max_prompt: Annotated[int, typer.Option(min=1, help="Characters of a prompt.")] = 4000,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 1 << 16,
    backend: Annotated[
        str, typer.Option(help="auto, or a backend; `fastdiff doctor` lists them.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, float32, bfloat16, float16 or int8.")
    ] = "auto",
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="WIDTHxHEIGHT in pixels that the models shall make instead of their own; repeat "
            "it for several. The first is the default.",
        ),
    ] = None,
    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            help="Compute every image with the same bits in whatever company it runs; costs speed.",
        ),
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Site whose pages may call the API, such as https://example.org."),
    ] = None,
    public_url: Annotated[
        str,
        typer.Option(
            help="Where clients reach this server, such as https://images.example.org; image URLs "
            "begin with it. Needed behind a proxy: without it, the address that took the request.",
            envvar="FASTDIFF_PUBLIC_URL",
        ),
    ] = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve images over HTTP as OpenAI's API has it, with a page to try it at /.

    The socket answers at once; /readyz says 200 when every model is compiled and has made an image.

    Example: fastdiff serve digits --port 8000
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"serving needs {', '.join(missing)}: pip install 'fastdiff-runtime[serve]'"
        )
    _known("--batching", batching, ("step", "request"))
    _known("--log-level", log_level, ("debug", "info", "warning", "error"))
    from fastdiff.engine.policies import Policy
    from fastdiff.serving.admission import Queueing
    from fastdiff.serving.limits import Limits
    from fastdiff.serving.loading import ModelOptions, Source, load_models
    from fastdiff.serving.logs import log_json
    from fastdiff.serving.server import listen, run_server
    from fastdiff.serving.service import Service, Settings
    from fastdiff.serving.worker import ModelWorker

    sources = [Source.parse(model) for model in models]
    limits = Limits(max_n, max_steps, max_pixels, max_prompt, max_body)
    keys = (*(api_key or ()), *_keys_in(api_key_file))
    settings = Settings(limits, keys, tuple(cors_origin or ()), public_url)
    service = Service([source.name for source in sources], settings)
    queueing = Queueing(
        Policy(policy),
        places=max_queue,
        backlog_seconds=max_wait,
        by_request=batching == "request",
    )
    sizes = tuple(dict.fromkeys(map(_size, size or ())))
    choices = ModelOptions(backend, precision, batch_invariant, sizes)
    log_json(log_level)
    with listen(host, port, limits.write_seconds) as listener:
        make_worker = functools.partial(ModelWorker, queueing=queueing)
        load = functools.partial(load_models, service, sources, choices, make_worker)
        code = run_server(service, load, listener, drain_seconds)
    raise typer.Exit(code)


def _known(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UnknownName(f"value of {option}", value, known)


def _size(text: str) -> tuple[int, int]:
    """Return width and height as a request names them."""
    from fastdiff.serving.protocol import ImageRequest

    size = ImageRequest(size=text).wanted_size
    if size is None:
        raise InvalidArgument(f"--size: expected WIDTHxHEIGHT, such as 512x512, got {text!r}")
    return size


def _keys_in(file: Path | None) -> list[str]:
    """Return the keys of a file, one on each line; empty lines and those with a # are skipped."""
    if file is None:
        return []
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise InvalidArgument(f"--api-key-file: {file} holds no key, so the API would be open")
    return keys
