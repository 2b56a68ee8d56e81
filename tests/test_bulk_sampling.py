"""The bulk sampling example without Ray: which numbers are missing, and what a worker writes."""

import functools
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastdiff
from fastdiff.errors import InvalidArgument

pytest.importorskip("ray", reason="needs the extra ray")

_SPEC = importlib.util.spec_from_file_location(
    "bulk_sampling", Path(__file__).parents[1] / "examples" / "bulk_sampling.py"
)
bulk = sys.modules["bulk_sampling"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bulk)

JOB = bulk.Job("digits", "onnxruntime", "ddpm", 4, 2.0, 17)
RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=6)


@given(RANGES, st.integers(0, 45), st.integers(1, 12))
def test_missing_ranges_complete_what_is_there(tmp_path_factory, there, count, part):
    folder = tmp_path_factory.mktemp("parts")
    (folder / ".000000000000-000000000045.npy.0a").touch()  # of a worker that died
    have = set()
    for first, length in there:
        (folder / f"{first:012d}-{first + length:012d}.npy").touch()
        have |= set(range(first, first + length))

    ranges = list(bulk.missing(folder, count, part))

    found = [number for first, end in ranges for number in range(first, end)]
    assert found == sorted(set(range(count)) - have)
    assert all(0 < end - first <= part for first, end in ranges)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("samples")
    quickly = functools.partial(fastdiff.compile, precision="float32", max_batch=4, tune=0.01)
    bulk.begin(made, JOB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastdiff, "compile", quickly)
        bulk.prepare(made, JOB)
        patch.setattr(fastdiff, "compile", None)
        bulk.prepare(made, JOB)  # it is there
    return made


def test_an_image_is_a_function_of_its_number(folder):
    worker = bulk.Worker(folder, JOB)

    def part(first, end):
        file = worker({"first": first, "end": end})["file"]
        return np.load(folder / file)

    whole = part(0, 13)
    cut = [part(first, end) for first, end in [(0, 1), (1, 6), (6, 13)]]

    assert np.array_equal(np.concatenate(cut), whole)
    sampler = fastdiff.load(folder / "model.fastdiff")
    labels = [i % 10 for i in range(13)]
    plain = sampler.sample(class_labels=labels, solver="ddpm", steps=4, guidance_scale=2.0, seed=17)
    assert np.abs(whole - plain.numpy()).max() < 1e-4
    assert len(np.unique(whole.round(3), axis=0)) == 13


def test_a_folder_keeps_one_job(folder):
    bulk.begin(folder, JOB)
    with pytest.raises(InvalidArgument, match="another job"):
        bulk.begin(folder, bulk.Job("digits", "onnxruntime", "ddpm", 5, 2.0, 17))
