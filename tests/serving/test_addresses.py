"""Where a stored image is, by the connection and by what the operator said."""

import pytest

from fastdiff.serving.addresses import file_urls


@pytest.mark.parametrize(
    ("scope", "public_url", "base"),
    [
        ({"server": ("127.0.0.1", 8000)}, "", "http://127.0.0.1:8000"),
        ({"server": ("::1", 80), "root_path": "/ai"}, "", "http://[::1]:80/ai"),
        ({"server": ("here", None)}, "", "http://here"),
        ({"server": None, "root_path": "/ai"}, "", "/ai"),  # a socket without an address
        ({}, "", ""),
        ({"server": ("127.0.0.1", 8000)}, "https://a.b/ai/", "https://a.b/ai"),
    ],
)
def test_an_image_is_where_the_connection_or_the_operator_says(scope, public_url, base):
    forged = [(b"host", b"evil.example"), (b"x-forwarded-proto", b"https")]
    url = file_urls({"scheme": "http", "headers": forged, **scope}, public_url)
    assert url("name.png") == f"{base}/v1/images/files/name.png"
