import copy
import dataclasses

import pytest

from configs import (
    base_emoji,
    domain_emoji,
    domain_food101,
    domain_muge,
    language_clip_coco_cn,
    language_emoji,
    posttrain_emoji,
    projection_digits,
    projection_emoji,
    projection_mmimdb,
    prompts_coop,
    prompts_emoji,
)
from mmjax.errors import MmjaxError
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.prompts.tables import describe_method


def language() -> dict:
    return as_dict(language_emoji.get_config())


def test_the_default_recipe_trains_base_baseline_and_adapter_in_turn():
    assert [s.name for s in resolve_recipe(language()).stages] == ["base", "linear", "language"]
    recipe = resolve_recipe(as_dict(language_emoji.get_config("ablations")))
    assert [s.name for s in recipe.stages] == ["base", "linear", "mlp", "language"]
    assert [s.adapter.kind for s in recipe.stages[1:]] == ["linear", "mlp", "transformer"]
    for baseline in recipe.stages[1:3]:
        same = dataclasses.replace(baseline, name="language", adapter=recipe.main.adapter)
        assert same == recipe.main
    assert recipe.seeds == (0, 1, 2)
    with pytest.raises(ValueError, match="'full', 'tiny', 'ablations', 'german' or 'japanese'"):
        language_emoji.get_config("huge")


def test_the_domain_recipe_compares_every_method_at_every_share():
    recipe = resolve_recipe(as_dict(domain_emoji.get_config("animals")))
    base, *stages = recipe.stages
    assert base.pairs.domain == recipe.main.pairs.domain
    assert base.pairs.domain.labels == ("animals-nature",)
    assert base.encoders == resolve_recipe(as_dict(base_emoji.get_config())).main.encoders
    shares = [stage.pairs.domain.fraction for stage in stages]
    assert {share: shares.count(share) for share in shares} == {0.1: 7, 0.5: 7, 1.0: 7}
    with pytest.raises(
        ValueError, match="expected one of \\['animals', 'food', 'known'\\], 'tiny', or both"
    ):
        domain_emoji.get_config("tools")


def test_a_domain_may_be_all_that_the_base_knows():
    recipe = resolve_recipe(as_dict(domain_emoji.get_config("known")))
    assert recipe.main.pairs.domain.labels == ()
    assert {stage.train.batch_size for stage in recipe.stages} == {512}


def test_the_clip_recipe_trains_on_text_alone():
    recipe = resolve_recipe(as_dict(language_clip_coco_cn.get_config()))
    base, linear, main = recipe.stages
    assert (base.task, linear.adapter.kind, main.adapter.kind) == (
        "pretrained",
        "linear",
        "transformer",
    )
    for stage in recipe.stages:
        assert stage.pairs.sides == ("test",)
        assert stage.encoders["text"].source == "hf:openai/clip-vit-large-patch14"
    assert main.loss.kind == "distill_mse"
    assert main.parallel.val_pairs == 1000
    assert recipe.benchmarks.retrieval == ("cn_clip:data/Flickr30k-CN", "cn_clip:data/MUGE")


@pytest.mark.parametrize("module", [domain_muge, domain_food101])
def test_domain_recipes_of_other_data_stand_on_a_finished_run(module):
    recipe = resolve_recipe(as_dict(module.get_config("some/folder")))
    assert recipe.main.pairs.source.endswith(":some/folder")
    assert recipe.base is not None
    assert [stage.name for stage in recipe.stages] == ["plain", "domain"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual": {"ratio": 1.0}}, "config.residual.ratio is 1.0; expected between 0 and 1"),
        ({"residual": {"towers": ("audio",)}}, "config.residual.towers is"),
        ({"weighting": {"gamma": -1.0}}, "config.weighting.gamma is -1.0; expected at least 0"),
        ({"weighting": {"pairs": "hard"}}, r"expected one of \['none', 'focal', 'loss_softmax'\]"),
        ({"weighting": {"tau_plus": 1.0}}, r"config.weighting.tau_plus is 1.0; expected in \[0, 1"),
        ({"loss": {"init_temperature": 0.009}}, "config.loss.init_temperature is 0.009; expected"),
        ({"loss": {"learn_temperature": True, "init_temperature": 1.5}}, "at most 1 where it is l"),
        ({"optim": {"weight_decay": float("nan")}}, "config.optim.weight_decay is nan"),
        ({"optim": {"decay": "all"}}, r"config.optim.decay is 'all'; expected one of \['matrices'"),
        ({"continual": {"kind": "lwf"}}, r"expected one of \['none', 'ewc', 'distill'\]"),
        ({"pairs": {"domain": {"fraction": 0.0}}}, "config.pairs.domain.fraction is 0.0"),
        ({"loss": {"kind": "distill_mse"}}, "'contrastive' for this task"),
        ({"base": None}, "config.base is empty; the domain task needs a base"),
    ],
)
def test_every_mistake_in_a_domain_recipe_has_its_own_sentence(changes, message):
    config = as_dict(domain_emoji.get_config()) | {"variants": {}} | changes
    with pytest.raises(MmjaxError, match=message):
        resolve_recipe(config)


@pytest.mark.parametrize(
    ("module", "choice"),
    [(projection_emoji, c) for c in ("", "tiny", *projection_emoji.CHOICES)]
    + [(projection_digits, ""), (projection_digits, "tiny"), (projection_mmimdb, "some/folder")],
)
def test_every_projection_recipe_is_the_paper_beside_another_loss(module, choice):
    recipe = resolve_recipe(as_dict(module.get_config(choice)))
    paper, main = recipe.stages
    assert (paper.name, main.name) == ("paper", "projection")
    assert paper.projection.loss == "pairwise_bce"
    assert (paper.projection.hidden, paper.projection.normalize) == (0, None)
    assert paper.pairs == main.pairs
    assert len(recipe.seeds) == (1 if choice == "tiny" else main.pairs.folds)
    if module is not projection_mmimdb:
        with pytest.raises(ValueError, match="'other'; expected 'tiny' or"):
            module.get_config("other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection": {"loss": "triplet"}}, r"one of \['pairwise_bce', 'supcon', 'infonce'\]"),
        ({"projection": {"out_dim": 0}}, "config.projection.out_dim is 0; expected at least 1"),
        ({"projection": {"temperature": 0.0}}, "config.projection.temperature is 0.0"),
        ({"projection": {"temperature": 0.002}}, "temperature is 0.002; expected at least 0.01"),
        (
            {"projection": {"loss": "infonce", "mode": "single"}},
            "two encoders and mode 'per_modality'",
        ),
        ({"pairs": {"folds": 1}}, "config.pairs.folds is 1; expected 0, or at least 2"),
        ({"pairs": {"train_fraction": 0.0}}, "config.pairs.train_fraction is 0.0"),
        ({"pairs": {"views": ("plain", "tilt")}}, "config.pairs.views is .*; expected one alone"),
        ({"train": {"select": "mR"}}, "expected 'knn_acc' or 'none' here"),
        (
            {"train": {"select": "none", "cache_features": False}},
            "config.train.cache_features is False",
        ),
        ({"evals": ("retrieval",)}, r"config.evals is 'retrieval'; expected one of \['probe'\]"),
        ({"base": "runs/base_emoji"}, "config.base is 'runs/base_emoji'; expected None"),
        ({"encoders": {"foreign": {"source": "x"}}}, "expected the roles"),
    ],
)
def test_every_mistake_in_a_projection_recipe_has_its_own_sentence(changes, message):
    config = as_dict(projection_emoji.get_config()) | {"variants": {}} | changes
    with pytest.raises(MmjaxError, match=message):
        resolve_recipe(config)


@pytest.mark.parametrize("module", [base_emoji, language_emoji, domain_emoji])
def test_tiny_is_the_same_recipe_made_small(module):
    full, tiny = (resolve_recipe(as_dict(module.get_config(*s))) for s in ((), ("tiny",)))
    assert [s.name for s in full.stages if s.pairs.domain.fraction == 1] == [
        s.name for s in tiny.stages if s.pairs.domain.fraction == 1
    ]
    assert tiny.main.train.steps < full.main.train.steps


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tasc",), "language", "config.tasc is 'language'; expected one of the keys"),
        (("task",), "languages", r"expected one of \['contrastive', .*'language'"),
        (
            ("loss", "kind"),
            "distil_mse",
            r"'distil_mse'; expected one of \['con",
        ),
        (("optim", "lrr"), 1.0, r"config.optim.lrr is 1.0; expected one of the keys \['b1'"),
        (("optim", "lr"), "fast", "config.optim.lr is 'fast'; expected a value of type float"),
        (("optim", "lr"), -1.0, "config.optim.lr is -1.0; expected above 0"),
        (("train", "select"), "knn_acc", "expected another one for this task"),
        (("pairs", "train_fraction"), 0.5, "expected 1 for this task"),
        (("train", "steps"), 0, "config.train.steps is 0; expected at least 1"),
        (("train", "steps"), 1.5, "expected a value of type int"),
        (("train", "steps"), True, "expected a value of type int"),
        (("adapter", "num_heads"), 7, "a divisor of adapter.width=128"),
        (("encoders",), {"image": {"source": "asset:dinov2-small"}}, "expected the roles"),
        (("evals",), ("bleu",), r"config.evals is 'bleu'; expected one of \['retrieval'"),
        (("seeds",), (), "expected different integers"),
        (("seeds",), (1, 1), "expected different integers"),
        (("languages",), ("zh",), r"expected \(source, target\)"),
        (("base",), None, "config.base is empty"),
        (("pairs", "test_fraction"), 1.0, "between 0 and 1"),
        (("pairs", "val_fraction"), 0.8, "together under 0.9"),
        (("image_head",), {"out_dim": 8}, "both heads share one space"),
        (("variants",), {"language": {}}, "names that differ"),
    ],
)
def test_every_mistake_has_its_own_sentence(path, value, message):
    config = language()
    place = config
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(MmjaxError, match=message):
        resolve_recipe(config)


def test_resolving_changes_nothing():
    config = language()
    before = copy.deepcopy(config)
    resolve_recipe(config)
    assert config == before


def test_a_source_with_two_towers_gives_each_role_its_own():
    (base, *_, main) = resolve_recipe(language()).stages
    assert base.encoders["image"].tower == "image"
    assert {role: spec.tower for role, spec in main.encoders.items()} == {
        "image": "image",
        "text": "text",
        "foreign": "text",
    }


def test_the_prompts_recipe_compares_every_method_at_every_number_of_shots():
    recipe = resolve_recipe(as_dict(prompts_emoji.get_config()))
    base, *stages = recipe.stages
    assert base.pairs == recipe.main.pairs
    whole = [s for s in stages if s.fewshot.half == "all"]
    by_method: dict[str, list[int]] = {}
    for stage in whole:
        by_method.setdefault(describe_method(stage), []).append(stage.fewshot.shots)
    assert len(by_method) == 12  # zero-shot is no stage; CoCoOp and the exact form are `:exact`
    assert all(sorted(shots) == [1, 2, 4, 8, 16] for shots in by_method.values())
    # One set of hyper-parameters for all shots.
    for stage in whole:
        twin = next(s for s in whole if describe_method(s) == describe_method(stage))
        assert (stage.prompts, stage.optim, stage.train) == (twin.prompts, twin.optim, twin.train)
    exact = resolve_recipe(as_dict(prompts_emoji.get_config("exact")))
    assert {s.prompts.method for s in exact.stages[1:]} == {"structured", "cocoop"}
    noto = resolve_recipe(as_dict(prompts_emoji.get_config("noto"))).main
    assert noto == dataclasses.replace(
        recipe.main, fewshot=dataclasses.replace(recipe.main.fewshot, styles=("noto",))
    )
    with pytest.raises(ValueError, match="expected 'full', 'tiny', 'noto', 'apple' or 'exact'"):
        prompts_emoji.get_config("twemoji")


def test_prompts_on_clip_need_no_base():
    recipe = resolve_recipe(as_dict(prompts_coop.get_config("some/dtd")))
    assert recipe.base is None
    assert recipe.main.pairs.source == "coop:some/dtd"
    assert {s.task for s in recipe.stages} == {"prompts"}


def test_methods_on_clip_are_trained_alike_and_set_as_their_papers_have_them():
    stages = {s.name: s for s in resolve_recipe(as_dict(prompts_coop.get_config())).stages}
    trained = {s.train for name, s in stages.items() if name != "tip_adapter"}
    assert len(trained) == 1  # as many steps, of as many pictures
    assert {s.prompts.ending for s in stages.values()} == {"."}
    for name in ("tip_adapter", "tip_adapter_f"):
        assert (stages[name].prompts.alpha, stages[name].prompts.beta) == (1.0, 5.5)
    coop = stages["coop"].prompts
    assert (coop.general, coop.context, coop.anchor) == (16, "", 0.0)
    maple = stages["maple"]
    assert (maple.prompts.general, maple.prompts.depth, maple.prompts.anchor) == (2, 9, 0.0)
    assert (maple.optim.name, maple.optim.lr, maple.optim.weight_decay) == ("sgd", 3.5e-3, 5e-4)
    assert maple.prompts.context == "a photo of a"  # of which two words learn
    # CLIP-LoRA: the towers learn, under the prompt that is written there.
    lora = stages["clip_lora"]
    assert {(a["kind"], a["rank"], a["alpha"]) for a in lora.adapters.values()} == {
        ("lora", 2, 1.0)
    }
    assert lora.prompts.context == lora.prompts.template.removesuffix(" {}.")
    assert [(rate.parameters, rate.factor) for rate in lora.optim.rates] == [("general", 0.0)]
    # The measured figures of emoji are of prompts without a full stop.
    emoji = resolve_recipe(as_dict(prompts_emoji.get_config()))
    assert {s.prompts.ending for s in emoji.stages if s.task == "prompts"} == {""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {"method": "mapel"}}, r"config.prompts.method is 'mapel'; expected one of"),
        ({"prompts": {"template": "a photo"}}, r"'a photo'; expected a text with {} in it once"),
        ({"prompts": {"templates": ()}}, "config.prompts.templates is .*at least one prompt"),
        ({"prompts": {"general": -1}}, "config.prompts.general is -1; expected at least 0"),
        ({"prompts": {"method": "coop", "general": 0}}, "at least 1 for this method"),
        ({"prompts": {"general": 0, "instance": 0}}, "expected something that is learnt"),
        ({"prompts": {"ratio": 1.0}}, "config.prompts.ratio is 1.0; expected between 0 and 1"),
        ({"fewshot": {"shots": 0}}, "config.fewshot.shots is 0; expected at least 1"),
        ({"fewshot": {"half": "new"}}, r"config.fewshot.half is 'new'; expected one of"),
        ({"train": {"select": "mR"}}, "config.train.select is 'mR'; expected 'none'"),
        ({"evals": ("retrieval",)}, r"config.evals is 'retrieval'; expected one of \['fewshot'\]"),
        ({"train": {"select": "none", "steps": 0}}, "config.train.steps is 0; expected at least 1"),
    ],
)
def test_every_mistake_in_a_prompts_recipe_has_its_own_sentence(changes, message):
    config = as_dict(prompts_emoji.get_config()) | {"variants": {}} | changes
    with pytest.raises(MmjaxError, match=message):
        resolve_recipe(config)


def test_stages_stand_behind_those_that_they_start_from():
    config = as_dict(posttrain_emoji.get_config("ablations"))  # a ConfigDict sorts names
    stages = resolve_recipe(config).stages
    names = [stage.name for stage in stages]
    starts = {stage.name: stage.instruct.start for stage in stages if stage.instruct.start}
    assert starts["captions"] == "general"
    assert starts["two_stage"] == "captions_first"
    assert all(names.index(start) < names.index(name) for name, start in starts.items())
    assert names[-1] == "instruct"
