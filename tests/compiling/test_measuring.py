"""Time is what the fake clock says, so that what is measured is known."""

from types import SimpleNamespace

import pytest
import torch
from recorded_graph import RecordedDevice
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdiff.backends import BACKENDS, Denoiser
from fastdiff.compiling import measuring
from fastdiff.compiling.measuring import BATCHES, Trial, measure
from fastdiff.compiling.report import Candidate
from fastdiff.errors import Unavailable
from fastdiff.networks import Network


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: self.now))


class Timed(Denoiser):
    """A denoiser whose call on B rows takes ``base + B * (per_row + crowding * B)`` seconds."""

    output_channels, input_dtype, output_dtype = 1, torch.float32, torch.float32
    device = torch.device("cpu")

    def __init__(self, clock, calls, name, base, per_row, crowding=0.0):
        self.clock, self.calls, self.name = clock, calls, name
        self.seconds = lambda rows: base + rows * (per_row + crowding * rows)

    def bind(self, x, t, conditioning, out):
        def call():
            self.calls.append((self.name, len(x)))
            self.clock.now += self.seconds(len(x))

        return call


@pytest.fixture
def run(monkeypatch):
    """Measure denoisers, name=(base, per_row, crowding): trials, calls, stages and seconds."""

    def measured(budget, batches=BATCHES, **backends):
        clock, calls, stages = Clock(monkeypatch), [], []
        passed = [
            (Timed(clock, calls, name, *cost), Candidate(name, "float32"))
            for name, cost in backends.items()
        ]
        network = Network(nn.Identity(), (1, 2, 2))
        trials = measure(network, passed, batches, budget, stages.append)
        return trials, calls, stages, clock.now

    return measured


def test_times_are_those_of_the_calls(run):
    trials, *_ = run(4.0, a=(0.001, 0.002), b=(0.003, 0.0001))
    for trial in trials:
        base, per_row = {"a": (0.001, 0.002), "b": (0.003, 0.0001)}[trial.candidate.backend]
        assert trial.candidate.seconds == pytest.approx(base + per_row * trial.candidate.batch)


@pytest.mark.parametrize("budget", [0.5, 4.0, 60.0])
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 0.1])
def test_the_budget_is_kept(run, budget, scale):
    backends = {"a": (0, scale), "b": (scale, scale / 2), "c": (2 * scale, scale / 4)}
    trials, _, _, seconds = run(budget, **backends)
    # What must be measured whatever the budget: every candidate at one row, and one more turn.
    necessary = sum(4 * (base + per_row) for base, per_row in backends.values())
    assert seconds <= 1.25 * budget + necessary
    assert {t.candidate.backend for t in trials if t.candidate.batch == 1} == {"a", "b", "c"}


def test_a_large_budget_is_not_wasted(run):
    assert run(1e6, a=(0.0, 0.01), b=(0.0, 0.02))[3] < 60


def test_a_tiny_budget_measures_the_smallest_size_only(run):
    trials, _, _, _ = run(1e-6, a=(0.0, 0.5), b=(0.0, 0.7))
    assert [(t.candidate.backend, t.candidate.batch) for t in trials] == [("a", 1), ("b", 1)]


def test_the_hopeless_are_dropped_early_and_the_slow_are_not_measured_again(run):
    trials, calls, _, _ = run(60.0, fast=(0.03, 0.0), slower=(0.07, 0.0), hopeless=(0.2, 0.0))
    batches = {name: [t.candidate.batch for t in trials if t.candidate.backend == name]
               for name in ("fast", "slower", "hopeless")}  # fmt: skip
    assert batches == {"fast": list(BATCHES), "slower": list(BATCHES), "hopeless": [1]}
    # One call warms up, one is timed; more only for what is within half of the best rate, and once
    # more for what would be dropped.
    assert calls.count(("slower", 4)) == 2
    assert calls.count(("hopeless", 1)) == 3
    assert calls.count(("fast", 4)) == 2 + 9


def test_a_batch_that_no_longer_helps_ends_the_climb(run):
    trials, *_ = run(60.0, splits=(0.0, 0.02, 0.01), gains=(0.1, 0.001))
    climbed = {name: max(t.candidate.batch for t in trials if t.candidate.backend == name)
               for name in ("splits", "gains")}  # fmt: skip
    # 33 rows/s at batch 1, 25 at 2: less than 0.8 of the best.
    assert climbed == {"gains": 32, "splits": 2}


def test_candidates_take_turns(run):
    _, calls, _, _ = run(60.0, batches=(1,), a=(0.03, 0.0), b=(0.04, 0.0))
    names = "".join(name for name, _ in calls)
    assert names == "aabb" + "ab" * 9  # warm-up and first look, then in turns


def test_every_stage_says_what_runs_how_much_is_left_and_how_long(run):
    trials, _, stages, _ = run(2.0, a=(0.03, 0.0), b=(0.04, 0.0))
    assert stages[0].text == "measuring a float32, 1 row"
    assert (stages[0].done, stages[0].total) == (0, 12)
    assert stages[3].text == "measuring b float32, 2 rows"
    assert (stages[3].done, stages[3].total) == (3, 12)
    turns = stages[len(trials) :]
    assert [stage.done for stage in turns] == list(range(len(turns)))
    assert {stage.total for stage in turns} == {9 * 12}
    left = [stage.seconds_left for stage in turns]
    assert left == sorted(left, reverse=True)
    assert left[0] < 2.0
    assert str(stages[0]) == "measuring a float32, 1 row, 0 of 12, 1 s left"


def test_a_gpu_is_waited_for_before_the_clock_is_read(monkeypatch):
    """A call launches 7 ms of work and returns at once; the work is done when it is waited for."""
    clock, pending, seen = Clock(monkeypatch), [], {}

    class OnGpu(Denoiser):
        device, output_channels = torch.device("cuda:0"), 1
        input_dtype = output_dtype = torch.float16

        def bind(self, x, t, conditioning, out):
            seen.update(conditioning, x=x, t=t, out=out)
            return lambda: pending.append(0.007)

    def synchronize(device):
        assert device == OnGpu.device
        clock.now += sum(pending)
        pending.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    network = Network(nn.Identity(), (1, 2, 2))
    with FakeTensorMode():
        trial = Trial.of(network, OnGpu(), Candidate("a", "float16"), 3)
        trial.measure()
    assert trial.times == pytest.approx([0.007] * 3)  # within 20 ms, and warmed up before
    assert {value.device for value in seen.values()} == {OnGpu.device}


class Shift(nn.Module):
    """Adds t, of which it reads a value on the host if it `waits`."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def forward(self, x, t):
        return x + (t[0].item() if self.waits else t[:, None, None, None])


def eager_trial(device, waits=False, **attributes):
    network = Network(Shift(waits), (1, 4, 4))
    denoiser = BACKENDS["eager"].build(network, "float32")
    vars(denoiser).update(attributes)
    return Trial.of(network, denoiser, Candidate("eager", "float32"), 2, device)


def test_what_is_timed_is_the_replay_that_the_engine_makes():
    device = RecordedDevice()
    trial = eager_trial(device)
    trial.call = lambda: pytest.fail("launched operator by operator")
    trial.measure()
    assert device.counts["replay"] == len(trial.times) > 0


@pytest.mark.parametrize("why", [{"waits": True}, {"eager_because": "it has its own stream"}])
def test_what_is_not_captured_is_timed_as_it_is_launched(why):
    device = RecordedDevice()
    trial = eager_trial(device, **why)
    trial.measure()
    assert (trial.graph, device.graphs, device.counts["replay"]) == (None, [], 0)
    assert len(trial.times) > 0


def test_graphs_that_are_switched_off_are_not_timed_either(monkeypatch):
    monkeypatch.setenv("FASTDIFF_GRAPHS", "0")
    assert eager_trial(RecordedDevice()).graph is None


def test_a_batch_that_finds_no_memory_ends_the_climb(monkeypatch):
    clock, rooms = Clock(monkeypatch), {"small": 4, "large": 99}

    class Limited(Timed):
        def bind(self, x, t, conditioning, out):
            if len(x) > rooms[self.name]:
                raise torch.OutOfMemoryError(f"no room for {len(x)} rows")
            return super().bind(x, t, conditioning, out)

    passed = [(Limited(clock, [], n, 0.001, 0.0), Candidate(n, "float32")) for n in rooms]
    network = Network(nn.Identity(), (1, 2, 2))
    trials = measure(network, passed, BATCHES, 4.0, lambda stage: None)
    sizes = {name: [t.candidate.batch for t in trials if t.candidate.backend == name]
             for name in rooms}  # fmt: skip
    assert sizes == {"small": [1, 2, 4], "large": list(BATCHES)}
    rooms.update(small=0, large=0)
    with pytest.raises(Unavailable, match="no backend can evaluate 8 rows in one call: small"):
        measure(network, passed, (8,), 4.0, lambda stage: None)


@pytest.fixture
def disturbed(monkeypatch):
    """Measure ``a``, 1 s a call and a row, whose call number `number` takes `seconds` more."""

    def measured(number, seconds, batches=BATCHES):
        clock, calls = Clock(monkeypatch), []

        class Disturbed(Timed):
            def bind(self, x, t, conditioning, out):
                call = super().bind(x, t, conditioning, out)

                def run():
                    call()
                    clock.now += seconds if len(calls) == number else 0.0

                return run

        passed = [
            (Disturbed(clock, calls, "a", 1.0, 1.0), Candidate("a", "float32")),
            (Timed(clock, [], "b", 1.1, 0.9), Candidate("b", "float32")),
        ]
        trials = measure(Network(nn.Identity(), (1, 2, 2)), passed, batches, 300.0, lambda s: None)
        return {
            t.candidate.batch: t.candidate.seconds for t in trials if t.denoiser is passed[0][0]
        }

    return measured


def test_one_disturbed_measurement_is_made_again(disturbed):
    """Without that it stays for ever: it is too slow to be measured in turns."""
    usual = disturbed(0, 0.0)
    assert disturbed(2, 30.0)[1] == pytest.approx(usual[1])  # of one row, as if hopeless
    assert disturbed(4, 30.0)[2] == pytest.approx(usual[2])  # of two, as if a batch did not help
    assert disturbed(2, 8.0) == pytest.approx(usual)  # slower than two rows and not hopeless


def test_an_engine_that_fails_at_a_size_keeps_the_smaller_ones(monkeypatch, caplog):
    clock, rooms = Clock(monkeypatch), {"some": 2, "none": 0, "all": 99}

    class Failing(Timed):
        def bind(self, x, t, conditioning, out):
            if len(x) > rooms[self.name]:
                raise IndexError(f"row {len(x)}")
            return super().bind(x, t, conditioning, out)

    passed = [(Failing(clock, [], n, 0.001, 0.0), Candidate(n, "float32")) for n in rooms]
    trials = measure(Network(nn.Identity(), (1, 2, 2)), passed, (1, 2, 4), 4.0, lambda stage: None)
    sizes = {name: [t.candidate.batch for t in trials if t.candidate.backend == name]
             for name in rooms}  # fmt: skip
    assert sizes == {"some": [1, 2], "none": [], "all": [1, 2, 4]}
    assert [c.refusal for _, c in passed] == [None, "IndexError: row 1", None]
    assert "some float32, 4 rows in one call, failed and is not used" in caplog.text


def test_rows_that_couple_are_measured_one_by_one(monkeypatch):
    calls = []
    passed = [
        (Timed(Clock(monkeypatch), calls, "a", 0.001, 0.0), Candidate("a", "float32", coupled=True))
    ]
    trials = measure(Network(nn.Identity(), (1, 2, 2)), passed, (4, 8), 4.0, lambda stage: None)
    assert [(t.candidate.batch, t.candidate.coupled) for t in trials] == [(1, True)]
    assert {rows for _, rows in calls} == {1}
