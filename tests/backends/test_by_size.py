"""Several backends behind one face."""

import pytest
import torch

from fastdiff.backends import Denoiser
from fastdiff.backends.by_size import BySize
from fastdiff.errors import InvalidArgument


class Constant(Denoiser):
    """A denoiser that answers with one number and notes what it is asked to save."""

    precision, output_channels, version = "float32", 1, None

    def __init__(self, backend, value):
        self.backend, self.value, self.saved = backend, value, None

    def bind(self, x, t, conditioning, out):
        return lambda: out.fill_(self.value)

    def save(self, folder, batches):
        self.saved = list(batches)


def test_every_size_goes_to_the_engine_of_the_next_measured_one():
    small, large = Constant("small", 1.0), Constant("large", 2.0)
    denoiser = BySize({4: large, 1: small, 2: small, 16: small})
    assert denoiser.backend == "small, large"
    answers = {}
    for rows in (1, 2, 3, 4, 5, 16, 40):
        out = torch.empty(rows, 1, 2, 2)
        denoiser.bind(torch.zeros(rows, 1, 2, 2), torch.zeros(rows), {}, out)()
        answers[rows] = float(out.unique())
    assert answers == {1: 1, 2: 1, 3: 2, 4: 2, 5: 1, 16: 1, 40: 1}


def test_each_engine_saves_its_own_sizes(tmp_path):
    small, large = Constant("small", 1.0), Constant("large", 2.0)
    BySize({1: small, 4: large, 8: large}).save(tmp_path, {1, 8})
    assert (small.saved, large.saved) == ([1], [8])


@pytest.mark.parametrize(
    ("what", "value", "shown"),
    [
        ("precision", "bfloat16", "bfloat16"),
        ("device", torch.device("meta"), "meta"),
        ("eager_because", "it waits", "True.*False|False.*True"),
    ],
)
def test_other_kinds_are_refused(what, value, shown):
    other = Constant("other", 0.0)
    setattr(other, what, value)
    with pytest.raises(InvalidArgument, match=f"one kind.*({shown})"):
        BySize({1: Constant("small", 1.0), 2: other})


def test_what_graphs_ask_of_a_denoiser_is_that_of_its_parts():
    parts = Constant("small", 1.0), Constant("large", 2.0)
    for part in parts:
        part.device, part.eager_because = torch.device("meta"), "it waits"
    denoiser = BySize(dict(enumerate(parts, 1)))
    assert (denoiser.device, denoiser.eager_because) == (torch.device("meta"), "it waits")
    before = denoiser.version
    parts[1].version = 1
    assert denoiser.version != before
