"""Splits by family: near-duplicates never stand on two sides.

Every seed deals anew, so that one seed's validation items are another's test items: settings that
are chosen on the first are then tested on what chose them. A development pool ends that. Its
families are named by a hash of their own, whatever the seed; no seed tests one of them, and every
seed validates on them alone.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool

from mmjax.errors import MmjaxError, setting
from mmjax.rng import seed_for

_HASHES = 1 << 48
Split = dict[str, np.ndarray]


def development_pool(
    families: Sequence[str], fraction: float, given: Sequence[str] = ()
) -> Bool[np.ndarray, " n"]:
    """Which items belong to the families that settings are chosen on.

    Args:
      families: the family of every item.
      fraction: share of the families, in the mean; a smaller one's pool lies within a larger one's.
      given: the side of every item where the data has a test set of its own, whose families are in
        no pool.

    Returns:
      True at items of the pool. A family's own name alone decides: neither seed nor other items do.
    """
    threshold = round(fraction * _HASHES)
    tested = {family for family, side in zip(families, given, strict=False) if side == "test"}
    chosen = {f: f not in tested and _hash(f) < threshold for f in set(families)}
    return np.asarray([chosen[family] for family in families], bool)


def _hash(family: str) -> int:
    digest = hashlib.sha256(f"development {family}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def split_by_family(
    families: Sequence[str],
    seed: int,
    test_fraction: float,
    val_fraction: float,
    given: Sequence[str] = (),
    needed: Sequence[str] = ("train", "val", "test"),
    pool: Sequence[bool] | Bool[np.ndarray, " n"] = (),
) -> Split:
    """Deals whole families to test, validation and training.

    Args:
      families: the family of every item.
      seed: draws the order of the families.
      test_fraction: share of the items (not of the families) held out for the test.
      val_fraction: share of the items held out for model selection.
      given: "train", "val" or "test" of every item, where the data has a test set of its own; that
        one is taken, and its validation set, or else a share of its training items for it. "" or
        nothing: dealt.
      needed: sides that must not be empty; with the test alone all items are the test.
      pool: whether each item is of the development pool (whole families), from which alone
        validation is then dealt, and the test never; nothing: there is none.

    Returns:
      {"train", "val", "test"} -> sorted int64 indices of items.

    Raises:
      MmjaxError: a side would be empty.
    """
    fixed = [i for i, side in enumerate(given) if side == "test"]
    if not fixed and tuple(needed) == ("test",):
        fixed = list(range(len(families)))
    validation = [i for i, side in enumerate(given) if side == "val"]
    members: dict[str, list[int]] = defaultdict(list)
    for i in sorted(set(range(len(families))) - set(fixed) - set(validation)):
        members[families[i]].append(i)
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    quotas = {
        "test": 0 if fixed else round(len(families) * test_fraction),
        "val": 0 if validation else round(len(families) * val_fraction),
        "train": len(families),
    }
    sides: dict[str, list[int]] = {"test": fixed, "val": validation, "train": []}
    for family in order:
        closed = _closed(pool, members[family][0])
        side = next(n for n in quotas if n != closed and len(sides[n]) < quotas[n])
        sides[side].extend(members[family])
    empty = [name for name in needed if not sides[name]]
    if empty:
        raise MmjaxError(
            f"the {len(families)} items in {len(members)} families leave nothing for {empty}; "
            f"give more items or other {setting('pairs.test_fraction')} and val_fraction"
        )
    return {name: np.sort(np.asarray(sides[name], np.int64)) for name in ("train", "val", "test")}


def _closed(pool: Sequence[bool] | Bool[np.ndarray, " n"], item: int) -> str:
    """The side that an item's family may not stand on, "" for none."""
    return "" if not len(pool) else "test" if pool[item] else "val"


def split_folds(
    families: Sequence[str],
    labels: Sequence[str],
    seed: int,
    folds: int,
    val_fraction: float,
    pool: Sequence[bool] | Bool[np.ndarray, " n"] = (),
) -> Split:
    """Cross-validation: seed s holds out fold s % folds of partition s // folds.

    Args:
      families: the family of every item; families stay whole, and so does a label's share in each
        fold as far as they allow.
      labels: of every item.
      seed: which fold of which partition.
      folds: parts of a partition.
      val_fraction: share of all items that is taken from the others for model selection.
      pool: as of `split_by_family`: its items are in no fold.

    Returns:
      {"train", "val", "test"} -> sorted int64 indices of items.

    Raises:
      MmjaxError: a side would be empty.
    """

    def deal(items: np.ndarray, seed: int, parts: int) -> np.ndarray:
        own = [[of[int(i)] for i in items] for of in (families, labels)]
        return _deal(own[0], own[1], seed, parts)

    inside = np.asarray(pool, bool) if len(pool) else np.zeros(len(families), bool)
    dealt = np.flatnonzero(~inside)
    test = dealt[deal(dealt, seed_for(seed // folds, "folds"), folds) == seed % folds]
    rest = np.setdiff1d(np.arange(len(families)), test)
    choose = rest[inside[rest]] if len(pool) else rest
    parts = max(2, round(len(choose) / max(1, val_fraction * len(families))))
    val = choose[deal(choose, seed_for(seed, "inner"), parts) == 0]
    split = {"train": np.setdiff1d(rest, val), "val": val, "test": test}
    empty = [name for name, indices in split.items() if not len(indices)]
    if empty:
        raise MmjaxError(
            f"the {len(families)} items in {len(set(families))} families leave nothing for {empty} "
            f"in fold {seed % folds} of {folds}; give more items or fewer "
            f"{setting('pairs.folds')}"
        )
    return {name: np.asarray(indices, np.int64) for name, indices in split.items()}


def _deal(families: Sequence[str], labels: Sequence[str], seed: int, parts: int) -> np.ndarray:
    """The part of every item: each family goes where its label, then all, has the fewest items."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, family in enumerate(families):
        members[family].append(i)
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda family: -len(members[family]))  # large ones first fit best
    count: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(parts, np.int64))
    every, part = np.zeros(parts, np.int64), np.zeros(len(families), np.int64)
    for family in order:
        items = members[family]
        own = count[labels[items[0]]]
        chosen = int(np.lexsort((every, own))[0])
        part[items] = chosen
        own[chosen] += len(items)
        every[chosen] += len(items)
    return part


def split_by_class(
    families: Sequence[str],
    labels: Sequence[str],
    seed: int,
    test_fraction: float,
    val_fraction: float,
    pool: Sequence[bool] | Bool[np.ndarray, " n"] = (),
) -> Split:
    """Deals whole families to test, validation and training, each label for itself.

    A family that has several labels stays on the side that the first of them put it on.

    Args:
      families: the family of every item.
      labels: the label of every item.
      seed: draws the order of the families.
      test_fraction: share of each label's items held out for the test.
      val_fraction: share of each label's items held out for model selection.
      pool: as of `split_by_family`.

    Returns:
      {"train", "val", "test"} -> sorted int64 indices of items.

    Raises:
      MmjaxError: a side would be empty.
    """
    by_label: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, (family, label) in enumerate(zip(families, labels, strict=True)):
        by_label[label][family].append(i)
    rng, side_of = np.random.default_rng(seed), {}
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for label in sorted(by_label):
        members = by_label[label]
        total = sum(map(len, members.values()))
        quotas = {"test": round(total * test_fraction), "val": round(total * val_fraction)}
        order = sorted(members)
        rng.shuffle(order)
        # What is dealt already counts first.
        for family in sorted(order, key=lambda f: f not in side_of):
            closed = _closed(pool, members[family][0])
            open_sides = (s for s in quotas if s != closed and counts[label, s] < quotas[s])
            side = side_of.setdefault(family, next(open_sides, "train"))
            counts[label, side] += len(members[family])
    sides: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for i, family in enumerate(families):
        sides[side_of[family]].append(i)
    empty = [name for name, indices in sides.items() if not indices]
    if empty:
        raise MmjaxError(
            f"the {len(families)} items of {len(by_label)} labels leave nothing for {empty}; give "
            f"more items or other {setting('pairs.test_fraction')} and val_fraction"
        )
    return {name: np.asarray(indices, np.int64) for name, indices in sides.items()}


def spread(groups: Sequence[Hashable], limit: int) -> list[int]:
    """About so many items, of groups spread evenly over all; those of one group stay together.

    Args:
      groups: the group of every item.
      limit: how many (0: all).

    Returns:
      Numbers of items, group by group in the order in which groups come first.
    """
    if not limit or limit >= len(groups):
        return list(range(len(groups)))
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    several = list(members.values())
    count = max(1, round(limit * len(several) / len(groups)))
    return [i for k in range(count) for i in several[k * len(several) // count]]
