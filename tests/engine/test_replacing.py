"""Other weights in an engine that is at work."""

import pytest
import torch
from graph_engines import DENOISER, NETWORK, Planted, graph_engine, make_request, plain
from networks import RowByRow, eager_sampler, row_by_row_network
from recorded_graph import RecordedDevice

from fastdiff.engine.engine import Engine
from fastdiff.errors import WeightsError
from fastdiff.networks import Network

NEW = Planted(weight=0.5)


def host_engine():
    return Engine(NETWORK, DENOISER, {4: 1.0}, 2)


@pytest.mark.parametrize(
    "make",
    [host_engine, lambda: graph_engine(RecordedDevice("late"), rows=2)],
    ids=["host", "graphs"],
)
def test_what_has_begun_keeps_its_weights_and_what_waits_gets_the_new(make):
    engine = make()
    begun, waits = (make_request(rows=2, seed=seed) for seed in (1, 2))
    tickets = [engine.submit(begun), engine.submit(waits)]
    engine.advance(tickets[0])
    engine.replace(NEW, {4: 1.0})
    assert [ticket.done for ticket in tickets] == [True, False]
    while not tickets[1].done:
        engine.advance(tickets[1])
    assert torch.equal(tickets[0].result(), plain(begun)[0])
    assert torch.equal(tickets[1].result(), plain(waits, denoiser=NEW)[0])
    assert not torch.equal(tickets[1].result(), plain(waits)[0])


def test_a_sampler_takes_the_weights_of_another_module():
    sampler = eager_sampler(row_by_row_network(channels_out=1))
    other = RowByRow(channels_out=1)
    with torch.no_grad():
        other.weight.mul_(-0.7)
    arguments = {"class_labels": [1, 2], "seed": 3, "steps": 5}
    before = sampler.sample(**arguments)
    ticket = sampler.engine.submit(sampler.request(**arguments))
    sampler.engine.advance(ticket)
    sampler.update_weights(other.state_dict())
    assert torch.equal(ticket.result(), before)
    network = row_by_row_network(channels_out=1)
    expected = eager_sampler(Network(other, network.sample_shape, network.conditioning))
    assert torch.equal(sampler.sample(**arguments), expected.sample(**arguments))
    assert not torch.equal(sampler.sample(**arguments), before)


def test_weights_that_do_not_fit_change_nothing():
    sampler = eager_sampler(row_by_row_network(channels_out=1))
    before = sampler.sample(2, seed=0, steps=3)
    wrong = RowByRow(channels_out=1).state_dict()
    wrong["weight"] = torch.zeros(3, 3)
    with pytest.raises(WeightsError, match="weight"):
        sampler.update_weights(wrong)
    assert torch.equal(sampler.sample(2, seed=0, steps=3), before)
