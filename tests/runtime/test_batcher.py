from hypothesis import given
from hypothesis import strategies as st

from fastdiff.runtime.batcher import Assignment, Batcher


def test_rows_join_in_order_of_arrival_and_take_the_lowest_slots():
    batcher = Batcher(3)
    batcher.submit("a", 2)
    batcher.submit("b", 2)
    assert batcher.join() == [
        Assignment(0, "a", 0),
        Assignment(1, "a", 1),
        Assignment(2, "b", 0),
    ]
    assert batcher.waiting == 1
    batcher.leave([1])
    assert batcher.join() == [Assignment(1, "b", 1)]
    assert [row.slot for row in batcher.running] == [0, 1, 2]


def test_withdraw_frees_running_and_waiting_rows_of_one_request_only():
    batcher = Batcher(2)
    batcher.submit("a", 3)
    batcher.submit("b", 1)
    batcher.join()
    batcher.withdraw("a")
    assert batcher.waiting == 1
    assert batcher.running == []
    assert batcher.join() == [Assignment(0, "b", 0)]


ACTIONS = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 5)),
    st.tuples(st.just("leave"), st.integers(0, 7)),
    st.tuples(st.just("withdraw"), st.integers(0, 9)),
)


@given(capacity=st.integers(1, 6), actions=st.lists(ACTIONS, max_size=40))
def test_no_slot_is_shared_and_no_row_is_lost(capacity, actions):
    batcher: Batcher[int] = Batcher(capacity)
    expected: list[tuple[int, int]] = []  # rows that still have to run, in order of arrival
    requests = 0
    for action, value in actions:
        if action == "submit":
            batcher.submit(requests, value)
            expected += [(requests, index) for index in range(value)]
            requests += 1
        elif action == "leave" and batcher.running:
            row = batcher.running[value % len(batcher.running)]
            batcher.leave([row.slot])
            expected.remove((row.request, row.index))
        elif action == "withdraw":
            batcher.withdraw(value)
            expected = [row for row in expected if row[0] != value]
        batcher.join()
        running = batcher.running
        slots = [row.slot for row in running]
        assert slots == sorted(set(slots))
        assert all(0 <= slot < capacity for slot in slots)
        assert {(row.request, row.index) for row in running} <= set(expected)
        assert len(batcher) == len(running) == min(capacity, len(expected))
        assert batcher.waiting == len(expected) - len(running)
