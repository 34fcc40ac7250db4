"""Where metrics go beside metrics.jsonl: TensorBoard, Weights & Biases and MLflow."""

import contextlib
import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmjax.errors import MmjaxError, first_line

# name -> (package that is imported, extra that brings it)
NAMES = {
    "tensorboard": ("tensorboardX", "tensorboard"),
    "wandb": ("wandb", "tracking"),
    "mlflow": ("mlflow", "tracking"),
}
PROJECT = "mmjax"


@runtime_checkable
class Tracker(Protocol):
    """What the writer asks of each."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Records numbers of a step."""
        ...

    def close(self) -> None:
        """Ends the record."""
        ...


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers whose package is not installed, before anything is computed.

    Raises:
      MmjaxError: names the first, and what to install.
    """
    for name in names:
        package, extra = NAMES[name]
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MmjaxError(
                f"config.writer.{name} needs {package}; pip install 'mmjax[{extra}]', or turn it "
                "off in the config"
            ) from error


def open_trackers(names: Sequence[str], workdir: Path, resume_step: int | None) -> list[Tracker]:
    """Opens trackers.

    Args:
      names: of `NAMES`.
      workdir: the stage's folder.
      resume_step: the restored checkpoint's step; None for a new run.

    Raises:
      MmjaxError: a package is missing, or a tracker cannot be reached.
    """
    check_trackers(names)
    opened: list[Tracker] = []
    for name in names:
        with _speaking(name):
            opened.append(_OPENERS[name](workdir, resume_step))
    return opened


@contextlib.contextmanager
def _speaking(name: str) -> Iterator[None]:
    try:
        yield
    except (MmjaxError, OSError):
        raise
    except Exception as error:  # a service of somebody else's
        raise MmjaxError(f"config.writer.{name}: {first_line(error)}") from error


class _TensorBoard:
    """Event files in `tensorboard`."""

    def __init__(self, workdir: Path, resume_step: int | None) -> None:
        from tensorboardX import SummaryWriter

        # TensorBoard hides events from purge_step on that an earlier, killed process wrote.
        purge = None if resume_step is None else resume_step + 1
        self._events: Any = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class _Wandb:
    """A run of Weights & Biases; $WANDB_MODE=offline keeps it in `wandb`."""

    def __init__(self, workdir: Path, resume_step: int | None) -> None:
        import wandb

        quiet = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=_name(workdir),
            id=_key(workdir),
            dir=str(workdir),
            resume="allow",
            settings=quiet,
        )
        # Steps that a killed process wrote are written again, so they are a metric of their own.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({**numbers, "step": step})

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run of MLflow, at $MLFLOW_TRACKING_URI or else in `mlruns`."""

    def __init__(self, workdir: Path, resume_step: int | None) -> None:
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (workdir.absolute() / "mlruns").as_uri()
        # By its name alone: several distributions (mlflow, mlflow-skinny) bring this package.
        mlflow: Any = importlib.import_module("mlflow.tracking")
        self._client: Any = mlflow.MlflowClient(tracking_uri=place)
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        existing = self._client.get_experiment_by_name(project)
        experiment = existing.experiment_id if existing else self._client.create_experiment(project)
        key, query = _key(workdir), "tags.mmjax = '{}'"
        runs = self._client.search_runs([experiment], query.format(key), max_results=1)
        run = runs[0] if runs and resume_step is not None else None
        if run is None:
            tags = {"mmjax": key}
            run = self._client.create_run(experiment, tags=tags, run_name=_name(workdir))
        self._run: str = run.info.run_id

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _name(workdir: Path) -> str:
    """RUN/SEED/STAGE."""
    return "/".join(workdir.absolute().parts[-3:])


def _key(workdir: Path) -> str:
    """The same for a run that goes on."""
    return hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:16]


_OPENERS = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}
