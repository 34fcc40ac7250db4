"""Numbers reach Weights & Biases and MLflow, and a run that goes on stays one run there."""

import importlib
import struct
import sys
from pathlib import Path

import pytest

from mmjax import tracking
from mmjax.errors import MmjaxError
from mmjax.writer import MetricsWriter


def write(folder: Path, name: str) -> None:
    """Three steps, a kill, and the last two again."""
    with MetricsWriter(folder, trackers=(name,), process_index=0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 3.0 - step, "phase": "train"})
    with MetricsWriter(folder, resume_step=1, trackers=(name,), process_index=0) as writer:
        for step in (2, 3):
            writer.write(step, {"loss": 3.0 - step, "val/mR": 0.5})


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # other libraries' own
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "toys")
    with MetricsWriter(tmp_path, trackers=("wandb",), process_index=0) as writer:
        writer.write(7, {"loss": 1.5, "phase": "train"})
    importlib.import_module("wandb").teardown()  # its own process writes the file, and ends here
    Record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record  # made at import
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    data, found = path.read_bytes()[7:], {}  # LevelDB's log: checksum, length, kind, record
    while len(data) > 7:
        _, size, _ = struct.unpack_from("<IHB", data)
        record = Record.FromString(data[7 : 7 + size])
        data = data[7 + size :]
        if record.WhichOneof("record_type") == "run":
            found["project"] = record.run.project
        for item in record.history.item:
            found[item.key or "/".join(item.nested_key)] = item.value_json
    assert (found["project"], found["loss"], found["step"]) == ("toys", "1.5", "7")
    assert "phase" not in found


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_a_folder_and_resumed(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write(tmp_path / "seed_0" / "language", "mlflow")
    mlflow = importlib.import_module("mlflow.tracking")
    client = mlflow.MlflowClient(
        tracking_uri=(tmp_path / "seed_0" / "language" / "mlruns").as_uri()
    )
    experiment = client.get_experiment_by_name("mmjax")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name is not None
    assert run.info.run_name.endswith("seed_0/language")
    assert run.data.metrics == {"loss": 0.0, "val/mR": 0.5}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {m.step: m.value for m in history} == {1: 2.0, 2: 1.0, 3: 0.0}
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("name", tracking.NAMES)
def test_without_its_package_it_says_what_to_install(name, monkeypatch):
    package, extra = tracking.NAMES[name]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MmjaxError, match=rf"config.writer.{name} needs {package}; .*\[{extra}\]"):
        tracking.check_trackers([name])


def test_what_a_service_says_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no such host\nand more")

    monkeypatch.setattr(tracking, "check_trackers", lambda _: None)
    monkeypatch.setitem(tracking._OPENERS, "mlflow", refuse)
    with pytest.raises(MmjaxError, match=r"^config\.writer\.mlflow: no such host$"):
        tracking.open_trackers(["mlflow"], tmp_path, None)
