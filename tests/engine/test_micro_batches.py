from hypothesis import given
from hypothesis import strategies as st

from fastdiff.engine.micro_batches import best_batch, parts


@given(rows=st.integers(1, 300), batch=st.integers(1, 33))
def test_parts_cover_all_rows_in_order_in_almost_equal_calls(rows, batch):
    cut = parts(rows, batch)
    assert [i for part in cut for i in range(part.start, part.stop)] == list(range(rows))
    sizes = [part.stop - part.start for part in cut]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    assert len(cut) == -(-rows // batch)


def test_the_batch_size_follows_the_number_of_rows():
    seconds = {1: 4.0, 8: 16.0, 16: 31.0}
    assert [best_batch(seconds, rows) for rows in (1, 3, 5, 8, 9, 16)] == [1, 1, 8, 8, 16, 16]
    assert best_batch(seconds, 17) == 8  # three calls of 8 against two of 16
    assert best_batch({1: 1.0, 8: 20.0}, 64) == 1  # a slow large batch is never used
