"""Time on a chip by its published peaks: a roofline, and so an estimate that nobody measured."""

from dataclasses import dataclass

from mmjax.plan.chips import Chip
from mmjax.plan.cost import Cost

DAY = 86400.0


@dataclass(frozen=True)
class Times:
    """Seconds of one run of a program, on every device at once.

    Attributes:
      compute: at the peak of matrix products.
      memory: at the peak of HBM.
      links: of what is sent while nothing is computed.
    """

    compute: float
    memory: float
    links: float

    @property
    def step(self) -> float:
        """The slower of the first two, and the links."""
        return max(self.compute, self.memory) + self.links

    @property
    def bound(self) -> str:
        """What takes longest."""
        parts = {"compute": self.compute, "HBM": self.memory, "links": self.links}
        return max(parts, key=lambda name: parts[name])

    @property
    def utilisation(self) -> float:
        """Share of the peak of matrix products; what is computed again counts."""
        return self.compute / self.step if self.step else 0.0


def roofline(cost: Cost, chip: Chip) -> Times:
    """The least time that a cost takes.

    Args:
      cost: of one device.
      chip: its peaks.
    """
    return Times(
        cost.flops / chip.flops,
        cost.hbm_bytes / chip.hbm_rate,
        cost.exposed_wire_bytes / chip.link_rate,
    )
