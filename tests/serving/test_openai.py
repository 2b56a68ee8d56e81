"""OpenAI's own Python client against a real server."""

import base64
import inspect
import io

import numpy as np
import openai
import pytest
from PIL import Image
from serving import digits, digits_service, running

from fastdiff.serving.images import to_pixels


@pytest.fixture(scope="module")
def client():
    with (
        digits_service() as service,
        running(service) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def picture(b64_json):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64_json))))


def sampled(**arguments):
    return to_pixels(digits().sample(**arguments))[..., 0]


def test_a_class_is_a_prompt(client):
    reply = client.images.generate(
        model="digits",
        prompt="7",
        n=2,
        size="8x8",
        response_format="b64_json",
        extra_body={"seed": 11, "num_inference_steps": 6, "guidance_scale": 2.0, "eta": 0.5},
    )

    expected = sampled(
        class_labels=[7, 7], seed=11, steps=6, guidance_scale=2.0, eta=0.5, solver="ddim"
    )
    for image, pixels in zip(reply.data, expected, strict=True):
        assert np.abs(picture(image.b64_json).astype(int) - pixels).max() <= 1
    assert [image.seed for image in reply.data] == [11, 11]
    assert reply.steps == 6
    assert reply.backend == "eager float32"
    assert reply.queue_seconds >= 0
    assert reply._request_id


def test_the_seed_of_an_image_gives_it_again(client):
    reply = client.images.generate(prompt="3", n=2, extra_body={"num_inference_steps": 5})
    first, second = reply.data

    again = sampled(class_labels=[3], seed=[second.seed], steps=5)

    assert np.abs(picture(second.b64_json).astype(int) - again[0]).max() <= 1
    assert first.seed != second.seed


def test_a_stream_shows_the_image_come_out_of_the_noise(client):
    stream = client.images.generate(
        prompt="5",
        n=2,
        stream=True,
        partial_images=3,
        extra_body={"seed": 2, "num_inference_steps": 12},
    )
    events = list(stream)

    partial = [e for e in events if e.type == "image_generation.partial_image"]
    completed = [e for e in events if e.type == "image_generation.completed"]
    assert events == partial + completed
    expected = sampled(class_labels=[5, 5], seed=2, steps=12)
    assert [e.image_index for e in completed] == [0, 1]
    for event in completed:
        assert np.abs(picture(event.b64_json).astype(int) - expected[event.image_index]).max() <= 1
        assert event.usage.total_tokens == 0
    for image in (0, 1):
        seen = [e for e in partial if e.image_index == image]
        assert [(e.partial_image_index, e.step) for e in seen] == [(0, 3), (1, 6), (2, 9)]
        assert len({e.b64_json for e in seen}) == 3


# What happens to each parameter of the client: values that are taken and decide something, values
# that are taken and named in the reply as ignored, and values that are refused.
PARAMETERS = {
    "prompt": (["7"], [], ["a cat"]),
    "model": (["digits"], [], []),
    "n": ([2], [], [0, 99]),
    "size": (["auto", "8x8"], [], ["1024x1024"]),
    "response_format": (["b64_json", "url"], [], ["file"]),
    "output_format": (["png", "webp", "jpeg"], [], ["gif", "svg"]),
    "output_compression": ([], [100], [50, 101]),
    "background": (["auto", "opaque"], [], ["transparent"]),
    "quality": (["auto"], ["standard"], ["low", "medium", "high", "xhigh", "max", "hd"]),
    "stream": ([False], [], []),
    "partial_images": ([0], [], [2, 101]),
    "style": ([], ["vivid"], ["natural"]),
    "moderation": ([], ["low", "auto"], ["high"]),
    "user": ([], ["somebody"], []),
    "safety_identifier": ([], ["a hash"], []),
    "complexity": ([], [], ["low", "medium", "high"]),
    "frame_count": ([], [], [9]),
    "frame_duration_ms": ([], [], [200]),
    "svg": ([], [], [{"model": "another"}]),
}


def test_every_parameter_of_the_client_has_its_answer(client):
    ways = {"extra_headers", "extra_query", "extra_body", "timeout"}
    known = inspect.signature(client.images.generate).parameters.keys() - ways
    assert known <= PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_changes_no_picture_is_taken_and_what_would_is_refused(client, name):
    used, ignored, refused = PARAMETERS[name]

    def reply(value):
        said = {"prompt": "7", "extra_body": {"seed": 1, "num_inference_steps": 2, name: value}}
        return client.images.generate(**said)

    for value in used:
        assert reply(value).ignored == []
    for value in ignored:
        answer = reply(value)
        assert answer.ignored == [name]
        assert answer.data[0].b64_json == reply(None).data[0].b64_json
    for value in refused:
        with pytest.raises(openai.BadRequestError) as caught:
            reply(value)
        assert caught.value.param == name


def test_a_stream_says_what_it_ignored(client):
    ask = {"prompt": "7", "stream": True, "user": "somebody", "quality": "standard"}
    *_, last = client.images.generate(**ask, extra_body={"num_inference_steps": 2})
    assert last.ignored == ["quality", "user"]


def test_errors_carry_the_parameter(client):
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(prompt="7", style="natural")
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="7", model="dall-e-3")

    assert (wrong.value.param, wrong.value.code) == ("style", "invalid_value")
    assert missing.value.code == "model_not_found"


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["digits"]
    assert client.models.retrieve("digits").owned_by == "fastdiff"
