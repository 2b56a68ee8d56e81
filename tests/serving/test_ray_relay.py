"""A router's promises, kept over replicas that are real servers in this process and die on cue."""

import asyncio
import base64
import json
import math
import sys
from contextlib import asynccontextmanager

import httpx
import pytest
from serving import digits_service, fake_service

from fastdiff.errors import InvalidArgument, Overloaded, Unavailable
from fastdiff.serving.app import create_app
from fastdiff.serving.jobs import Job
from fastdiff.serving.limits import Limits
from fastdiff.serving.ray import Fleet, build, deploy
from fastdiff.serving.ray.relay import ReplicaLost, answer
from fastdiff.serving.ray.router import create_router, merge_metrics
from fastdiff.serving.service import Service, Settings

URL = "/v1/images/generations"
ASK = {"prompt": "7", "n": 2, "num_inference_steps": 6}
STREAM = {**ASK, "stream": True, "partial_images": 3}


class Mortals:
    """Replicas that all run one application; `lives` says after how many messages each dies."""

    def __init__(self, service, lives=()):
        self.service, self.app = service, create_app(service)
        self.lives, self.asked = list(lives), []

    async def answer(self, body, request_id):
        left = self.lives.pop(0) if self.lives else math.inf
        self.asked.append(json.loads(body))
        async for message in answer(self.app, body, request_id):
            if left == 0:
                break
            left -= 1
            yield message
        if left < math.inf:
            raise ReplicaLost("it died")

    async def reports(self):
        return [
            {
                "replica": name,
                "state": self.service.state,
                "models": self.service.describe(),
                "metrics": self.service.metrics.render().decode(),
            }
            for name in ("a", "b")
        ]


@pytest.fixture(scope="module")
def service():
    with digits_service() as made:
        yield made


@asynccontextmanager
async def client_of(replicas, settings=None):
    transport = httpx.ASGITransport(create_router(Service(["digits"], settings), replicas))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


def post(replicas, body, settings=None):
    async def run():
        async with client_of(replicas, settings) as client:
            return await client.post(URL, json=body)

    return asyncio.run(run())


def files(reply):
    return [image["b64_json"] for image in reply.json()["data"]]


def events(reply):
    return [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("life", [0, 1, 2])
def test_a_lost_replica_changes_no_image(service, life):
    replicas = Mortals(service, [life])
    reply = post(replicas, ASK)

    seeds = [image["seed"] for image in reply.json()["data"]]
    alone = post(Mortals(service), {**ASK, "seed": seeds})
    assert reply.status_code == 200
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert files(reply) == files(alone)
    assert len(set(seeds)) == 2
    assert [ask["seed"] for ask in replicas.asked] == [seeds] * (2 if life < 2 else 1)


@pytest.mark.parametrize("life", range(1, 8))
def test_a_stream_goes_on_where_it_broke(service, life):
    broken = events(post(Mortals(service, [life]), {**STREAM, "seed": 5}))
    whole = events(post(Mortals(service), {**STREAM, "seed": 5}))

    def shown(told):
        return [(e["type"], e["image_index"], e.get("step"), e["b64_json"]) for e in told]

    assert sorted(shown(broken), key=str) == sorted(shown(whole), key=str)
    assert len(broken) == 2 * (2 + 1)


def test_what_kills_every_replica_ends_with_an_error(service):
    reply = post(Mortals(service, [1] * 10), ASK)
    told = events(post(Mortals(service, [2] * 10), STREAM))

    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "replica_lost")
    assert told[-1]["type"] == "error"
    assert told[-1]["error"]["code"] == "replica_lost"


def test_a_request_that_lost_its_replica_waits_for_a_busy_one(service):
    class Busy(Mortals):
        async def answer(self, body, request_id):
            if len(self.asked) == 1:
                self.asked.append({})
                worker.refusal = Overloaded("the queue is full", 0.05)
                source = answer(create_app(full), body, request_id)
            else:
                source = super().answer(body, request_id)
            async for message in source:
                yield message

    full = fake_service()
    worker = full.find("digits")[1].worker
    replicas = Busy(service, [1])

    reply = post(replicas, ASK)

    assert reply.status_code == 200
    assert len(replicas.asked) == 3


def test_a_busy_replica_turns_a_new_request_away():
    full = fake_service()
    full.find("digits")[1].worker.refusal = Overloaded("the queue is full", 2.5)

    reply = post(Mortals(full), ASK)

    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")


def test_a_deadline_that_passes_in_a_loss_is_told(service):
    class Slow(Mortals):
        async def answer(self, body, request_id):
            self.asked.append(json.loads(body))
            await asyncio.sleep(0.2)
            raise ReplicaLost("it died")
            yield

    replicas = Slow(service)
    reply = post(replicas, {**ASK, "deadline_ms": 300})

    left = [ask["deadline_ms"] for ask in replicas.asked]
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert left[0] <= 300
    assert left[1] <= 100


def test_images_by_url_outlive_their_replica(service):
    async def run():
        async with client_of(Mortals(service, [1])) as client:
            reply = await client.post(URL, json={**ASK, "response_format": "url", "seed": 3})
            assert int(reply.headers["content-length"]) == len(reply.content)
            return [(await client.get(i["url"])).content for i in reply.json()["data"]]

    expected = [base64.b64decode(f) for f in files(post(Mortals(service), {**ASK, "seed": 3}))]
    assert asyncio.run(run()) == expected


def test_the_door_is_the_routers(service):
    replicas = Mortals(service)
    settings = Settings(Limits(max_n=4), api_keys=("secret",))

    async def run():
        async with client_of(replicas, settings) as client:
            nobody = await client.post(URL, json=ASK)
            client.headers["authorization"] = "Bearer secret"
            return [
                nobody,
                await client.post(URL, json={**ASK, "n": 5}),
                await client.post(URL, json={**ASK, "style": "natural"}),
                await client.post(URL, content="{", headers={"content-type": "application/json"}),
            ]

    replies = asyncio.run(run())

    assert [reply.status_code for reply in replies] == [401, 400, 400, 400]
    assert [reply.json()["error"]["param"] for reply in replies[1:3]] == ["n", "style"]
    assert replicas.asked == []


def test_a_client_that_leaves_frees_its_place():
    held = fake_service()
    worker = held.find("digits")[1].worker
    worker.gate.clear()  # jobs wait

    async def run():
        messages = answer(create_app(held), json.dumps(ASK).encode(), "id")
        asking = asyncio.ensure_future(anext(messages))
        while not worker.jobs:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await messages.aclose()

    asyncio.run(run())

    assert worker.jobs == set()
    assert worker.seen[0].cancelled


def test_the_replicas_reports_are_one(service):
    async def run():
        async with client_of(Mortals(service, [1])) as client:
            await client.post(URL, json=ASK)
            return [await client.get(path) for path in ("/readyz", "/v1/status", "/metrics")]

    ready, status, metrics = asyncio.run(run())

    assert "fastdiff_replicas_lost_total 1.0" in metrics.text
    assert ready.json() == {"status": "ready", "replicas": {"a": "ready", "b": "ready"}}
    assert status.json()["replicas"] == 2
    (model,) = status.json()["models"]
    assert (model["name"], model["jobs"], model["backend"]) == ("digits", 0, "eager float32")
    assert 'fastdiff_backend_info{backend="eager float32",model="digits",replica="b"} 1.0' in (
        metrics.text
    )


def test_queues_add_up():
    held = fake_service()
    worker = held.find("digits")[1].worker
    worker.gate.clear()
    worker.reserve(Job(3, 5, (8, 8)))

    async def run():
        async with client_of(Mortals(held)) as client:
            return (await client.get("/v1/status")).json()

    (model,) = asyncio.run(run())["models"]
    assert (model["jobs"], model["running_rows"]) == (2, 6)
    text = "# HELP s Seconds\n# TYPE s histogram\n" + "".join(
        f"{line}\n"
        for line in ('s_bucket{le="1.0"} 2', 's_bucket{le="+Inf"} 3', "s_count 3", "s_sum 4")
    )
    merged = merge_metrics({"a": text, "b": text}).decode()
    assert 's_bucket{le="+Inf",replica="b"} 3.0' in merged
    assert merged.count("# TYPE s histogram") == 1


def test_metrics_of_replicas_share_a_family():
    text = '# HELP s S\n# TYPE s histogram\ns_bucket{le="+Inf"} 3\ns_count 3\ns_sum 4\n'
    merged = merge_metrics({"a": text, "b": text}).decode()
    assert 's_bucket{le="+Inf",replica="b"} 3.0' in merged
    assert merged.count("# TYPE s histogram") == 1


def test_without_replicas_it_is_not_ready():
    class Nobody(Mortals):
        async def reports(self):
            return []

    async def run():
        async with client_of(Nobody(fake_service())) as client:
            return await client.get("/readyz"), await client.get("/healthz")

    ready, health = asyncio.run(run())
    assert (ready.status_code, ready.json()["status"]) == (503, "loading")
    assert health.status_code == 200


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(Unavailable, match=r"fastdiff-runtime\[serve,ray\]"):
        deploy(["digits"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replica": "2"}, "unknown argument 'replica'"),
        ({"replicas": "two"}, "invalid literal"),
        ({"replicas": "3", "max_replicas": "2"}, "max_replicas: expected at least 3"),
        ({"replicas": "0"}, "replicas: expected at least 1"),
        ({"models": ""}, "expected MODEL"),
    ],
)
def test_arguments_of_serve_run_are_checked(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        build({"models": "digits", **arguments})


def test_a_fleet_is_what_ray_is_told():
    fixed, elastic = Fleet(2, num_gpus=1), Fleet(1, 8, target_ongoing_requests=3.5)

    scaling = fixed.options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 2)
    assert fixed.options["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 1}
    scaling = elastic.options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 8)
    assert scaling["target_ongoing_requests"] == 3.5
