"""Denoisers whose calls take one number of rows."""

import pytest
import torch

from fastdiff.backends import BACKENDS, Denoiser
from fastdiff.backends.fixed_batch import FixedBatch


class OnlyThree(Denoiser):
    """Passes on to a denoiser, three rows at a time."""

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.__dict__.update({k: v for k, v in vars(denoiser).items() if not k.startswith("_")})

    def bind(self, x, t, conditioning, out):
        assert all(len(value) == 3 for value in (x, t, out, *conditioning.values()))
        return self.denoiser.bind(x, t, conditioning, out)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_any_number_of_rows_is_cut_into_full_calls(rows, network, run):
    denoiser = BACKENDS["eager"].build(network, "float32")
    fixed = FixedBatch(OnlyThree(denoiser), 3)
    x, t, conditioning = network.example(rows, seed=4)
    torch.testing.assert_close(
        run(fixed, x, t, conditioning), run(denoiser, x, t, conditioning), rtol=1e-6, atol=1e-6
    )


def test_a_bound_call_reads_its_inputs_anew(network):
    fixed = FixedBatch(OnlyThree(BACKENDS["eager"].build(network, "float32")), 3)
    x, t, conditioning = network.example(2)
    out = torch.empty(2, 3, 6, 5)
    call = fixed.bind(x, t, conditioning, out)
    call()
    before = out.clone()
    t += 100
    call()
    assert (out != before).any(dim=(1, 2, 3)).all()
