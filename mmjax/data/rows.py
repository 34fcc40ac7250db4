"""Rows of tables and lists, each with its place, and how a data set calls their parts."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mmjax.data.files import Skip, read_lines
from mmjax.errors import DataError

# ("FILE, row N", what stands there)
Rows: TypeAlias = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Columns:
    """How a data set calls what a caption record needs.

    Attributes:
      image: a path, or a list of paths; of tfds an image.
      caption: a text.
      id: a text or a whole number; rows may lack it.
    """

    image: str = "image"
    caption: str = "caption"
    id: str = "id"


COLUMNS = Columns()


def read_csv(
    path: Path, needed: Sequence[str] = (), separator: str = ",", skip: Skip | None = None
) -> Rows:
    """Yields rows as a spreadsheet counts them: the header is row 1, a quoted cell may have lines.

    Args:
      path: UTF-8 text with a header.
      needed: columns that must be there.
      separator: between cells.
      skip: is given the fault of a row, which is passed over then; None raises it.

    Raises:
      DataError: the file cannot be read, has no such columns, or one twice; a row that has more or
        fewer cells than the header.
    """
    header: list[str] = []
    number = 0
    try:
        lines = (line for _, line in read_lines(path))
        for number, cells in enumerate(csv.reader(lines, strict=True, delimiter=separator), 1):
            place = f"{path}, row {number}"
            if not cells:
                continue
            if not header:
                header = cells
                if len(set(header)) < len(header) or not {*needed} <= {*header}:
                    raise DataError(
                        f"{place}: the columns are {header}; expected "
                        f"{' and '.join(map(repr, needed)) or 'a name each'} among them, and none "
                        "twice"
                    )
            elif len(cells) != len(header):
                fault = DataError(
                    f"{place}: has {len(cells)} cells, its header {len(header)}; put cells that "
                    'hold commas or lines into "quotes"'
                )
                if skip is None:
                    raise fault
                skip(fault)
            else:
                yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, row {number + 1}: is no row of a .csv file ({error})") from error
