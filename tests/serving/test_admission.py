"""Places, bounds and estimates under a virtual clock."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastdiff.engine.batcher import Batcher, Batching
from fastdiff.engine.policies import POLICIES, SHORTEST_REMAINING, Policy
from fastdiff.errors import DeadlineImpossible, InvalidArgument, Overloaded
from fastdiff.serving.admission import Admission, Pace, Queueing
from fastdiff.serving.costs import StepCost
from fastdiff.serving.forecast import forecast
from fastdiff.serving.jobs import Job

MEASURED = {1: 0.5, 2: 0.75, 4: 1.25}
SMALL, LARGE = (8, 8), (16, 16)


def paces(limit=4):
    return {
        SMALL: Pace(StepCost(MEASURED), limit),
        LARGE: Pace(StepCost({n: 4 * seconds for n, seconds in MEASURED.items()}), limit),
    }


def admitted(admission, rows, steps, size=SMALL, guided=False, *, now=0.0, **described):
    """Return a job that has its place."""
    job = Job(rows, steps, size, guided, **described)
    admission.admit(job, now)
    return job


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from([SMALL, LARGE]),
        st.tuples(st.integers(1, 3), st.integers(1, 6), st.booleans()),  # rows, steps, guided
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=60)
@given(ARRIVALS, st.sampled_from(POLICIES), st.integers(1, 4), st.integers(0, 5))
@example(  # the second job's step is longer than a full one, and ends after the third came
    [(0, SMALL, (1, 1, False)), (0, LARGE, (1, 1, True)), (1, SMALL, (1, 1, False))],
    "first-come",
    1,
    0,
)
def test_no_job_takes_longer_than_its_patience_and_the_work_before_it(
    arrivals, name, limit, patience
):
    """Two sizes on one machine, served as a worker serves them, at their measured costs."""
    queueing = Queueing(Policy(name), patience, places=1000, backlog_seconds=1e9)
    pace = paces(limit)
    admission = Admission(pace, queueing)
    batchers = {size: Batcher(1000, Batching(queueing.policy, limit)) for size in pace}
    to_come, left, ends, now = sorted(arrivals, key=lambda each: each[0]), {}, {}, 0.0

    def let_in():
        while to_come and to_come[0][0] <= now:
            arrival, size, (rows, steps, guided) = to_come.pop(0)
            job = admitted(admission, rows, steps, size, guided, now=arrival)
            left[job] = rows
            ends[job] = queueing.policy.ages_at(job) + at_most(pace, admission.jobs)
            standing = {"arrival": arrival, "patience": job.patience}
            batchers[size].submit(job, steps, [job.evaluations] * rows, **standing)

    while to_come or left:
        let_in()
        if not left:
            now = to_come[0][0]
            continue
        first = min(left, key=lambda job: queueing.policy.rank(job, now))
        batcher = batchers[first.size]
        turn = batcher.turn(now)
        now += pace[first.size].cost(turn.evaluations)
        let_in()  # while the step runs, whose jobs still hold their places
        for row in turn.rows:
            row.job.taken += 1
        for row in batcher.take_step():
            left[row.job] -= 1
            if not left[row.job]:
                del left[row.job]
                admission.leave(row.job)
                assert now <= ends[row.job] + 1e-9


def at_most(pace, queue):
    """Return the seconds of a full step and of `queue` in full steps, first come, first served."""
    widest = max(job.evaluations for job in queue)
    seconds = {size: each.cost(max(each.limit, widest)) for size, each in pace.items()}
    total = max(seconds.values())
    for size, each in pace.items():
        work = [job.work for job in queue if job.size == size]
        done = forecast(work, each.limit, lambda evaluations, size=size: seconds[size])
        total += done[-1] if queue[-1].size == size else max(done, default=0.0)
    return total


def test_an_estimate_has_no_patience_in_it():
    admission = Admission(paces(limit=2), Queueing(SHORTEST_REMAINING, patience=5.0))
    assert admitted(admission, 1, 10).estimate_seconds == pytest.approx(10 * 0.5)


@pytest.mark.parametrize(
    ("name", "seconds"), [("first-come", 10 * 0.5 + 4 * 0.5), ("shortest-remaining", 4 * 0.5)]
)
def test_an_estimate_is_of_the_order_of_the_policy(name, seconds):
    admission = Admission(paces(limit=1), Queueing(Policy(name)))
    admitted(admission, 1, 10)
    assert admitted(admission, 1, 4).estimate_seconds == pytest.approx(seconds)


def test_an_estimate_is_of_steps_that_are_shared():
    admission = Admission(paces(limit=4), Queueing(Policy("first-come")))
    admitted(admission, 1, 10)
    guided = admitted(admission, 1, 3, guided=True)
    assert guided.estimate_seconds == pytest.approx(3 * 1.25)


def test_a_job_of_one_size_waits_for_those_of_others():
    admission = Admission(paces(limit=2), Queueing(Policy("first-come")))
    admitted(admission, 2, 10)
    large = admitted(admission, 1, 3, LARGE)
    assert large.estimate_seconds == pytest.approx(10 * 0.75 + 3 * 2.0)


def test_work_that_is_done_is_not_foretold_again():
    admission = Admission(paces(limit=1), Queueing(Policy("first-come")))
    first = admitted(admission, 1, 10)
    first.taken = 7
    second = admitted(admission, 1, 1, now=3.5)
    assert second.estimate_seconds == pytest.approx((3 + 1) * 0.5)
    admission.leave(first)
    third = admitted(admission, 1, 1, now=3.5)
    assert third.estimate_seconds == pytest.approx((1 + 1) * 0.5)


def test_a_full_queue_says_when_enough_of_it_has_gone():
    admission = Admission(paces(limit=2), Queueing(places=4))
    admitted(admission, 4, 10)
    with pytest.raises(Overloaded, match="4 images, about 15 s of work") as caught:
        admitted(admission, 1, 1)
    assert caught.value.retry_after == pytest.approx(15 / 4)
    with pytest.raises(Overloaded) as caught:
        admitted(admission, 9, 1)
    assert caught.value.retry_after == pytest.approx(15)


def test_a_long_queue_is_full_by_its_seconds():
    admission = Admission(paces(limit=2), Queueing(backlog_seconds=10.0))
    job = admitted(admission, 4, 10)
    with pytest.raises(Overloaded) as caught:
        admitted(admission, 1, 1)
    assert caught.value.retry_after == pytest.approx(5)
    job.taken = 16  # 24 row steps are left: 9 s
    admitted(admission, 1, 1, now=6.0)


def test_a_deadline_is_judged_by_what_is_there_in_the_order_of_the_policy():
    for name, sooner in (("first-come", False), ("deadline", True)):
        admission = Admission(paces(limit=1), Queueing(Policy(name), patience=100.0))
        admitted(admission, 1, 10)
        if sooner:
            admitted(admission, 1, 4, deadline=3.0)
        else:
            with pytest.raises(
                DeadlineImpossible, match="in 7 s, the deadline is in 3 s"
            ) as caught:
                admitted(admission, 1, 4, deadline=3.0)
            assert caught.value.estimate_seconds == pytest.approx(7.0)


def test_the_least_time_is_that_of_the_job_alone():
    admission = Admission(paces(), Queueing())
    job = admitted(admission, 2, 10, guided=True)
    job.taken = 7
    assert admission.least_seconds(job) == pytest.approx(7 * 0.75)


@pytest.mark.parametrize(
    ("name", "value"),
    [("patience", -1), ("patience", math.nan), ("places", 0), ("backlog_seconds", math.inf)],
)
def test_queueing_refuses_numbers_without_a_meaning(name, value):
    with pytest.raises(InvalidArgument, match=name):
        Queueing(**{name: value})
    with pytest.raises(InvalidArgument, match="limit"):
        Queueing(limit=0)
