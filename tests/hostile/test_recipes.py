"""Settings that cannot be, and recipe files that are none: one sentence with the setting's name."""

import dataclasses
import sys
import typing
from pathlib import Path

import pytest
from absl import flags

from configs import language_emoji
from mmjax import main
from mmjax.adapters.catalog import ADAPTERS
from mmjax.errors import MmjaxError
from mmjax.specs import bounds
from mmjax.specs.build import as_dict, build
from mmjax.specs.recipe import Recipe, resolve_recipe
from mmjax.specs.spec import EncoderSpec, RateSpec, Stage

INF, NAN = float("inf"), float("nan")


def leaves(hint):
    """(type with its bounds, plain type) of a field, or of its entries."""
    if bounds.of(hint) is not None or hint in (int, float):
        yield hint, typing.get_args(hint)[0] if bounds.of(hint) else hint
    for inner in () if bounds.of(hint) else typing.get_args(hint):
        yield from leaves(inner)


def numeric_fields(cls, seen):
    """Every (spec, field, type) of numbers below a spec."""
    seen.add(cls)
    for name, hint in bounds.hints_of(cls).items():
        for leaf, plain in leaves(hint):
            yield cls, name, leaf, plain
        for inner in (hint, *typing.get_args(hint)):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner) and inner not in seen:
                yield from numeric_fields(inner, seen)


ADAPTERS_OWN = [ADAPTERS.find(name, "kind") for name in ADAPTERS.own]
FIELDS = [field for cls in (Recipe, *ADAPTERS_OWN) for field in numeric_fields(cls, set())]


def test_the_fields_are_all_found():
    """The walk reaches every spec; each setting of numbers of them is below."""
    assert len(FIELDS) >= 80
    assert {cls.__name__ for cls, *_ in FIELDS} >= {
        *("OptimSpec", "TrainSpec", "MeshSpec", "EncoderSpec", "HeadSpec", "AdapterSpec"),
        *("DomainSpec", "PairsSpec", "ParallelSpec", "BenchmarksSpec", "FewShotSpec", "PromptSpec"),
        *("InstructSpec", "QuestionsSpec", "LossSpec", "ResidualSpec", "WeightingSpec"),
        *("ContinualSpec", "ProjectionSpec", "Recipe", "Lora", "RepAdapter", "Houlsby", "VPT"),
    }


@pytest.mark.parametrize(
    ("cls", "name", "hint", "plain"), FIELDS, ids=[f"{c.__name__}.{n}" for c, n, *_ in FIELDS]
)
def test_every_number_has_bounds(cls, name, hint, plain, refused):
    limits = bounds.of(hint)
    assert limits is not None, f"{cls.__name__}.{name} may be any number: give it bounds"
    assert limits.least >= 0, "a setting below 0 means nothing; declare -1 as `besides`"
    wrong = [-(10**6), limits.most * 10 + 10, True, "1", b"1", [[]], 10**400]
    wrong += [NAN, INF, -INF, -1e-9, 10**5000] if plain is float else [1.0, NAN]
    needed = {
        EncoderSpec: {"source": "x"},
        RateSpec: {"parameters": "x"},
        Stage: {"name": "x", "task": "x", "encoders": {}},
    }
    if cls is Recipe:  # is put together by `resolve_recipe`; see the seeds below
        return
    for value in wrong:
        entry = (value,) if typing.get_origin(bounds.hints_of(cls)[name]) is tuple else value
        refused(lambda entry=entry: build(cls, needed.get(cls, {}) | {name: entry}, "x"), name)


def config(**changes):
    """A recipe with settings of some other kind; dots in names are double underscores."""
    found = as_dict(language_emoji.get_config("tiny"))
    for path, value in changes.items():
        *folders, last = path.split("__")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return found


def nested(levels):
    found = {}
    for _ in range(levels):
        found = {"pairs": found}
    return found


WRONG = [
    ("optim__warmup_steps", -5, "config.optim.warmup_steps is -5; expected at least 0"),
    ("train__patience", -1, "config.train.patience is -1; expected at least 0"),
    ("train__keep", 0, "config.train.keep is 0; expected at least 1"),
    ("train__steps", 2.5, "config.train.steps is 2.5; expected a value of type int"),
    ("train__steps", "10", "config.train.steps is '10'"),
    ("train__steps", None, "config.train.steps is None"),
    ("train__steps", True, "config.train.steps is True"),
    ("train__eval_every", -1, "config.train.eval_every is -1"),
    ("train__batch_size", 10**12, "config.train.batch_size is 1000000000000; expected at most"),
    ("train__cache_features", 1, "config.train.cache_features is 1; expected a value of type bool"),
    ("train__cache_features", "False", "config.train.cache_features is 'False'"),
    ("optim__lr", INF, "config.optim.lr is inf; expected a finite number"),
    ("optim__lr", NAN, "config.optim.lr is nan; expected a finite number"),
    ("optim__lr", 0, "config.optim.lr is 0.0; expected above 0"),
    ("optim__lr", 1e-300, "config.optim.lr is 1e-300; expected at least"),
    ("optim__b1", 1.0, "config.optim.b1 is 1.0; expected in [0, 1)"),
    ("optim__clip_norm", NAN, "config.optim.clip_norm is nan"),
    ("optim__clip_norm", -1.0, "config.optim.clip_norm is -1.0; expected at least 0"),
    ("optim__final_fraction", 1.5, "config.optim.final_fraction is 1.5; expected at least 0, at"),
    ("optim__name", ["adamw"], "config.optim.name is ['adamw']; expected one of"),
    ("adapter__dropout", NAN, "config.adapter.dropout is nan"),
    ("adapter__num_heads", 0, "config.adapter.num_heads is 0; expected at least 1"),
    ("adapter__width", 10**9, "config.adapter.width is 1000000000; expected at most"),
    ("image_head__out_dim", -1, "config.image_head.out_dim is -1; expected at least 1"),
    ("image_head__hidden", (-4,), "config.image_head.hidden is -4"),
    ("image_head__hidden", 4, "config.image_head.hidden is 4; expected a list"),
    ("loss__init_temperature", 0.0, "config.loss.init_temperature is 0.0; expected above 0"),
    ("loss__label_smoothing", 1.0, "config.loss.label_smoothing is 1.0; expected in [0, 1)"),
    ("encoders__image__image_size", 14 * 500, "config.encoders.image.image_size is 7000"),
    ("encoders__text__max_length", -1, "config.encoders.text.max_length is -1"),
    ("encoders__text__source", "a\0b", "config.encoders.text.source is 'a\\x00b'; expected a text"),
    ("encoders__text__source", "\udc00", "config.encoders.text.source holds half of a surrogate"),
    ("encoders__text__source", "x" * 10**6, "config.encoders.text.source is 'xxx"),
    ("encoders", None, "config.encoders is None; expected a mapping"),
    ("encoders", ["image"], "config.encoders is ['image']; expected a mapping"),
    ("encoders__image", None, "config.encoders.image is None; expected a mapping"),
    ("encoders__image", "asset:dinov2-small", "config.encoders.image is 'asset:dinov2-small'"),
    ("mesh", None, "config.mesh is None; expected a mapping"),
    ("mesh__model", 0, "config.mesh.model is 0; expected at least 1"),
    ("mesh__model", -3, "config.mesh.model is -3; expected at least 1"),
    ("mesh__data", 0, "config.mesh.data is 0; expected -1, or at least 1"),
    ("mesh__data", True, "config.mesh.data is True"),
    ("seeds", ("a",), "config.seeds is 'a'; expected a value of type int"),
    ("seeds", (), "config.seeds is (); expected different integers"),
    ("seeds", (0, 0), "config.seeds is (0, 0); expected different integers"),
    ("seeds", (-1,), "config.seeds is -1; expected at least 0"),
    ("seeds", (2**31,), "config.seeds is 2147483648; expected at most"),
    ("seeds", (1.0,), "config.seeds is 1.0"),
    ("seeds", (True,), "config.seeds is True"),
    ("seeds", 3, "config.seeds is 3; expected a list"),
    ("seeds", None, "config.seeds is None; expected a list"),
    ("seeds", tuple(range(20_000)), "expected at most 10000 entries"),
    ("name", 5, "config.name is 5; expected a value of type str"),
    ("name", None, "config.name is None"),
    ("languages", ("zh",), "config.languages is ('zh',); expected (source, target)"),
    ("languages", ("zh", 5), "config.languages is 5"),
    ("languages", None, "config.languages is None; expected a list"),
    ("evals", "retrieval", "config.evals is 'retrieval'; expected a list"),
    ("evals", (None,), "config.evals is None"),
    ("variants", [1], "config.variants is [1]; expected a mapping"),
    ("variants", {"a": None}, "config.variants.a is None; expected a mapping"),
    ("variants", {"a": {"train": {"keep": 0}}}, "config.variants.a.train.keep is 0"),
    ("variants", {"a": {"adapter": {"num_heads": 7}}}, "config.variants.a.adapter.num_heads is 7"),
    ("variants", {5: {}}, "has a setting called 5; expected a text"),
    ("base", 5, "config.base is 5; expected a run folder or a recipe"),
    ("base", "a\0", "config.base is 'a\\x00'"),
    ("base__train__steps", -5, "config.base.train.steps is -5"),
    ("base__train__batch_size", 1, "config.base.train.batch_size is 1; expected at least 2"),
    ("base__encoders", None, "config.base.encoders is None; expected a mapping"),
    ("base__pairs__test_fraction", 0.95, "config.base.pairs.val_fraction"),
    (
        "checkpoint__allow_other_encoder",
        "False",
        "config.checkpoint.allow_other_encoder is 'False'",
    ),
    ("checkpoint", None, "config.checkpoint is None; expected a mapping"),
    ("checkpoint__keep", 3, "config.checkpoint.keep is 3; expected one of the keys"),
    ("writer__tensorboard", "no", "config.writer.tensorboard is 'no'"),
    ("writer", [], "config.writer is []; expected a mapping"),
    ("benchmarks", "x", "config.benchmarks is 'x'; expected a mapping"),
    ("benchmarks__limit", -1, "config.benchmarks.limit is -1; expected at least 0"),
    ("benchmarks__retrieval", "x.jsonl", "config.benchmarks.retrieval is 'x.jsonl'"),
    ("pairs__train_fraction", 0, "config.pairs.train_fraction is 0.0; expected above 0, at most 1"),
    ("pairs__folds", 1, "config.pairs.folds is 1; expected 0, or at least 2"),
    ("pairs__limit", -1, "config.pairs.limit is -1"),
    ("pairs__styles", "openmoji", "config.pairs.styles is 'openmoji'; expected a list"),
    ("pairs__domain", None, "config.pairs.domain is None; expected a mapping"),
    ("pairs__domain", nested(100_000), "nested deeper than"),
    ("parallel__repeat_captions", 0, "config.parallel.repeat_captions is 0"),
    ("train", "fast", "config.train is 'fast'; expected a mapping"),
    ("train", [("steps", 3)], "config.train is [('steps', 3)]; expected a mapping"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), WRONG, ids=[f"{i}-{path}" for i, (path, *_) in enumerate(WRONG)]
)
def test_settings_that_cannot_be(path, value, message, refused):
    refused(lambda: resolve_recipe(config(**{path: value})), message)


@pytest.mark.parametrize("recipe", [None, [1], "language", 5])
def test_what_is_no_recipe(recipe, refused):
    refused(lambda: resolve_recipe(recipe), "expected a ConfigDict")


def test_a_recipe_that_holds_itself(refused):
    found = config()
    found["pairs"]["domain"] = found["pairs"]
    refused(lambda: resolve_recipe(found), "nested deeper than")


def test_numbers_of_another_kind_that_mean_the_same():
    recipe = resolve_recipe(config(optim__lr=1, seeds=[3], pairs__styles=["openmoji"]))
    assert recipe.main.optim.lr == 1.0
    assert (recipe.seeds, recipe.main.pairs.styles) == ((3,), ("openmoji",))


def test_a_spec_made_in_code_is_held_to_the_same_bounds():
    main_stage = resolve_recipe(config()).main
    with pytest.raises(MmjaxError, match=r"config.optim.lr is nan"):
        dataclasses.replace(main_stage, optim=dataclasses.replace(main_stage.optim, lr=NAN))
    image = dataclasses.replace(main_stage.encoders["image"], image_size=0)
    with pytest.raises(MmjaxError, match=r"config.encoders.image.image_size is 0"):
        dataclasses.replace(main_stage, encoders=main_stage.encoders | {"image": image})


# How ml_collections loads a file of Python is its own affair.
AS_IT_LOADS = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
GOOD = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"train": {"steps": 3}, "seeds": (0, 1), "name": "x", "nothing": None})
"""
FILES = {
    "returns None": ("def get_config(): return None", "returns no recipe but a NoneType"),
    "returns a list": ("def get_config(): return [1]", "returns no recipe but a list"),
    "divides by zero": ("1 / 0", "ZeroDivisionError: division by zero"),
    "is no Python": ("def get_config(:", "SyntaxError"),
    "is no text": (b"\xff\xfe\x00", "SyntaxError"),
    "holds NUL": (b"x = 1\0", "cannot be read"),
    "calls itself": ("def get_config(): return get_config()", "RecursionError"),
    "has no get_config": ("x = 1", "has no attribute 'get_config'"),
    "lacks a key": ("def get_config(): return {}['a']", "KeyError: a"),
    "adds text to a number": ("def get_config(): return 1 + 'a'", "TypeError: unsupported operand"),
    "raises without a word": ("raise Exception", "Exception: no reason given"),
    "raises several lines": ("raise RuntimeError('one\\n\\ntwo')", "RuntimeError: two"),
    "runs out of memory": ("raise MemoryError()", "MemoryError"),
    "imports nothing there": ("import nothing_there", "ModuleNotFoundError"),
}
FLAGS = {
    "--config.train.steps=abc": "--config.train.steps=abc: invalid literal",
    "--config.train.steps=1.5": "--config.train.steps=1.5: invalid literal",
    "--config.train.steps=": "--config.train.steps=: invalid literal",
    "--config.train=5": "--config.train=5: Failed to parse",
    "--config.seeds=(1,": "--config.seeds=(1,: Error while parsing",
    "--config.train.step=1": "sets no field 'step'; did you mean 'steps'?",
    "--config.train.steps.x=1": "--config.train.steps.x: Attribute",
    "--config.nothing.x=1": "--config.nothing.x:",
    "--config..=1": "--config..: Could not parse",
    "--config.train.steps": "Missing value for flag --config.train.steps",
    "--nonsense=1": "Unknown command line flag 'nonsense'",
    "--mode=sing": "--mode=sing: value should be one of",
    "--cpu_devices=x": "--cpu_devices=x: invalid literal",
}


@pytest.fixture
def parse(monkeypatch, capsys):
    """Returns `parse(*arguments)`: what the command says of flags that it refuses."""
    found = flags.FLAGS

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mmjax", *arguments])
        sys.modules.pop("config_config", None)  # as ml_collections calls every recipe's file
        with pytest.raises(SystemExit) as end:
            main.parse(sys.argv)
        assert end.value.code == 1
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("error: ")
        assert len(line) < 600
        return line

    yield run
    for name in [name for name in found if name.startswith("config.")]:
        delattr(found, name)
    found.unparse_flags()
    found["config"].value, found["config"].present = None, 0


@AS_IT_LOADS
@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_no_recipe(name, parse, tmp_path):
    content, message = FILES[name]
    path = tmp_path / "recipe.py"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = parse(f"--config={path}")
    assert message in said
    assert "recipe.py" in said


@AS_IT_LOADS
@pytest.mark.parametrize("name", ["missing.py", ".", "x" * 5000])
def test_files_that_are_not_there(name, parse, tmp_path):
    assert "cannot be read" in parse("--config", str(tmp_path / name))


@AS_IT_LOADS
@pytest.mark.parametrize("flag", FLAGS)
def test_flags_that_change_nothing(flag, parse, tmp_path):
    path = Path(tmp_path / "recipe.py")
    path.write_text(GOOD)
    assert FLAGS[flag] in parse(f"--config={path}", flag)
