import numpy as np
import pytest

from mmjax.data.pipeline import Choices, Phase, SharedRows, train_batches
from mmjax.data.tables import FeatureTable, concatenate, table_of
from mmjax.errors import MmjaxError


def table(n=10):
    """Row i is the vector (i, i)."""
    return table_of([np.full(2, i, np.float32) for i in range(n)])


def phase(n=10, start=0):
    """Example i may be row i alone."""
    return Phase(start, {"image": Choices.of(table(n), [[i] for i in range(n)])})


def ids(batch):
    return batch["image"]["features"][:, 0].astype(int).tolist()


def test_an_epoch_shows_every_example_once_and_the_next_in_another_order():
    batches = [ids(b) for b in train_batches([phase()], 10, 5, seed=0)]
    epochs = [batches[i] + batches[i + 1] for i in range(0, 10, 2)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_other_examples_are_left_out_of_the_next_epoch():
    batches = [ids(b) for b in train_batches([phase()], 40, 4, seed=0)]
    left_out = [set(range(10)) - {*batches[i], *batches[i + 1]} for i in range(0, 40, 2)]
    assert all(len(rows) == 2 for rows in left_out)  # there is no smaller batch
    assert len({tuple(sorted(rows)) for rows in left_out}) > 10
    assert {row for batch in batches[:12] for row in batch} == set(range(10))


def test_no_example_stands_twice_in_a_batch_at_the_end_of_an_epoch():
    for batch in train_batches([phase()], 50, 4, seed=0):
        assert len(set(ids(batch))) == 4


def test_a_restored_iterator_goes_on_with_the_next_batch():
    once = train_batches([phase()], 20, 3, seed=5)
    for _ in range(7):
        next(once)
    state = once.get_state()
    rest = [ids(b) for b in once]
    again = train_batches([phase()], 20, 3, seed=5)
    again.set_state(state)
    assert [ids(b) for b in again] == rest
    assert len(rest) == 13


def test_candidates_are_drawn_by_how_often_they_stand_there():
    choices = Choices.of(table(), [[0, 1, 1, 1]])
    drawn = choices.draw(np.zeros(4000, np.int64), np.random.default_rng(0))
    assert set(drawn) == {0, 1}
    assert 0.7 < (drawn == 1).mean() < 0.8


def test_a_batch_says_which_rows_were_drawn():
    for batch in train_batches([phase()], 4, 5, seed=0):
        assert batch["image"]["row"].tolist() == ids(batch)


def test_shared_rows_stand_beside_any_example():
    shared = SharedRows(table(), np.array([2, 3, 7]))
    both = Phase(0, {**phase().roles, "general_image": shared})
    drawn = [b["general_image"]["row"].tolist() for b in train_batches([both], 20, 10, seed=0)]
    assert {row for rows in drawn for row in rows} == {2, 3, 7}
    assert len({tuple(rows) for rows in drawn}) > 1


def test_phases_follow_each_other():
    other = Phase(3, {"foreign": Choices.of(table(), [[i] for i in range(10)])})
    keys = [set(b) for b in train_batches([phase(), other], 5, 2, seed=0)]
    assert keys == [{"image"}] * 3 + [{"foreign"}] * 2


def test_a_batch_larger_than_the_data_is_refused_with_the_remedy():
    with pytest.raises(MmjaxError, match=r"larger than the 10 training examples.*at most 10"):
        train_batches([phase()], 5, 11, seed=0)


def test_ragged_rows_are_padded_to_one_length_and_masked():
    rows = [np.full((n, 2), n, np.float32) for n in (1, 5, 3)]
    ragged = table_of(rows)
    batch = ragged.gather(np.array([2, 0, 1]))
    assert batch["features"].shape == (3, 8, 2)
    assert batch["mask"].sum(axis=1).tolist() == [3, 1, 5]
    assert not batch["features"][~batch["mask"]].any()
    np.testing.assert_array_equal(batch["features"][2, :5], rows[1])


def test_tables_put_end_to_end_keep_their_rows():
    first, second = table_of([np.ones((2, 3))]), table_of([np.zeros((4, 3)), np.full((1, 3), 7.0)])
    both = concatenate([first, second])
    assert isinstance(both, FeatureTable)
    assert len(both) == 3
    assert both.gather(np.array([2]))["features"][0, 0].tolist() == [7, 7, 7]
