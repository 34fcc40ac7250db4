"""What labels are called in the languages that mmjax's recipes name classes in."""

LANGUAGES = ("en", "zh", "de", "ja")


def by_language(table: str) -> dict[str, dict[str, str]]:
    """Label -> language -> its name.

    Args:
      table: a label a line, `LABEL: ENGLISH | CHINESE | GERMAN | JAPANESE`.
    """
    rows = (line.split(": ") for line in table.strip().splitlines())
    return {label: dict(zip(LANGUAGES, names.split(" | "), strict=True)) for label, names in rows}
