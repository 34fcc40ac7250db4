"""Adapter cards that lack something or say what cannot be: a sentence with the file and the key."""

import json

import numpy as np
import pytest

from mmjax import predict
from mmjax.runs import adapter_files
from mmjax.runs.adapter_files import CARD, load_adapter_params, read_card
from mmjax.specs.card import check_card
from mmjax.tasks.dual_encoder import stacking

DEEP = "[" * 100_000 + "]" * 100_000
NAN = float("nan")


@pytest.fixture
def folder(tmp_path):
    """Returns `folder(card, name="adapter")`: a folder with this card, text or object."""

    def make(card, name="adapter"):
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        if not isinstance(card, str | bytes):
            card = json.dumps(card)
        (path / CARD).write_bytes(card.encode() if isinstance(card, str) else card)
        return path

    return make


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no adapter card: it holds []"),
        ("null", "is no adapter card: it holds None"),
        ('"card"', "is no adapter card: it holds 'card'"),
        ("5", "is no adapter card: it holds 5"),
        ("{}", "has schema None"),
        ('{"schema": 2}', "has schema 2"),
        ('{"schema": [1]}', "has schema [1]"),
        ('{"schema": "1"}', "has schema '1'"),
        ("", "not readable as an adapter card"),
        ("{", "not readable as an adapter card"),
        (b"\xff\xfe{}", "not readable as an adapter card"),
        (b"\0" * 100, "not readable as an adapter card"),
        (DEEP, "not readable as an adapter card"),
        ('{"schema": ' + "1" * 5_000 + "}", "not readable as an adapter card"),
    ],
)
def test_files_that_are_no_card(content, message, folder, refused):
    path = folder(content)
    refused(lambda: read_card(path), CARD, message)


def test_a_card_larger_than_any(tmp_path, refused):
    with (tmp_path / CARD).open("wb") as file:
        file.truncate(1 << 31)  # a hole: nothing is written
    refused(lambda: read_card(tmp_path), CARD, "no adapter card is that long")


KEYS = (
    *("recipe", "languages", "seed", "step", "stage", "encoders", "validation", "base"),
    *("params", "trainable"),
)


@pytest.mark.parametrize("key", KEYS)
def test_a_card_without_a_key(key, folder, whole_card, refused):
    path = folder({k: v for k, v in whole_card().items() if k != key})
    refused(lambda: read_card(path), CARD, f"lacks '{key}'")


@pytest.mark.parametrize("value", [None, 5.5, [], True], ids=str)
@pytest.mark.parametrize("key", [key for key in KEYS if key != "base"])
def test_a_key_of_another_type(key, value, folder, whole_card, refused):
    path = folder(whole_card(**{key: value}))
    refused(lambda: read_card(path), CARD, key)


STAGE = {"name": "x", "task": "contrastive"}
WRONG = {
    "a stage of another task": (
        {"stage": STAGE | {"encoders": {}, "task": "sing"}},
        "stage.task is 'sing'; expected one of",
    ),
    "a stage without its task": (
        {"stage": {"name": "x"}},
        "stage lacks ['task', 'encoders']",
    ),
    "a stage with an unknown key": (
        {"stage": STAGE | {"encoders": {}, "speed": 1}},
        "stage.speed is 1; expected one of the keys",
    ),
    "absurd sizes": (
        {"stage": STAGE | {"encoders": {}, "image_head": {"out_dim": 10**9}}},
        "stage.image_head.out_dim is 1000000000; expected at most",
    ),
    "a setting of NaN": (
        {"stage": STAGE | {"encoders": {}, "loss": {"init_temperature": NAN}}},
        "stage.loss.init_temperature is nan",
    ),
    "encoders of null in the stage": (
        {"stage": STAGE | {"encoders": None}},
        "stage.encoders is None; expected a mapping",
    ),
    "languages of numbers": ({"languages": [1, 2]}, "'languages' is 1; expected a text"),
    "one language": ({"languages": ["zh"]}, "'languages' is ['zh']; expected two texts"),
    "no fingerprint of an encoder": (
        {"encoders": {"image": {}, "text": {}}},
        "lacks 'encoders.image.fingerprint'",
    ),
    "an encoder too few": ({"encoders": {}}, "lacks 'encoders.image'"),
    "an encoder that is a text": ({"encoders": {"image": "x", "text": "y"}}, "'encoders.image'"),
    "parameters elsewhere": ({"params": "../../x"}, "'params' is '../../x'; expected a name"),
    "parameters at a path": ({"params": "/etc/passwd"}, "'params' is '/etc/passwd'"),
    "parameters above": ({"params": ".."}, "'params' is '..'"),
    "parameters here": ({"params": "."}, "'params' is '.'"),
    "parameters of Windows": ({"params": "..\\x"}, "'params' is '..\\\\x'"),
    "parameters with NUL": ({"params": "a\0"}, "'params' is 'a\\x00'"),
    "half a surrogate": ({"recipe": "\ud83d"}, "'recipe' holds half of a surrogate"),
    "a recipe of a million letters": ({"recipe": "x" * 10**6}, "'recipe' is 'xxx"),
    "a huge count": (
        {"trainable": {"count": 10**30, "fingerprint": "x"}},
        "'trainable.count' is 1000000000000000000000000000000",
    ),
    "no fingerprint": ({"trainable": {"count": 1}}, "lacks 'trainable.fingerprint'"),
    "a fingerprint that is a number": (
        {"trainable": {"count": 1, "fingerprint": 5}},
        "'trainable.fingerprint' is 5",
    ),
    "a negative step": ({"step": -1}, "'step' is -1"),
    "a huge seed": ({"seed": 10**20}, "'seed' is 100000000000000000000"),
    "a validation of NaN": (
        {"validation": {"mR": NAN}},
        "'validation.mR' is nan; expected a finite",
    ),
    "a validation that is a text": ({"validation": {"mR": "1"}}, "'validation.mR' is '1'"),
    "a base of a task without one": (
        {"base": {"path": "../base", "fingerprint": "x"}},
        "an adapter of the task 'contrastive' stands on none",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_that_cannot_be(name, folder, whole_card, refused):
    changes, message = WRONG[name]
    path = folder(whole_card(**changes))
    refused(lambda: read_card(path), CARD, message)


@pytest.mark.parametrize(
    ("stands", "message"),
    [
        (None, "'base' is None, but an adapter of the task 'language' stands on one"),
        (5, "'base' is 5; expected an object"),
        ({"path": "../base"}, "lacks 'base.fingerprint'"),
        ({"fingerprint": "x"}, "lacks 'base.path'"),
        ({"path": 5, "fingerprint": "x"}, "'base.path' is 5"),
        ({"path": "/tmp", "fingerprint": "x"}, "'base.path' is '/tmp'; expected a relative path"),
        ({"path": "a\0", "fingerprint": "x"}, "'base.path' is 'a\\x00'"),
    ],
)
def test_a_base_that_cannot_be(stands, message, folder, whole_card, refused):
    path = folder(whole_card("language", base=stands))
    refused(lambda: read_card(path), CARD, message)


@pytest.mark.parametrize("place", [".", "../adapter", "../other"])
def test_an_adapter_that_stands_on_itself(place, folder, whole_card, refused):
    stands = {"path": place, "fingerprint": "x"}
    card = whole_card("language", base=stands)
    path = folder(card)
    folder(whole_card("language", base={"path": "../adapter", "fingerprint": "x"}), "other")
    refused(lambda: stacking.base_folder(card, path), CARD, "leads to a 'language' adapter")


def test_a_base_that_is_not_there(folder, whole_card, refused):
    card = whole_card("language")
    path = folder(card)
    refused(lambda: stacking.base_folder(card, path), "no adapter at", CARD)


def test_classes_of_a_few_shot_adapter(folder, whole_card, refused):
    card = whole_card("prompts")
    card["stage"]["train"] = {"select": "none"}
    for classes, message in ((None, "lacks 'classes'"), ([], "is empty"), ([1], "'classes' is 1")):
        path = folder(card | ({} if classes is None else {"classes": classes}))
        refused(lambda path=path: read_card(path), CARD, message)
    check_card(path / CARD, card | {"classes": ["a", "b"]})


@pytest.mark.parametrize("task", ["contrastive", "language", "instruct"])
def test_whole_cards_are_read(task, folder, whole_card):
    card = whole_card(task)
    assert read_card(folder(card)) == card


def test_a_run_folder_with_one_damaged_card_names_it(tmp_path, whole_card, refused):
    stage = tmp_path / "seed_0" / "contrastive"
    stage.mkdir(parents=True)
    (stage / CARD).write_text("[]")
    refused(lambda: predict.find_adapter(tmp_path), CARD, "is no adapter card")


@pytest.mark.parametrize("name", ["gone", "x" * 5_000, "a\0b"])
def test_places_without_an_adapter(name, tmp_path, refused):
    refused(lambda: predict.find_adapter(tmp_path / name), "no adapter at", CARD)


def test_the_chat_reads_the_card_first(say, folder, whole_card):
    card = whole_card("instruct")
    for damaged in ({**card, "stage": {"name": "x"}}, [], card | {"languages": None}):
        code, out, err = say("--adapter", str(folder(damaged)), "--question", "x")
        assert (code, out) == (2, "")
        assert CARD in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--image", "gone.png", "--question", "x"),
        ("--image", "x" * 5_000, "--question", "x"),
        ("--image", ".", "--question", "x"),
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--temperature", "1e-300"),
        ("--temperature", "1", "--top-p", "nan"),
        ("--seed", str(2**70)),
        ("--max-new-tokens", "1.5"),
    ],
)
def test_what_the_chat_cannot_do(arguments, say, folder, whole_card):
    path = folder(whole_card("instruct"))
    code, out, err = say("--adapter", str(path), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


ADAPTER = {"adapter": {"kernel": np.ones((2, 3), np.float32)}}


@pytest.fixture
def saved(tmp_path, whole_card):
    """A folder with a true adapter, and its card."""
    adapter_files.save_adapter(tmp_path, ADAPTER, whole_card())
    return tmp_path, json.loads((tmp_path / CARD).read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": "other"}, "is damaged"),
        ({"trainable": {"count": 7, "fingerprint": "x"}}, "its card 7"),
        ({"trainable": {"count": 6, "fingerprint": "x"}}, "is not the one its card names"),
        ({"params": CARD}, "is damaged"),
        ({"params": "gone.safetensors"}, "is damaged"),
    ],
)
def test_parameters_that_are_not_those_of_the_card(changes, message, saved, refused):
    folder, card = saved
    (folder / CARD).write_text(json.dumps(card | changes))
    refused(lambda: load_adapter_params(folder), str(folder), message)


def test_parameters_that_claim_more_than_their_files_hold(saved, refused):
    """Sizes are held against the files before anything is allocated."""
    folder, card = saved
    count = 10**9
    metadata = folder / card["params"]
    for path in metadata.rglob("*"):
        if path.is_file() and b"[2,3]" in (content := path.read_bytes().replace(b" ", b"")):
            path.write_bytes(content.replace(b"[2,3]", b"[1000,1000000]"))
    (folder / CARD).write_text(
        json.dumps(card | {"trainable": {"count": count, "fingerprint": ""}})
    )
    refused(lambda: load_adapter_params(folder), str(folder))
