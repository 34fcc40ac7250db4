"""Benchmarks are read from files as they are handed out; damage is named by file and row."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmjax.data.questions import biomedicine, food, general, question, remote_sensing
from mmjax.errors import DataError


def _png(colour="red"):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": _png(c), "path": None} for c in ("red", "blue", "lime")]
    count = len(next(iter(columns.values())))
    pq.write_table(pa.table({"image": pictures[:count], **columns}), path, row_group_size=2)


SLAKE = {
    "img_id": 102,
    "img_name": "xmlab102/source.jpg",
    "question": "Which organ is abnormal?",
    "answer": "Lung",
    "q_lang": "en",
    "answer_type": "OPEN",
    "qid": 7,
}


def test_slake_keeps_english_questions_and_their_kind(tmp_path):
    rows = [SLAKE, SLAKE | {"qid": 8, "q_lang": "zh"}, SLAKE | {"qid": 9, "answer_type": "CLOSED"}]
    _write(tmp_path / "test.json", rows)
    first, second = biomedicine.slake(tmp_path)
    assert (first.id, first.kind, first.answers) == ("7", "open", ("Lung",))
    assert first.image == tmp_path / "imgs" / "xmlab102" / "source.jpg"
    assert (second.id, second.kind) == ("9", "closed")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        ("{}", "expected a JSON list"),
        (json.dumps([SLAKE])[:-9], "row 1: the file ends"),
        (json.dumps([SLAKE, 3]), "row 2: is 3; expected a JSON object"),
        (json.dumps([SLAKE, SLAKE | {"answer": None}]), "row 2: 'answer'"),
        (json.dumps([SLAKE | {"answer_type": "MAYBE"}]), "row 1: 'answer_type' is 'maybe'"),
        (b"\xff\xfe[", "not UTF-8"),
    ],
)
def test_damage_is_one_sentence_with_file_and_row(tmp_path, content, said):
    if content is not None:
        _write(tmp_path / "test.json", content)
    with pytest.raises(DataError) as caught:
        biomedicine.slake(tmp_path)
    assert said in str(caught.value)
    assert "test.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(question, "_CHUNK", 7)
    rows = [{"a": "x]" * 20, "n": i} for i in range(20)]
    path = _write(tmp_path / "deep.json", {"info": {"rows": 1}, "rows": rows, "z": [1]})
    assert [row for _, row in question.listed(path, "rows")] == rows
    assert list(question.listed(_write(tmp_path / "list.json", f"\n {json.dumps(rows)}\n")))
    with pytest.raises(DataError, match="list under 'other'"):
        list(question.listed(path, "other"))


def test_path_vqa_reads_pictures_when_they_are_wanted(tmp_path):
    questions = ["is it benign?", "what is this?", "are cells there?"]
    path = tmp_path / "data" / "test-00000-of-00001.parquet"
    _parquet(path, question=questions, answer=["yes", "liver", "no"])
    found = biomedicine.path_vqa(tmp_path)
    assert [q.kind for q in found] == ["closed", "open", "closed"]
    assert [q.text for q in found] == questions
    pictures = [q.image for q in found]
    assert all(isinstance(picture, question.ParquetImage) for picture in pictures)
    assert [p.read() for p in pictures if isinstance(p, question.ParquetImage)] == [
        _png(c) for c in ("red", "blue", "lime")
    ]


def test_parquet_that_lacks_or_is_damaged(tmp_path):
    with pytest.raises(DataError, match=r"has no file test-\*\.parquet"):
        biomedicine.path_vqa(tmp_path)
    path = tmp_path / "data" / "test-0.parquet"
    _parquet(path, question=["why?"])
    with pytest.raises(DataError, match="no column 'answer'"):
        biomedicine.path_vqa(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"test-0\.parquet is not readable as a Parquet file"):
        biomedicine.path_vqa(tmp_path)


def test_vqa_rad_takes_what_its_authors_call_closed(tmp_path):
    row = {
        "qid": "5",
        "phrase_type": "test_freeform",
        "image_name": "synpic1.jpg",
        "question": "T1 or T2?",
        "answer": "T2",
        "answer_type": "CLOSED ",  # so in the file
    }
    rows = [row, row | {"qid": 6, "phrase_type": "para"}, row | {"qid": 7, "answer": 3}]
    _write(tmp_path / "VQA_RAD Dataset Public.json", rows)
    found = biomedicine.vqa_rad(tmp_path)
    assert [(q.id, q.kind, q.answers) for q in found] == [
        ("5", "closed", ("T2",)),
        ("7", "closed", ("3",)),
    ]


def test_pmc_vqa_drops_the_letters_before_choices(tmp_path):
    head = "Figure_path,Question,Answer,Choice A,Choice B,Choice C,Choice D,Answer_label\n"
    row = 'PMC1_F1.jpg,"What, then?",Focal, A:Diffuse ,B:Focal,C: None,D:Unknown,B\n'
    path = _write(tmp_path / "test_clean.csv", head + row)
    (found,) = biomedicine.pmc_vqa(tmp_path)
    assert found.options == ("Diffuse", "Focal", "None", "Unknown")
    assert found.answers == ("Focal",)
    path.write_text(head + row + row.replace(",B\n", ",E\n"))
    with pytest.raises(DataError, match=r"test_clean\.csv, row 3: 'Answer_label' is 'E'"):
        biomedicine.pmc_vqa(tmp_path)
    path.write_text(head + "only,two\n")
    with pytest.raises(DataError, match="row 2: has not as many cells"):
        biomedicine.pmc_vqa(tmp_path)
    path.write_text(head.replace("Question", "Ask"))
    with pytest.raises(DataError, match="no column 'Question'"):
        biomedicine.pmc_vqa(tmp_path)


def test_recipe1m_joins_its_layers(tmp_path):
    recipe = {
        "id": "000018c8a5",
        "title": "Worlds Best Mac",
        "ingredients": [{"text": "6 ounces penne"}],
        "instructions": [{"text": "Boil."}, {"text": "Eat."}],
        "partition": "test",
    }
    train = recipe | {"id": "1", "partition": "train"}
    _write(tmp_path / "layer1.json", [recipe, train, recipe | {"id": "2"}])
    images = [{"id": "3e233001e2.jpg", "url": "-"}, {"id": "7f7f.jpg", "url": "-"}]
    layer2 = [{"id": r, "images": images} for r in ("000018c8a5", "1")] + [
        {"id": "2", "images": []}
    ]
    _write(tmp_path / "layer2.json", layer2)
    (found,) = food.recipe1m(tmp_path)
    assert found.answers == ("Worlds Best Mac\n6 ounces penne\nBoil.\nEat.",)
    assert found.image == tmp_path / "test/3/e/2/3/3e233001e2.jpg"


@pytest.mark.parametrize("counted", [False, True])
def test_nutrition5k_with_and_without_a_count(tmp_path, counted):
    sums = ["300.1", "193.0", "12.3", "28.2", "18.6", *(["2"] if counted else [])]
    parts = [f"ingr_{i:010},{name},3,1,0,0,0" for i, name in ((1, "soy sauce"), (2, "rice"))]
    _write(tmp_path / "metadata/dish_metadata_cafe1.csv", ",".join(["dish_1", *sums, *parts]))
    _write(tmp_path / "metadata/dish_metadata_cafe2.csv", "")
    ids = _write(tmp_path / "dish_ids/splits/depth_test_ids.txt", "dish_1\n")
    (found,) = food.nutrition5k(tmp_path)
    assert found.answers == ("soy sauce", "rice")
    assert found.image == tmp_path / "imagery/realsense_overhead/dish_1/rgb.png"
    ids.write_text("dish_1\ndish_2\n")
    with pytest.raises(DataError, match=r"depth_test_ids\.txt, row 2: no ingredients of 'dish_2'"):
        food.nutrition5k(tmp_path)
    _write(tmp_path / "metadata/dish_metadata_cafe2.csv", "dish_2,1,1,1,1,1,ingr_1,rice,3")
    with pytest.raises(DataError, match=r"cafe2\.csv, row 1: 3 cells"):
        food.nutrition5k(tmp_path)


def test_food101(tmp_path):
    _write(tmp_path / "meta/classes.txt", "apple_pie\nsushi\n")
    _write(tmp_path / "meta/labels.txt", "Apple pie\nSushi\n")
    path = _write(tmp_path / "meta/test.txt", "sushi/17\n")
    (found,) = food.food101(tmp_path)
    assert (found.answers, found.options) == (("sushi",), ("apple pie", "sushi"))
    assert found.image == tmp_path / "images/sushi/17.jpg"
    path.write_text("sushi/17\nsoup/3\n")
    with pytest.raises(DataError, match=r"test\.txt, row 2: classes\.txt has no class 'soup'"):
        food.food101(tmp_path)


def test_foodseg103_leaves_the_background_out(tmp_path):
    _write(tmp_path / "id2label.json", {"0": "background", "1": "candy", "2": "egg tart"})
    path = tmp_path / "data/validation-00000-of-00001.parquet"
    _parquet(path, classes_on_image=[[0, 2], [0, 1, 2]], id=[0, 1])
    found = food.foodseg103(tmp_path)
    assert [q.answers for q in found] == [("egg tart",), ("candy", "egg tart")]
    assert found[0].options == ("candy", "egg tart")
    _parquet(path, classes_on_image=[[0, 9]], id=[0])
    with pytest.raises(DataError, match=r"row 1: id2label\.json has no category 9"):
        food.foodseg103(tmp_path)


@pytest.mark.parametrize(("inner", "name"), [("", "Bare-Land"), ("Images", "mobilehomepark")])
def test_scenes_are_folders_of_classes(tmp_path, inner, name):
    place = tmp_path / inner / name
    _write(place / "1.tif", b"")
    _write(place / "notes.txt", "")
    (found,) = remote_sensing.scenes(tmp_path)
    assert found.answers == ("mobile home park" if inner else "bare land",)
    assert found.image == place / "1.tif"
    with pytest.raises(DataError, match="has no pictures in folders of classes"):
        remote_sensing.scenes(tmp_path / "elsewhere")


def test_floodnet_has_the_answers_of_a_type_for_options(tmp_path):
    rows = {
        str(i): {
            "Image_ID": "10165.JPG",
            "Question": "What is the overall condition?",
            "Ground_Truth": truth,
            "Question_Type": kind,
        }
        for i, (truth, kind) in enumerate(
            [("flooded", "Condition"), ("non flooded", "Condition"), (3, "Counting")]
        )
    }
    path = _write(tmp_path / "Questions/Training Question.json", rows)
    picture = _write(tmp_path / "Images/Train_Image/10165.JPG", b"")
    found = remote_sensing.floodnet(tmp_path)
    assert found[0].options == ("flooded", "non flooded")
    assert (found[2].answers, found[2].options) == (("3",), ("3",))
    assert found[0].image == picture
    del rows["1"]["Ground_Truth"]
    _write(path, rows)
    with pytest.raises(DataError, match=r"Question\.json, question '1': has no 'Ground_Truth'"):
        remote_sensing.floodnet(tmp_path)


def test_nwpu_captions_has_five_references(tmp_path):
    row = {"raw": "A plane .", "filename": "airplane_1.jpg", "split": "test", "imgid": 0}
    row |= {f"raw_{i}": f"Plane {i} ." for i in range(1, 5)}
    path = _write(tmp_path / "dataset_nwpu.json", {"airplane": [row]})
    (found,) = remote_sensing.nwpu_captions(tmp_path)
    assert found.answers == ("A plane .", "Plane 1 .", "Plane 2 .", "Plane 3 .", "Plane 4 .")
    assert found.image == tmp_path / "NWPU_images/airplane/airplane_1.jpg"
    _write(path, {"airplane": [row, row | {"filename": "../x.jpg"}]})
    with pytest.raises(DataError, match="class 'airplane', row 2"):
        remote_sensing.nwpu_captions(tmp_path)


def test_mme_in_both_of_its_layouts(tmp_path):
    lines = "Is it so? Please answer yes or no.\tYes\nIs it not? Please answer yes or no.\tNo\n"
    for i, subtask in enumerate((*general.PERCEPTION, *general.COGNITION)):
        texts, pictures = ("questions_answers_YN", "images") if i % 2 else ("", "")
        _write(tmp_path / subtask / texts / "0001.txt", lines)
        _write(tmp_path / subtask / pictures / "0001.png", _png())
    found = general.mme(tmp_path)
    assert len(found) == 28
    assert {q.kind for q in found} == {*general.PERCEPTION, *general.COGNITION}
    assert len({q.group for q in found}) == 14
    assert [q.answers for q in found[:2]] == [("Yes",), ("No",)]
    assert all(isinstance(q.image, Path) and q.image.is_file() for q in found)
    (tmp_path / "OCR/questions_answers_YN/0001.txt").write_text("Why?\tBecause\n")
    with pytest.raises(DataError, match=r"0001\.txt, row 1"):
        general.mme(tmp_path)
    (tmp_path / "OCR/questions_answers_YN/0001.txt").unlink()
    with pytest.raises(DataError, match="OCR has no files of questions"):
        general.mme(tmp_path)


def test_truthful_qa_makes_two_questions_a_row(tmp_path):
    row = {
        "question": "Is it so?",
        "mc1_targets": {"Yes": 1, "No": 0},
        "mc2_targets": {"Yes": 1, "It is": 1, "No": 0},
    }
    path = _write(tmp_path / "mc_task.json", [row])
    first, second = general.truthful_qa(tmp_path)
    assert (first.kind, first.answers, first.options) == ("mc1", ("Yes",), ("Yes", "No"))
    assert (second.kind, second.answers) == ("mc2", ("Yes", "It is"))
    assert first.image is None
    _write(path, [row, row | {"mc1_targets": {"No": 0}}])
    with pytest.raises(DataError, match=r"mc_task\.json, row 2: 'mc1_targets'"):
        general.truthful_qa(tmp_path)


def test_coco_captions_takes_the_test_split(tmp_path):
    row = {
        "filepath": "val2014",
        "filename": "COCO_val2014_000000391895.jpg",
        "cocoid": 391895,
        "split": "test",
        "sentences": [{"raw": "A man."}, {"raw": "A bike."}],
    }
    _write(
        tmp_path / "dataset_coco.json", {"images": [row | {"split": "train"}, row], "dataset": 1}
    )
    (found,) = general.coco_captions(tmp_path)
    assert (found.id, found.answers) == ("391895", ("A man.", "A bike."))
    assert found.image == tmp_path / "val2014/COCO_val2014_000000391895.jpg"


def test_vqa_v2_joins_questions_and_people(tmp_path):
    asked = {"question_id": 262148000, "image_id": 262148, "question": "Where is he looking?"}
    people = {
        "question_id": 262148000,
        "answer_type": "other",
        "answers": [{"answer": a, "answer_id": 1} for a in ("down", "at table", "")],
    }
    questions = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    _write(questions, {"info": {}, "questions": [asked]})
    notes = {"info": {}, "annotations": [people]}
    _write(tmp_path / "v2_mscoco_val2014_annotations.json", notes)
    (found,) = general.vqa_v2(tmp_path)
    assert found.answers == ("down", "at table", "")
    assert found.image == tmp_path / "val2014/COCO_val2014_000000262148.jpg"
    _write(questions, {"questions": [asked, asked | {"question_id": 5}]})
    with pytest.raises(DataError, match="row 2: the annotations have no question 5"):
        general.vqa_v2(tmp_path)
