"""What external models are asked, as data: texts with `{places}` to be filled."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mmjax.errors import MmjaxError, shown

# How models' special tokens look: `<|...|>`, `<s>`, `[INST]`, `<start_of_turn>`.
_TOKEN = re.compile(r"<(?=\||/?s>|(?:start|end)_of_turn>)|\[(?=/?INST\])")


@dataclass(frozen=True)
class RequestText:
    """A text with places.

    Attributes:
      text: with `{name}` for each place; other braces, as of JSON, stay as they are.
      needs: places that it must have.
    """

    text: str
    needs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses a text without its places.

        Raises:
          MmjaxError: names the first that lacks.
        """
        for name in self.needs:
            if f"{{{name}}}" not in self.text:
                raise MmjaxError(
                    f"the request {shown(self.text)} has no {{{name}}}; write it where the "
                    f"{name} shall stand"
                )

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with its places filled.

        Values come from anywhere: what they say is never taken for a place, and a backslash parts
        what a server would read as a special token.

        Args:
          values: by place.

        Returns:
          The text.
        """
        named = "|".join(map(re.escape, values))
        return re.sub(
            rf"\{{({named})\}}", lambda m: _TOKEN.sub(r"\g<0>\\", values[m[1]]), self.text
        )


TASKS = RequestText(
    """Below is what is known of a picture.

{caption}

Think of {count} that a person could ask who sees the picture and has not read the above. \
Answer each question twice, so that both answers come to the same. "precise": the answer alone, in \
as few words as possible. "informative": one to three sentences that lead to this answer and say \
why. Claim nothing that neither the picture nor the text above shows.
Write JSON and nothing else, in this form:
[{"question": "...", "precise": "...", "informative": "..."}]""",
    ("caption",),
)

JUDGE = RequestText(
    """Two people answered the same question.

Question: {question}
Long answer: {informative}
Short answer: {precise}

Can the short answer be concluded from the long one? Say Yes if it can. Say No if it cannot. Say \
Open if many other answers would be as good, as with opinions and descriptions. \
One word is enough.""",
    ("question", "informative", "precise"),
)
