"""Words around questions, and turns cut into the tokens of the text that they make together."""

from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from mmjax.data.layout import Conversation, Layout, encode, encode_prompt
from mmjax.data.scienceqa import Problem
from mmjax.data.wording import INSTRUCTION, PROBLEM, QUESTION, Turn, Wording, ask, cut
from mmjax.errors import MmjaxError
from mmjax.specs.instruct import QuestionsSpec
from mmjax.weights.gguf_llama import tokenizer_of

WORDS = "▁Question Response ▁The The ▁the ▁answer ▁is ▁A ▁BECAUSE ▁Image Instruction ▁blue blue"
ASKED = "Question: Which?\nResponse:"
LONG = (
    Turn("Instruction: Is it blue?\nResponse:"),
    Turn("The answer is A.", learn=True),
    Turn("\nInstruction: And the\nother?\nResponse:"),
    Turn("The answer is blue, blue.", learn=True),
    Turn("\nInstruction: the answer?\nResponse:"),
    Turn("A", learn=True),
)


def sentencepiece(*more: str, space: bool = True) -> Tokenizer:
    """As LLaMA's: a space in front of every text, no splitting of words, bytes for the rest."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    letters = sorted({*"▁:.()/,?+-'", *map(chr, range(65, 91)), *map(chr, range(97, 123))})
    pieces += letters
    for word in (*WORDS.split(), *more):
        pieces += [word[:i] for i in range(2, len(word) + 1) if word[:i] not in pieces]
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces) - 259)]
    return tokenizer_of(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": pieces,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259),
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.add_space_prefix": space,
        }
    )


def byte_level(split: str) -> Tokenizer:
    """As LLaMA 3's (whose words may end in a line break) and as SmolLM2's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("e", "r"), (".", "Ċ"), ("Ġ", "T"), ("T", "h"), ("Th", "e"), ("ĠT", "h"), (":", "T")]
    tokens = ["<unk>", "<s>", "</s>", *letters, *("".join(pair) for pair in pairs)]
    return tokenizer_of(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": split,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": [" ".join(pair) for pair in pairs],
            "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (len(tokens) - 3),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )


TOKENIZERS = {
    "llama": sentencepiece(),
    "no space": sentencepiece(space=False),
    "llama 3": byte_level("llama-bpe"),
    "smollm": byte_level("smollm"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_prompt_and_answer_are_encoded_as_one_text(name):
    """As LaVIN does: one text, of which as many tokens as the prompt has are no labels."""
    tokenizer = TOKENIZERS[name]
    problem = Problem("1", "Which?", ("a", "b"), 0, "", "L.", "S.", "natural science", 3)
    layout = Layout.of(tokenizer, (2,), True, 6, 512)
    row = encode(problem.conversation, tokenizer, layout)
    whole = tokenizer.encode(problem.prompt + problem.target, add_special_tokens=False).ids
    before = len(tokenizer.encode(problem.prompt, add_special_tokens=False).ids)
    start = 1 + len(layout.bos) + len(layout.text)
    assert row.ids.tolist()[start:] == [*whole, 2]
    assert row.ids[row.answers].tolist() == [*whole[before:], 2]
    if name == "llama":
        assert tokenizer.id_to_token(int(row.ids[row.answers][0])) == "The"  # not "▁The"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_several_turns_are_the_tokens_of_their_text(name):
    tokenizer = TOKENIZERS[name]
    pieces = cut(LONG, tokenizer)
    text = "".join(turn.text for turn in LONG)
    together = [i for piece in pieces for i in piece]
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(together) == tokenizer.decode(whole) == text
    if (
        name == "llama 3"
    ):  # a period and the line break after it are one token: but an end is between
        assert len(together) == len(whole) + 2
    else:
        assert together == whole


@pytest.mark.parametrize("picture", [None, 0])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_asked_is_what_stood_before_every_learned_answer(name, picture):
    tokenizer = TOKENIZERS[name]
    layout = Layout.of(tokenizer, (2,), False, 3, 512)
    row = encode(Conversation(LONG, picture), tokenizer, layout)
    ends = [0, *(row.answers[1:][row.answers[1:] != row.answers[:-1] + 1]).tolist()]
    assert len(ends) == 3
    for number in (1, 3, 5):
        ids, slots = encode_prompt(Conversation(LONG[:number], picture), tokenizer, layout)
        begins = int(row.answers[0]) if number == 1 else ends[number // 2]
        assert ids.tolist() == row.ids[:begins].tolist()
        assert slots.tolist() == row.slots[:begins].tolist()


def test_a_token_that_would_reach_from_the_prompt_into_the_answer_is_cut():
    tokenizer = sentencepiece(":The")
    whole = tokenizer.encode(f"{ASKED}The", add_special_tokens=False).tokens
    assert whole[-1] == ":The"
    asked, answer = cut([Turn(ASKED), Turn("The", learn=True)], tokenizer)
    assert asked == tokenizer.encode(ASKED, add_special_tokens=False).ids  # as when it is asked
    assert tokenizer.decode(answer).strip() == "The"


def test_an_empty_answer_and_a_long_prompt_are_told():
    tokenizer = TOKENIZERS["llama"]
    layout = Layout.of(tokenizer, (2,), False, 3, 30)
    with pytest.raises(MmjaxError, match=r"question 3 takes .* reads 30: shorten it"):
        encode_prompt(Conversation(LONG), tokenizer, layout, "question 3")
    said = (Turn("a"), Turn(" ", learn=True), Turn("b"))
    with pytest.raises(MmjaxError, match="question 3 has an empty answer"):
        encode_prompt(Conversation(said), tokenizer, layout, "question 3")


PROMPT = "Question: Which is a solid?\nContext: N/A\nOptions: (A) air (B) rock\nResponse:"


@pytest.mark.parametrize(
    ("wording", "question", "expected"),
    [
        (QUESTION, "What is {it}?", "Question: What is {it}?\nResponse:"),
        (QUESTION, "Question: What?\nResponse:", "Question: What?\nResponse:"),
        (INSTRUCTION, "Say {question}", "Instruction: Say {question}\nResponse:"),
        (PROBLEM, PROMPT, PROMPT),
        (PROBLEM, PROMPT[len("Question: ") : -len("\nResponse:")], PROMPT),
        (PROBLEM, "Which is a solid? (A) air (B) rock", PROMPT),
        (PROBLEM, "Why?", "Question: Why?\nContext: N/A\nOptions: N/A\nResponse:"),
        (PROBLEM, "{options}", "Question: {options}\nContext: N/A\nOptions: N/A\nResponse:"),
        (QUESTION, PROMPT, PROMPT),
    ],
)
def test_a_question_is_put_once_in_the_words_that_were_learned(wording, question, expected):
    assert ask(wording, question) == expected
    assert ask(wording, expected) == expected


def test_a_problem_reads_as_it_did():
    problem = Problem("1", "Which is  it?", ("air", "rock"), 1, "A hint.", "", "", "x", 3, "A cat.")
    assert problem.prompt == (
        "Question: Which is it?\nContext: A hint. A cat.\nOptions: (A) air (B) rock\nResponse:"
    )


SOURCES = [
    ("easy_vqa", QUESTION, " ", False),
    ("scienceqa:x", PROBLEM, "", False),
    ("llava:x.json", INSTRUCTION, "", True),
    ("alpaca:x.json", INSTRUCTION, "", True),
]


@pytest.mark.parametrize(("source", "question", "space", "talks"), SOURCES)
def test_a_card_without_words_has_those_of_its_source(source, question, space, talks):
    questions = QuestionsSpec(source, test_pictures=1)
    expected = Wording(question, space, talks)
    assert Wording.of(questions) == expected
    assert Wording.of_card({}, questions, "the card") == expected
    other = {"question": "Q: {question} A:", "space": " ", "talks": True}
    assert Wording.of_card({"prompt": other}, questions, "c") == Wording(
        "Q: {question} A:", " ", True
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Question:", "'prompt' is 'Question:'; expected an object"),
        ({"question": 3}, "prompt.question' is 3; expected a text"),
        ({"question": "Question:"}, "expected a text with {question} in it once"),
        ({"question": "{question}{question}"}, "in it once"),
        ({"question": "{question}", "space": "  "}, "expected '' or ' '"),
        ({"question": "{question}", "talks": 1}, "true or false"),
    ],
)
def test_words_that_are_none_are_refused(prompt: Any, message):
    with pytest.raises(MmjaxError, match=message):
        Wording.of_card({"prompt": prompt}, QuestionsSpec(), "the card of x")
