"""A sampler as one file: what `Sampler.sample` gives, from plain onnxruntime."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import eager_sampler
from onnx import helper, numpy_helper
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.exporting import export_onnx, export_sampler, loop, opset, read_metadata
from fastdiff.integrations import describe
from fastdiff.kernels.noise import TAG_INITIAL, TAG_STEP, normal
from fastdiff.models import (
    NULL_CLASS,
    NUM_CLASSES,
    SAMPLE_SHAPE,
    digits_schedule_config,
    load_digits,
)
from fastdiff.networks import Conditioning, Network
from fastdiff.records import TABLE_ROW
from fastdiff.sampling import PackedTable, Schedule, get_solver

SEEDS = [0, 5, 2**63, 2**64 - 1]
LABELS = [3, 0, 1, 2]
STYLE = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)


def signed(seeds):
    return np.array(seeds, np.uint64).view(np.int64)


def images_of(path, **conditioning):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {"seed": signed(SEEDS), **conditioning}
    return session.run(["images"], feed)[0]


SOLVERS = {
    "ddim": ("ddim", {"eta": 0.0}, Schedule()),
    "ddim eta": ("ddim", {"eta": 0.7}, Schedule(prediction_type="v_prediction")),
    "ddpm": ("ddpm", {}, Schedule(variance_type="fixed_small")),
    "ddpm learned": ("ddpm", {}, Schedule(variance_type="learned_range")),
    "euler": ("euler", {}, Schedule(prediction_type="sample")),
    "euler ancestral": ("euler_ancestral", {}, Schedule()),
    "2M": ("dpmpp_2m", {}, Schedule()),
    "2M SDE": ("dpmpp_2m_sde", {}, Schedule(clip_sample=False)),
}


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("case", SOLVERS)
def test_file_gives_the_images_of_the_sampler(case, guidance, exported, tmp_path):
    solver, options, schedule = SOLVERS[case]
    network = exported[4 if "learned" in case else 2]
    chosen = get_solver(solver, **options)
    table = chosen.table(schedule, steps=9).pack()
    path = export_sampler(network, table, tmp_path / "s.onnx", guidance_scale=guidance)
    inputs = {"class_labels": np.array(LABELS), "style": STYLE}
    expected = eager_sampler(network, schedule).sample(
        solver=chosen, steps=9, guidance_scale=guidance, seed=SEEDS, **inputs
    )
    got = images_of(path, **inputs)
    assert np.abs(got).max() > 0.3
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_learned_variance_of_an_unused_half_changes_nothing(exported, tmp_path):
    """A network with 2C channels under a table that wants C."""
    table = get_solver("ddim").table(Schedule(), steps=4).pack()
    inputs = {"class_labels": np.array(LABELS), "style": STYLE}
    paths = [
        export_sampler(exported[c], table, tmp_path / f"{c}.onnx", guidance_scale=2.0)
        for c in (2, 4)
    ]
    a, b = (images_of(path, **inputs) for path in paths)
    np.testing.assert_allclose(a, b, atol=1e-6)


def hand_made_table(*rows, init_noise_sigma=1.0, history=0):
    """A table of {field: value} rows that no solver would make, to see one thing alone."""
    packed = np.zeros(len(rows), TABLE_ROW)
    packed["clip"], packed["c_in_next"] = np.inf, 1
    for record, row in zip(packed, rows, strict=True):
        for name, value in row.items():
            record[name] = value
    noisy = bool(packed["x"][:, 7].any() or packed["h"][:, 7].any())
    return PackedTable(packed, history, init_noise_sigma, 1.0, noisy, False)


def columns(**values):
    names = ("x", "P1", "P2", "P3", "P4", "D", "m", "z")
    return [values.get(name, 0.0) for name in names]


INPUTS = {"class_labels": np.array(LABELS), "style": STYLE}


def test_initial_noise_has_the_bits_of_the_kernels(exported, tmp_path):
    table = hand_made_table({"x": columns(x=1)}, init_noise_sigma=14.6)
    got = images_of(export_sampler(exported[2], table, tmp_path / "s.onnx"), **INPUTS)
    for image, seed in zip(got, SEEDS, strict=True):
        z = normal(seed, 0, 0, TAG_INITIAL, count=30) * np.float32(14.6)
        np.testing.assert_array_equal(image.ravel(), z)


@pytest.mark.parametrize("step", [0, 1, 4])
def test_noise_of_each_step_has_the_bits_of_the_kernels(step, exported, tmp_path):
    rows = [{"x": columns(x=1, z=0.5)} for _ in range(step)] + [{"x": columns(z=1)}]
    path = export_sampler(exported[2], hand_made_table(*rows), tmp_path / "s.onnx")
    for image, seed in zip(images_of(path, **INPUTS), SEEDS, strict=True):
        np.testing.assert_array_equal(image.ravel(), normal(seed, 0, step, TAG_STEP, count=30))


def test_history_is_read_before_it_is_written(exported, tmp_path):
    """Slot 1 keeps x_T, slot 2 twice that; then both are read while slot 1 is overwritten."""
    table = hand_made_table(
        {"x": columns(x=1), "h": columns(x=1), "dst": 1},
        {"x": columns(x=1), "h": columns(P1=2), "dst": 2},
        {"x": columns(P1=1, P2=0.25), "h": columns(P2=8), "dst": 1},
        {"x": columns(x=1, P1=0.125)},
        history=2,
    )
    path = export_sampler(exported[2], table, tmp_path / "s.onnx")
    for image, seed in zip(images_of(path, **INPUTS), SEEDS, strict=True):
        x_T = normal(seed, 0, 0, TAG_INITIAL, count=30)
        np.testing.assert_array_equal(image.ravel(), 1.5 * x_T + 2 * x_T)


class Unconditional(nn.Module):
    def forward(self, x, t):
        return torch.tanh(x * torch.cos(0.01 * t)[:, None, None, None])


def test_network_without_conditioning(tmp_path):
    network = Network(Unconditional(), (1, 3, 7), name="unconditional")
    table = get_solver("ddpm").table(Schedule(), steps=5).pack()
    got = images_of(export_sampler(network, table, tmp_path / "s.onnx"))
    expected = eager_sampler(network).sample(solver="ddpm", steps=5, seed=SEEDS)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_weights_lie_once_beside_their_nodes(exported, tmp_path):
    table = get_solver("ddim").table(Schedule(), steps=3).pack()
    path = export_sampler(exported[2], table, tmp_path / "s.onnx", guidance_scale=2.0)
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["seed", "class_labels", "style"]
    (node,) = [n for n in graph.node if n.op_type == "Loop"]
    body = next(a.g for a in node.attribute if a.name == "body")
    assert [list(t.dims) for t in body.initializer].count([30, 30]) == 1
    assert [30, 30] not in [list(t.dims) for t in graph.initializer]
    parameters = 4 * sum(p.numel() for p in exported[2].module.parameters())
    assert path.stat().st_size < parameters + 60_000


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x, t):
        return self.last(torch.relu(self.first(x))) + t[:, None, None, None] / 1000


def test_onnxruntime_optimizes_the_network_in_the_loop_as_it_does_alone(tmp_path):
    network = Network(Conv(), (8, 8, 8), name="conv")
    network = replace(network, onnx=export_onnx(network, tmp_path / "alone.onnx"))
    table = get_solver("ddim").table(Schedule(), steps=3).pack()
    export_sampler(network, table, tmp_path / "loop.onnx")
    convolutions = []
    for name in ("alone", "loop"):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.optimized.onnx")
        options.log_severity_level = 4  # it warns that such a file fits this machine only
        onnxruntime.InferenceSession(
            tmp_path / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
        )
        graph = onnx.load(options.optimized_model_filepath).graph
        for node in graph.node:
            if node.op_type == "Loop":
                graph = next(a.g for a in node.attribute if a.name == "body")
        convolutions.append([n.domain for n in graph.node if n.op_type == "Conv"])
    assert len(convolutions[0]) == 2
    assert convolutions[0] == convolutions[1]


def test_large_weights_go_to_a_file_beside(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_SINGLE_FILE_BYTES", 100)
    table = get_solver("ddim").table(Schedule(), steps=3).pack()
    path = export_sampler(exported[2], table, tmp_path / "s.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.onnx", "s.onnx.data"]
    expected = eager_sampler(exported[2]).sample(solver="ddim", steps=3, seed=SEEDS, **INPUTS)
    np.testing.assert_allclose(images_of(path, **INPUTS), expected, atol=1e-5)


def old_file(path, version):
    """Write ``tanh(x) softmax(mean of x over the image) + t / 1000`` with operators as they were.

    Of each of them the attributes became inputs later, or the meaning changed.
    """
    axes = {"axes": [2, 3]} if version < 13 else {}
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["weights"], axis=1),
        helper.make_node("Unsqueeze", ["weights", *([] if axes else ["axes"])], ["wide"], **axes),
        helper.make_node("Tanh", ["x"], ["y"]),
        helper.make_node("Mul", ["y", "wide"], ["product"]),
        helper.make_node("Reshape", ["t", "per_row"], ["times"]),
        helper.make_node("Mul", ["times", "rate"], ["offset"]),
        helper.make_node("Add", ["product", "offset"], ["output"]),
    ]
    constants = {"axes": [2, 3], "per_row": [-1, 1, 1, 1], "rate": np.float32(0.001)}
    image = ["n", 2, 3, 5]
    graph = helper.make_graph(
        nodes,
        "old",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, image),
            helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, ["n"]),
        ],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, image)],
        [numpy_helper.from_array(np.array(v), name) for name, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", version)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=6), path)
    return describe(path)


@pytest.mark.parametrize("version", [11, 13, 17])
def test_a_file_of_an_older_opset_is_converted(version, tmp_path):
    network, schedule = old_file(tmp_path / "old.onnx", version)
    assert network.file.opset == version
    table = get_solver("ddim").table(schedule, steps=3).pack()
    path = export_sampler(network, table, tmp_path / "s.onnx", schedule=schedule)
    assert read_metadata(path).opset == 18
    expected = fastdiff.compile(
        tmp_path / "old.onnx", backend="onnxruntime", max_batch=1, tune=0.001, cache=False
    ).sample(steps=3, seed=SEEDS)
    np.testing.assert_allclose(images_of(path), expected, rtol=1e-5, atol=1e-5)


def test_a_file_that_cannot_be_converted_is_refused_by_name(tmp_path, monkeypatch):
    network, schedule = old_file(tmp_path / "old.onnx", 17)
    table, path = get_solver("ddim").table(schedule, steps=3).pack(), tmp_path / "s.onnx"

    def no_adapter(model, version):
        raise RuntimeError("No Adapter From Version 16 for Identity")

    monkeypatch.setattr(opset.version_converter, "convert_version", no_adapter)
    refuse(
        "old has operators of opset 17, .* needs 18, .* No Adapter .* anew", network, table, path
    )

    def wrong(model, version):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        (rate,) = (value for value in changed.graph.initializer if value.name.endswith("rate"))
        rate.CopyFrom(numpy_helper.from_array(np.float32(0.1), rate.name))
        return changed

    monkeypatch.setattr(opset.version_converter, "convert_version", wrong)
    with pytest.raises(errors.ModelOutputError, match=r"convert them: .* another output"):
        export_sampler(network, table, path)
    assert not path.exists()


def refuse(message, network, table, path, **options):
    with pytest.raises(errors.InvalidArgument, match=message):
        export_sampler(network, table, path, **options)
    assert not path.exists()


def test_what_cannot_be_sampled_is_refused(exported, tmp_path):
    path = tmp_path / "s.onnx"
    table = get_solver("ddim").table(Schedule(), steps=3).pack()
    learned = get_solver("ddpm").table(Schedule(variance_type="learned_range"), steps=3).pack()
    refuse("returns 4 channels, this one returns 2", exported[2], learned, path)
    thresholded = get_solver("ddim").table(Schedule(thresholding=True), steps=3).pack()
    refuse("dynamic thresholding looks at whole images", exported[2], thresholded, path)
    refuse("finite number, got nan", exported[2], table, path, guidance_scale=float("nan"))
    spec = Conditioning(num_classes=4)
    unguidable = replace(exported[2], conditioning={"class_labels": spec})
    refuse("needs a conditional model with a null value", unguidable, table, path, guidance_scale=2)
    seeded = replace(exported[2], module=None, conditioning={"seed": spec}, output_channels=2)
    refuse("an input 'seed', which", seeded, table, path)


SCRIPT = """
import sys
sys.modules["fastdiff"] = None  # from here on, importing it raises, however it is installed
import numpy as np, onnxruntime
try:
    import fastdiff
except ImportError:
    pass
else:
    sys.exit("fastdiff must not be importable here")
for name in ("noise", "images"):
    session = onnxruntime.InferenceSession(name + ".onnx", providers=["CPUExecutionProvider"])
    feed = {"seed": np.load("seed.npy"), "class_labels": np.load("labels.npy")}
    np.save(name + ".npy", session.run(None, feed)[0])
"""


@pytest.mark.slow
def test_digits_need_nothing_but_onnxruntime(tmp_path):
    spec = Conditioning(num_classes=NUM_CLASSES, null=NULL_CLASS)
    schedule = Schedule.from_config(digits_schedule_config())
    network = Network(load_digits(), SAMPLE_SHAPE, {"class_labels": spec}, "digits")
    network = replace(network, onnx=export_onnx(network, tmp_path / "digits.onnx"))
    solver = get_solver("dpmpp_2m_sde")
    table = solver.table(schedule, steps=20).pack()
    export_sampler(network, table, tmp_path / "images.onnx", guidance_scale=2.0)
    export_sampler(network, hand_made_table({"x": columns(x=1)}), tmp_path / "noise.onnx")
    np.save(tmp_path / "seed.npy", signed(SEEDS))
    np.save(tmp_path / "labels.npy", np.array(LABELS))
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True)
    for x_T, seed in zip(np.load(tmp_path / "noise.npy"), SEEDS, strict=True):
        np.testing.assert_array_equal(x_T.ravel(), normal(seed, count=64))
    expected = eager_sampler(network, schedule).sample(
        solver=solver, steps=20, guidance_scale=2.0, seed=SEEDS, class_labels=LABELS
    )
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, rtol=0, atol=1e-4)
