"""The batcher under a virtual clock: who runs, in what order, and when they are done."""

import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdiff.engine.batcher import Batcher, Batching
from fastdiff.engine.policies import FIRST_COME, POLICIES, Policy
from fastdiff.errors import UnknownName
from fastdiff.serving.forecast import Work, forecast


@dataclass(frozen=True)
class Job:
    """Row i takes `evaluations[i]` per step."""

    arrival: float
    steps: int
    evaluations: tuple[int, ...]
    deadline: float = math.inf
    patience: float = 9.0
    name: int = 0

    @property
    def remaining(self):
        return self.steps * sum(self.evaluations)

    def submit_to(self, batcher):
        times = {"arrival": self.arrival, "patience": self.patience, "deadline": self.deadline}
        batcher.submit(self, self.steps, self.evaluations, **times)


@dataclass
class Served:
    """`log` has, for each step, the time, the (job, index) that ran, and those that did not."""

    log: list = field(default_factory=list)
    done: dict = field(default_factory=dict)


def step_seconds(evaluations):
    return 0.5 + 0.25 * evaluations


def serve(jobs, batcher, arrived=lambda job, left: None):
    """Run `jobs` to their ends and check every step; `arrived` is told of each job that comes."""
    served, left, slots, now = Served(), {}, {}, 0.0
    to_come = sorted(jobs, key=lambda job: job.arrival)
    while to_come or left:
        while to_come and to_come[0].arrival <= now:
            job = to_come.pop(0)
            job.submit_to(batcher)
            left.update({(job, i): job.steps for i in range(len(job.evaluations))})
            arrived(job, left)
        if not left:
            now = to_come[0].arrival
            continue
        turn = batcher.turn(now)
        rows = [(row.job, row.index) for row in turn.rows]
        slots.update({(row.job, row.index): row.slot for row in turn.joined})
        check_step(batcher, turn, rows, left, slots)
        served.log.append((now, rows, [row for row in left if row not in rows]))
        now += step_seconds(turn.evaluations)
        for row in rows:
            left[row] -= 1
        ended = {(row.job, row.index) for row in batcher.take_step()}
        assert ended == {row for row in rows if left[row] == 0}
        for row in ended:
            del left[row], slots[row]
            served.done[row[0]] = now
    assert batcher.holding == batcher.waiting == 0
    assert batcher.turn(now).rows == []
    return served


def check_step(batcher, turn, rows, left, slots):
    assert len(rows) == len(set(rows)) > 0, "somebody is here, and nobody runs"
    assert set(rows) <= set(left)
    assert [row.slot for row in turn.rows] == sorted(slots[row] for row in rows)
    assert len(set(slots.values())) == len(slots) == batcher.holding
    assert all(0 <= slot < batcher.capacity for slot in slots.values())
    assert batcher.waiting == len(left) - len(slots)
    assert turn.evaluations <= batcher.limit or len(rows) == 1
    able = slots if len(slots) == batcher.capacity else left
    if not batcher.by_request and set(able) - set(rows):
        assert turn.evaluations >= batcher.limit - 1  # only a row that needs two leaves a place


TIMES = st.integers(0, 60).map(lambda n: n / 2)


def jobs_of(arrivals=TIMES, patience=TIMES, most_rows=5):
    widths = st.lists(st.integers(1, 2), min_size=1, max_size=most_rows).map(tuple)
    deadlines = st.just(math.inf) | TIMES
    job = st.builds(Job, arrivals, st.integers(1, 9), widths, deadlines, patience)
    jobs = st.lists(job, min_size=1, max_size=8)
    return jobs.map(lambda drawn: [replace(job, name=i) for i, job in enumerate(drawn)])


ORDERS = st.builds(Policy, st.sampled_from(POLICIES))


@given(jobs_of(), st.integers(1, 6), ORDERS, st.none() | st.integers(1, 7), st.booleans())
def test_every_row_takes_its_steps_and_no_place_stays_empty(jobs, slots, policy, limit, whole):
    served = serve(jobs, Batcher(slots, Batching(policy, limit, by_request=whole)))
    taken = [row for _, rows, _ in served.log for row in rows]
    for job in jobs:
        for index in range(len(job.evaluations)):
            assert taken.count((job, index)) == job.steps
    again = serve(jobs, Batcher(slots, Batching(policy, limit, by_request=whole)))
    assert again.log == served.log


@given(jobs_of(), ORDERS, st.integers(2, 7))
def test_nobody_goes_before_those_who_came_earlier_and_lost_patience(jobs, policy, limit):
    for _, rows, left_out in serve(jobs, Batcher(40, Batching(policy, limit))).log:
        for job, _ in left_out:
            assert all(other.arrival <= policy.ages_at(job) for other, _ in rows)


@given(jobs_of(), ORDERS, st.integers(2, 7), st.integers(0, 6))
def test_withdrawn_rows_are_gone_and_nobody_else_is(jobs, policy, limit, steps):
    batcher = Batcher(5, Batching(policy, limit))
    for job in jobs:
        batcher.submit(job, job.steps, job.evaluations)
    for _ in range(steps):
        batcher.turn(0.0)
        batcher.take_step()
        if batcher.holding == batcher.waiting == 0:
            return
    batcher.withdraw(jobs[0])
    batcher.withdraw(jobs[0])
    seen = set()
    while (turn := batcher.turn(0.0)).rows:
        seen |= {row.job for row in turn.rows}
        batcher.take_step()
    assert jobs[0] not in seen
    assert batcher.holding == batcher.waiting == 0


@given(jobs_of(), ORDERS, st.integers(1, 7))
def test_a_promise_is_kept_whatever_comes_later(jobs, policy, limit):
    """Patience, one step, and the jobs that came before in full steps: the bound of `forecast`."""
    promises, came = {}, []

    def promise(job, left):
        came.append(job)
        queue = [
            Work(1, steps, j.evaluations[i])
            for j in came for i in range(len(j.evaluations)) if (steps := left.get((j, i)))
        ]  # fmt: skip
        full = step_seconds(max(limit, 2))
        wait = forecast(queue, limit, lambda evaluations: full)[-1]
        promises[job] = policy.ages_at(job) + full + wait

    served = serve(jobs, Batcher(40, Batching(policy, limit)), promise)
    for job in jobs:
        assert served.done[job] <= promises[job] + 1e-9


NOW, LONG = st.just(0.0), st.just(1e6)


@given(
    jobs_of(NOW, LONG),
    st.sampled_from(["first-come", "deadline"]),
    st.integers(1, 7),
    st.booleans(),
)
def test_a_forecast_is_exact_if_nothing_else_comes(jobs, name, limit, whole):
    policy = Policy(name)
    served = serve(jobs, Batcher(40, Batching(policy, limit, by_request=whole)))
    check_forecast(served, sorted(jobs, key=lambda job: policy.rank(job, 0.0)), limit, whole)


@given(jobs_of(NOW, LONG, most_rows=1), st.integers(1, 7))
def test_a_forecast_of_the_shortest_is_exact_for_single_images(jobs, limit):
    policy = Policy("shortest-remaining")
    served = serve(jobs, Batcher(40, Batching(policy, limit)))
    check_forecast(served, sorted(jobs, key=lambda job: policy.rank(job, 0.0)), limit, False)


def check_forecast(served, order, limit, by_request):
    rows = [(job, width) for job in order for width in job.evaluations]
    queue = [Work(1, job.steps, width) for job, width in rows]
    seconds = forecast(queue, limit, step_seconds, by_request=by_request)
    done = {}
    for (job, _), end in zip(rows, seconds, strict=True):
        done[job] = max(end, done.get(job, 0.0))
    assert done == pytest.approx(served.done)


def test_forecast_takes_rows_of_one_kind_together():
    alone = [Work(1, 4), Work(1, 4), Work(1, 4), Work(1, 2, 2), Work(1, 2, 2)]
    together = [Work(3, 4), Work(2, 2, 2)]
    ends = forecast(alone, 3, step_seconds)
    assert forecast(together, 3, step_seconds) == [ends[2], ends[4]]
    # Three rows of 4 steps at 3 evaluations, then two rows of 2 steps at 2, one after the other.
    assert ends[2:] == [4 * 1.25, 4 * 1.25 + 2 * 1.0, 4 * 1.25 + 4 * 1.0]


def test_forecast_by_request_lets_nobody_into_a_batch_that_runs():
    queue = [Work(1, 4, started=True), Work(1, 2)]
    assert forecast(queue, 3, lambda n: 1.0, by_request=True) == [4.0, 6.0]
    assert forecast(queue, 3, lambda n: 1.0) == [4.0, 2.0]


def first_rows(policy, *jobs):
    """Return the jobs of the rows that run at once when there is room for two."""
    batcher = Batcher(8, Batching(policy, 2))
    for job in jobs:
        job.submit_to(batcher)
    return lambda now: {row.job for row in batcher.turn(now).rows}


def test_each_policy_prefers_its_own():
    slow = Job(0.0, 90, (1, 1), deadline=50.0, name=0)
    quick = Job(1.0, 10, (1, 1), name=1)
    urgent = Job(2.0, 50, (1, 1), deadline=40.0, name=2)
    jobs = (slow, quick, urgent)
    assert first_rows(FIRST_COME, *jobs)(2.0) == {slow}
    assert first_rows(Policy("shortest-remaining"), *jobs)(2.0) == {quick}
    assert first_rows(Policy("deadline"), *jobs)(2.0) == {urgent}


def test_an_aged_job_goes_first_without_anything_else_happening():
    slow, quick = Job(0.0, 90, (1, 1), name=0), Job(1.0, 10, (1, 1), name=1)
    runs = first_rows(Policy("shortest-remaining"), slow, quick)
    assert runs(8.9) == {quick}
    assert runs(9.0) == {slow}


def test_a_paused_row_goes_on_in_its_slot_where_it_stopped():
    batcher = Batcher(3, Batching(Policy("shortest-remaining"), 1))
    batcher.submit("long", 5, [1], patience=9.0)
    batcher.turn(0.0)
    batcher.take_step()
    batcher.submit("short", 2, [1], arrival=1.0, patience=9.0)
    assert [(row.job, row.slot) for row in batcher.turn(1.0).rows] == [("short", 1)]
    assert batcher.holding == 2
    batcher.take_step()
    assert [row.job for row in batcher.take_step()] == ["short"]
    turn = batcher.turn(2.0)
    assert [(row.job, row.slot, row.steps_left) for row in turn.rows] == [("long", 0, 4)]
    assert turn.joined == []


def test_a_turn_stays_the_same_object_while_its_rows_do():
    batcher = Batcher(3, Batching(FIRST_COME, 1))
    batcher.submit("first", 3, [1])
    turn = batcher.turn(0.0)
    batcher.take_step()
    batcher.submit("second", 3, [1])
    assert batcher.turn(1.0) is turn
    assert batcher.take_step() == ()
    assert [row.job for row in batcher.take_step()] == ["first"]
    assert [row.job for row in batcher.turn(2.0).rows] == ["second"]


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(UnknownName, match="deadline, first-come, shortest-remaining"):
        Policy("fastest")


def test_a_closed_batcher_lets_those_finish_who_have_begun():
    batcher = Batcher(3, Batching(limit=1))
    batcher.submit("begun", 2, [1])
    batcher.turn(0.0)
    batcher.take_step()
    batcher.submit("new", 1, [1])
    batcher.close()
    assert [row.job for row in batcher.turn(0.0).rows] == ["begun"]
    batcher.take_step()
    assert batcher.turn(0.0).rows == []
    batcher.open()
    assert [row.job for row in batcher.turn(0.0).rows] == ["new"]
