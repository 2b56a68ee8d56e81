"""The API by its answers: what is refused and how, what images say, metrics."""

import base64
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import FakeWorker, digits, fake_service, running

from fastdiff.errors import DeadlineImpossible, NonFiniteOutput, Overloaded
from fastdiff.sampling import list_solvers
from fastdiff.serving.limits import Limits
from fastdiff.serving.protocol import ImageRequest
from fastdiff.serving.sampler_model import SamplerModel
from fastdiff.serving.service import Settings

PATH = "/v1/images/generations"
LIMITS = Limits(max_n=4, max_steps=100, max_pixels=3 * 64, max_prompt_chars=20, max_body_bytes=9000)


@pytest.fixture(scope="module")
def worker():
    return FakeWorker()


@pytest.fixture(scope="module")
def client(worker):
    with running(fake_service(worker, Settings(LIMITS))) as url, httpx.Client(base_url=url) as made:
        yield made


@pytest.fixture(autouse=True)
def calm(worker):
    yield
    worker.refusal = worker.error = None
    worker.state = "ready"
    assert not worker.jobs
    worker.seen.clear()


REFUSED = {
    "unknown parameter": ({"colour": "red"}, "colour", "unknown_parameter"),
    "odd name": ({"\ud800": 1}, None, "bad_json"),
    "user as a number": ({"user": 7}, "user", "invalid_value"),
    "style": ({"style": "natural"}, "style", "invalid_value"),
    "moderation": ({"moderation": "high"}, "moderation", "invalid_value"),
    "OpenAI's frames": ({"frame_count": 9}, "frame_count", "unsupported"),
    "quality": ({"quality": "high"}, "quality", "invalid_value"),
    "background": ({"background": "transparent"}, "background", "invalid_value"),
    "n as text": ({"n": "2"}, "n", "invalid_value"),
    "n as a truth": ({"n": True}, "n", "invalid_value"),
    "n of 0": ({"n": 0}, "n", "invalid_value"),
    "n over the limit": ({"n": 5}, "n", "invalid_value"),
    "n beyond reason": ({"n": 10**4000}, "n", "invalid_value"),
    "infinite guidance": ({"guidance_scale": 10**400}, "guidance_scale", "invalid_value"),
    "more seeds than the limit": ({"seed": [1] * 5}, "n", "invalid_value"),
    "pixels": ({"n": 4}, "size", "invalid_value"),
    "size": ({"size": "512x512"}, "size", "invalid_value"),
    "size in words": ({"size": "large"}, "size", "invalid_value"),
    "steps of 0": ({"num_inference_steps": 0}, "num_inference_steps", "invalid_value"),
    "steps": ({"num_inference_steps": 101}, "num_inference_steps", "invalid_value"),
    "steps of pndm": ({"num_inference_steps": 2, "solver": "pndm"}, "solver", "invalid_value"),
    "solver": ({"solver": "magic"}, "solver", "invalid_value"),
    "inversion": ({"solver": "ddim_inverse"}, "solver", "invalid_value"),
    "eta over 1": ({"eta": 1.5}, "eta", "invalid_value"),
    "eta of euler": ({"eta": 0.5, "solver": "euler"}, "eta", "invalid_value"),
    "guidance": ({"guidance_scale": -1}, "guidance_scale", "invalid_value"),
    "seed": ({"seed": -1}, "seed", "invalid_value"),
    "large seed": ({"seed": 1 << 64}, "seed", "invalid_value"),
    "seeds": ({"seed": [1, 2], "n": 3}, "seed", "invalid_value"),
    "no seeds": ({"seed": []}, "seed", "invalid_value"),
    "label": ({"class_labels": 10}, "class_labels", "invalid_value"),
    "labels": ({"class_labels": [1, 2], "n": 3}, "class_labels", "invalid_value"),
    "both labels": ({"class_labels": 1, "prompt": "1"}, "class_labels", "invalid_value"),
    "prompt": ({"prompt": "a cat"}, "prompt", "invalid_value"),
    "prompt of no class": ({"prompt": "10"}, "prompt", "invalid_value"),
    "prompt's length": ({"prompt": "1" * 21}, "prompt", "invalid_value"),
    "negative prompt": ({"negative_prompt": "blur"}, "negative_prompt", "unsupported"),
    "format": ({"output_format": "gif"}, "output_format", "invalid_value"),
    "compression of png": ({"output_compression": 5}, "output_compression", "invalid_value"),
    "compression": (
        {"output_compression": 101, "output_format": "webp"},
        "output_compression",
        "invalid_value",
    ),
    "partial images": ({"partial_images": 2}, "partial_images", "invalid_value"),
    "URL in a stream": (
        {"response_format": "url", "stream": True},
        "response_format",
        "invalid_value",
    ),
    "deadline": ({"deadline_ms": 0}, "deadline_ms", "invalid_value"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_parameter_is_refused_by_name(client, worker, case):
    body, param, code = REFUSED[case]

    response = client.post(
        PATH, content=json.dumps(body), headers={"content-type": "application/json"}
    )

    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_only_the_table_is_built_after_a_place_was_reserved(client, worker):
    for body, *_ in REFUSED.values():
        text = json.dumps(body)
        client.post(PATH, content=text, headers={"content-type": "application/json"})

    assert [job.steps for job in worker.seen] == [11]  # pndm of 2 steps
    assert worker.seen[0].cancelled
    assert worker.seen[0].request is None


MALFORMED = {
    "nothing": b"",
    "half": b"{",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "no text": b"\xff",
    "depth": b"[" * 1500,
    "infinity": b'{"n": 1e999}',
    "NaN": b'{"n": NaN}',
    "digits": b'{"n": %s}' % (b"3" * 4400),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_refused(client, body):
    response = client.post(PATH, content=body, headers={"content-type": "application/json"})

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_too_large_is_refused_while_it_is_read(client):
    def endless():
        while True:
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    response = client.post(PATH, content=endless(), headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_only_json_is_read(client):
    response = client.post(PATH, content=b"{}", headers={"content-type": "text/plain"})

    assert response.status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", PATH, 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/images/files/guess.png", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_told_in_the_same_shape(client, method, path, status, code):
    response = client.request(method, path)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_an_unknown_model_is_named_by_its_parameter(client):
    response = client.post(PATH, json={"model": "dall-e-3"})

    assert response.status_code == 404
    assert response.json()["error"]["param"] == "model"


def test_images_say_how_they_were_made(client, worker):
    body = {"prompt": "7", "n": 2, "seed": 5, "num_inference_steps": 20, "solver": "heun"}
    reply = client.post(PATH, json=body).json()

    assert [(image["seed"], image["image"]) for image in reply["data"]] == [(5, 0), (5, 1)]
    told = {
        key: reply[key] for key in ("model", "backend", "steps", "queue_seconds", "run_seconds")
    }
    assert told == {
        "model": "digits",
        "backend": "eager float32",
        "steps": 20,
        "queue_seconds": 0.25,
        "run_seconds": 0.5,
    }
    assert (reply["estimate_seconds"], reply["size"], reply["output_format"]) == (1.5, "8x8", "png")
    picture = Image.open(io.BytesIO(base64.b64decode(reply["data"][0]["b64_json"])))
    assert np.asarray(picture).tolist() == [[128] * 8] * 8
    request = worker.seen[0].request
    assert request.conditioning["class_labels"].tolist() == [7, 7]
    assert request.seeds.tolist() == [5, 5]
    assert request.images.tolist() == [0, 1]
    assert request.steps == worker.seen[0].steps == 39


def test_every_image_gets_a_seed_of_its_own_that_javascript_can_hold(client, worker):
    reply = client.post(PATH, json={"n": 3, "class_labels": [1, 2, 3]}).json()

    seeds = [image["seed"] for image in reply["data"]]
    assert len(set(seeds)) == 3
    assert max(seeds) < 1 << 53
    assert worker.seen[0].request.seeds.tolist() == seeds
    assert [image["image"] for image in reply["data"]] == [0, 0, 0]


def test_what_is_null_counts_as_left_out(client):
    body = dict.fromkeys(ImageRequest.model_fields)

    assert client.post(PATH, json=body).status_code == 200


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_an_image_by_url_is_served_with_its_type(client, output_format):
    body = {"response_format": "url", "output_format": output_format}
    [image] = client.post(PATH, json=body).json()["data"]

    response = client.get(image["url"])

    assert response.headers["content-type"] == f"image/{output_format}"
    assert response.headers["content-security-policy"] == "sandbox"
    picture = Image.open(io.BytesIO(response.content))
    assert picture.format == output_format.upper()
    assert np.abs(np.asarray(picture.convert("L"), int) - 128).max() <= 2


def test_no_header_decides_where_an_image_is(client):
    headers = {"host": "evil.example", "x-forwarded-host": "evil.example"}
    [image] = client.post(PATH, json={"response_format": "url"}, headers=headers).json()["data"]

    assert image["url"].startswith(f"{client.base_url}/v1/images/files/")


def test_a_full_queue_says_when_to_return(client, worker):
    worker.refusal = Overloaded("64 images wait already", retry_after=2.3)

    response = client.post(PATH, json={})

    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["code"] == "queue_full"


def test_a_deadline_that_cannot_be_met_is_refused(client, worker):
    worker.refusal = DeadlineImpossible("it would take 5 s", estimate_seconds=5)

    response = client.post(PATH, json={"deadline_ms": 1500})

    assert (response.status_code, response.headers["retry-after"]) == (429, "4")
    assert response.json()["error"]["param"] == "deadline_ms"


def test_a_failure_of_the_model_names_the_step(client, worker):
    worker.error = NonFiniteOutput(step=3, total=50, image=0, timestep=601.0)

    response = client.post(PATH, json={})

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (500, "non_finite_output")
    assert "step 4 of 50" in error["message"]


def test_a_failure_of_the_engine_keeps_its_secrets(client, worker):
    worker.error = RuntimeError("/opt/secret.so: bad address")

    response = client.post(PATH, json={})

    assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")
    assert "secret" not in response.text


def test_readiness_follows_the_worker(client, worker):
    assert client.get("/readyz").json() == {"status": "ready", "models": {"digits": "ready"}}
    worker.state = "stopped"

    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    response = client.post(PATH, json={})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")


def test_status_says_what_a_model_takes(client):
    [model] = client.get("/v1/status").json()["models"]

    takes = model["parameters"]
    assert (takes["num_classes"], takes["prompt"], takes["guidance_scale"]) == (10, False, True)
    assert (takes["max_n"], takes["max_steps"], takes["sizes"]) == (4, 100, ["8x8"])
    assert {"ddim", "heun", "dpmpp_2m"} <= set(takes["solvers"]) < set(list_solvers())


def test_steps_of_all_solvers_are_exact():
    model = SamplerModel(digits())

    for solver in model.solvers:
        for steps in (5, 23):
            checked = model.check(ImageRequest(solver=solver, num_inference_steps=steps, seed=1))
            assert checked.build().steps == checked.job.steps, (solver, steps)


def test_every_response_has_an_id_and_keeps_browsers_strict(client):
    given = client.get("/healthz", headers={"x-request-id": "mine-1"})
    drawn = client.get("/", headers={"x-request-id": "not\tmine"})

    assert given.headers["x-request-id"] == "mine-1"
    assert len(drawn.headers["x-request-id"]) == 32
    policy = drawn.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert drawn.headers["x-content-type-options"] == "nosniff"
    assert drawn.headers["content-type"].startswith("text/html")


def test_metrics_count_requests_by_outcome():
    worker = FakeWorker()
    service = fake_service(worker)
    observer = service.metrics.observer("digits", "eager float32")
    with running(service) as url, httpx.Client(base_url=url) as client:
        client.post(PATH, json={"n": 3})
        client.post(PATH, json={"n": 0})
        worker.refusal = Overloaded("full", retry_after=1)
        client.post(PATH, json={})
        observer.step(rows=3, evaluations=5, seconds=0.002)
        observer.wasted(7, "cancelled")
        observer.non_finite(2)
        observer.rebuilt()
        lines = client.get("/metrics").text.splitlines()

    assert {
        'fastdiff_requests_total{model="digits",outcome="ok"} 1.0',
        'fastdiff_requests_total{model="",outcome="invalid"} 1.0',
        'fastdiff_requests_total{model="digits",outcome="refused"} 1.0',
        'fastdiff_images_total{format="png",model="digits"} 3.0',
        "fastdiff_requests_in_progress 0.0",
        'fastdiff_queue_seconds_sum{model="digits"} 0.25',
        'fastdiff_rows{model="digits",state="running"} 0.0',
        'fastdiff_jobs{model="digits"} 0.0',
        'fastdiff_rows_per_step_sum{model="digits"} 3.0',
        'fastdiff_step_seconds_count{evaluations="8",model="digits"} 1.0',
        'fastdiff_wasted_steps_total{model="digits",reason="cancelled"} 7.0',
        'fastdiff_non_finite_total{model="digits"} 2.0',
        'fastdiff_engine_rebuilds_total{model="digits"} 1.0',
        'fastdiff_backend_info{backend="eager float32",model="digits"} 1.0',
    } <= set(lines)
