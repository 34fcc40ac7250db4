"""Chat templates are programs: bounded in time and memory, and equal to transformers' otherwise."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mmjax.encoders import LanguageModel, chat_template, load_encoder

ASKED = [{"role": "user", "content": "w5 w6"}]
HOSTILE = {
    "three nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a text padded to 10^10": "{{ 'a'.ljust(10000000000) }}",
    "a text centred in 10^10": "{{ 'a' | center(10000000000) }}",
    "a number padded to 10^10": "{{ '%10000000000d' % 1 }}",
    "a format padded to 10^10": "{{ '{:10000000000}'.format(1) }}",
    "a text 10^10 times": "{{ 'a' * 10000000000 }}",
    "a list 10^10 times": "{{ [1] * 10000000000 }}",
    "a power of a power": "{{ 9 ** (9 ** 9) }}",
    "doubled texts": "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "doubled lists": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "doubled lists compared": "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a division by zero": "{{ 1 / 0 }}",
    "what is not there": "{{ messages[7].content.words }}",
    "another file": "{% include '/etc/passwd' %}",
    "Python's own classes": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "a method of Python's": "{{ messages.append(3) }}",
    "a template that is cut": "{{ messages",
    "a million braces": "{{" * 500_000,
    "parentheses in parentheses": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "five million letters": "{{ 'a' * 5000000 }}",
    "several lines": "{{ raise_exception('one\ntwo\nthree') }}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_templates(case, refused):
    refused(lambda: chat_template.render(HOSTILE[case], ASKED, {}), "the chat template")


def test_the_next_conversation_is_rendered_all_the_same():
    """The process that an earlier template ended has a follower."""
    for template in (HOSTILE["doubled lists compared"], "{{ messages[0].content }}"):
        try:
            said = chat_template.render(template, ASKED, {})
        except Exception as error:
            said = str(error)
    assert said == "w5 w6"


@pytest.mark.parametrize("content", [3, {"default": "x"}, True], ids=str)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.json"])
def test_a_template_that_is_no_text(file, content, tmp_path, write_folder, refused):
    path = write_folder(tmp_path / "llama_tiny", "llama_tiny")
    (path / file).write_text(json.dumps({"chat_template": content}))
    refused(lambda: load_encoder(path), file)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a" * (2 << 20)], ids=["no UTF-8", "2 MB"])
def test_a_templates_file(content, tmp_path, write_folder, refused):
    path = write_folder(tmp_path / "llama_tiny", "llama_tiny")
    (path / "chat_template.jinja").write_bytes(content)
    refused(lambda: load_encoder(path), "chat_template.jinja")


@pytest.mark.parametrize("ends", ["2", 50, -2, 10**12, 2.0, [2, "7"], [2] * 1_000, {"id": 2}])
def test_ends_of_answers(ends, tmp_path, write_folder, refused):
    path = write_folder(tmp_path / "llama_tiny", "llama_tiny")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    refused(lambda: load_encoder(path), "generation_config.json")


@pytest.mark.parametrize(
    "token", [3, ["<s>"], {"content": 3}, "s" * 10**6], ids=lambda x: str(x)[:9]
)
def test_special_tokens(token, tmp_path, write_folder, refused):
    path = write_folder(tmp_path / "llama_tiny", "llama_tiny")
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": token}))
    refused(lambda: load_encoder(path), "tokenizer_config.json")


# In the way of published models: what they use of Jinja, and transformers' own additions.
PUBLISHED = {
    "Llama 3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content "
    "= '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | "
    "trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant' }}{% endif %}",
    "ChatML": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message"
    "['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}",
    "Mistral": "{%- if tools is not none and tools %}[TOOLS]{{ tools | tojson }}{% endif -%}"
    "{{- bos_token }}\n{%- for message in messages %}\n    {%- if message.role == 'user' %}\n"
    "        {{- '[INST] ' ~ message.content ~ '[/INST]' }}\n    {%- elif message.role == "
    "'assistant' %}\n        {{- ' ' ~ message.content|trim ~ eos_token }}\n    {%- else %}\n"
    "        {{- raise_exception('no') }}\n    {%- endif %}\n{%- endfor %}\n",
    "Qwen 3": "{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}\n"
    "{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 "
    "%}\n    {%- if ns.multi_step_tool and message.role == 'user' %}\n        {%- set ns.last = "
    "index %}\n        {%- set ns.multi_step_tool = false %}\n        {%- break %}\n    "
    "{%- endif %}\n{%- endfor %}\n{{ ns.last }}{{ messages | tojson(indent=2) }}",
    "LLaVA": "{% for m in messages %}{{ m.role | upper }}: {% for c in m.content | list %}{{ c }}"
    "{% endfor %} {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endfor %}",
    "macros": "{% macro say(who, what='-') -%}<{{ who }}>{{ what.split(' ') | join('+') }}\n"
    "{%- endmacro %}{% for m in messages if m.role != 'system' %}{{ say(m.role, m.content) }}"
    "{{ loop.last }}{{ m.name is defined }}{% endfor %}{{ dict(a=1) }}{{ '<é>' | tojson }}",
}
TALKS = {
    "one question": [{"role": "user", "content": ' Häuser & <b>\n"x" 苹果 '}],
    "turns": [
        {"role": "user", "content": "a b"},
        {"role": "assistant", "content": "c", "name": None},
        {"role": "user", "content": "d"},
    ],
}


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_templates_of_published_models_render_as_in_transformers(name, talk):
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    special: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    theirs.chat_template = PUBLISHED[name]
    expected = theirs.apply_chat_template(TALKS[talk], tokenize=False, add_generation_prompt=True)
    assert chat_template.render(PUBLISHED[name], TALKS[talk], special) == expected


def test_a_model_speaks_by_its_template(tmp_path, write_folder):
    path = write_folder(tmp_path / "llama_tiny", "llama_tiny")
    (path / "chat_template.jinja").write_text("{{ messages[0].content }} w9")
    model = load_encoder(path)
    assert isinstance(model, LanguageModel)
    assert model.encode_prompt(ASKED) == [5, 6, 9]
