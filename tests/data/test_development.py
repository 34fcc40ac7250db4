"""No seed tests an item of the development pool, whatever the corpus and however it is dealt.

Settings are chosen on the pool. Were one of its items tested, a figure would be better than what
users get, and nobody could tell.
"""

import numpy as np
import pytest

from mmjax.data.builders.emoji_table import read_table
from mmjax.data.corpora.digits import load_digits
from mmjax.data.labels import select
from mmjax.data.library import Library
from mmjax.data.records import Corpus, Item
from mmjax.data.splits import development_pool, split_by_family
from mmjax.errors import MmjaxError
from mmjax.specs.data import DomainSpec, PairsSpec

SEEDS = range(12)
SHARE = 0.3


def emoji(label):
    """The real table's families and labels; nothing is drawn."""
    items = [Item(e.id, e.family, getattr(e, label), {}, {}) for e in read_table()]
    return Corpus(f"emoji by {label}", tuple(items), {i.label: {} for i in items}, "")


def split_already(sides):
    """A source with a test set of its own, such as COCO-CN, Food-101 or CoOp's lists."""
    items = [Item(str(i), f"f{i // 2}", f"l{i % 5}", {}, {}, sides[i % 4]) for i in range(400)]
    return Corpus("split", tuple(items), {f"l{i}": {} for i in range(5)}, "")


CORPORA = {
    "emoji, groups": lambda: emoji("group"),
    "emoji, subgroups": lambda: emoji("subgroup"),
    "digits": lambda: load_digits("", PairsSpec(), ("en",)),
    "with a test set": lambda: split_already(("train", "train", "train", "test")),
    "with all sides": lambda: split_already(("train", "val", "train", "test")),
    "a family on both sides": lambda: split_already(("train", "test", "train", "train")),
}
FOOD = DomainSpec(("food-drink",))
PROTOCOLS = {
    "families": PairsSpec(development=SHARE),
    "each label": PairsSpec(development=SHARE, stratify=True),
    "folds": PairsSpec(development=SHARE, folds=5, val_fraction=0.1),
    "items": PairsSpec(development=SHARE, keep_families=False),
    "domain": PairsSpec(development=SHARE, domain=FOOD),
}


CASES = [(c, p) for c in CORPORA for p in PROTOCOLS if p != "domain" or c == "emoji, groups"]


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_no_seed_tests_what_settings_are_chosen_on(name, protocol, mesh, monkeypatch):
    corpus = CORPORA[name]()
    monkeypatch.setattr(Library, "corpus", lambda self, spec: select(corpus, spec))
    spec, library = PROTOCOLS[protocol], Library(mesh(1, 1), ("zh", "en"))
    given = [item.side for item in corpus.items]
    pool = development_pool([item.family for item in corpus.items], SHARE, given)
    assert 0.1 < pool.mean() < 0.5
    own = {
        item.id for item in select(corpus, PairsSpec(development=SHARE, pool="development")).items
    }
    assert own == {item.id for item, inside in zip(corpus.items, pool, strict=True) if inside}
    tested = set()
    for seed in SEEDS:
        for domain in (False, True) if spec.domain.labels else (False,):
            split = library.split(spec, seed, domain)
            assert not pool[split["test"]].any()
            # A validation set that the data brings is the data's own.
            assert "val" in given or pool[split["val"]].all()
            assert len(split["val"])
            assert pool[split["train"]].any()
            assert not pool[split["train"]].all()
            tested |= set(split["test"])
    assert "test" in given or len(tested) > len(corpus.items) / 2  # seeds still differ


def test_without_a_pool_settings_are_chosen_on_what_other_seeds_test():
    """What the pool is for; and that the test above can fail."""
    families = [e.family for e in read_table()]
    val = set(split_by_family(families, 0, 0.2, 0.1)["val"])
    others = [set(split_by_family(families, seed, 0.2, 0.1)["test"]) for seed in (1, 2)]
    assert len(val & (others[0] | others[1])) > len(val) / 5


def test_a_family_is_in_the_pool_by_its_own_name_alone():
    families = [f"f{i % 50}" for i in range(200)]
    pool = development_pool(families, SHARE)
    order = np.random.default_rng(0).permutation(200)[:90]
    np.testing.assert_array_equal(
        development_pool([families[i] for i in order], SHARE), pool[order]
    )
    assert not (pool & ~development_pool(families, 0.5)).any()  # a smaller one lies within
    for share, wanted in ((0.0, 0), (0.9, 180)):
        assert abs(development_pool(families, share).sum() - wanted) <= 30 * (share > 0)
    assert 0.25 < development_pool([str(i) for i in range(4000)], SHARE).mean() < 0.35


def test_the_pool_alone_is_dealt_among_itself(mesh, monkeypatch):
    found = emoji("group")
    monkeypatch.setattr(Library, "corpus", lambda self, spec: select(found, spec))
    spec = PairsSpec(development=SHARE, pool="development")
    library = Library(mesh(1, 1), ("zh", "en"))
    split, count = library.split(spec, 0), len(library.corpus(spec).items)
    assert sorted(np.concatenate(list(split.values()))) == list(range(count))
    assert 0.2 * len(found.items) < count < 0.4 * len(found.items)
    assert {side: bool(len(items)) for side, items in split.items()} == dict.fromkeys(split, True)


def test_a_pool_of_nothing_and_a_pool_of_a_test_set_are_refused():
    with pytest.raises(MmjaxError, match=r"pairs\.development is 0\.0; expected above 0"):
        PairsSpec(pool="development")
    with pytest.raises(MmjaxError, match=r"pairs\.development is 0\.2; expected 0: these pairs"):
        PairsSpec(development=0.2, sides=("test",))
