import stat

import pytest

from fastdiff.storing.signing import is_own, sign


@pytest.fixture
def user(tmp_path, monkeypatch):
    """Become a user by name."""

    def become(name):
        monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path / name))
        return tmp_path / name

    return become


def test_a_signature_holds_for_its_user_and_its_content(user):
    user("ann")
    content = ["machine", "openvino", {"1.blob": "abc", "denoiser.onnx": "def"}]
    signature = sign(content)
    assert is_own(content, signature)
    assert is_own(["machine", "openvino", {"denoiser.onnx": "def", "1.blob": "abc"}], signature)
    assert not is_own(["machine", "openvino", {"1.blob": "abd", "denoiser.onnx": "def"}], signature)
    assert not is_own(["machine", "inductor", content[2]], signature)
    assert not is_own(content, "")
    assert not is_own(content, "ä")
    user("bob")
    assert not is_own(content, signature)
    user("ann")
    assert is_own(content, signature)


def test_the_key_is_private_and_stays(user):
    folder = user("ann")
    first = sign(1)
    key = folder / "signing.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    assert sign(1) == first
