import pytest
import torch

from fastdiff import errors
from fastdiff.backends import get_backend

openvino = pytest.importorskip("openvino", reason="needs pip install openvino")


def test_float32_is_asked_for_by_name(network):
    denoiser = get_backend("openvino").build(network, "float32")
    compiled = denoiser._compiled(2)
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert compiled.get_property("NUM_STREAMS") == 1


def test_bfloat16_is_refused_where_it_would_be_float32(network):
    offered = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in offered:
        denoiser = get_backend("openvino").build(network, "bfloat16")
        hint = denoiser._compiled(1).get_property("INFERENCE_PRECISION_HINT")
        assert hint == openvino.Type.bf16
    else:
        with pytest.raises(errors.Unavailable, match="bfloat16 only on CPUs with AVX-512 BF16"):
            get_backend("openvino").build(network, "bfloat16")


def test_a_silently_changed_precision_is_refused(network, monkeypatch):
    monkeypatch.setattr("fastdiff.backends.openvino._ELEMENT_TYPES", {"float32": "bf16"})
    offered = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in offered:
        pytest.skip("this CPU does compute in bfloat16")
    with pytest.raises(errors.Unavailable, match="asked for bf16 and compiled for f32"):
        get_backend("openvino").build(network, "float32")


def test_common_batch_sizes_have_a_compiled_model_and_others_share_one(network):
    denoiser = get_backend("openvino").build(network, "float32")
    for batch in (1, 3, 4, 5, 7, 33, 4, 3):
        x, t, conditioning = network.example(batch)
        out = torch.full((batch, denoiser.output_channels, *x.shape[2:]), torch.nan)
        denoiser.bind(x, t, conditioning, out)()
        torch.testing.assert_close(
            out, network.module(x, t, **conditioning).detach(), rtol=1e-4, atol=1e-5
        )
    assert set(denoiser._models) == {1, 4, None}


def test_memory_at_any_address_is_used_in_place(network):
    denoiser = get_backend("openvino").build(network, "float32")
    x, t, conditioning = network.example(2)
    flat, out = torch.zeros(x.numel() + 1), torch.full((x.numel() + 2,), torch.nan)
    shifted, target = flat[1:].view(x.shape), out[1:-1].view(x.shape)  # 4 bytes off alignment
    shifted.copy_(x)
    denoiser.bind(shifted, t, conditioning, target)()
    expected = network.module(x, t, **conditioning).detach()
    torch.testing.assert_close(target, expected, rtol=1e-5, atol=1e-5)
    assert out[0].isnan()
    assert out[-1].isnan()


def test_compiled_models_are_kept_and_read_again(network, run, tmp_path, monkeypatch):
    built = get_backend("openvino").build(network, "float32")
    built.save(tmp_path, [1, 3, 4, 5])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.blob", "4.blob", "open.blob"]
    for method in ("read_model", "compile_model"):
        refuse = lambda self, *args, method=method: pytest.fail(f"{method} was called")
        monkeypatch.setattr(openvino.Core, method, refuse)
    kept = get_backend("openvino").build(network, "float32", tmp_path)
    for batch in (1, 3, 4, 7):
        x, t, conditioning = network.example(batch)
        assert torch.equal(run(kept, x, t, conditioning), run(built, x, t, conditioning))
    compiled = kept._compiled(4)
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert compiled.get_property("NUM_STREAMS") == 1


def test_sizes_that_were_not_kept_are_compiled(network, run, tmp_path):
    built = get_backend("openvino").build(network, "float32")
    built.save(tmp_path, [2])
    kept = get_backend("openvino").build(network, "float32", tmp_path)
    x, t, conditioning = network.example(8)
    assert torch.equal(run(kept, x, t, conditioning), run(built, x, t, conditioning))


def test_a_kept_model_that_is_none_is_refused(network, tmp_path):
    (tmp_path / "1.blob").write_bytes(b"not a model")
    with pytest.raises(errors.Unavailable, match="openvino refuses the network"):
        get_backend("openvino").build(network, "float32", tmp_path)
