"""What is chosen of times that are known."""

import pytest
import torch

from fastdiff.backends import Denoiser
from fastdiff.compiling.choosing import choose
from fastdiff.compiling.measuring import Trial
from fastdiff.compiling.report import Candidate


class Named(Denoiser):
    """What a choice looks at in a denoiser."""

    output_channels, bind = 1, None

    def __init__(self, backend, precision="float32"):
        self.backend, self.precision = backend, precision
        self.device = torch.device("cuda:0" if backend.endswith("cuda") else "cpu")


def trials_of(seconds):
    """Trials of denoisers by (backend, precision), from their milliseconds by batch size."""
    trials = []
    for (backend, precision), by_batch in seconds.items():
        denoiser = Named(backend, precision)
        for batch, ms in by_batch.items():
            candidate = Candidate(backend, precision, batch, seconds=ms / 1e3)
            trials.append(Trial(candidate, denoiser, lambda: None))
    return trials


def test_another_engine_serves_the_sizes_at_which_it_is_clearly_faster():
    seconds = {
        ("wide", "float32"): {1: 3.0, 2: 4.0, 4: 5.0, 8: 9.0},
        ("quick", "float32"): {1: 1.5, 2: 3.9, 4: 7.0},
        ("rough", "bfloat16"): {1: 1.2, 8: 8.5},  # not enough faster to earn its error
    }
    trials = trials_of(seconds)
    denoiser, batch_seconds = choose(trials)
    assert denoiser.backend == "quick, wide"
    assert {size: part.backend for size, part in denoiser.by_rows.items()} == {
        1: "quick",
        4: "wide",
        8: "wide",
    }
    assert batch_seconds == {1: 0.0015, 4: 0.005, 8: 0.009}  # two rows: twice one, 3 ms
    chosen = {(t.candidate.backend, t.candidate.batch) for t in trials if t.candidate.chosen_from}
    assert chosen == {("quick", 1), ("wide", 4), ("wide", 8)}


def test_one_engine_stays_alone_where_another_gains_little():
    trials = trials_of({("a", "float32"): {1: 1.0, 4: 2.0}, ("b", "float32"): {1: 0.95, 4: 3.0}})
    denoiser, batch_seconds = choose(trials)
    assert denoiser.backend == "a"
    assert batch_seconds == {1: 0.001, 4: 0.002}


def test_engines_of_two_devices_never_share_a_sampler():
    seconds = {
        ("eager-cuda", "float32"): {1: 2.0, 8: 2.1},
        ("eager", "float32"): {1: 0.5, 8: 9.0},  # the fastest for one row, on another device
    }
    denoiser, batch_seconds = choose(trials_of(seconds))
    assert denoiser.backend == "eager-cuda"
    assert batch_seconds == pytest.approx({1: 0.002, 8: 0.0021})


def test_float32_serves_where_another_precision_makes_a_single_row_wait():
    """The whole is faster in bfloat16, one row is not: it would wait longer for a worse image."""
    seconds = {
        ("exact", "float32"): {1: 0.10, 2: 0.19, 8: 0.70},
        ("rough", "bfloat16"): {1: 0.40, 2: 0.11, 8: 0.40},
    }
    denoiser, batch_seconds = choose(trials_of(seconds))
    assert (denoiser.backend, denoiser.precision) == ("exact", "float32")
    assert min(batch_seconds) == 1
    seconds["rough", "bfloat16"][1] = 0.08
    assert choose(trials_of(seconds))[0].precision == "bfloat16"


def test_a_gain_that_the_noise_of_measurement_explains_chooses_nothing():
    seconds = {("exact", "float32"): {1: 1.0}, ("rough", "bfloat16"): {1: 0.85}}
    exact, rough = trials = trials_of(seconds)
    assert choose(trials)[0].precision == "bfloat16"
    exact.times = [t / 1e3 for t in (0.8, 0.8, 1.0, 1.1, 1.2)]
    rough.times = [t / 1e3 for t in (0.7, 0.8, 0.85, 0.9, 1.0)]
    assert choose(trials)[0].precision == "float32"


def test_a_cpu_that_is_quick_for_one_row_takes_nothing_from_a_gpu():
    seconds = {
        ("inductor-cuda", "float16"): {1: 2.0, 8: 2.1},
        ("eager", "float32"): {1: 0.5, 8: 9.0},
    }
    assert choose(trials_of(seconds))[0].backend == "inductor-cuda"
