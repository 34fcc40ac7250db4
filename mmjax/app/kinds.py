"""Which page an adapter gets."""

from mmjax.app.classify import Classify
from mmjax.app.limits import Limits
from mmjax.app.search import Search
from mmjax.app.talk import PictureTalk
from mmjax.errors import MmjaxError


def page_of(
    adapted: object, limits: Limits, max_new_tokens: int = 96
) -> Search | Classify | PictureTalk:
    """What a page does with an adapter, by what the adapter is.

    Args:
      adapted: as `mmjax.load_adapter` returns it.
      limits: of what a visitor may send.
      max_new_tokens: the most tokens an answer of a chat.

    Returns:
      The chat of an adapter that answers questions, the classification of one that knows classes,
      the search of any other dual encoder.

    Raises:
      MmjaxError: it is none of them, or embeds no texts and pictures.
    """
    from mmjax.tasks.dual_encoder.adapted import Adapted
    from mmjax.tasks.instruct.answering import Answering
    from mmjax.tasks.prompts.adapted import Classifier

    if isinstance(adapted, Answering):
        return PictureTalk(adapted, limits, max_new_tokens)
    if isinstance(adapted, Classifier):
        return Classify(adapted, limits)
    if isinstance(adapted, Adapted):
        return Search(adapted, limits)
    raise MmjaxError(
        f"a {type(adapted).__name__} has no page: pages are for adapters that search, classify or "
        "answer questions"
    )
