"""A frozen decoder: an encoder with logits, a chat template and tokens that end a text."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from mmjax.checks import arguments, foreign
from mmjax.encoders import chat_template, tokenizer_files
from mmjax.encoders.base import Encoder
from mmjax.encoders.layers import Hook, WeightHook
from mmjax.encoders.llama import KeyValues, Padding
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.llava_images import LlavaImages
from mmjax.encoders.mllama_images import MllamaImages, SeenPictures
from mmjax.encoders.qwen_vl_images import QwenImages
from mmjax.encoders.spelling import SpeltPictures
from mmjax.encoders.text_preprocess import TextPreprocess, load_text_preprocess
from mmjax.errors import MmjaxError
from mmjax.files import read_json_object, read_optional_json
from mmjax.weights import vocabulary
from mmjax.weights.gguf_llama import GgufLlama
from mmjax.weights.meta_llama import MetaLlama

PyTree = Any
_MOST_ENDS = 100  # ids that end an answer
# {"role": "user", "content": "..."}; for a LLaVA the content may be a list of {"type": "text",
# "text": "..."} and {"type": "image", "image": a picture}.
Message = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Chat:
    """How a model was taught to talk.

    Attributes:
      template: Jinja text that turns messages into a prompt; None where the model has none.
      special_tokens: {"bos_token": text, ...}, which templates use.
      eos_token_ids: ids that end an answer.
    """

    template: str | None
    special_tokens: Mapping[str, str]
    eos_token_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class LanguageModel(Encoder):
    """A frozen decoder; `mmjax.generation` continues texts with it."""

    chat: Chat = dataclasses.field(default_factory=lambda: Chat(None, {}, ()))
    # What pictures in a prompt become; None: it reads none.
    images: LlavaImages | QwenImages | MllamaImages | SpeltPictures | None = None

    def logits(
        self, params: PyTree, inputs: Mapping[str, ArrayLike], adapters: PyTree = None
    ) -> Float[Array, "b l v"]:
        """Next-token logits at every position; pure, so it may be traced and differentiated.

        Args:
          params: tree like `self.params`.
          inputs: {"input_ids" or "embeddings", "attention_mask"}: int [b, l] or float [b, l, d],
            and int [b, l]; padded on either side.
          adapters: parameters for the model's hooks, see `checked_adapters`.

        Returns:
          Float32 [b, l, vocab_size].
        """
        params, own = self.adapted(params, adapters)
        embeddings = inputs.get("embeddings")
        if embeddings is None:
            embeddings = embed(self.module, params, jnp.asarray(inputs["input_ids"]))
        mask = jnp.asarray(inputs["attention_mask"])
        hidden, _ = extend(self.module, params, own, jnp.asarray(embeddings), mask)
        return logits(self.module, params, hidden)

    @property
    def towers(self) -> tuple[str, ...]:
        """The decoder, "text", comes first; a LLaVA has "image" too."""
        return ("text", "image") if hasattr(self.module, "vision_hook") else ("text",)

    def with_hook(
        self, hook: Hook | WeightHook | None, remat: bool = False, *, tower: str | None = None
    ) -> "LanguageModel":
        """The same frozen model with an adapter in its layers.

        Args:
          hook: an adapter's function, such as `mmjax.adapters.rep_adapter.RepAdapter`; see
            `mmjax.encoders.layers.Hook`. None takes the adapter out.
          remat: going backward, compute every layer of the decoder again instead of keeping its
            inner values.
          tower: "image" of a LLaVA for its image tower; None or "text" for the decoder. The other
            tower's adapter stays where it is.

        Returns:
          A model with the same parameters.

        Raises:
          MmjaxError: something else than an adapter, a tower that is not there, or `remat` for
            the image tower.
        """
        if isinstance(hook, WeightHook):
            bare = self.with_hook(None, remat, tower="text")
            return dataclasses.replace(bare, tuning=hook)
        arguments.check_hook(hook)
        if self.check_tower(tower) == "image":
            if remat:
                raise MmjaxError("remat is for the decoder's layers; say it with tower='text'")
            module = self.module.clone(vision_hook=hook, parent=None)
        else:
            module = self.module.clone(hook=hook, remat=remat, parent=None)
        return dataclasses.replace(self, module=module, tuning=None)

    def frozen_layers(self, tower: str | None = None) -> PyTree:
        """As `Encoder.frozen_layers`; of a LLaVA's image tower the layers that are read."""
        tower = self.check_tower(tower)
        if len(self.towers) == 1:
            return self.params["layers"]
        return self.params["language_model" if tower == "text" else "vision"]["layers"]

    def checked_adapters(self, adapters: PyTree, tower: str | None = None) -> PyTree:
        """One tower's part of what is given as `adapters=`.

        Args:
          adapters: parameters for the decoder's hook. With a hook in a LLaVA's image tower they are
            by tower: {"image": ...}, or {"text": ..., "image": ...} with one in the decoder too.
          tower: None takes the decoder.

        Returns:
          Leaves [layers, ...], or None where the tower has no hook.

        Raises:
          MmjaxError: a hook without parameters, or parameters without a hook.
        """
        if self.tuning is not None:
            return super().checked_adapters(adapters, tower)
        tower = self.check_tower(tower)
        hooks = {"text": self.module.hook, "image": getattr(self.module, "vision_hook", None)}
        if hooks["image"] is None:
            arguments.check_adapters(self.name, hooks["text"], adapters)
            return adapters if tower == "text" else None
        arguments.check_tower_adapters(self.name, hooks, adapters)
        return adapters.get(tower)

    def prompt_of(self, messages: Sequence[Message]) -> str:
        """Renders a conversation with the model's chat template, up to the answer's first token.

        Args:
          messages: {"role": "system" | "user" | "assistant", "content": text}, in turn.

        Returns:
          The prompt, special tokens spelt out.

        Raises:
          MmjaxError: the model has no template, or the template refuses the messages.
        """
        if self.chat.template is None:
            raise MmjaxError(f"{self.name!r} has no chat template; give it plain texts")
        return chat_template.render(self.chat.template, messages, self.chat.special_tokens)

    def encode_prompt(self, prompt: str | Sequence[Message] | Sequence[int]) -> list[int]:
        """Token ids of a prompt.

        Args:
          prompt: a text, which gets the tokenizer's own first tokens; messages, rendered by the
            chat template, which writes them itself; or ready ids.

        Returns:
          The ids, neither cut nor padded.

        Raises:
          MmjaxError: no token at all, one that the model has not got, or messages that cannot be
            rendered.
        """
        tokenizer, of_messages = self.preprocess.tokenizer, False
        if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Mapping):
            prompt = self.prompt_of([m for m in prompt if isinstance(m, Mapping)])
            of_messages = True  # the template has written the first special tokens itself
        if isinstance(prompt, str):
            prompt = self.spelt(prompt)
            with tokenizer_files.guarded(f"the tokenizer of {self.name}"):
                ids = tokenizer.encode(prompt, add_special_tokens=not of_messages).ids
        else:
            ids = [i for i in prompt if isinstance(i, int)]
        if not ids:
            raise MmjaxError("a prompt has no token; give it at least one word")
        self.check_ids("a prompt", ids)
        return ids

    def spelt(self, text: str) -> str:
        """A text as the tokenizer gets it: in a Gemma's, what stands around a picture is written.

        Args:
          text: a prompt.

        Returns:
          The same, or a longer text.
        """
        if not isinstance(self.images, SpeltPictures):
            return text
        return self.images.spelt(text, self.preprocess.tokenizer)

    def check_ids(self, where: str, ids: Sequence[int], said: bool = False) -> None:
        """Refuses ids that the model has no words for: looked up, they would be NaN.

        Args:
          where: what holds them.
          ids: token ids, at least one.
          said: whether the model is to say them, and not to read them alone.

        Raises:
          MmjaxError: an id is out of range.
        """
        decoder = getattr(self.config, "text", self.config)  # a LLaVA's words are its decoder's
        words = decoder.vocab_size if said else decoder.words
        if not 0 <= min(ids) <= max(ids) < words:
            raise MmjaxError(
                f"{where} holds token ids from {min(ids)} to {max(ids)}; this model has those "
                f"from 0 to {words - 1}"
            )


def embed(module: nn.Module, params: PyTree, ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
    """Word embeddings of ids, float [*b, d]."""
    embeddings = module.apply({"params": params}, ids, method="embed")
    assert isinstance(embeddings, jax.Array)
    return embeddings


def extend(
    module: nn.Module,
    params: PyTree,
    adapters: PyTree,
    embeddings: Float[Array, "b l d"],
    mask: Int[Array, "b m"],
    past: KeyValues | None = None,
    positions: Int[Array, "b l ..."] | None = None,
    padding: Padding = "any",
    pictures: SeenPictures | None = None,
    together: Bool[Array, "b l"] | None = None,
) -> tuple[Float[Array, "b l d"], KeyValues]:
    """`Llama.extend`, pure: hidden states of embeddings, and their keys and values."""
    more: dict[str, Any] = {} if pictures is None else {"pictures": pictures}
    if together is not None:
        more["together"] = together
    arguments = (embeddings, mask, past, positions, adapters, padding)
    applied = module.apply({"params": params}, *arguments, **more, method="extend")
    return cast(tuple[jax.Array, KeyValues], applied)


def mix(
    module: nn.Module,
    params: PyTree,
    ids: Int[Array, "b l"],
    tiles: Float[Array, "t ..."],
    places: Int[Array, "b l"],
    adapters: PyTree = None,
) -> Float[Array, "b l d"]:
    """`Llava.mix`, pure: embeddings of texts with pictures in them."""
    embeddings = module.apply({"params": params}, ids, tiles, places, adapters, method="mix")
    assert isinstance(embeddings, jax.Array)
    return embeddings


def see(
    module: nn.Module,
    params: PyTree,
    tiles: Float[Array, "p t s s c"],
    ratios: Int[Array, "p"],
    seats: Int[Array, "b i"],
    reads: Bool[Array, "b l i"],
    adapters: PyTree = None,
) -> SeenPictures:
    """`Mllama.see`, pure: what stands beside the words."""
    arguments = (tiles, ratios, seats, reads, adapters)
    return cast(SeenPictures, module.apply({"params": params}, *arguments, method="see"))


def read_tiles(
    module: nn.Module, params: PyTree, tiles: Float[Array, "t ..."], adapters: PyTree = None
) -> Float[Array, "t n d"]:
    """`Llava.read_tiles`, pure; the decoder's parameters are not read."""
    features = module.apply({"params": params}, tiles, adapters, method="read_tiles")
    assert isinstance(features, jax.Array)
    return features


def logits(module: nn.Module, params: PyTree, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
    """Next-token logits of hidden states, float32 [*b, v]."""
    token_logits = module.apply({"params": params}, hidden, method="logits")
    assert isinstance(token_logits, jax.Array)
    return token_logits


def load_text(
    path: Path, config: LlamaConfig, opened: GgufLlama | MetaLlama | None = None
) -> tuple[TextPreprocess, Chat]:
    """Reads the tokenizer and the chat template of a model.

    Args:
      path: a folder, Hugging Face's or Meta's.
      config: the model's.
      opened: weights that may hold the tokenizer.

    Returns:
      (tokenizer with its constants, chat).

    Raises:
      MmjaxError: no tokenizer, a damaged one, or one with more tokens than the model.
    """
    if isinstance(opened, GgufLlama):
        eos = opened.special_ids().get("eos_token_id")
        ends = _ids(f"{path}: eos_token_id", eos, config.vocab_size)
        chat = Chat(opened.chat_template, opened.special_tokens(), ends)
        return _preprocess(opened.tokenizer(), config, path), chat
    if isinstance(opened, MetaLlama) and not (path / "tokenizer.json").is_file():
        tokenizer, special, ends = opened.tokenizer()
        return _preprocess(tokenizer, config, path), Chat(None, special, ends)
    preprocess = load_text_preprocess(path, config.max_length, config.words, config.pad_token_id)
    own = read_optional_json(path / "tokenizer_config.json")
    return preprocess, Chat(
        _template(path, own), _special_tokens(path, own), _ends(path, config.vocab_size)
    )


def _template(folder: Path, own: Mapping[str, Any]) -> str | None:
    """The chat template: in a file of its own, a processor's, or among the tokenizer's settings."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        with foreign.reading(file, "a chat template"):
            return foreign.read_bytes(file, foreign.LONGEST_TEXT).decode()
    path, template = folder / "chat_template.json", None
    if path.exists():
        template = read_json_object(path).get("chat_template")
    if not template:
        path, template = folder / "tokenizer_config.json", own.get("chat_template")
    if template is None or isinstance(template, list):
        return None  # a list of templates: a plain text is the one that all of them mean
    return foreign.text(f"{path}: chat_template", template)


def _special_tokens(folder: Path, own: Mapping[str, Any]) -> dict[str, str]:
    special = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = own.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            where = f"{folder / 'tokenizer_config.json'}: {name}"
            special[name] = foreign.text(where, token, vocabulary.LONGEST)
    return special


def _ends(folder: Path, vocab_size: int) -> tuple[int, ...]:
    """Ids that end an answer, by generation_config.json or else config.json."""
    path = folder / "generation_config.json"
    ends = read_optional_json(path).get("eos_token_id")
    if ends is None:
        path = folder / "config.json"
        content = read_optional_json(path)
        ends = content.get("eos_token_id", (content.get("text_config") or {}).get("eos_token_id"))
    return _ids(f"{path}: eos_token_id", ends, vocab_size)


def _preprocess(tokenizer: Tokenizer, config: LlamaConfig, where: Path) -> TextPreprocess:
    tokenizer_files.check_tokenizer(tokenizer, str(where), config.vocab_size)
    sha256 = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    return TextPreprocess(
        tokenizer,
        sha256,
        config.max_length,
        config.pad_token_id,
        position_limit=config.max_length,
    )


def _ids(where: str, ends: object, vocab_size: int) -> tuple[int, ...]:
    """One id or several, each of them a token's; older files say -1 where there is none."""
    candidates = ends if isinstance(ends, list | tuple) else [] if ends is None else [ends]
    if len(candidates) > _MOST_ENDS:
        raise MmjaxError(f"{where} has {len(candidates)} ids; at most {_MOST_ENDS}")
    ids = [foreign.integer(where, end, -1, vocab_size - 1) for end in candidates]
    return tuple(end for end in ids if end >= 0)


TEXT, IMAGE = 0, 1  # modalities: rows of the modality embedding


WORD = -1  # in `image_slot`: here stands a word
