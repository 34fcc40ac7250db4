"""Checkpoints: the adapter, its optimizer, the data's position and a card. Nothing frozen.

All calls of Orbax are in this file.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import jax
from orbax.checkpoint import v1 as ocp

from mmjax import trees
from mmjax.errors import MmjaxError, first_line, is_full_disk, writing
from mmjax.files import digest_of
from mmjax.sharding import to_host
from mmjax.state import TrainState

log = logging.getLogger("mmjax")
# Orbax counts a save's time by the clock on the wall: one that jumps ahead, as on a machine that
# slept, would end it. Who is stuck or lost is found by mmjax.processes.
_TIMEOUT = 20 * 24 * 3600  # seconds; its milliseconds are fewer than 2^31


class Checkpoints:
    """The last checkpoints of one run, for exact resume; a context that closes itself.

    Attributes:
      folder: holds one numbered folder a checkpoint.
    """

    def __init__(self, folder: Path, keep: int, identity: Mapping[str, Any]) -> None:
        """Opens the folder, removing what a killed save left half-written.

        Args:
          folder: made if missing.
          keep: how many checkpoints stay.
          identity: what a checkpoint belongs to (encoders, sizes); saved with it.
        """
        self.folder = folder
        self._identity = dict(identity)
        context = ocp.Context()
        context.async_options.timeout_secs = _TIMEOUT
        preserve = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            str(folder.absolute()),
            preservation_policy=preserve,  # pyright: ignore[reportArgumentType]  # Orbax's own class
            cleanup_tmp_directories=True,
            context=context,
        )
        self._saving: Any = None  # Orbax's response to the save under way
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(quiet_about_full_disks())

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for the save under way; what ended the block counts more than its failure."""
        with contextlib.suppress(*(() if error is None else (Exception,))):
            self.close()

    def save(self, state: TrainState, iterator: Any, progress: Mapping[str, Any]) -> None:
        """Saves in the background; the next batch may be drawn as soon as this returns.

        Args:
          state: the train state, verified to be finite.
          iterator: the data iterator.
          progress: small JSON-able facts of the loop (best value, patience).

        Raises:
          MmjaxError: the disk is full.
        """
        with saving(self.folder):
            self._wait()
            self._saving = self._checkpointer.save_checkpointables_async(
                int(state.step),
                {"state": state, "data": iterator},
                force=True,
                overwrite=True,
                custom_metadata={
                    "identity": self._identity,
                    "progress": dict(progress),
                    "facts": digest_of([self._identity, dict(progress)]),
                    "fingerprint": _fingerprint(state, iterator),
                },
            )

    def restore(
        self,
        state: TrainState,
        iterator: Any,
        allow_other: bool = False,
        misfit: Callable[[int, Mapping[str, Any]], str | None] = lambda step, progress: None,
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Loads the newest whole checkpoint, if there is one; sets the iterator to its position.

        Args:
          state: a state of the right structure, shapes and shardings.
          iterator: a fresh data iterator, moved to the saved position.
          allow_other: accept a checkpoint of other encoders.
          misfit: (step, progress) -> why the run cannot go on from there, None where it can; the
            checkpoint before it is tried then.

        Returns:
          (state, progress), or None where there is no whole checkpoint.

        Raises:
          MmjaxError: the checkpoint belongs to other encoders or other sizes; whole ones are there,
            and none of them goes with what else the run left.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        start = iterator.get_state()
        reason = None
        for checkpoint in reversed(self._checkpointer.checkpoints):
            path = self.folder / str(checkpoint.step)
            try:
                with _quiet(_is_about_iterators):
                    metadata = self._checkpointer.checkpointables_metadata(checkpoint.step)
                custom = cast(Mapping[str, Any], metadata.custom_metadata)
                identity, progress = custom["identity"], dict(custom["progress"])
                fingerprint = custom["fingerprint"]
                # Earlier versions had no digest of these, and fingerprinted less of the state.
                facts = custom.get("facts")
                if facts not in (None, digest_of([identity, progress])):
                    raise ValueError("its facts are not those that were saved")
            except Exception as error:  # Orbax raises many kinds for torn files
                _report_torn(path, error)
                continue
            _check_identity(identity, self._identity, path, allow_other)
            try:
                loaded = self._checkpointer.load_checkpointables(
                    checkpoint.step, {"state": abstract, "data": iterator}
                )
                restored = TrainState(*loaded["state"])
                if _fingerprint(restored, None if facts is None else iterator) != fingerprint:
                    raise ValueError("its bytes are not those that were saved")
                reason = misfit(checkpoint.step, progress)
                if reason is None:
                    return restored, progress
                log.warning("%s: not going on from step %d", reason, checkpoint.step)
            except Exception as error:  # as above
                _report_torn(path, error)
            iterator.set_state(start)
        if reason is not None:
            raise MmjaxError(
                f"{reason}, and no checkpoint in {self.folder} is from before that; put it back, "
                f"or remove {self.folder.parent} to train this stage again"
            )
        return None

    def close(self) -> None:
        """Waits for the save under way.

        Raises:
          MmjaxError: it failed, e.g. because the disk is full.
        """
        with saving(self.folder):
            try:
                self._wait()
            finally:
                self._checkpointer.close()
                self._quiet.close()

    def _wait(self) -> None:
        """Waits for the save under way: only so does its thread end, and give back its loop."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()


def _fingerprint(state: TrainState, iterator: Any | None = None) -> str:
    """Of all that a checkpoint holds: storage does not notice a flipped bit by itself.

    Args:
      state: the train state.
      iterator: the data iterator; None for what earlier versions covered: the trainable tree and
        the optimizer.

    Returns:
      Hexadecimal text.
    """
    parts: tuple[Any, ...] = (state.trainable, state.opt_state)
    fingerprint = trees.fingerprint(to_host(parts if iterator is None else tuple(state)))
    return fingerprint if iterator is None else digest_of([fingerprint, iterator.get_state()])


@contextlib.contextmanager
def _quiet(is_noise: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Orbax speaks through absl's logger; what nobody can act on is left out for a while."""

    def matters(record: logging.LogRecord) -> bool:
        return not is_noise(record)

    orbax = logging.getLogger("absl")
    orbax.addFilter(matters)
    try:
        yield
    finally:
        orbax.removeFilter(matters)


def _is_about_iterators(record: logging.LogRecord) -> bool:
    """At every resume it warns that a data iterator has no metadata."""
    return str(record.msg).startswith("Failed to get metadata for checkpointable")


@contextlib.contextmanager
def quiet_about_full_disks() -> Iterator[None]:
    """Every thread of a save prints a traceback of what the one that waits for them raises."""

    def is_told_anyway(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is not None and is_full_disk(error)

    hook = sys.unraisablehook

    def tell(failed: Any) -> None:
        # Writes that end after the first has failed find its event loop closed.
        if str(failed.exc_value) != "Event loop is closed":
            hook(failed)

    sys.unraisablehook = tell
    try:
        with _quiet(is_told_anyway):
            yield
    finally:
        sys.unraisablehook = hook


def _report_torn(path: Path, error: Exception) -> None:
    log.warning("checkpoint %s is damaged (%s); trying the one before it", path, first_line(error))


def saving(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Says in one sentence that nothing can be saved."""
    advice = "earlier checkpoints are whole: free some space and run the same command again"
    return writing(f"cannot save to {folder}", advice)


def _check_identity(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], path: Path, allow_other: bool
) -> None:
    """Refuses weights that were trained on another frozen tower."""
    for role, encoder in wanted.get("encoders", {}).items():
        old = saved.get("encoders", {}).get(role, {})
        if old.get("fingerprint") == encoder["fingerprint"]:
            continue
        message = (
            f"{path} was trained on the {role} encoder {old.get('source')} "
            f"({str(old.get('fingerprint'))[:12]}), not on {encoder['source']} "
            f"({encoder['fingerprint'][:12]})"
        )
        if not allow_other:
            raise MmjaxError(
                f"{message}; give that encoder, another --workdir, or accept it with "
                "--config.checkpoint.allow_other_encoder=True"
            )
        log.warning("%s; accepted", message)
