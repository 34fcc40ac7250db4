"""Data sets of the Hugging Face hub by name, as the Parquet files that it has of them."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from mmjax.checks.names import check_name
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.runs import hub

# Where the hub keeps what it makes of data sets that have no Parquet files of their own.
CONVERTED = "refs/convert/parquet"
_PARQUET = ".parquet"


@functools.cache  # a process reads its data twice: rows, and the fingerprint of their files
def data_files(name: str, sides: frozenset[str]) -> tuple[Path, ...]:
    """Fetches the Parquet files of a data set, or finds what was fetched before.

    Args:
      name: `hf:ORG/NAME[/CONFIG][@REVISION]`.
      sides: what a folder of a split may be called; another folder is a configuration.

    Returns:
      The files; without a revision those of the authors, or else those that the hub made.

    Raises:
      DataError: there is no such data set, no network, no such file in it, or several
        configurations and none is named.
    """
    path, _, revision = name.removeprefix(hub.PREFIX).partition("@")
    org, _, rest = path.partition("/")
    dataset, _, config = rest.partition("/")
    for part in filter(None, config.split("/")):
        check_name(f"the configuration of {shown(name)}", part)

    def one_config(files: Sequence[str]) -> None:
        configs = [] if config else _configs(files, sides)
        if len(configs) > 1:
            at = f"@{revision}" if revision else ""
            few = ", ".join(f"{hub.PREFIX}{path}/{config}{at}" for config in configs[:5])
            more = f" and {len(configs) - 5} more" if len(configs) > 5 else ""
            raise DataError(f"{name} has {len(configs)} configurations; give one: {few}{more}")

    revisions, faults = [revision] if revision else ["", CONVERTED], list[MmjaxError]()
    for at in revisions:
        source = f"{hub.PREFIX}{org}/{dataset}" + (f"@{at}" if at else "")
        try:
            pattern = f"{config}/*{_PARQUET}" if config else f"*{_PARQUET}"
            folder = hub.snapshot(source, [pattern], kind="dataset", look=one_config) / config
        except DataError:
            raise
        except MmjaxError as fault:
            faults.append(fault)
            continue
        if found := sorted(folder.rglob(f"*{_PARQUET}")):
            return tuple(found)
    if len(faults) == len(revisions):
        raise DataError(str(faults[0])) from faults[0]
    raise DataError(
        f"{name} has no Parquet files{f' in {config}' if config else ''}; where it is pictures in "
        f"folders, `hf download {org}/{dataset} --repo-type dataset --local-dir DIR` and give "
        "folder:DIR"
    )


def _configs(files: Iterable[str], sides: frozenset[str]) -> list[str]:
    """The folders of files, without those of a split; files at the top are in no folder."""
    tops = {PurePosixPath(file).parts[0] for file in files if "/" in file}
    return sorted(top for top in tops if top.lower() not in sides)
