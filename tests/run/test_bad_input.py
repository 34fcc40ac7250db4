"""Bad input through the command line: one sentence, exit code 1, nothing half-written."""

import shlex
import subprocess
import sys
import time

import pytest
from PIL import Image

from mmjax import study
from mmjax.errors import MmjaxError
from mmjax.specs.recipe import resolve_recipe


def refused(done, *parts):
    """Checks that a run ended with one sentence that says all of `parts`."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == sentences[0]
    for part in parts:
        assert part in sentences[0]


def test_help_answers_within_a_second_without_jax():
    code = (
        "import sys; sys.argv = ['mmjax.main', '--help']; from absl import app; "
        "from mmjax import main; import atexit; "
        "atexit.register(lambda: print('jax' in sys.modules, 'numpy' in sys.modules)); "
        "app.run(main.main)"
    )
    times = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(time.monotonic() - began)
        assert done.stdout.splitlines()[-1].split()[0] == "False"
        assert "--config" in done.stdout
        if times[-1] < 1:
            return
    pytest.fail(f"--help took {times} s")


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort", "--helpfull"])
def test_help_names_the_own_flags_first_and_exits_0(flag, toy):
    command = [sys.executable, "-m", "mmjax.main", flag]
    done = subprocess.run(command, env=toy.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = [
        f"\n  --{name}: " for name in ("config", "workdir", "mode", "cpu_devices", "distributed")
    ]
    places = [done.stdout.index(text) for text in own]
    assert places == sorted(places)
    others = done.stdout.find("absl.logging")
    assert others > places[-1] if flag == "--helpfull" else others == -1


@pytest.mark.parametrize(
    "form", ["--config.base={}", "--config.base='{}'", "--config.base.path={}"]
)
def test_a_base_may_be_given_plainly_where_the_file_has_a_recipe(form, toy, tmp_path):
    flags = shlex.split(form.replace("'", "\\'").format(tmp_path / "nothing"))
    refused(toy.run(tmp_path / "run", *flags), f"no adapter at {tmp_path / 'nothing'}")
    assert not (tmp_path / "run").exists()


def test_a_base_beside_a_setting_of_it_is_refused(toy, tmp_path):
    flags = "--config.base=runs/x", "--config.base.optim.lr=1.0"
    refused(toy.run(tmp_path / "run", *flags), "--config.base=runs/x replaces the whole base")


def test_settings_may_be_none_and_come_from_none():
    """What a file leaves at None takes any value; a number or a text may be set to None."""
    from absl import flags as absl_flags
    from ml_collections import ConfigDict, config_flags

    from mmjax.commands import command_line

    command_line.accept_none()
    values = absl_flags.FlagValues()
    config = ConfigDict({"a": None, "b": None, "c": None, "d": 3, "e": "text", "f": 0.5, "g": 1})
    argv = ["x", "--config.a=runs/x", "--config.b=64", '--config.c=("a", "b")', "--config.d=None"]
    argv += ["--config.e=None", "--config.f=None", "--config.g=2"]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    values(argv)
    assert config.to_dict() == {
        **{"a": "runs/x", "b": 64, "c": ("a", "b"), "d": None, "e": None, "f": None, "g": 2}
    }


def test_no_config_is_a_sentence(toy):
    done = subprocess.run(
        [sys.executable, "-m", "mmjax.main"],
        env=toy.environment(),
        cwd=toy.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "--config is missing, e.g. --config configs/language_emoji.py" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--config.adapter.kind=conv", ("config.adapter.kind is 'conv'", "'linear'")),
        ("--config.train.batch_size=0", ("config.train.batch_size is 0; expected at least 1",)),
        ("--config.base.pairs.source=none.jsonl", ("cannot read none.jsonl", "No such file")),
        (
            "--config.base.train.batch_size=64",
            ("batch size 64 is larger than the 22", "--config.base.train.batch_size to at most 22"),
        ),
        ("--config.mesh.data=3", ("mesh data=3", "1 devices")),
    ],
)
def test_values_that_cannot_be(flag, parts, toy, tmp_path):
    done = toy.run(tmp_path / "run", flag)
    refused(done, *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("adaptor.kind=linear", "no field 'adaptor'; did you mean 'adapter'?"),
        ("optim.learning=1", "no field 'learning'; write it into that file first"),
    ],
)
def test_an_unknown_key_is_a_sentence(flag, part, toy, tmp_path):
    done = toy.run(tmp_path / "run", f"--config.{flag}")
    refused(done, f"--config.{flag.split('=')[0]}: the recipe's file sets {part}")
    assert not (tmp_path / "run").exists()


def test_evaluate_before_training_is_refused(toy, tmp_path):
    refused(toy.run(tmp_path / "run", "--mode", "evaluate"), "holds no run", "config.json is")
    assert not (tmp_path / "run").exists()


def test_another_recipes_folder_is_refused_and_left_alone(toy, finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    refused(toy.run(finished, "--config.optim.lr=0.1"), "holds a run of another recipe", "optim.lr")
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def replaced(index, **changes):
    def change(rows):
        rows[index] = {k: v for k, v in (rows[index] | changes).items() if v is not None}
        return rows

    return change


ROWS = {
    "no caption": (replaced(4, zh=None), "row 5: 'zh' is None; expected a text"),
    "empty caption": (replaced(4, en="  "), "row 5: 'en' is '  '; expected a text"),
    "no picture": (replaced(6, image="lacking.png"), "row 7: no picture at"),
    "unreadable picture": (replaced(6, image="torn.png"), "torn.png"),
    "zero-size picture": (replaced(6, image="empty.png"), "empty.png"),
    "one class": (
        lambda rows: [r | {"label": {"en": "w18", "zh": "w38"}} for r in rows],
        "needs at least 2 classes, the test items have 1",
    ),
    "one label for two languages": (
        lambda rows: [r | {"label": r["label"]["en"]} for r in rows],
        "row 1: the label 'w18' has no name in 'zh' (nor have 1 other labels); write it there as "
        '"label_zh", or measure no classification: --config.evals="(\'retrieval\',)"',
    ),
    "twice": (replaced(6, id="item00"), "row 7: the id 'item00' stands twice"),
    "no rows": (lambda _: [], "has no rows"),
}


@pytest.fixture
def data(toy, tmp_path):
    """A copy of the data that may be spoilt; pictures beside it."""
    for picture in toy.folder.glob("*.png"):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "torn.png").write_bytes((tmp_path / "01.png").read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    return tmp_path / "pairs.jsonl"


def changes(data):
    return {"pairs.source": str(data), "base.pairs.source": str(data)}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_named(name, toy, data, start):
    change, message = ROWS[name]
    toy.write_jsonl(data, change(toy.rows()))
    with pytest.raises(MmjaxError) as info:
        start(toy, data.parent / "run", changes(data))
    assert message in str(info.value)
    assert "\n" not in str(info.value)
    assert "pairs" in str(info.value) or name == "one class"  # names the file
    assert not list(data.parent.glob("run/seed_0/*"))


def test_a_broken_row_is_named_by_the_command(toy, data, tmp_path):
    toy.write_jsonl(data, toy.rows())
    data.write_text(data.read_text().replace('{"id": "item02"', '{"id": item02', 1))
    flags = [f"--config.{k}={v}" for k, v in changes(data).items()]
    refused(toy.run(tmp_path / "run", *flags), f"{data}, row 3: expected one JSON object a line")


def test_a_long_text_is_cut_and_reported(toy, data, start, caplog):
    rows = toy.rows()
    rows[3]["zh"] = " ".join(["w24"] * 30)
    toy.write_jsonl(data, rows)
    small = {"variants": {}, "train.steps": 2, "base.train.steps": 2, "evals": ("retrieval",)}
    start(toy, data.parent / "run", changes(data) | small)
    assert any("longer than 16 tokens and were cut" in r.getMessage() for r in caplog.records)


def test_a_loss_that_is_no_number_stops_the_run(toy, start, tmp_path):
    workdir = tmp_path / "run"
    changes = {"base.optim.lr": 1e38, "base.optim.warmup_steps": 0}
    with pytest.raises(MmjaxError, match=r"at step \d+ of base \(seed 0\) is not finite; stopped"):
        start(toy, workdir, changes)
    assert not (workdir / "seed_0" / "base" / "done.json").exists()


# Orbax's own loops end before all of its failed reads are told of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_corrupted_checkpoint_is_named_and_the_one_before_it_taken(
    toy, straight, tmp_path, start, finished, caplog
):
    import shutil

    workdir = shutil.copytree(finished, tmp_path / "run")
    stage = workdir / "seed_0" / "language"
    (stage / "done.json").unlink()
    (workdir / "results.json").unlink()
    victims = [p for p in (stage / "checkpoints" / "12" / "state").rglob("d/*") if p.is_file()]
    for victim in victims:
        victim.write_bytes(b"\0" * victim.stat().st_size)
    start(toy, workdir)
    assert any("12 is damaged" in r.getMessage() for r in caplog.records)
    assert toy.fingerprints(workdir) == toy.fingerprints(finished)
    assert toy.losses(workdir, "language") == toy.losses(finished, "language")


def test_a_full_disk_is_one_sentence_and_leaves_the_last_good_state(
    toy, start, tmp_path, monkeypatch, finished
):
    import errno
    import os

    from mmjax.runs import adapter_files

    save = adapter_files.write_atomic
    workdir = tmp_path / "run"

    def full(path, content):
        if path.name == adapter_files.CARD and "/language/" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(path, content)

    monkeypatch.setattr(adapter_files, "write_atomic", full)
    with pytest.raises(MmjaxError, match=r"cannot save to .*No space left on device.*same command"):
        start(toy, workdir)
    assert not (workdir / "seed_0" / "language" / "adapter" / adapter_files.CARD).exists()
    monkeypatch.undo()
    start(toy, workdir)
    assert toy.fingerprints(workdir) == toy.fingerprints(finished)


def test_a_picture_of_no_pixels(toy, data):
    from mmjax.encoders.image_preprocess import open_image

    with pytest.raises(MmjaxError, match="has no pixels"):
        open_image(Image.new("RGB", (0, 3)))


def test_specs_name_the_unknown_key(toy):
    with pytest.raises(MmjaxError, match=r"config.train.epochs is 3; expected one of the keys"):
        resolve_recipe(toy.change({"train.epochs": 3}))
    with pytest.raises(MmjaxError, match=r"config.base is empty"):
        study.run(resolve_recipe(toy.change({"base": None})), {}, toy.folder, "")
