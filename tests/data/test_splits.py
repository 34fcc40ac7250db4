import numpy as np
import pytest

from mmjax.data.library import Library
from mmjax.data.records import Corpus, Item
from mmjax.data.splits import split_by_class, split_by_family, split_folds, spread
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

FAMILIES = [f"f{i // 3}" for i in range(300)]


def test_families_stay_whole_and_every_item_has_one_side():
    split = split_by_family(FAMILIES, 0, 0.2, 0.1)
    assert sorted(np.concatenate(list(split.values()))) == list(range(300))
    sides = [{FAMILIES[i] for i in indices} for indices in split.values()]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert 60 <= len(split["test"]) < 63
    assert 30 <= len(split["val"]) < 33


def test_the_seed_draws_the_split_and_nothing_else_does():
    once, again = (split_by_family(FAMILIES, 1, 0.2, 0.1) for _ in range(2))
    other = split_by_family(FAMILIES, 2, 0.2, 0.1)
    assert all(np.array_equal(once[side], again[side]) for side in once)
    assert not np.array_equal(once["test"], other["test"])


def test_a_test_set_of_the_data_itself_is_taken_and_validation_dealt_from_the_rest():
    given = ["test" if i % 5 == 0 else "train" for i in range(300)]
    split = split_by_family(FAMILIES, 0, 0.2, 0.1, given)
    assert split["test"].tolist() == list(range(0, 300, 5))
    assert sorted(np.concatenate(list(split.values()))) == list(range(300))
    assert 30 <= len(split["val"]) < 33
    shared = {FAMILIES[i] for i in split["val"]} & {FAMILIES[i] for i in split["train"]}
    assert not shared


def test_one_family_cannot_be_split():
    with pytest.raises(MmjaxError, match="leave nothing for"):
        split_by_family(["same"] * 50, 0, 0.2, 0.1)


@pytest.mark.parametrize("keep", [True, False])
def test_a_recipe_may_deal_the_members_of_a_family_apart(keep, mesh, monkeypatch):
    items = tuple(Item(str(i), str(i // 10), "", {}, {}) for i in range(100))
    monkeypatch.setattr(Library, "corpus", lambda self, spec: Corpus("x", items, {}, ""))
    split = Library(mesh(1, 1), ("zh", "en")).split(PairsSpec(keep_families=keep), 0)
    sides = [{items[i].family for i in indices} for indices in split.values()]
    assert (sum(map(len, sides)) == 10) == keep


def test_a_validation_set_of_the_data_itself_is_taken():
    given = ["test"] * 30 + ["val"] * 20 + ["train"] * 250
    split = split_by_family([str(i) for i in range(300)], 0, 0.2, 0.1, given)
    assert {side: len(indices) for side, indices in split.items()} == {
        "train": 250,
        "val": 20,
        "test": 30,
    }


def test_with_the_test_alone_everything_is_test():
    for given in ([""] * 6, ["test"] * 6):
        split = split_by_family(list("abcdef"), 0, 0.2, 0.1, given, ("test",))
        assert split["test"].tolist() == list(range(6))
        assert len(split["train"]) == len(split["val"]) == 0


LABELS = [f"c{i // 3 % 7}" for i in range(300)]


def test_folds_are_a_partition_that_spreads_every_label():
    splits = [split_folds(FAMILIES, LABELS, seed, 5, 0.16) for seed in range(5)]
    held = np.concatenate([split["test"] for split in splits])
    assert sorted(held) == list(range(300))
    for split in splits:
        assert sorted(np.concatenate(list(split.values()))) == list(range(300))
        sides = [{FAMILIES[i] for i in indices} for indices in split.values()]
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert 40 <= len(split["val"]) <= 66
        shares = [sum(LABELS[i] == f"c{c}" for i in split["test"]) for c in range(7)]
        assert max(shares) - min(shares) <= 6  # of about nine, in families of three
    assert not np.array_equal(split_folds(FAMILIES, LABELS, 5, 5, 0.16)["test"], splits[0]["test"])


def test_too_few_families_for_the_folds_are_told():
    with pytest.raises(MmjaxError, match=r"leave nothing for \['test'\] in fold 4 of 5"):
        split_folds(["a", "b", "c"], ["x", "y", "x"], 4, 5, 0.3)


def test_each_label_is_dealt_for_itself():
    labels = [f"l{i % 100 // 10}" for i in range(300)]
    families = [f"f{i // 2}" for i in range(300)]
    split = split_by_class(families, labels, 0, 0.2, 0.1)
    assert sorted(np.concatenate(list(split.values()))) == list(range(300))
    sides = [{families[i] for i in indices} for indices in split.values()]
    assert sum(map(len, sides)) == len(set.union(*sides))
    for side, least in (("train", 20), ("test", 6), ("val", 2)):
        counts = [sum(labels[i] == f"l{k}" for i in split[side]) for k in range(10)]
        assert min(counts) >= least, (side, counts)
    other = split_by_class(families, labels, 1, 0.2, 0.1)
    assert not np.array_equal(other["test"], split["test"])


def test_a_family_of_two_labels_stays_on_one_side():
    families = [f"f{i % 10}" for i in range(40)]
    labels = ["a"] * 20 + ["b"] * 20
    split = split_by_class(families, labels, 0, 0.3, 0.1)
    sides = [{families[i] for i in indices} for indices in split.values()]
    assert sum(map(len, sides)) == 10
    with pytest.raises(MmjaxError, match=r"4 items of 2 labels leave nothing for \['val'"):
        split_by_class(["a", "b", "c", "d"], ["x", "x", "y", "y"], 0, 0.2, 0.1)


def test_a_part_is_spread_over_all_and_leaves_groups_whole():
    groups = [i // 4 for i in range(40)]
    assert spread(groups, 8) == [0, 1, 2, 3, 20, 21, 22, 23]
    assert spread(groups, 0) == spread(groups, 99) == list(range(40))
    assert spread(["a", "b", "a"], 1) == [0, 2]  # the last group may go beyond it
