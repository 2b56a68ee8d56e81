"""A whole sampler as one ONNX file: noise, network, guidance and solver in a Loop.

The body of the Loop is the step of ``docs/contracts.md``, with the coefficients of row i of the
packed table. A term whose coefficients are zero in some rows is multiplied there, which adds a
zero; a term that no row counts is left out. Nothing of fastdiff is needed to run the file.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import compose, helper

from fastdiff.errors import InvalidArgument
from fastdiff.exporting import noise
from fastdiff.exporting.arithmetic import exponential
from fastdiff.exporting.graph import BOOL, FLOAT, INT64, Builder, OnnxValue
from fastdiff.exporting.metadata import KEY, Metadata
from fastdiff.exporting.onnx import export_onnx, replacing
from fastdiff.exporting.opset import converted, opset_of
from fastdiff.kernels.noise import TAG_INITIAL, TAG_STEP
from fastdiff.kernels.step.reference import HISTORY, D, M, X, Z
from fastdiff.modes import compiling
from fastdiff.networks.network import Network
from fastdiff.networks.session import open_session
from fastdiff.sampling import PackedTable, Schedule

_SINGLE_FILE_BYTES = (1 << 31) - (1 << 24)
"""Weights that fit into one file: protocol buffers end at 2 GiB, and the graph needs room."""

_DENOISER = "denoiser/"


@compiling()
def export_sampler(
    network: Network,
    table: PackedTable,
    path: Path | str,
    *,
    guidance_scale: float = 1.0,
    schedule: Schedule | None = None,
) -> Path:
    """Write a sampler as an ONNX file that onnxruntime runs without fastdiff.

    Inputs are ``seed`` (n,) int64 and the conditioning by name, (n, ...) each; the output is
    ``images`` (n, C, ...) float32. The 64 bits of a seed are those of ``sampler.sample(seed=)``:
    a seed of 2^63 or more is given less 2^64. Row r is what ``sampler.sample(seed=[seed[r]], ...)``
    gives: its noise has the same bits, its image differs as much as the backends' evaluations do.

    Parameters
    ----------
    network : Network
        What is sampled; its file is taken if it has one, otherwise it is exported and checked as
        by `export_onnx`.
    table : PackedTable
        The solver's steps, of `StepTable.pack`; they are fixed in the file.
    path : path-like
        Where; a file that is there is replaced. Weights over 2 GB go to a file beside it.
    guidance_scale : float
        Classifier-free guidance ``m_u + g (m_c - m_u)`` (arXiv 2207.12598); 1 is none.
    schedule : Schedule, optional
        What the network was trained with, to be kept in the file (`read_metadata`).

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InvalidArgument
        The network cannot be exported, has no null value and cannot be guided, returns no variance
        although the table needs one, has an input of a name that the file uses, or is a file of
        old operators that onnx cannot convert.
    ModelOutputError
        onnxruntime's output differs from the module's.
    """
    network = _checked(network, table, guidance_scale)
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
        source = network.onnx or export_onnx(network, Path(folder) / "denoiser.onnx")
        denoiser = converted(onnx.load(source), network)
    graph = _SamplerGraph(network, table, denoiser.graph, guidance_scale).write()
    model = helper.make_model(
        graph,
        producer_name="fastdiff",
        ir_version=denoiser.ir_version,
        opset_imports=denoiser.opset_import,
    )
    metadata = Metadata(
        "sampler",
        network.name,
        opset_of(denoiser),
        network.sample_shape,
        network.conditioning,
        schedule,
        steps=len(table.rows),
        guidance_scale=float(guidance_scale),
    )
    helper.set_model_props(model, {KEY: metadata.to_json()})
    with replacing(path) as written:
        large = sum(len(t.raw_data) for t in denoiser.graph.initializer) > _SINGLE_FILE_BYTES
        onnx.save_model(
            model, str(written), save_as_external_data=large, location=f"{written.name}.data"
        )
        onnx.checker.check_model(str(written), full_check=True)
        open_session(written, f"the sampler of {network.name}")
    return Path(path)


def _checked(network: Network, table: PackedTable, guidance_scale: float) -> Network:
    """Refuse what a file cannot hold, and return what is known of `network` once it has run."""
    taken = sorted({"seed", "images"} & network.conditioning.keys())
    if taken:
        raise InvalidArgument(
            f"{network.name} has an input {taken[0]!r}, which a sampler's file uses itself; "
            "rename it in the module's forward"
        )
    if not math.isfinite(guidance_scale):
        raise InvalidArgument(f"guidance_scale: expected a finite number, got {guidance_scale}")
    if guidance_scale != 1 and not network.guidable:
        raise InvalidArgument(
            "guidance_scale other than 1 needs a conditional model with a null value: "
            "pass null_class= to fastdiff.compile"
        )
    if table.thresholding is not None:
        raise InvalidArgument(
            "dynamic thresholding looks at whole images between the steps, which a sampler's file "
            "does not; use a schedule with thresholding=False"
        )
    network = network.probed()
    channels, got = network.sample_shape[0], network.probe()
    if table.needs_variance and got != 2 * channels:
        raise InvalidArgument(
            f"a learned variance needs a model that returns {2 * channels} channels, this one "
            f"returns {got}; use variance_type='fixed_small'"
        )
    return network


class _Columns:
    """The columns of the table that count, as one float32 matrix, and a row of it as scalars."""

    def __init__(self, table: PackedTable) -> None:
        rows = table.rows
        c_in = np.append(np.float32(table.first_c_in), rows["c_in_next"][:-1])
        columns = {"c_in": c_in, **{name: rows[name] for name in ("t", "p", "q", "clip")}}
        self.terms = [X, D]  # in the order of the sum
        self.terms += [
            j for j in (M, *HISTORY, Z) if rows["x"][:, j].any() or rows["h"][:, j].any()
        ]
        for j in self.terms:
            columns[f"x{j}"], columns[f"h{j}"] = rows["x"][:, j], rows["h"][:, j]
        if table.needs_variance:
            columns["w"] = rows["w"]
        self.names, self.matrix = list(columns), np.stack(list(columns.values()), axis=1)
        self.destinations = rows["dst"].astype(np.int64)

    def row(self, b: Builder, i: OnnxValue) -> dict[str, OnnxValue]:
        """Return the coefficients of row `i`, (1,) each."""
        values = b.constant(self.matrix).gather(i)
        scalars = b.ops("Split", len(self.names), values, axis=0, num_outputs=len(self.names))
        return dict(zip(self.names, scalars, strict=True))


class _SamplerGraph:
    """Writes the graph: seeds and conditioning outside, the step as the body of a Loop."""

    def __init__(
        self,
        network: Network,
        table: PackedTable,
        denoiser: onnx.GraphProto,
        guidance_scale: float,
    ) -> None:
        self.network, self.table = network, table
        self.guidance = None if guidance_scale == 1 else np.float32(guidance_scale)
        self.columns = _Columns(table)
        self.denoiser = compose.add_prefix_graph(denoiser, _DENOISER)
        self.b = Builder()

    def write(self) -> onnx.GraphProto:
        """Return the graph of the whole sampler."""
        b, table = self.b, self.table
        keys = noise.round_keys(b.value("seed"))
        conditioning = {name: self._conditioning(name) for name in self.network.conditioning}
        z = self._noise(keys, b.constant(0), TAG_INITIAL)
        x = z * np.float32(table.init_noise_sigma)
        history = [b.op("ConstantOfShape", b.op("Shape", x))] * table.history_slots
        body = self._body(keys, conditioning)
        state = [x, *history]
        final, *_ = b.ops("Loop", len(state), len(table.rows), np.bool_(True), *state, body=body)
        b.rename(final, "images")
        types = {i.name: i.type.tensor_type.elem_type for i in self.denoiser.input}
        inputs = [helper.make_tensor_value_info("seed", INT64, ["n"])]
        for name, spec in self.network.conditioning.items():
            kind = types[_DENOISER + name]
            inputs.append(helper.make_tensor_value_info(name, kind, ["n", *spec.shape]))
        return helper.make_graph(
            b.nodes, "sampler", inputs, [self._image("images")], b.initializers
        )

    def _body(
        self, keys: list[OnnxValue], conditioning: Mapping[str, OnnxValue]
    ) -> onnx.GraphProto:
        """Return the graph of one step."""
        b = self.b
        names = ["x", *(f"history_{j}" for j in range(1, self.table.history_slots + 1))]
        with b.scope() as nodes:
            step, (x, *history) = b.value("step"), [b.value(name) for name in names]
            row = self.columns.row(b, step)
            m, v = self._evaluate(x, row, conditioning)
            values = {X: x, D: self._denoised(x, m, row), M: m, **dict(enumerate(history, 1))}
            if self.table.uses_noise:
                z = self._noise(keys, step, TAG_STEP)
                values[Z] = z if v is None else exponential(row["w"] * v) * z
            b.rename(b.value("go"), "go_next")
            b.rename(self._combine("x", row, values), "x_next")
            if history:
                written = self._combine("h", row, values)
                slot = b.constant(self.columns.destinations).gather(step)
                for j, old in enumerate(history, 1):
                    here = b.op("Equal", slot, j)
                    b.rename(here.where(written, old), f"history_{j}_next")
        inputs = [
            helper.make_tensor_value_info("step", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            *map(self._image, names),
        ]
        outputs = [
            helper.make_tensor_value_info("go_next", BOOL, []),
            *(self._image(f"{name}_next") for name in names),
        ]
        # The weights lie in the body, beside their nodes: onnxruntime blocks the layout of
        # convolutions for the CPU only if their weights belong to the same graph.
        return helper.make_graph(nodes, "step", inputs, outputs, self.denoiser.initializer)

    def _evaluate(
        self, x: OnnxValue, row: Mapping[str, OnnxValue], conditioning: Mapping[str, OnnxValue]
    ) -> tuple[OnnxValue, OnnxValue | None]:
        """Run the network; return the guided m, and v where the table needs it."""
        b, channels = self.b, self.network.sample_shape[0]
        x = x * row["c_in"]
        if self.guidance is not None:
            x = b.op("Concat", x, x, axis=0)
        b.rename(x, _DENOISER + "x")
        b.rename(b.op("Expand", row["t"], x.rows()), _DENOISER + "t")
        for name, value in conditioning.items():
            b.rename(value, _DENOISER + name)
        b.nodes.extend(self.denoiser.node)
        output = b.value(self.denoiser.output[0].name)
        learned = self.network.probe() != channels
        if self.guidance is None:
            conditional, m = output, output.slice(1, 0, channels) if learned else output
        else:
            conditional, unconditional = b.ops("Split", 2, output, axis=0, num_outputs=2)
            m, m_u = conditional, unconditional
            if learned:
                m, m_u = m.slice(1, 0, channels), m_u.slice(1, 0, channels)
            m = m_u + (m - m_u) * self.guidance
        needs_v = self.table.needs_variance
        return m, conditional.slice(1, channels, 2 * channels) if needs_v else None

    def _denoised(self, x: OnnxValue, m: OnnxValue, row: Mapping[str, OnnxValue]) -> OnnxValue:
        """D = clip(p x + q m)."""
        d = x * row["p"] + m * row["q"]
        if np.isinf(self.table.rows["clip"]).all():
            return d
        clip = row["clip"]
        return self.b.op("Min", self.b.op("Max", d, -clip), clip)

    def _combine(
        self, target: str, row: Mapping[str, OnnxValue], values: Mapping[int, OnnxValue]
    ) -> OnnxValue:
        """Sum of coefficient times column, from left to right."""
        total, *rest = (values[j] * row[f"{target}{j}"] for j in self.columns.terms)
        for term in rest:
            total = total + term
        return total

    def _noise(self, keys: list[OnnxValue], draw: OnnxValue, tag: int) -> OnnxValue:
        shape = self.network.sample_shape
        return noise.normal(self.b, keys, draw, tag, math.prod(shape)).reshape(-1, *shape)

    def _conditioning(self, name: str) -> OnnxValue:
        """Return an input as the network gets it: with the null value for a second branch."""
        b, given = self.b, self.b.value(name)
        if self.guidance is None:
            return given
        null = b.constant(self.network.conditioning[name].null_value().numpy()[None])
        nulls = b.op("Expand", null, b.op("Shape", given))
        return b.op("Concat", given, nulls, axis=0)

    def _image(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, FLOAT, ["n", *self.network.sample_shape])
