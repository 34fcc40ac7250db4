"""A recipe's plan on devices that are not here: each program compiled, or else counted."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax import sharding, trees
from mmjax.errors import MmjaxError
from mmjax.plan import arithmetic, compiler
from mmjax.plan.chips import Topology
from mmjax.plan.cost import Cost
from mmjax.plan.estimate import DAY, Times, roofline
from mmjax.plan.programs import PlannedProgram, programs, share_of
from mmjax.specs.recipe import Recipe

LARGE = 64 << 20  # bytes that nothing may be copied or replicated by accident
_COLLECTIVES = 8  # that are listed, the largest first


@dataclass(frozen=True)
class Line:
    """What is known of one program.

    Attributes:
      program: its name.
      how: `compiled`, `refused` (by the compiler, for want of memory), `failed` (by the compiler,
        for another reason) or `arithmetic`.
      held: argument -> bytes on a device.
      arguments: bytes on a device.
      temporaries: beside them.
      peak: the most at any time.
      share: of the device's memory, `peak` / published bytes.
      flops: of a device.
      hbm_bytes: of a device; 0 by arithmetic.
      wire_bytes: that a device sends; 0 by arithmetic.
      collectives: a sentence each, the largest first.
      times: the roofline.
      unit: what is counted.
      units: of one run.
      per_day: units in a day, by the roofline.
      hours: of all runs in the recipe, by the roofline.
      faults: what is copied or replicated by accident.
      notes: what a reader must know.
      seconds: that compiling took.
    """

    program: str
    how: str
    held: dict[str, int]
    arguments: int
    temporaries: int
    peak: int
    share: float
    flops: float
    hbm_bytes: float
    wire_bytes: float
    collectives: tuple[str, ...]
    times: Times
    unit: str
    units: int
    per_day: float
    hours: float
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether a device has room for it."""
        return self.how not in ("refused", "failed") and self.share <= 1


@dataclass(frozen=True)
class Plan:
    """A recipe on a topology.

    Attributes:
      recipe: its name.
      topology: as it was read.
      data: size of the mesh's axis.
      model: size of the mesh's axis.
      accumulate: micro-batches of the main stage.
      compiler: what compiled, or why nothing did.
      lines: one a program.
      change: a setting that makes it fit, proved by compiling it; "" where it fits or none does.
    """

    recipe: str
    topology: str
    data: int
    model: int
    accumulate: int
    compiler: str
    lines: tuple[Line, ...]
    change: str = ""

    @property
    def fits(self) -> bool:
        """Whether all programs do."""
        return all(line.fits for line in self.lines)

    @property
    def hours(self) -> float:
        """Of all training, by the roofline."""
        return sum(line.hours for line in self.lines)

    @property
    def step(self) -> float:
        """Seconds of the last train step, by the roofline."""
        steps = [line for line in self.lines if line.program.endswith("train step")]
        return steps[-1].times.step if steps else 0.0

    @property
    def faults(self) -> tuple[str, ...]:
        """Of all programs."""
        return tuple(f"{line.program}: {fault}" for line in self.lines for fault in line.faults)


@dataclass(frozen=True)
class Planner:
    """Plans recipes on one topology; what is described once is used for all meshes.

    Attributes:
      topology: the devices.
      only: part of the names of the programs that are planned; "" is all.
      report: called with every finished line.
      compile: whether to, where there is a compiler; else shapes are counted.
      base: recipe of the finished run that a recipe stands on, which need not be there.
    """

    topology: Topology
    only: str = ""
    report: Callable[[Line], None] = lambda line: None
    compile: bool = True
    base: Recipe | None = None
    _described: list[np.ndarray] = field(default_factory=list[np.ndarray])

    @property
    def compiles(self) -> bool:
        """Whether this machine has a compiler for these devices, and it is wanted."""
        return self.compile and self.topology.chip.platform == "tpu" and compiler.available()

    def mesh(self, recipe: Recipe) -> Mesh:
        """The recipe's mesh over the described devices, or over emulated ones as many.

        Raises:
          MmjaxError: sizes that do not multiply to the number of devices.
        """
        sizes, count = recipe.mesh, self.topology.devices
        if not self.compiles:
            if jax.device_count() < count:
                raise MmjaxError(
                    f"{self.topology} has {count} devices, and {jax.device_count()} are emulated "
                    f"here; set jax_num_cpu_devices={count} before anything asks for a device"
                )
            return sharding.make_mesh(sizes.data, sizes.model, 1, jax.devices()[:count])
        if not self._described:
            self._described.append(compiler.describe_devices(self.topology))
        devices = list(self._described[0].flat)
        return sharding.make_mesh(sizes.data, sizes.model, self.topology.slices, devices)

    def plan(self, recipe: Recipe) -> Plan:
        """Plans every program of a recipe.

        Args:
          recipe: with the mesh that is to be tried.

        Raises:
          MmjaxError: sizes that the mesh cannot split, a task that cannot be planned, or encoders
            whose sizes are not known.
        """
        mesh = self.mesh(recipe)
        lines = []
        for program in programs(recipe, mesh, self.base):
            if self.only in program.name:
                lines.append(self._line(program, mesh))
                self.report(lines[-1])
        if not lines:
            raise MmjaxError(f"--only {self.only!r} is part of no program's name")
        return Plan(
            recipe.name,
            str(self.topology),
            mesh.shape["data"],
            mesh.shape["model"],
            recipe.main.train.accumulate,
            self._told(),
            tuple(lines),
        )

    def _told(self) -> str:
        if self.compiles:
            version = importlib.metadata.version("libtpu")
            return f"compiled by libtpu {version}; nothing was run"
        if self.topology.chip.platform == "cuda":
            return (
                "nothing was compiled: XLA's compiler for NVIDIA accepts more memory than there is "
                "and needs a GPU to choose kernels; figures are arithmetic on shapes alone"
            )
        if not self.compile:
            return "nothing was compiled (--nocompile): figures are arithmetic on shapes alone"
        return compiler.MISSING

    def _line(self, program: PlannedProgram, mesh: Mesh) -> Line:
        chip, held = self.topology.chip, program.held()
        made = compiler.compile_program(program) if self.compiles else None
        if made is not None and made.memory is not None and made.cost is not None:
            how, cost = "compiled", made.cost
            # What a program does not read its compiler leaves out; it lies there all the same.
            unread = arithmetic.unread(program)
            memory = dataclasses.replace(
                made.memory,
                arguments=made.memory.arguments + unread,
                peak=made.memory.peak + unread,
            )
        else:
            how = "arithmetic" if made is None else "failed" if made.fails else "refused"
            arguments = sum(held.values())
            temporaries = arithmetic.temporaries(program, mesh.shape)
            peak = max(arguments + temporaries, made.wanted if made is not None else 0)
            memory = compiler.Memory(arguments, temporaries, peak)
            cost = Cost(flops=arithmetic.flops(program) / mesh.size)
        times = roofline(cost, chip)
        step = times.step
        sent = sorted(cost.collectives, key=lambda one: -one.wire_bytes)
        notes = list(program.assumed)
        if made is not None and made.refusal:
            notes.append(made.refusal)
        if cost.uncertain:
            notes.append(
                f"{len(cost.uncertain)} loop(s) that may end early count once or their bound"
            )
        return Line(
            program.name,
            how,
            held,
            memory.arguments,
            memory.temporaries,
            memory.peak,
            memory.peak / chip.hbm_bytes,
            cost.flops,
            cost.hbm_bytes,
            cost.wire_bytes,
            tuple(
                f"{one.kind} of {one.bytes:,} B over {one.group}, {one.times} times, "
                f"{'hidden' if one.overlaps else 'waited for'} ({one.op_name.rpartition('/')[2]})"
                for one in sent[:_COLLECTIVES]
            ),
            times,
            program.unit,
            program.units,
            program.units / step * DAY if step else 0.0,
            program.times * step / 3600,
            tuple(_faults(program, cost, mesh)),
            tuple(notes),
            made.seconds if made is not None else 0.0,
        )


def _faults(program: PlannedProgram, cost: Cost, mesh: Mesh) -> Iterator[str]:
    """What takes over 64 MB of a device for nothing."""
    for copy in cost.copies:
        if copy.bytes > LARGE:
            where = f" ({copy.op_name})" if copy.op_name else ""
            yield f"{copy.kind} of {copy.shape}, {copy.bytes >> 20} MiB, {copy.times} times{where}"
    if mesh.shape["model"] == 1:
        return
    for name, tree in program.arguments.items():
        for path, leaf in trees.named_leaves(tree):
            share, size = int(np.prod(leaf.sharding.shard_shape(leaf.shape))), share_of(leaf)
            if size > LARGE and share == np.prod(leaf.shape):
                shape = tuple(leaf.shape)
                yield f"{name}/{path} {shape} lies whole on every device, {size >> 20} MiB"


def with_mesh(recipe: Recipe, data: int, model: int, accumulate: int = 0) -> Recipe:
    """The recipe on another mesh, perhaps with other micro-batches in its main stages."""
    mesh = dataclasses.replace(recipe.mesh, data=data, model=model)
    stages = recipe.stages
    if accumulate:
        stages = tuple(
            dataclasses.replace(s, train=dataclasses.replace(s.train, accumulate=accumulate))
            for s in stages
        )
    return dataclasses.replace(recipe, mesh=mesh, stages=stages)
