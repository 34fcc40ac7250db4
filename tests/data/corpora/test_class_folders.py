"""ELEVATER's and ImageNet's layouts, small but true; and every way in which they can be wrong."""

import pytest
from PIL import Image

from mmjax.data.corpora import class_folders
from mmjax.errors import MmjaxError

FILES = ("label_cn.txt", "label.txt")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "brown").save(path)


@pytest.fixture
def elevater(tmp_path):
    """Twelve classes: folders are padded to three digits; one class has no test picture."""
    for i in (0, 2, 10, 11):
        picture(tmp_path / "test" / f"{i:03d}" / "image_0003.jpg")
    picture(tmp_path / "test" / "002" / "b.PNG")
    picture(tmp_path / "train" / "001" / "not_read.jpg")
    (tmp_path / "test" / "002" / "notes.md").write_text("no picture")
    (tmp_path / "label_cn.txt").write_text("\n".join(f"类{i}" for i in range(12)) + "\n", "utf-8")
    (tmp_path / "index.json").write_text("{}")
    return tmp_path


def test_the_folder_is_the_number_of_the_name(elevater):
    found = class_folders.load_class_folder(elevater, FILES)
    assert [(item.label, item.id) for item in found.images.items] == [
        ("0", "test/000/image_0003.jpg"),
        ("2", "test/002/b.PNG"),
        ("2", "test/002/image_0003.jpg"),
        ("10", "test/010/image_0003.jpg"),
        ("11", "test/011/image_0003.jpg"),
    ]
    assert found.classes == 12
    prompts = found.prompts("label_cn.txt", ("{}", "一张{}的照片"))
    assert prompts is not None
    assert prompts[10] == ["类10", "一张类10的照片"]
    assert found.prompts("label.txt", ("{}",)) is None
    assert len(class_folders.load_class_folder(elevater, FILES, limit=2).images.items) == 2


def test_other_folders_belong_to_the_names_in_order(tmp_path):
    for name in ("n01443537", "n01440764"):
        picture(tmp_path / "val" / name / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "label.txt").write_text("tench\ngoldfish\n")
    (tmp_path / "forms.txt").write_text("a photo of a {}.\na {} in the water\n")
    found = class_folders.load_class_folder(tmp_path, FILES)
    assert [(i.label, i.id.split("/")[1]) for i in found.images.items] == [
        ("0", "n01440764"),
        ("1", "n01443537"),
    ]
    prompts = found.prompts("label.txt", ("forms.txt",))
    assert prompts == [
        ["a photo of a tench.", "a tench in the water"],
        ["a photo of a goldfish.", "a goldfish in the water"],
    ]


def test_the_fingerprint_follows_the_pictures(elevater):
    before = class_folders.load_class_folder(elevater, FILES).images.fingerprint
    assert class_folders.load_class_folder(elevater, FILES).images.fingerprint == before
    picture(elevater / "test" / "001" / "new.jpg")
    assert class_folders.load_class_folder(elevater, FILES).images.fingerprint != before


def test_what_is_wrong_is_named(elevater, tmp_path):
    def refuse(message, files=FILES):
        with pytest.raises(MmjaxError, match=message):
            class_folders.load_class_folder(elevater, files)

    refuse("has none of the files", ("names.txt",))
    picture(elevater / "test" / "012" / "x.jpg")
    refuse("012: .*label_cn.txt has 12 names; expected folders 0 to 11")
    (elevater / "test" / "012").rename(elevater / "test" / "cat")
    refuse("has 12 names for 5 folders of classes")
    (elevater / "label_cn.txt").write_text("a\n\nb\n")
    refuse("label_cn.txt, row 2: is empty")
    (elevater / "label_cn.txt").write_text("")
    refuse("label_cn.txt has no rows")
    with pytest.raises(MmjaxError, match="which is no folder"):
        class_folders.load_class_folder(elevater / "nothing", FILES)


def test_names_and_templates_must_fit(elevater):
    found = class_folders.load_class_folder(elevater, FILES)
    (elevater / "label.txt").write_text("cat\ndog\n")
    with pytest.raises(MmjaxError, match=r"label.txt has 2 names, .* has 12 classes"):
        found.prompts("label.txt", ("{}",))
    (elevater / "forms.txt").write_text("a photo\n")
    with pytest.raises(MmjaxError, match=r"forms.txt, row 1: 'a photo' has not one '\{\}'"):
        found.prompts("label_cn.txt", ("forms.txt",))
    with pytest.raises(MmjaxError, match=r"cannot read .*nowhere.txt"):
        found.prompts("label_cn.txt", ("nowhere.txt",))


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "test" / "0").mkdir(parents=True)
    (tmp_path / "label_cn.txt").write_text("猫\n", "utf-8")
    with pytest.raises(MmjaxError, match="has no pictures in folders of classes"):
        class_folders.load_class_folder(tmp_path, FILES)
