"""What a program costs one device."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Collective:
    """One place in the program where devices talk.

    Attributes:
      kind: `all-reduce`, `all-gather`, `reduce-scatter`, `collective-permute`, `all-to-all`.
      bytes: of the array, each time; of the whole one that is gathered or scattered.
      group: devices that talk with each other.
      times: how often it runs.
      overlaps: whether something is computed while it is under way.
      op_name: where in the traced function it comes from.
    """

    kind: str
    bytes: int
    group: int
    times: int
    overlaps: bool
    op_name: str

    @property
    def wire_bytes(self) -> float:
        """What a device sends in all, on a ring."""
        parts = max(self.group, 1)
        share = (parts - 1) / parts
        once = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return self.times * self.bytes * once.get(self.kind, share)


@dataclass(frozen=True)
class Copy:
    """One place where data is only laid out anew, from HBM to HBM.

    Attributes:
      kind: `copy`, `transpose` or `convert`.
      shape: what is written, each time.
      bytes: the same in bytes.
      times: how often it runs.
      op_name: where in the traced function it comes from.
    """

    kind: str
    shape: str
    bytes: int
    times: int
    op_name: str


@dataclass(frozen=True)
class Cost:
    """What one device does in a run of a program.

    Attributes:
      flops: of matrix products and convolutions.
      hbm_bytes: read and written.
      collectives: where devices talk.
      copies: where data is only laid out anew.
      uncertain: loops whose trips are a bound (they may end early) or unknown (counted once).
    """

    flops: float = 0.0
    hbm_bytes: float = 0.0
    collectives: tuple[Collective, ...] = ()
    copies: tuple[Copy, ...] = ()
    uncertain: tuple[str, ...] = ()

    @property
    def wire_bytes(self) -> float:
        """What a device sends in all."""
        return sum(collective.wire_bytes for collective in self.collectives)

    @property
    def exposed_wire_bytes(self) -> float:
        """The part of it that nothing is computed beside."""
        return sum(
            collective.wire_bytes for collective in self.collectives if not collective.overlaps
        )

    def __add__(self, other: "Cost") -> "Cost":
        """Both, one after the other."""
        return Cost(
            self.flops + other.flops,
            self.hbm_bytes + other.hbm_bytes,
            self.collectives + other.collectives,
            self.copies + other.copies,
            self.uncertain + other.uncertain,
        )

    def repeated(self, times: int) -> "Cost":
        """The same, so many times."""
        return Cost(
            self.flops * times,
            self.hbm_bytes * times,
            tuple(dataclasses.replace(x, times=x.times * times) for x in self.collectives),
            tuple(dataclasses.replace(x, times=x.times * times) for x in self.copies),
            self.uncertain,
        )
