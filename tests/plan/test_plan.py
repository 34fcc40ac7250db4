"""Plans without a compiler: what is planned, what it is told, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import sharding, trees
from mmjax.commands import recipes
from mmjax.errors import MmjaxError
from mmjax.plan import arithmetic, liveness, page, search
from mmjax.plan.chips import CHIPS, read_topology
from mmjax.plan.encoders import abstract_encoder, known
from mmjax.plan.estimate import roofline
from mmjax.plan.planning import Line, Planner, with_mesh
from mmjax.plan.programs import programs, state_of
from mmjax.specs.recipe import resolve_recipe
from mmjax.specs.spec import EncoderSpec


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    """The same with libtpu installed."""
    monkeypatch.setattr("mmjax.plan.compiler.available", lambda: False)


def recipe_of(name, **changes):
    return resolve_recipe(recipes.load_recipe(name, changes).to_dict())


@pytest.mark.parametrize(
    ("text", "chip", "shape", "devices"),
    [
        ("v5e:16x16", "v5e", "16x16", 256),
        ("v5e-8", "v5e", "2x4", 8),
        ("v5litepod-256", "v5e", "16x16", 256),
        ("v6e-8", "v6e", "2x4", 8),
        ("v5p-256", "v5p", "4x4x8", 128),
        ("cuda:h100:8", "h100", "8", 8),
    ],
)
def test_topologies_by_any_of_their_names(text, chip, shape, devices):
    found = read_topology(text)
    assert (found.chip.name, found.shape, found.devices) == (chip, shape, devices)
    assert read_topology(text, 2).devices == 2 * devices


@pytest.mark.parametrize("text", ["v9:2x2", "v5e-7", "v5e:x", "v5e", "cuda:h100", "", "v5e:0x4"])
def test_a_topology_that_is_none_is_told(text):
    with pytest.raises(MmjaxError, match="--topology"):
        read_topology(text)


@pytest.mark.parametrize(
    ("name", "tower", "billions"),
    [
        ("llama-7b", None, 6.738),
        ("llama-13b", None, 13.016),
        ("hf:Lin-Chen/open-llava-next-llama3-8b", None, 8.343),
        ("hf:openai/clip-vit-large-patch14", "image", 0.304),
        ("asset:smollm2-135m-instruct", None, 0.1345),
    ],
)
def test_models_have_their_published_number_of_parameters(name, tower, billions, mesh):
    encoder = abstract_encoder(EncoderSpec(source=name, tower=tower), mesh(8))
    assert trees.count(encoder.params) / 1e9 == pytest.approx(billions, rel=2e-3)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(encoder.params))


def test_an_unknown_model_is_refused_with_those_that_are_known(mesh):
    with pytest.raises(MmjaxError, match=r"sizes of 'nobody/knows' .*llama-7b"):
        abstract_encoder(EncoderSpec(source="nobody/knows"), mesh(8))
    assert len(known()) > 10


def test_int8_weights_are_a_quarter_with_their_scales(mesh):
    whole = abstract_encoder(EncoderSpec(source="llama-7b", dtype="bfloat16"), mesh(1, 8))
    small = abstract_encoder(
        EncoderSpec(source="llama-7b", dtype="bfloat16", quantize="int8"), mesh(1, 8)
    )
    kernels = [x for x in jax.tree.leaves(small.params) if x.dtype == jnp.int8]
    assert kernels
    assert trees.nbytes(small.params) < 0.53 * trees.nbytes(whole.params)


def test_flops_of_lavin_7b_are_4p_a_token_and_6p_where_layers_are_computed_again(mesh):
    rows, length, width, inner, layers = 32, 512, 4096, 11008, 32
    weights = 6.738e9 - 2 * 32000 * width  # without embedding and head
    attention = layers * 2 * length * width  # a product of scores and one of values
    head = 32000 * width / 4  # of a quarter of the columns
    clip = 2 * 0.304e9 * 257 / length  # forward alone, a picture a row
    plain = 4 * weights + 6 * attention + 4 * head + clip
    # Computed again is all but a layer's last product, of which nothing is kept.
    again = plain + 2 * (weights - layers * width * inner) + 2 * attention
    for remat, expected in ((False, plain), (True, again)):
        changes = {"instruct.remat": remat, "instruct.visual": False}
        recipe = with_mesh(recipe_of("lavin_scienceqa_7b", **changes), 1, 8)
        (step,) = (p for p in programs(recipe, mesh(1, 8)) if p.name.endswith("step"))
        assert arithmetic.flops(step) == pytest.approx(rows * length * expected, rel=0.02)


def test_rows_are_as_long_as_the_language_model_reads_where_the_recipe_says_nothing(mesh):
    changes = {"encoders.language.max_length": None}
    recipe = with_mesh(recipe_of("lavin_scienceqa_7b", **changes), 8, 1)
    (step,) = (p for p in programs(recipe, mesh(8)) if p.name.endswith("step"))
    assert step.arguments["batch"]["text"]["input_ids"].shape == (32, 2048)


def test_every_program_of_a_recipe_is_planned(mesh):
    recipe = recipe_of("language_emoji:tiny")
    names = [p.name for p in programs(recipe, mesh(8))]
    assert [n for n in names if n.endswith("step")] == [
        "base: train step",
        "linear: train step",
        "language: train step",
    ]
    assert names[:2] == ["base: image features", "base: text features"]
    assert sum("foreign features" in n for n in names) == 1, "extracted once for all stages"
    assert any("evaluation, embed_texts" in n for n in names)


def test_moments_lie_where_their_parameters_do(mesh):
    recipe = recipe_of("posttrain_food_llava")
    (step,) = (p for p in programs(with_mesh(recipe, 1, 8), mesh(1, 8)) if p.name.endswith("step"))
    state = step.arguments["trained"]
    params = [x for x in jax.tree.leaves(state.trainable) if x.size > 1 << 26]
    assert params
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.size > 1 << 26]
    assert len(moments) == 2 * len(params)
    split = [x.sharding.shard_shape(x.shape) != x.shape for x in moments]
    assert sum(split) == 2 * sum(x.sharding.shard_shape(x.shape) != x.shape for x in params)
    assert step.held()["trained"] < 12 * 8.1e9 / 8 * 1.05


def test_a_plan_says_what_fits_and_what_is_missing(tmp_path, capsys):
    planner = Planner(read_topology("v5e-8"), "train step")
    plan = planner.plan(with_mesh(recipe_of("lavin_scienceqa_7b"), 8, 1))
    assert "libtpu is not installed" in plan.compiler
    assert {line.how for line in plan.lines} == {"arithmetic"}
    assert plan.lines[0].held["frozen"] > 13e9
    assert plan.lines[0].arguments == sum(plan.lines[0].held.values())
    page.print_plans([plan])
    assert "lavin_scienceqa_7b" in capsys.readouterr().out
    page.write_plans_json(tmp_path / "plan.json", [plan])
    (read,) = json.loads((tmp_path / "plan.json").read_text())
    assert read["lines"][0]["step_seconds"] == pytest.approx(plan.step)
    page.write_plans_page(tmp_path / "plan.html", [plan])
    assert "instruct: train step" in (tmp_path / "plan.html").read_text()


def test_what_does_not_fit_is_refused_with_the_change_that_makes_it_fit():
    planner = Planner(read_topology("v5e-8"), "train step")
    recipe = with_mesh(recipe_of("lavin_scienceqa_13b"), 8, 1)
    plan = planner.plan(recipe)
    assert not plan.fits, "26 GB of weights on 16 GB"
    change = search.change_for(planner, recipe, plan)
    assert change.startswith("--config.mesh.model=")
    model = int(change.split()[0].rpartition("=")[2])
    assert planner.plan(with_mesh(recipe, 8 // model, model)).fits
    told = page.verdict(dataclasses.replace(plan, change=change))
    assert "does not fit" in told
    assert change in told


def test_what_lies_between_is_split_as_its_operands_are(mesh):
    made = mesh(2, 4)

    def shaped(dims, *spec):
        where = NamedSharding(made, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(dims, jnp.float32, sharding=where)

    def function(x, w1, w2):
        hidden = jax.lax.sort(x @ w1, dimension=0)  # kept, as nothing fuses it
        return jax.lax.sort(hidden.reshape(64, 8, 32).sum(-1) @ w2, dimension=0)

    arguments = shaped((64, 16), "data"), shaped((16, 256), None, "model"), shaped((8, 16))
    traced = jax.jit(function).trace(*arguments)
    found = liveness.peak(traced.jaxpr, arguments, made.shape)
    product = 4 * 64 * 256 / 8
    assert 2 * product <= found < 2.5 * product, "x @ w1 and its sorted copy, over all eight"
    alone = liveness.peak(
        traced.jaxpr, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arguments], {}
    )
    assert alone == pytest.approx(8 * found, rel=0.3)


def test_what_nobody_reads_takes_nothing():
    """As the keys and values that a decoder gives while it is only asked how likely texts are."""

    def layer(x, w):
        return jnp.sin(x @ w), jnp.sort(x, axis=0)[:48]

    def last(x, stack):
        return jax.jit(lambda *given: jax.lax.scan(layer, *given))(x, stack)[0].sum()

    def both(x, stack):
        x, kept = jax.lax.scan(layer, x, stack)
        return x.sum(), kept

    arguments = jnp.zeros((64, 64)), jnp.zeros((32, 64, 64))
    one, two = (
        liveness.peak(jax.jit(f).trace(*arguments).jaxpr, arguments, {}) for f in (last, both)
    )
    assert one < 6 * 4 * 64 * 64
    assert two - one > 30 * 4 * 48 * 64


@pytest.mark.parametrize("what", ["adapters_emoji:tiny", "chain_emoji:tiny"])
def test_a_stage_with_adapters_in_its_towers_runs_those_of_its_base_too(what, mesh):
    recipe = recipe_of(what)
    steps = {p.name: p for p in programs(recipe, mesh(2)) if p.name.endswith("step")}
    step = steps[f"{recipe.main.name}: train step"]
    assert arithmetic.flops(step) > 0
    pictures = step.arguments["batch"]["image"]
    assert ("pixel_values" in pictures) == bool(recipe.main.adapters)


def test_a_search_tries_what_divides():
    recipe = recipe_of("lavin_scienceqa_7b")
    tried = list(search.candidates(recipe, 8))
    assert (1, 8, 4) in tried
    assert all(data * model == 8 for data, model, _ in tried)
    assert all(32 % (data * accumulate) == 0 for data, _, accumulate in tried)
    assert max(model for _, model, _ in search.candidates(recipe, 8, slices=2)) == 4
    plain = {a for _, _, a in search.candidates(recipe_of("projection_emoji"), 8)}
    assert plain == {1}, "this task takes no micro-batches"


def test_a_search_names_the_best_that_fits(capsys):
    planner = Planner(read_topology("v5e-8"))
    recipe = recipe_of("projection_emoji:tiny")
    plans = search.search(planner, recipe)
    assert {(plan.data, plan.model) for plan in plans} == {(8, 1), (4, 2), (2, 4), (1, 8)}
    fitting = [plan.step for plan in plans if plan.fits]
    assert fitting == sorted(fitting)
    page.print_plans(plans)
    best = f"--config.mesh.data={plans[0].data} --config.mesh.model={plans[0].model}"
    assert f"best of 4: {best}" in capsys.readouterr().out


def test_a_batch_that_no_mesh_divides_is_told():
    planner = Planner(read_topology("v5e-8"))
    with pytest.raises(MmjaxError, match=r"batch size 30"):
        planner.plan(with_mesh(recipe_of("base_emoji", **{"train.batch_size": 30}), 8, 1))


def test_a_topology_with_more_devices_than_are_emulated_is_told():
    with pytest.raises(MmjaxError, match="jax_num_cpu_devices=256"):
        Planner(read_topology("v5e-256")).plan(recipe_of("base_emoji"))


def test_the_roofline_is_the_slower_of_its_sides():
    from mmjax.plan.cost import Collective, Cost

    chip = CHIPS["v5e"]
    sent = Collective("collective-permute", 10**8, 8, 10, False, "")
    times = roofline(Cost(chip.flops, chip.hbm_rate / 2, (sent,)), chip)
    assert (times.compute, times.memory) == (1.0, 0.5)
    assert times.links == pytest.approx(1e9 / chip.link_rate)
    assert times.step == pytest.approx(1 + times.links)
    assert times.bound == "compute"
    hidden = dataclasses.replace(sent, overlaps=True)
    assert roofline(Cost(1.0, 1.0, (hidden,)), chip).links == 0


def test_a_task_without_shapes_is_told(mesh, monkeypatch):
    monkeypatch.setattr("mmjax.plan.programs.definition_of", lambda task: object())
    with pytest.raises(MmjaxError, match="'contrastive' cannot be planned"):
        list(programs(recipe_of("base_emoji:tiny"), mesh(8)))


@pytest.mark.parametrize("name", ["prompts_emoji:exact", "prompts_coop", "chain_clip"])
def test_few_shots_are_planned_for_as_many_classes_as_imagenet_has(name, mesh):
    recipe = recipe_of(name)
    found = {p.name: p for p in programs(recipe, mesh(4))}
    trained = [s.name for s in recipe.stages if s.train.steps and s.task != "pretrained"]
    assert [n.removesuffix(": train step") for n in found if n.endswith("step")] == trained
    step, asked = (found[f"prompts: {what}"] for what in ("train step", "evaluation, score"))
    assert step.arguments["frozen"]["known"]["text"].shape[0] == 1000
    assert step.assumed == asked.assumed != ()
    assert arithmetic.flops(step) > 0


def test_what_stands_on_a_finished_run_is_planned_by_its_recipe(mesh):
    recipe, base = recipe_of("domain_food101"), recipe_of("base_emoji")
    with pytest.raises(MmjaxError, match=r"runs/base_emoji.* --base base_emoji"):
        list(programs(recipe, mesh(8)))
    (step,) = (p for p in programs(recipe, mesh(8), base) if p.name == "domain: train step")
    (below,) = (p for p in programs(base, mesh(8)) if p.name.endswith("step"))
    heads = below.arguments["trained"].trainable
    assert [x.shape for x in jax.tree.leaves(step.arguments["frozen"]["base"])] == [
        x.shape for x in jax.tree.leaves(heads)
    ]
    with pytest.raises(MmjaxError, match=r"--base: .* stands on no finished run"):
        list(programs(base, mesh(8), base))


def test_a_line_knows_whether_it_fits():
    line = Line("a", "compiled", {}, 0, 0, 0, 1.01, 0, 0, 0, (), roofline_of(), "", 0, 0, 0)
    assert not line.fits
    assert dataclasses.replace(line, share=0.5).fits
    assert not dataclasses.replace(line, share=0.5, how="refused").fits


def roofline_of():
    from mmjax.plan.estimate import Times

    return Times(0.0, 0.0, 0.0)


def test_the_state_is_the_runs_own(mesh):
    recipe = recipe_of("base_emoji:tiny")
    (step,) = (p for p in programs(recipe, mesh(8)) if p.name.endswith("step"))
    state, _ = state_of(recipe.main, step.arguments["trained"].trainable, mesh(8))
    assert jax.tree.structure(state) == jax.tree.structure(step.arguments["trained"])
    assert sharding.lying(state.step).is_fully_replicated


def test_what_becomes_of_a_value_says_how_it_is_split(mesh):
    """Keys and values of prompts lie whole on the way in, and are split on the way out."""
    made = mesh(4, 2)
    where = NamedSharding(made, PartitionSpec("data"))

    def read(x, weights):
        def layer(x, w):
            return jnp.tanh(x @ w), jnp.sort(x @ w, axis=-1)

        last, kept = jax.lax.scan(layer, x, weights)
        kept = jnp.pad(jnp.swapaxes(kept, 0, 1) * 2, [(0, 0), (0, 0), (0, 64)])
        return last, jax.lax.with_sharding_constraint(kept, where)

    def peak(function):
        arguments = jnp.zeros((256, 64)), jnp.zeros((32, 64, 64))
        return liveness.peak(jax.jit(function).trace(*arguments).jaxpr, arguments, made.shape)

    size = 4 * 256 * 32 * 128
    assert peak(read) < 0.8 * size, "the result is split by four, and what it is made of too"


def test_what_a_program_never_reads_lies_there_all_the_same(mesh):
    recipe = recipe_of("chain_emoji:tiny")
    found = {p.name: p for p in programs(recipe, mesh(2))}
    step = found["prompts: train step"]
    left = arithmetic.unread(step)
    table = step.arguments["frozen"]["foreign"]["word_embeddings"]["embedding"]
    assert left >= table.size * table.dtype.itemsize / 2, "prompts hold their own words' vectors"
