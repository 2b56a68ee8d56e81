"""Who may use the API: keys, and pages of other sites."""

import httpx
import pytest
from serving import fake_service, running

from fastdiff.errors import InvalidArgument
from fastdiff.serving.service import Settings

PATH = "/v1/images/generations"


def test_keys_open_the_api_and_nothing_else_needs_one():
    service = fake_service(settings=Settings(api_keys=("first key", "second-key")))
    with running(service) as url, httpx.Client(base_url=url) as client:
        for path in ("/healthz", "/readyz", "/", "/app.js", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        for path in ("/v1/models", "/v1/status", "/metrics"):
            refused = client.get(path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for value in ("Bearer first", "Basic second-key", "second-key", "Bearer \xff"):
            response = client.post(
                PATH, json={}, headers={"authorization": value.encode("latin-1")}
            )
            assert response.json()["error"]["code"] == "invalid_api_key"
        for key in ("first key", "second-key"):
            headers = {"authorization": f"Bearer {key}"}
            response = client.post(PATH, json={"response_format": "url"}, headers=headers)
            assert client.get(response.json()["data"][0]["url"]).status_code == 200


@pytest.mark.parametrize(
    "given", ["https://images.example.org/ai", "https://images.example.org/ai/"]
)
def test_images_are_where_the_operator_says(given):
    with running(fake_service(settings=Settings(public_url=given))) as url:
        reply = httpx.post(url + PATH, json={"response_format": "url"})
        shown = reply.json()["data"][0]["url"]
        assert shown.startswith("https://images.example.org/ai/v1/images/files/")
        path = shown.removeprefix("https://images.example.org/ai")
        assert httpx.get(url + path).status_code == 200


def test_a_public_url_that_is_none_is_refused():
    with pytest.raises(InvalidArgument, match="expected http://HOST:PORT or https://HOST"):
        Settings(public_url="images.example.org")


def test_other_sites_are_kept_out_unless_named():
    origin = {"origin": "https://example.org", "access-control-request-method": "POST"}
    with running(fake_service()) as url:
        assert (
            "access-control-allow-origin" not in httpx.options(url + PATH, headers=origin).headers
        )
    settings = Settings(cors_origins=("https://example.org",), api_keys=("key",))
    with running(fake_service(settings=settings)) as url:
        allowed = httpx.options(url + PATH, headers=origin)
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
