from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from fastdiff import errors
from fastdiff.backends import BACKENDS, inductor
from fastdiff.backends.inductor import InductorBackend
from fastdiff.networks import Network

needs_compiler = pytest.mark.skipif(
    not InductorBackend().status().usable, reason=InductorBackend().status().detail
)


TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 3e-3}
PAIRS = [(n, kind) for n in ("inductor", "inductor-cuda") for kind in BACKENDS[n].precisions]


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_one_build_serves_every_batch_size_and_is_kept(
    name, precision, network, usable, run, place, tmp_path, monkeypatch
):
    backend, tolerance = usable(name), TOLERANCE[precision]
    denoiser = backend.build(network, precision)
    assert (denoiser.backend, denoiser.precision) == (name, precision)
    for batch in (1, 2, 7):
        x, t, conditioning = network.example(batch, seed=batch)
        x = x.to(denoiser.input_dtype)
        out = torch.full((batch, 3, 6, 5), torch.nan, dtype=denoiser.output_dtype)
        x, t, conditioning, out = place(denoiser, x, t, conditioning, out)
        call = denoiser.bind(x, t, conditioning, out)
        call()
        x.mul_(2), t.add_(50), conditioning["text"].mul_(-1)
        conditioning["class_labels"].fill_(1)
        call()
        x, t, conditioning = tree_map(torch.Tensor.cpu, (x, t, conditioning))
        expected = network.module(x.float(), t, **conditioning).detach()
        assert (out.cpu().float() - expected).norm() <= tolerance * expected.norm()
    assert network.module.training
    assert {p.dtype for p in network.module.parameters()} == {torch.float32}

    denoiser.save(tmp_path, [1, 4])
    monkeypatch.setattr(inductor, "_compile", lambda *args: pytest.fail("compiled again"))
    without_module = replace(network, module=None, output_channels=3)
    kept = backend.build(without_module, precision, tmp_path)
    x, t, conditioning = network.example(5)
    assert torch.equal(run(kept, x, t, conditioning), run(denoiser, x, t, conditioning))


class Branching(nn.Module):
    def forward(self, x, t):
        return x if x.sum() > 0 else -x


@needs_compiler
def test_a_module_that_cannot_be_compiled_is_refused():
    with pytest.raises(errors.Unavailable, match="torch cannot export branching: "):
        InductorBackend().build(Network(Branching(), (1, 2, 2), name="branching"), "float32")


def test_a_package_that_is_none_is_refused(network, tmp_path):
    (tmp_path / "denoiser.pt2").write_bytes(b"not a package")
    with pytest.raises(errors.Unavailable, match="inductor cannot load conv as compiled: "):
        InductorBackend().build(network, "float32", tmp_path)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    status = InductorBackend().status()
    assert not status.usable
    assert "needs a C++ compiler: apt install g++, or set CXX" in status.detail
    with pytest.raises(errors.Unavailable, match="inductor cannot run here: needs a C"):
        InductorBackend().build(Network(Branching(), (1, 2, 2)), "float32")


def test_a_gpu_is_compiled_for_and_loaded_without_bookkeeping(network, monkeypatch):
    """What torch is asked, by a backend on a device that is not there."""
    import torch._inductor as torch_inductor

    asked = {}

    def compile_for(program, package_path):
        values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
        asked["devices"] = {value.device for value in values}

    def load(path, **options):
        asked.update(options)
        return lambda x, t, conditioning: x

    monkeypatch.setattr(torch_inductor, "aoti_compile_and_package", compile_for)
    monkeypatch.setattr(torch_inductor, "aoti_load_package", load)
    backend = InductorBackend("inductor-elsewhere", torch.device("meta"))
    denoiser = backend.build(network, "float32")
    assert (denoiser.backend, denoiser.device) == ("inductor-elsewhere", torch.device("meta"))
    assert asked == {
        "devices": {torch.device("meta")},
        "run_single_threaded": False,
        "device_index": -1,
    }
    inductor._load("package", network, torch.device("cuda:1"))
    assert (asked["run_single_threaded"], asked["device_index"]) == (True, 1)
