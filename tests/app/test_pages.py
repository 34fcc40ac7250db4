"""What a page computes, with models that are plain arithmetic: search, classes, a talk."""

import threading
from pathlib import Path

import pytest
from PIL import Image

from mmjax.app import parts
from mmjax.app.classify import Classify, Lesson
from mmjax.app.kinds import page_of
from mmjax.app.limits import Limits
from mmjax.app.pictures import samples_in
from mmjax.app.search import Search
from mmjax.app.talk import PictureTalk
from mmjax.errors import MmjaxError
from tests.app.models import COLOURS, Colours, Names, Parrot

LIMITS = Limits(pictures=3, classes=2, turns=2)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """A picture of each colour."""
    found = {}
    for name, colour in COLOURS.items():
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 7), colour).save(path)
        found[name] = str(path)
    return found


def test_search_finds_the_colour_and_the_frozen_model_does_not(files):
    search = Search(Colours(), LIMITS)
    gallery = search.of_uploads(list(files.values()))
    assert gallery.names == ("red.png", "green.png", "blue.png")
    found = search.find(" green ", gallery, k=2)
    assert [hit.name for hit in found.adapted] == ["green.png", "red.png"]
    assert found.adapted[0].cosine == pytest.approx(1)
    assert found.frozen is not None
    assert found.frozen[0].name == "blue.png"
    shown = parts.hits(found)
    assert shown.index("With the adapter") < shown.index("The frozen model")
    assert str(Path(files["red"]).parent) not in shown


def test_a_base_with_pictures_of_its_own_embeds_them_itself(files):
    names = "embed_texts", "embed_images", "embed_base_texts", "embed_base_images"
    search = Search(Colours(*names), LIMITS)
    found = search.find("red", search.of_uploads(list(files.values())))
    assert found.frozen is not None
    assert found.frozen[-1].name == "blue.png"


def test_without_a_frozen_space_nothing_stands_beside(files):
    search = Search(Colours("embed_texts", "embed_images"), LIMITS)
    found = search.find("red", search.of_uploads([files["red"]]))
    assert found.frozen is None
    assert "frozen" not in parts.hits(found)
    with pytest.raises(MmjaxError, match="has no embed_texts; it has"):
        Search(Colours("embed_images"), LIMITS)


def test_a_folder_leaves_out_what_cannot_be_read(files, capsys):
    folder = Path(files["red"]).parent
    (folder / "sub").mkdir()
    (folder / "sub" / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    search = Search(Colours(), LIMITS)
    assert search.of_folder(folder, 9).names == ("blue.png", "green.png", "red.png")
    assert "left out: " in capsys.readouterr().err
    with pytest.raises(MmjaxError, match="holds 4 pictures; raise --most-images 3"):
        search.of_folder(folder, 3)
    with pytest.raises(MmjaxError, match="is no folder"):
        search.of_folder(folder / "nothing", 3)


def test_samples_are_what_a_visitor_may_send_too(files, capsys):
    folder = Path(files["red"]).parent
    (folder / "a.png").write_bytes(b"no picture")
    (folder / "large.png").write_bytes(b"x" * 300)
    found = samples_in(folder, 9, Limits(file_bytes=299))
    assert found.files == tuple(Path(files[name]).read_bytes() for name in ("blue", "green", "red"))
    assert len(found.thumbnails) == 3
    assert capsys.readouterr().err.count("left out: ") == 2
    answer = Classify(Names(), LIMITS).ask(found.files[2])
    assert answer.adapted[0][0] == "red"


def test_search_refuses_in_words(files):
    search = Search(Colours(), LIMITS)
    for query, gallery, said in (("red", None, "Choose some pictures"), ("", None, "Type a query")):
        with pytest.raises(MmjaxError, match=said):
            search.find(query, gallery)
    with pytest.raises(MmjaxError, match="4 files are too many"):
        search.of_uploads([files["red"]] * 4)


def test_learned_classes_and_taught_ones(files):
    model = Names()
    classify = Classify(model, LIMITS)
    found = classify.ask(files["green"])
    assert (found.adapted[0][0], found.frozen[0][0]) == ("green", "red")
    with pytest.raises(MmjaxError, match="Teach two classes"):
        classify.ask(files["blue"], Lesson())
    lesson = classify.add(Lesson(), "blue", [files["blue"], files["blue"]])
    with pytest.raises(MmjaxError, match="two classes or more"):
        classify.learn(lesson)
    lesson = classify.add(lesson, "red", None)
    assert [(name, len(shots)) for name, shots in lesson.shots] == [("blue", 2), ("red", 0)]
    assert "by its name alone" in parts.lesson(lesson)
    learned = classify.learn(lesson)
    assert model.shots == [2, 0]
    assert classify.ask(files["blue"], learned).adapted[0][0] == "blue"
    assert "Learned" in parts.lesson(learned)
    # Whatever is added is to be learned anew.
    more = classify.add(learned, "blue", [files["blue"]])
    assert more.taught is None
    with pytest.raises(MmjaxError, match="At most 3 pictures of a class"):
        classify.add(more, "blue", [files["blue"]])
    with pytest.raises(MmjaxError, match="At most 2 classes"):
        classify.add(more, "green", None)


def test_an_answer_comes_piece_by_piece():
    model = Parrot()
    chat = PictureTalk(model, LIMITS, max_new_tokens=7)
    assert list(chat.ask(" a b c ", b"picture", [("x", "y")])) == ["a", "a b", "a b c"]
    assert model.heard == [(["a b c"], [b"picture"], 7, [[("x", "y")]], 1)]
    with pytest.raises(MmjaxError, match="begin a new one"):
        next(chat.ask("a", None, [("x", "y")] * 2))
    with pytest.raises(MmjaxError, match="Type a question"):
        next(chat.ask(" ", None, []))


def test_whoever_learned_single_questions_hears_no_others():
    model = Parrot()
    model.talks = False
    assert list(PictureTalk(model, LIMITS).ask("a", None, [("x", "y")])) == ["a"]
    assert model.heard[0][1] is None
    assert model.heard[0][3] is None


def test_a_visitor_who_leaves_ends_the_answer():
    model = Parrot()
    pieces = PictureTalk(model, LIMITS).ask("word " * 90, None, [])
    assert next(pieces) == "word"
    pieces.close()
    assert model.ended.wait(5)
    assert model.said < 90
    assert not [t for t in threading.enumerate() if t.name == "answer"]


def test_what_fails_while_answering_reaches_the_page():
    with pytest.raises(MmjaxError, match="too long"):
        list(PictureTalk(Parrot(MmjaxError("too long")), LIMITS).ask("a", None, []))


def test_names_are_escaped_wherever_they_are_shown(files):
    classify = Classify(Names(), LIMITS)
    lesson = classify.add(Lesson(), "<img src=x onerror=alert(1)>", None)
    assert "<img src=x" not in parts.lesson(lesson)
    answer = classify.ask(files["red"])
    answer.adapted[0] = ("<script>", 1.0)
    assert "<script>" not in parts.answer(answer)


def test_strangers_have_no_page():
    with pytest.raises(MmjaxError, match="a Names has no page"):
        page_of(Names(), LIMITS)
