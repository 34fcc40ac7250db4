"""Wordings: own and users' files, what is refused, and how two answers are put together."""

import json
import string

import pytest

from mmjax.data.markers import Cues
from mmjax.errors import DataError
from mmjax.synthesis.parse import Triplet
from mmjax.synthesis.templates import OWN, Wordings, holds, last_sentence

NAMES = sorted(path.stem for path in OWN.glob("*.json"))
WHOLE = json.loads((OWN / "en.json").read_text("utf-8"))


def blanks(template):
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


@pytest.mark.parametrize("name", NAMES)
def test_own_wordings_reason_first(name):
    words = Wordings.read(name)
    assert all(blanks(one) == ["informative", "precise"] for one in words.chains + words.joins)
    assert len(set(words.chains)) == len(words.chains) >= (12 if name == "en" else 5)
    assert words.inverted
    # What a chain puts between the answers draws a conclusion more often than not; the words for
    # it must not be those of the language next door.
    assert sum(map(words.concludes, words.chains)) >= 2


def test_english_is_what_a_synthesizer_speaks_by_default():
    assert set(NAMES) >= {"de", "en", "zh"}
    assert Wordings.read("en").cues == Cues()


def test_a_language_of_ones_own(tmp_path):
    path = tmp_path / "it.json"
    path.write_text(
        json.dumps(
            {
                **{"captions": ["Descrivi l'immagine."], "precise": "In breve.", "stop": "."},
                **{"informative": "Spiega.", "conclusions": ["quindi"], "inverted": []},
                **{"chains": ["{informative} Quindi {{{precise}}}."], "joins": WHOLE["joins"]},
            }
        ),
        "utf-8-sig",  # as some editors save it
    )
    words = Wordings.read(path)
    assert words == Wordings.read(str(path))
    task = Triplet("Cos'è?", "un gatto", "Ha i baffi.")
    assert words.fill(words.chains[0], task) == "Ha i baffi. Quindi {un gatto}."
    assert words.concludes("È quindi un gatto.")
    assert not words.concludes("E dunque?")


def test_without_conclusions_nothing_concludes(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(WHOLE | {"conclusions": []}))
    assert not Wordings.read(path).concludes("So it is.")


BOTH = "needs {informative} and {precise}, each of them once"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chains": ["{informative} {precise}", "So it is."]}, f"chains[1]: 'So it is.' {BOTH}"),
        ({"joins": ["{informative}"]}, f"joins[0]: '{{informative}}' {BOTH}"),
        ({"joins": ["{informative} {precise} {precise}"]}, BOTH),
        ({"chains": ["{informative} {answer}"]}, "placeholder {answer} that nothing fills"),
        ({"chains": ["{informative} {}"]}, "placeholder {} that nothing fills"),
        ({"chains": ["{informative} {precise.x}"]}, "placeholder {precise.x} that nothing fills"),
        ({"chains": ["{informative!r} {precise}"]}, "chains[0]: "),
        ({"chains": ["{informative} {question} {precise}"]}, "placeholder {question}"),
        ({"chains": ["{informative} {precise"]}, "chains[0]: '{informative} {precise' has braces"),
        ({"chains": ["{informative} precise}"]}, "has braces out of balance"),
        ({"chains": []}, "'chains' is []; expected a list of texts"),
        (
            {"chains": "{informative} {precise}"},
            "'chains' is '{informative} {precise}'; expected a",
        ),
        ({"chains": [5]}, "chains[0] is 5; expected a text"),
        ({"conclusions": ["so", " "]}, "conclusions[1]: is empty"),
        ({"captions": []}, "'captions' is []"),
        ({"precise": " "}, "'precise' is ' '; expected a text that is not empty"),
        ({"precise": "Answer.", "informative": "ANSWER."}, "'precise' and 'informative' are the"),
        ({"stop": None}, "'stop' is None"),
        ({"chain": []}, "has an entry 'chain'; expected captions,"),
        ({"inverted": None}, "'inverted' is None; expected a list"),
        ({"inverted": ["{precise}"]}, "inverted[0]: is '{precise}'; expected an object"),
        ({"inverted": [{"user": "{precise}?"}]}, "inverted[0]: is {'user'"),
        ({"inverted": [{"user": "{question}", "assistant": "{precise}"}]}, "inverted[0]: {'user'"),
        ({"inverted": [{"user": "{precise}", "assistant": "Yes."}]}, "inverted[0]: {'user'"),
        ({"inverted": [{"user": "{precise", "assistant": "{question}"}]}, "braces out of balance"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_file_and_entry(changes, message, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(WHOLE | changes))
    with pytest.raises(DataError) as caught:
        Wordings.read(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("xx", "no wordings are called 'xx'; one of .*'en'"),
        ("xx.json", "cannot read xx.json: No such file"),
        ("a/xx", "cannot read a/xx: No such file"),
    ],
)
def test_a_file_that_lacks_is_named(source, message):
    with pytest.raises(DataError, match=message):
        Wordings.read(source)


@pytest.mark.parametrize(
    ("template", "precise", "informative", "expected"),
    [
        ("{informative} So {precise}.", "a cat", "It purrs.", "It purrs. So a cat."),
        ("{informative} So {precise}.", "A cat.", "It purrs", "It purrs. So A cat."),
        ("{informative}\n{precise}", "A cat.", "It purrs!", "It purrs!\nA cat."),
        ("{informative} So {precise}.", "{x}", "{informative} {", "{informative} { So {x}."),
        ("{informative} So {precise}.", "...", "It ends.", "It ends. So ...."),
        ("{informative}因此{precise}。", "猫。", "它有胡须。", "它有胡须。因此猫。"),
    ],
)
def test_sentences_end_once_and_braces_stay(template, precise, informative, expected):
    task = Triplet("What?", precise, informative)
    assert Wordings.read("en").fill(template, task) == expected


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("It purrs. It is 3.5 kg, so a cat.", "It is 3.5 kg, so a cat."),
        ("Line one\n- so a cat", "- so a cat"),
        ("它有胡须。因此是猫。", "因此是猫。"),
        ("It purrs.  ", "It purrs."),
        ("", ""),
    ],
)
def test_the_last_sentence(text, last):
    assert last_sentence(text) == last


@pytest.mark.parametrize(
    ("sentence", "answer", "expected"),
    [
        ("So it is a Cat.", "cat", True),
        ("So it is a\ncat", "A  cat.", True),
        ("So it is abnormal.", "normal", False),  # the trap that metrics fall into
        ("So I know it.", "no", False),
        ("So there are 13.", "3", False),
        ("So it is 3.5 m.", "3", False),
        ("So it is 3.5 m.", "5", False),
        ("So there are 13, not 3.", "3", True),
        ('So "left", I say', "left", True),
        ("所以有3只猫。", "3", True),
        ("所以是猫。", "猫", True),
        ("So it is.", "...", False),
        ("", "cat", False),
    ],
)
def test_an_answer_is_found_in_its_own_words_only(sentence, answer, expected):
    assert holds(sentence, answer) == expected


@pytest.mark.parametrize(
    ("name", "sentence", "expected"),
    [
        ("en", "SO it is.", True),
        ("en", "The sofa is soft.", False),
        ("de", "Es ist also rot.", True),
        ("de", "Er aß alsobald.", False),
        ("zh", "这因此是猫。", True),
        ("zh", "它是猫。", False),
    ],
)
def test_conclusions_are_words(name, sentence, expected):
    assert Wordings.read(name).concludes(sentence) == expected
