"""What a recipe costs on devices that are not here, by the compiler that would run it.

  python -m mmjax.plan --config configs/lavin_scienceqa_7b.py --topology v5e-8 --mesh 1x8
  python -m mmjax.plan --config configs/lavin_scienceqa_7b.py --topology v5e:16x16 --search
  python -m mmjax.plan --config configs/language_emoji.py --topology v6e-8 --html plan.html
  python -m mmjax.plan --config configs/lavin_scienceqa_7b.py --topology cuda:h100:8 --mesh 1x8
  python -m mmjax.plan --config configs/lavin_scienceqa_7b.py --topology v5e-8 --nocompile
  python -m mmjax.plan --config configs/domain_food101.py --base base_emoji --topology v5e-8

Builds the programs of every stage (features, train step, evaluation, answers) for the shapes of the
recipe and the sizes of its encoders; no weights and no data are read. With libtpu (extra `plan`)
Google's compiler compiles them, without a TPU. Times and MFU come from published peaks: they are
estimates, and nothing was run.

Exit codes: 0 it fits, 1 an error, told in one sentence, 2 it does not fit.
"""

import re
import sys
from pathlib import Path

from absl import app, flags

from mmjax import main as door
from mmjax.errors import MmjaxError

DOES_NOT_FIT = 2
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Devices: v5e:16x16, v5e-256, v6e-8, v5p-256 or cuda:h100:8."
)
MESH = flags.DEFINE_string("mesh", None, "DATAxMODEL instead of the recipe's mesh, e.g. 32x8.")
SLICES = flags.DEFINE_integer("slices", 1, "So many slices of that topology.", lower_bound=1)
SEARCH = flags.DEFINE_bool(
    "search", False, "Try the meshes and micro-batches that divide; name the best that fits."
)
ONLY = flags.DEFINE_string("only", "", "Plan the programs alone whose names hold this text.")
COMPILE = flags.DEFINE_bool(
    "compile", True, "Compile where a compiler is; --nocompile counts on shapes, in seconds."
)
BASE = flags.DEFINE_string(
    "base", None, "Recipe of the finished run that this one stands on; the run need not be there."
)
JSON = flags.DEFINE_string("json", None, "File for all figures.")
HTML = flags.DEFINE_string("html", None, "File for a page with the tables.")
_OWN = (door.CONFIG, TOPOLOGY, MESH, SLICES, SEARCH, ONLY, COMPILE, BASE, JSON, HTML)


def start() -> None:
    """The command."""
    app.run(main, flags_parser=parse)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags of a plan; see `mmjax.main.parse`."""
    return door.parse(argv, __doc__, _OWN)


def main(argv: list[str]) -> None:
    """Flags -> recipe -> its plan."""
    door.refuse_arguments(argv)
    if door.CONFIG.value is None or TOPOLOGY.value is None:
        raise app.UsageError(
            "--config or --topology is missing, e.g. --config configs/lavin_scienceqa_7b.py "
            "--topology v5e-8"
        )
    door.run(_plan)


def _plan() -> None:
    """Everything that imports jax."""
    import dataclasses

    import jax

    from mmjax.commands.recipes import load_recipe
    from mmjax.plan import page, search
    from mmjax.plan.chips import read_topology
    from mmjax.plan.planning import Planner, with_mesh
    from mmjax.specs.build import as_dict
    from mmjax.specs.recipe import resolve_recipe

    recipe = resolve_recipe(as_dict(door.CONFIG.value))
    topology = read_topology(TOPOLOGY.value or "", SLICES.value)
    sizes = dataclasses.replace(recipe.mesh, slices=topology.slices)
    recipe = dataclasses.replace(recipe, mesh=sizes)
    if MESH.value:
        match = re.fullmatch(r"(\d+)x(\d+)", MESH.value)
        if match is None:
            raise MmjaxError(f"--mesh {MESH.value!r} is no DATAxMODEL such as 32x8")
        recipe = with_mesh(recipe, int(match[1]), int(match[2]))
    base = resolve_recipe(as_dict(load_recipe(BASE.value, {}))) if BASE.value else None
    planner = Planner(topology, ONLY.value, page.print_line, COMPILE.value, base)
    # Nothing is placed on them: shapes are traced for as many.
    jax.config.update("jax_platforms", "cpu")
    if not planner.compiles:
        jax.config.update("jax_num_cpu_devices", topology.devices)
    if SEARCH.value:
        plans = search.search(planner, recipe)
    else:
        plan = planner.plan(recipe)
        if not plan.fits:
            plan = dataclasses.replace(plan, change=search.change_for(planner, recipe, plan))
        plans = [plan]
    page.print_plans(plans)
    if JSON.value:
        page.write_plans_json(Path(JSON.value), plans)
    if HTML.value:
        page.write_plans_page(Path(HTML.value), plans)
    if not plans[0].fits:
        sys.stdout.flush()
        raise SystemExit(DOES_NOT_FIT)
