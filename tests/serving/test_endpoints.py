"""The table of endpoints, beside what a server answers and what its documents say."""

from pathlib import Path

import httpx
import pytest
from serving import fake_service, running

from fastdiff.serving.endpoints import ENDPOINTS

PARAMETERS = {"name": "digits"}  # of every path that has any
DOCUMENT = (Path(__file__).parents[2] / "docs/serving.md").read_text()


@pytest.fixture(scope="module")
def client():
    with running(fake_service()) as url, httpx.Client(base_url=url) as made:
        yield made


def test_every_endpoint_is_described_once_and_answers_as_described(client):
    paths = client.get("/openapi.json").json()["paths"]

    described = {(method, path) for path, each in paths.items() for method in each}
    assert len(described) == len(ENDPOINTS)
    for method, path in described:
        names = [parameter["name"] for parameter in paths[path][method].get("parameters", [])]
        url = path.format(**{name: PARAMETERS[name] for name in names})
        answer = client.request(method, url, **({"json": {}} if method == "post" else {}))
        if path == "/v1/images/files/{name}":  # found, and says that it has no such image
            assert answer.json()["error"]["message"].startswith("no such image")
        else:
            assert answer.status_code == 200, path


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_every_endpoint_is_in_the_document(endpoint):
    path, _ = endpoint.describe()
    assert f"| `{endpoint.method} {path}` |" in DOCUMENT
