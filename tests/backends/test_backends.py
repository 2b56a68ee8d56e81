"""What every backend promises, whatever it is."""

import gc
import weakref

import pytest
import torch
from networks import row_by_row_network
from torch import nn
from torch.utils._pytree import tree_map

from fastdiff import errors
from fastdiff.backends import BACKENDS
from fastdiff.backends.eager import EagerBackend
from fastdiff.networks import Conditioning, Network
from fastdiff.networks.precision import AtPrecision, trace

TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 3e-3}
QUICK = [name for name, backend in BACKENDS.items() if not backend.slow_to_build]
PAIRS = [(name, kind) for name in QUICK for kind in BACKENDS[name].precisions]


def build(backend, network, precision):
    """Build, or skip where the hardware of an optional backend lacks the precision."""
    try:
        return backend.build(network, precision)
    except errors.Unavailable as error:
        if backend.name in {"eager", "onnxruntime"} or precision == "float32":
            raise
        pytest.skip(str(error))


def expected_of(network, x, t, conditioning):
    """Return what the module answers on the host."""
    x, t, conditioning = tree_map(torch.Tensor.cpu, (x, t, conditioning))
    return network.module(x, t, **conditioning).detach()


@pytest.mark.parametrize(("backend", "precision"), PAIRS)
def test_engine_gives_the_module_output(backend, precision, network, usable, run):
    denoiser = build(usable(backend), network, precision)
    assert (denoiser.backend, denoiser.precision) == (backend, precision)
    for batch in (1, 2, 7):
        x, t, conditioning = network.example(batch, seed=batch)
        expected = network.module(x, t, **conditioning).detach()
        got = run(denoiser, x, t, conditioning)
        assert (got - expected).norm() <= TOLERANCE[precision] * expected.norm()


@pytest.mark.parametrize("backend", QUICK)
def test_bound_buffers_are_read_anew_by_each_call(backend, network, usable, place):
    denoiser = usable(backend).build(network, "float32")
    x, t, conditioning, out = place(denoiser, *network.example(3), torch.empty(3, 3, 6, 5))
    call = denoiser.bind(x, t, conditioning, out)
    call()
    x.mul_(2), t.add_(50)
    conditioning["class_labels"].fill_(1), conditioning["text"].mul_(-1)
    out.fill_(torch.nan)
    call()
    torch.testing.assert_close(
        out.cpu(), expected_of(network, x, t, conditioning), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("backend", QUICK)
def test_calls_bound_to_views_of_one_buffer_do_not_disturb_each_other(
    backend, network, usable, place
):
    denoiser = usable(backend).build(network, "float32")
    out = torch.full((5, 3, 6, 5), torch.nan)
    x, t, conditioning, out = place(denoiser, *network.example(5), out)
    calls = []
    for part in (slice(0, 2), slice(2, 5), slice(0, 2)):
        rows = {name: value[part] for name, value in conditioning.items()}
        calls.append(denoiser.bind(x[part], t[part], rows, out[part]))
    calls[1]()
    assert out[:2].isnan().all()
    calls[2](), calls[0]()
    torch.testing.assert_close(
        out.cpu(), expected_of(network, x, t, conditioning), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("backend", QUICK)
def test_a_bound_call_keeps_its_buffers_alive(backend, network, usable, place):
    denoiser = usable(backend).build(network, "float32")
    x, t, conditioning, out = place(denoiser, *network.example(2), torch.empty(2, 3, 6, 5))
    call = denoiser.bind(x, t, conditioning, out)
    buffers = [weakref.ref(tensor) for tensor in (x, t, *conditioning.values(), out)]
    del x, t, conditioning, out
    gc.collect()
    assert all(buffer() is not None for buffer in buffers)
    del call
    gc.collect()
    assert all(buffer() is None for buffer in buffers)


def test_low_precision_reads_floating_conditioning_anew_as_well(network, usable):
    denoiser = usable("eager").build(network, "bfloat16")
    x, t, conditioning = network.example(2)
    out = torch.empty(2, 3, 6, 5, dtype=torch.bfloat16)
    call = denoiser.bind(x.bfloat16(), t, conditioning, out)
    conditioning["text"].mul_(-3)
    call()
    expected = network.module(x, t, **conditioning).detach()
    assert (out.float() - expected).norm() <= 3e-2 * expected.norm()


@pytest.mark.parametrize("backend", QUICK)
def test_building_leaves_the_caller_module_alone(backend, network, usable):
    network.module.train()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    for precision in BACKENDS[backend].precisions:
        build(usable(backend), network, precision)
    assert network.module.training
    assert all(p.requires_grad for p in network.module.parameters())
    for name, value in network.module.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_the_module_learning_on_does_not_reach_a_built_denoiser(network, usable, run):
    x, t, conditioning = network.example(2)
    denoiser = usable("eager").build(network, "float32")
    expected = run(denoiser, x, t, conditioning)
    with torch.no_grad():
        network.module.conv.weight.add_(1)
    torch.testing.assert_close(run(denoiser, x, t, conditioning), expected, rtol=0, atol=0)


def test_a_module_is_moved_where_its_engine_runs(network):
    """``meta`` computes no values, and refuses to mix what is there with what is on the host."""
    where = torch.device("meta")
    denoiser = EagerBackend("eager-elsewhere", where).build(network, "float16")
    assert (denoiser.backend, denoiser.device) == ("eager-elsewhere", where)
    x, t, conditioning = network.example(2)
    out = torch.empty_like(x, dtype=torch.float16, device=where)
    x, conditioning = x.half().to(where), {k: v.to(where) for k, v in conditioning.items()}
    with pytest.raises(RuntimeError, match="not on the expected device"):
        denoiser.bind(x, t, conditioning, out)()
    denoiser.bind(x, t.to(where), conditioning, out)()
    assert {p.device for p in network.module.parameters()} == {torch.device("cpu")}


def test_a_graph_is_traced_where_it_will_run(network):
    where = torch.device("meta")
    program = trace(AtPrecision(network.module, torch.float16, where), network, torch.float16)
    values = [node.meta["val"] for node in program.graph.nodes if "val" in node.meta]
    assert {value.device for value in values if isinstance(value, torch.Tensor)} == {where}
    assert {tensor.device for tensor in program.state_dict.values()} == {where}


@pytest.mark.parametrize("backend", [n for n in QUICK if BACKENDS[n].sources == ("onnx",)])
def test_engines_that_read_onnx_ask_for_the_export(backend, network, usable):
    unexported = Network(network.module, (3, 6, 5), network.conditioning, "conv")
    with pytest.raises(errors.InvalidArgument, match="conv has not been exported"):
        usable(backend).build(unexported, "float32")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_network_is_refused(backend, network, usable, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    network = Network(network.module, (3, 6, 5), network.conditioning, "conv", broken)
    with pytest.raises(errors.Unavailable, match=f"{backend} refuses the network"):
        usable(backend).build(network, "float32")


@pytest.mark.parametrize("backend", ["native", "onnxruntime", "openvino"])
def test_element_types_that_numpy_lacks_are_refused(backend, network, usable):
    denoiser = usable(backend).build(network, "float32")
    x, t, conditioning = network.example(2)
    conditioning["text"] = conditioning["text"].bfloat16()
    with pytest.raises(errors.InvalidDtype, match="text: expected an element type that NumPy has"):
        denoiser.bind(x, t, conditioning, torch.empty_like(x))


@pytest.mark.parametrize(("output", "message"), [
    (lambda x, t: (x,), "return a tensor, got tuple"),
    (lambda x, t: x[:, :, :1], r"got \(2, 1, 1, 5\)"),
    (lambda x, t: torch.cat([x] * 3, 1), r"1 or 2, 3, 5.*got \(2, 3, 3, 5\)"),
])  # fmt: skip
def test_a_model_that_returns_something_else_is_refused(output, message):
    class Wrong(nn.Module):
        def forward(self, x, t):
            return output(x, t)

    with pytest.raises(errors.ModelOutputError, match=message):
        Network(Wrong(), (1, 3, 5), name="wrong").probe()


def test_network_checks_its_own_description():
    module = row_by_row_network().module
    with pytest.raises(errors.InvalidArgument, match="no argument 'text'; it has: x, t, class_la"):
        Network(module, (1, 3, 5), {"text": Conditioning()})
    with pytest.raises(errors.InvalidShape, match="expected one to 4 sizes"):
        Network(module, (3, 5, 1, 1, 1))
