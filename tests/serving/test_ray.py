"""Two replicas on a real, local Ray: the protocol, a killed replica, bulk sampling."""

import asyncio
import base64
import importlib.util
import io
import json
import os
import socket
import sys
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from serving import digits, digits_model

import fastdiff
from fastdiff.serving.images import to_pixels
from fastdiff.serving.loading import warm_up
from fastdiff.serving.models import Served
from fastdiff.serving.ray import Fleet, application
from fastdiff.serving.worker import ModelWorker

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytest.importorskip("ray.serve", reason="needs the extra ray")
pytest.importorskip("ray.data", reason="needs the extra ray")

EXAMPLE = Path(__file__).parents[2] / "examples" / "bulk_sampling.py"
PATH = "/v1/images/generations"
STEPS, REQUESTS = 60, 12


@pytest.fixture(scope="module")
def cluster():
    """Start Ray on this machine: no dashboard, no log of its workers, no report to its makers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_SERVE_LOG_TO_STDERR", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the replicas load what tests share
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=1 << 27,
        )
        yield
        ray.shutdown()


def load(service):
    """Open the digits model, unmeasured, in a replica."""
    observer = service.metrics.observer("digits", "eager float32")
    served = Served(digits_model(), ModelWorker("digits", digits(), observer=observer))
    warm_up(served)
    service.add("digits", served)


@pytest.fixture(scope="module")
def url(cluster):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ray.serve.start(http_options={"host": "127.0.0.1", "port": port})
    fleet = Fleet(replicas=2, num_cpus=0.5)
    ray.serve.run(application(["digits"], load, fleet), name="fastdiff")
    yield f"http://127.0.0.1:{port}"
    ray.serve.shutdown()


def pixels(b64_json):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64_json)))).astype(int)


def sampled(**arguments):
    return to_pixels(digits().sample(**arguments))[..., 0].astype(int)


def test_openais_client_knows_no_difference(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        asked = {"prompt": "7", "n": 2, "extra_body": {"seed": 11, "num_inference_steps": 8}}
        reply = client.images.generate(**asked)
        told = list(client.images.generate(**asked, stream=True, partial_images=1))
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(prompt="7", style="natural")

    expected = sampled(class_labels=[7, 7], seed=11, steps=8)
    for image, event, own in zip(reply.data, told[-2:], expected, strict=True):
        assert np.abs(pixels(image.b64_json) - own).max() <= 1
        assert event.type == "image_generation.completed"
        assert np.abs(pixels(event.b64_json) - own).max() <= 1
    assert refused.value.param == "style"


def test_a_killed_replica_loses_no_request(url):
    async def ask(client, seed):
        body = {"prompt": str(seed % 10), "seed": seed, "num_inference_steps": STEPS}
        if seed % 2:
            return await client.post(PATH, json=body)
        return await client.post(PATH, json={**body, "stream": True, "partial_images": 4})

    async def under_load():
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            asked = [asyncio.ensure_future(ask(client, seed)) for seed in range(REQUESTS)]
            victim = await busiest(client)
            ray.kill(ray.get_actor(f"SERVE_REPLICA::fastdiff#Replica#{victim}", namespace="serve"))
            return await asyncio.gather(*asked), (await client.get("/metrics")).text

    replies, metrics = asyncio.run(under_load())

    labels = [seed % 10 for seed in range(REQUESTS)]
    expected = sampled(class_labels=labels, seed=list(range(REQUESTS)), steps=STEPS)
    lost = float(metrics.split("\nfastdiff_replicas_lost_total ")[1].split()[0])
    assert lost >= 1
    assert [reply.status_code for reply in replies] == [200] * REQUESTS
    for seed, reply in enumerate(replies):
        if seed % 2:
            (image,) = reply.json()["data"]
        else:
            lines = reply.text.splitlines()
            *partial, image = [json.loads(line[6:]) for line in lines if line[:5] == "data:"]
            steps = [event["step"] for event in partial]
            assert steps == sorted(set(steps))
            assert image["type"] == "image_generation.completed"
        assert np.abs(pixels(image["b64_json"]) - expected[seed]).max() <= 1


async def busiest(client):
    """Return the replica that has the most requests in progress, when one has some."""
    for _ in range(500):
        lines = (await client.get("/metrics")).text.splitlines()
        lines = [line for line in lines if line.startswith("fastdiff_requests_in_progress{")]
        held = {line.split('"')[1]: float(line.split()[-1]) for line in lines}
        if max(held.values(), default=0) >= 2:
            return max(held, key=held.get)
        await asyncio.sleep(0.01)
    raise AssertionError("no replica was ever busy")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # its own names
def test_bulk_sampling_goes_on_where_it_was_interrupted(cluster, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("bulk_sampling", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bulk_sampling", module)
    spec.loader.exec_module(module)
    ray.cloudpickle.register_pickle_by_value(module)

    compiled = fastdiff.compile(
        "digits", backend="onnxruntime", precision="float32", max_batch=4, tune=0.01
    )
    compiled.save(tmp_path / "model.fastdiff")
    settings = "--count 11 --part 4 --steps 3 --backend onnxruntime --cpus 0.5 --folder"
    command = [*settings.split(), str(tmp_path)]

    module.main(command)
    files = sorted(tmp_path.glob("0*.npy"))
    uninterrupted = [file.read_bytes() for file in files]
    kept = files[2].stat().st_mtime_ns
    files[1].unlink()  # as if the run had ended before it
    module.main(command)

    assert [file.read_bytes() for file in files] == uninterrupted
    assert files[2].stat().st_mtime_ns == kept
    assert [len(np.load(file)) for file in files] == [4, 4, 3]
