from dataclasses import replace

import pytest
import torch
from torch import nn

from fastdiff import errors
from fastdiff.denoisers import inductor
from fastdiff.denoisers.inductor import InductorEngine
from fastdiff.exporting import Network

needs_compiler = pytest.mark.skipif(
    not InductorEngine().status().usable, reason=InductorEngine().status().detail
)


@needs_compiler
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_one_build_serves_every_batch_size_and_is_kept(
    precision, tolerance, network, run, tmp_path, monkeypatch
):
    denoiser = InductorEngine().build(network, precision)
    assert (denoiser.engine, denoiser.precision) == ("inductor", precision)
    for batch in (1, 2, 7):
        x, t, conditioning = network.example(batch, seed=batch)
        x = x.to(denoiser.input_dtype)
        out = torch.full((batch, 3, 6, 5), torch.nan, dtype=denoiser.output_dtype)
        call = denoiser.bind(x, t, conditioning, out)
        call()
        x.mul_(2), t.add_(50), conditioning["text"].mul_(-1)
        conditioning["class_labels"].fill_(1)
        call()
        expected = network.module(x.float(), t, **conditioning).detach()
        assert (out.float() - expected).norm() <= tolerance * expected.norm()
    assert network.module.training
    assert {p.dtype for p in network.module.parameters()} == {torch.float32}

    denoiser.save(tmp_path, [1, 4])
    monkeypatch.setattr(inductor, "_compile", lambda *args: pytest.fail("compiled again"))
    without_module = replace(network, module=None, output_channels=3)
    kept = InductorEngine().build(without_module, precision, tmp_path)
    x, t, conditioning = network.example(5)
    assert torch.equal(run(kept, x, t, conditioning), run(denoiser, x, t, conditioning))


class Branching(nn.Module):
    def forward(self, x, t):
        return x if x.sum() > 0 else -x


@needs_compiler
def test_a_module_that_cannot_be_compiled_is_refused():
    with pytest.raises(errors.Unavailable, match="torch cannot export branching: "):
        InductorEngine().build(Network(Branching(), (1, 2, 2), name="branching"), "float32")


def test_a_package_that_is_none_is_refused(network, tmp_path):
    (tmp_path / "denoiser.pt2").write_bytes(b"not a package")
    with pytest.raises(errors.Unavailable, match="inductor cannot load conv as compiled: "):
        InductorEngine().build(network, "float32", tmp_path)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    status = InductorEngine().status()
    assert not status.usable
    assert "needs a C++ compiler: apt install g++, or set CXX" in status.detail
    with pytest.raises(errors.Unavailable, match="inductor cannot run here: needs a C"):
        InductorEngine().build(Network(Branching(), (1, 2, 2)), "float32")
