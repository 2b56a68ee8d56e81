"""The promise of the engine: a row's bits do not know who shares its batch."""

import threading

import numpy as np
import pytest
import torch
from extras import EXTRAS, with_extras
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import RowByRow, eager_sampler, row_by_row_network

from fastdiff.engine.batcher import EVERYONE, Batching
from fastdiff.engine.buffers import TableStore
from fastdiff.engine.policies import SHORTEST_REMAINING
from fastdiff.engine.requests import Request
from fastdiff.errors import Cancelled, InvalidArgument, NonFiniteOutput
from fastdiff.kernels.noise import normal
from fastdiff.kernels.step.reference import step as reference_step
from fastdiff.networks import Network
from fastdiff.sampling import Schedule, get_solver, run_table

SCHEDULE = Schedule()
SOLVERS = {
    "ddim": get_solver("ddim"),
    "ddim, eta 0.7": get_solver("ddim", eta=0.7),
    "ddpm, learned": get_solver("ddpm", variance_type="learned_range"),
    "euler_ancestral": get_solver("euler_ancestral"),
    "dpmpp_2m": get_solver("dpmpp_2m"),
    "dpmpp_2m_sde": get_solver("dpmpp_2m_sde"),
}
TABLES = {
    (name, steps): solver.table(SCHEDULE, steps=steps).pack()
    for name, solver in SOLVERS.items()
    for steps in (1, 3, 7)
}

REQUESTS = st.fixed_dictionaries(
    {
        "solver": st.sampled_from(sorted(TABLES)),
        "rows": st.integers(1, 4),
        "seed": st.integers(0, 2**64 - 1),
        "guidance": st.sampled_from([1.0, 0.0, 2.5]),
        "label": st.integers(0, 3),
        "delay": st.integers(0, 6),  # ticks before it arrives
        "extras": EXTRAS,
    }
)


def make_request(spec):
    n = spec["rows"]
    request = Request(
        table=TABLES[spec["solver"]],
        seeds=np.full(n, spec["seed"], np.uint64),
        images=np.arange(n, dtype=np.uint64),
        guidance=np.full(n, spec["guidance"], np.float32),
        conditioning={"class_labels": torch.full((n,), spec["label"])},
    )
    return with_extras(request, spec.get("extras", ()), (1, 3, 5))


def make_engine(batch, rows, batching=EVERYONE):
    return eager_sampler(row_by_row_network(), batch=batch).new_engine(rows, batching)


def run_alone(spec):
    engine = make_engine(batch=1, rows=8)
    ticket = engine.submit(make_request(spec))
    while not ticket.done:
        engine.advance(ticket)
    return ticket.result()


@settings(max_examples=30, deadline=None)
@given(
    specs=st.lists(REQUESTS, min_size=1, max_size=5),
    batch=st.integers(1, 9),
    rows=st.integers(1, 9),
    limit=st.none() | st.integers(1, 9),
    data=st.data(),
)
def test_an_image_has_the_same_bits_alone_and_in_any_company(specs, batch, rows, limit, data):
    """Rows join, leave, and pause for shorter requests."""
    engine = make_engine(batch, rows, Batching(SHORTEST_REMAINING, limit))
    order = data.draw(st.permutations(range(len(specs))))
    tickets = {}
    for tick in range(7):
        for i in order:
            if specs[i]["delay"] == tick:
                tickets[i] = engine.submit(make_request(specs[i]), patience=1e6)
        open_tickets = [ticket for ticket in tickets.values() if not ticket.done]
        if open_tickets:
            engine.advance(open_tickets[0])
    for ticket in tickets.values():
        while not ticket.done:
            engine.advance(ticket)
    for i, spec in enumerate(specs):
        assert torch.equal(tickets[i].result(), run_alone(spec))


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_engine_equals_the_plain_float64_loop(name, guidance):
    """The whole engine against the reference loop over the unpacked table."""
    network = row_by_row_network()
    table = SOLVERS[name].table(SCHEDULE, steps=7)
    engine = make_engine(batch=3, rows=4)
    n, seed, label = 2, 11, 3
    spec = {"solver": (name, 7), "rows": n, "seed": seed, "guidance": guidance, "label": label}
    ticket = engine.submit(make_request(spec))
    while not ticket.done:
        engine.advance(ticket)

    def noise(tag, draw):
        rows = [normal(seed, image, draw, tag, count=15) for image in range(n)]
        return np.stack(rows).reshape(n, 1, 3, 5).astype(np.float64)

    def model(x, t):
        with torch.inference_mode():
            x32, times = torch.from_numpy(x).float(), torch.full((n,), float(t))
            out = network.module(x32, times, torch.full((n,), label)).double().numpy()
            null = network.module(x32, times, torch.full((n,), 4)).double().numpy()
        m, m_u = out[:, :1], null[:, :1]
        m = m if guidance == 1 else m_u + guidance * (m - m_u)
        return (m, out[:, 1:]) if table.w.any() else m

    start = noise(0, 0) * table.init_noise_sigma
    expected = run_table(table, model, start, [noise(1, draw) for draw in range(7)])[-1]
    np.testing.assert_allclose(ticket.result().double().numpy(), expected, rtol=2e-4, atol=2e-5)


def test_evaluations_are_split_into_batches_and_unguided_rows_run_once():
    engine = make_engine(batch=4, rows=16)
    RowByRow.calls.clear()
    common = {"solver": ("ddim", 1), "seed": 1, "label": 0}
    tickets = [
        engine.submit(make_request({**common, "rows": 3, "guidance": 1.0})),
        engine.submit(make_request({**common, "rows": 3, "guidance": 2.0})),
    ]
    engine.advance(tickets[0])
    assert all(ticket.done for ticket in tickets)
    assert RowByRow.calls == [3, 3, 3]  # 6 conditional and 3 unconditional rows


class Breaks(torch.nn.Module):
    """Returns NaN for label 2 once t is low, and raises for label 3 once it is armed."""

    armed = False

    def forward(self, x, t, class_labels):
        if self.armed and (class_labels == 3).any():
            raise RuntimeError("planted failure")
        bad = (class_labels == 2) & (t < 500)
        return torch.where(bad[:, None, None, None], torch.nan, 0.1 * x)


def breaking_engine():
    network = row_by_row_network(1)
    network = Network(Breaks(), network.sample_shape, network.conditioning, "breaks")
    return eager_sampler(network).engine


def spec_for(label, rows=2):
    return {"solver": ("ddim", 7), "rows": rows, "seed": 5, "guidance": 1.0, "label": label}


def test_non_finite_output_fails_its_own_request_and_names_the_step():
    engine = breaking_engine()
    bad, good = engine.submit(make_request(spec_for(2))), engine.submit(make_request(spec_for(1)))
    while not good.done:
        engine.advance(good)
    with pytest.raises(NonFiniteOutput, match="step 4 of 7") as caught:
        bad.result()
    times = TABLES["ddim", 7].rows["t"]
    assert (caught.value.step, caught.value.total, caught.value.image) == (3, 7, 0)
    assert caught.value.timestep == times[3] < 500 <= times[2]
    alone = breaking_engine()
    ticket = alone.submit(make_request(spec_for(1)))
    while not ticket.done:
        alone.advance(ticket)
    assert torch.equal(good.result(), ticket.result())


def test_a_raising_model_fails_the_tick_and_the_engine_goes_on(monkeypatch):
    engine = breaking_engine()
    monkeypatch.setattr(Breaks, "armed", True)
    bad = engine.submit(make_request(spec_for(3)))
    engine.advance(bad)
    with pytest.raises(RuntimeError, match="planted failure"):
        bad.result()
    good = engine.submit(make_request(spec_for(1)))
    while not good.done:
        engine.advance(good)
    assert torch.isfinite(good.result()).all()


def test_tick_raises_what_the_step_raised_and_spares_those_who_were_not_in_it(monkeypatch):
    network = Network(Breaks(), (1, 3, 5), row_by_row_network(1).conditioning, "breaks")
    batching = Batching(SHORTEST_REMAINING, limit=2)
    engine = eager_sampler(network).new_engine(8, batching)
    assert engine.tick() is None
    paused = engine.submit(make_request(spec_for(1)), patience=1e6)
    tick = engine.tick()
    assert (tick.rows, tick.evaluations, tick.tickets) == (2, 2, [paused])
    monkeypatch.setattr(Breaks, "armed", True)
    bad = engine.submit(make_request({**spec_for(3), "solver": ("ddim", 3)}), patience=1e6)
    with pytest.raises(RuntimeError, match="planted failure"):
        engine.tick()
    with pytest.raises(RuntimeError, match="planted failure"):
        bad.result()
    while not paused.done:
        assert engine.tick().tickets == [paused]
    assert torch.isfinite(paused.result()).all()


def test_a_swap_lets_those_finish_who_have_begun_and_keeps_the_others():
    engine = make_engine(batch=2, rows=8, batching=Batching(limit=1))
    first, second = (engine.submit(make_request(spec_for(label, rows=1))) for label in (0, 1))
    engine.tick()
    engine.replace(engine._denoiser, {3: 1.0})
    assert first.done
    assert second.completed == 0
    while not second.done:
        engine.tick()
    assert torch.equal(second.result(), run_alone(spec_for(1, rows=1)))


def test_cancel_frees_the_rows_for_those_that_wait():
    engine = make_engine(batch=4, rows=2)
    first = engine.submit(make_request({**spec_for(0), "rows": 4}))
    second = engine.submit(make_request(spec_for(1)))
    engine.advance(first)
    engine.cancel(first)
    with pytest.raises(Cancelled):
        first.result()
    while not second.done:
        engine.advance(second)
    assert torch.equal(second.result(), run_alone(spec_for(1)))


def test_learned_variance_needs_its_channels():
    engine = eager_sampler(row_by_row_network(channels_out=1)).engine
    spec = {**spec_for(0), "solver": ("ddpm, learned", 3)}
    with pytest.raises(InvalidArgument, match="returns 2 channels"):
        engine.submit(make_request(spec))


def test_threads_share_one_engine():
    engine = make_engine(batch=3, rows=5)
    specs = [
        {"solver": key, "rows": 3, "seed": i, "guidance": 2.5, "label": i % 4}
        for i, key in enumerate(sorted(TABLES)[:8])
    ]
    results = {}

    def client(i):
        ticket = engine.submit(make_request(specs[i]))
        while not ticket.done:
            engine.advance(ticket)
        results[i] = ticket.result()

    threads = [threading.Thread(target=client, args=(i,)) for i in range(len(specs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, spec in enumerate(specs):
        assert torch.equal(results[i], run_alone(spec))


def test_engine_module_uses_the_one_step_kernel():
    """The NumPy step, put in the kernel's place, gives the same bits."""
    import fastdiff.engine.host_executor as module

    spec = {**spec_for(2), "solver": ("dpmpp_2m_sde", 7), "guidance": 2.5}
    expected = run_alone(spec)

    def numpy_step(own_threads, **arrays):
        plain = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in arrays.items()}
        return reference_step(**plain, dtype=np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "step", numpy_step)
        assert torch.equal(run_alone(spec), expected)


def test_an_interrupted_callback_leaves_nobody_waiting():
    def interrupt(info):
        raise KeyboardInterrupt

    engine = make_engine(batch=4, rows=4)
    spec = {**spec_for(1), "solver": ("ddim", 1)}
    first, second = make_request(spec), make_request(spec)
    first.callback = interrupt
    tickets = [engine.submit(first), engine.submit(second)]
    with pytest.raises(KeyboardInterrupt):
        engine.advance(tickets[0])
    for ticket in tickets:
        assert ticket.done
        with pytest.raises(KeyboardInterrupt):
            ticket.result()
    third = engine.submit(make_request(spec))
    engine.advance(third)
    assert torch.equal(third.result(), run_alone(spec))


def test_tables_are_forgotten_only_while_no_row_runs(monkeypatch):
    monkeypatch.setattr(TableStore, "_TRIM_ROWS", 10)
    engine = make_engine(batch=3, rows=4)
    specs = [{**spec_for(1), "solver": (name, 7)} for name in sorted(SOLVERS)]
    tickets = [engine.submit(make_request(spec)) for spec in specs[:2]]
    engine.advance(tickets[0])
    tickets.append(engine.submit(make_request({**specs[2], "rows": 4})))  # waits for a slot
    for spec, ticket in zip(specs, tickets, strict=False):
        while not ticket.done:
            engine.advance(ticket)
        rows = {**spec, "rows": ticket.request.rows}
        assert torch.equal(ticket.result(), run_alone(rows))
    assert engine.executor._tables._used == 7  # the third table came when the others had left


def test_engine_without_rows_to_run_is_idle():
    engine = make_engine(1, 2)
    request = make_request({**spec_for(0), "rows": 1})
    empty = Request(request.table, *(np.zeros(0, d) for d in (np.uint64, np.uint64, np.float32)))
    ticket = engine.submit(empty)
    assert ticket.done
    assert ticket.result().shape == (0, 1, 3, 5)
