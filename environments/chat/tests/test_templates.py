"""Templates, against the texts that transformers makes of them."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from chat_env.models import Message, ToolCall
from chat_env.templates import ChatTemplate, Rendered
from chat_env.tokenizer import ChatTokenizer, load_tokenizer

from openenv_async.errors import InvalidOption

END = "<|im_end|>"
MARKS = {"bos_token": "<|im_start|>", "eos_token": END, "pad_token": "<|endoftext|>"}
MARKS |= {"unk_token": "<unk>"}


def at_noon() -> datetime.datetime:
    return datetime.datetime(2026, 7, 26, 12, 0)


# Each text is what transformers 5.24.0 makes of the template (render_jinja_template).
GOLDEN: list[tuple[str, list[dict[str, Any]], str]] = [
    (
        "{%- for m in messages %}\n  {%- if m.role == 'user' %}\n    {%- continue %}\n"
        "  {%- endif %}{{ m.content }};{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}",
        [{"role": role, "content": role[0] + str(n)} for n in range(3) for role in ("user", "x")],
        "x0;x1;",
    ),
    (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}|{% endif %}"
        "{% endfor %}",
        [{"role": "user", "content": "é"}, {"role": "assistant", "content": "yes"}],
        f"é|yes{END}",
    ),
    (
        "{{ messages[0]|tojson }} {{ messages[0].content|tojson(indent=2) }}",
        [{"role": "user", "content": "<b>&é'"}],
        '{"role": "user", "content": "<b>&é\'"} "<b>&é\'"',
    ),
    (
        "{{ messages[0].reasoning_content }}/{{ messages[0].thinking }}",
        [{"role": "assistant", "content": "4", "reasoning": "add"}],
        "add/add",
    ),
    (
        "{% set n = namespace(count=0) %}{% for m in messages %}{% set n.count = n.count + 1 %}"
        "{% endfor %}{{ n.count }}{{ dict(a=1) }}{{ messages[0].content is defined }}",
        [{"role": "assistant", "content": None}],
        "1{'a': 1}False",
    ),
    ("{{ strftime_now('%d %b %Y') }}", [{"role": "user", "content": ""}], "26 Jul 2026"),
]


@pytest.mark.parametrize(("source", "messages", "text"), GOLDEN)
def test_texts_are_those_of_transformers(
    source: str, messages: list[dict[str, Any]], text: str
) -> None:
    assert ChatTemplate(source, MARKS, at_noon).render(messages) == text


def test_spans_are_what_the_agent_generates() -> None:
    source, messages, text = GOLDEN[1]
    template = ChatTemplate(source, MARKS)
    assert template.render_spans(messages) == Rendered(text, ((2, len(text)),))
    forged = [{"role": "user", "content": "\ue0e0a\ue0e1"}, messages[1]]
    assert template.render_spans(forged) == Rendered(f"a|yes{END}", ((2, len(text)),))


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no system') }}",
        "{{ messages.__class__.__mro__ }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}{{ namespace(_a=1) }}",
        "{{ messages.append(1) }}",
        "{{ messages[7].content }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
    ],
)
def test_what_fails_and_what_tries_to_get_out(source: str) -> None:
    with pytest.raises(InvalidOption, match="template"):
        ChatTemplate(source).render([{"role": "user", "content": "x"}])
    with pytest.raises(InvalidOption, match="broken"):
        ChatTemplate("{% generation %}")


def test_a_template_sees_no_objects() -> None:
    seen = ChatTemplate("{{ messages[0].image }}").render([{"role": "user", "image": Path("x")}])
    assert seen == "<PosixPath>"


# -- tools and blocks ------------------------------------------------------------------------

PRICE = {
    "type": "function",
    "function": {
        "name": "price",
        "description": "The price of a thing.",
        "parameters": {
            "type": "object",
            "properties": {"thing": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["thing"],
        },
    },
}
TOOLED = (
    "{% if tools %}<|im_start|>tools {{ tools|map(attribute='function')|map(attribute='name')|"
    "join(',') }}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for b in m.content %}"
    "{% if b.type == 'image' %}[image]{% else %}{{ b.text }}{% endif %}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }} {{ c.function.arguments|tojson }}>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}"
    "{{ raise_exception('roles') }}{% endif %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
PICTURE: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = ToolCall("price", {"thing": "plum"}, "call00001")
RESULT = Message("tool", "3", None, "call00001", "price")


def made(template: str) -> ChatTokenizer:
    return ChatTokenizer(load_tokenizer().tokenizer, ChatTemplate(template, MARKS), END)


def shown(tokenizer: ChatTokenizer, ids: list[int]) -> str:
    return tokenizer.tokenizer.decode(ids, skip_special_tokens=False)


def test_a_template_that_knows_tools_and_blocks_is_given_them() -> None:
    tokenizer = made(TOOLED)
    asked = Message("user", [PICTURE, {"type": "text", "text": "What is it?"}])
    assert shown(tokenizer, tokenizer.opening([asked], [PRICE])) == (
        "<|im_start|>tools price<|im_end|>\n<|im_start|>user\n[image]What is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    said = tokenizer.spoken("Look.", [CALL], [PRICE])
    assert shown(tokenizer, said) == 'Look.<price {"thing": "plum"}>'
    assert shown(tokenizer, tokenizer.following(said, [RESULT], [CALL], [PRICE])) == (
        "<|im_end|>\n<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_knows_none_is_told_in_words() -> None:
    tokenizer = load_tokenizer()
    system = Message("system", "Be brief.")
    opening = shown(tokenizer, tokenizer.opening([system, Message("user", "Hi")], [PRICE]))
    assert opening.startswith("<|im_start|>system\nYou can call these tools.")
    assert json.dumps(PRICE) in opening
    assert "\n\nBe brief.<|im_end|>" in opening
    said = tokenizer.spoken("", [CALL], [PRICE])
    assert shown(tokenizer, said) == (
        '<tool_call>\n{"name": "price", "arguments": {"thing": "plum"}}\n</tool_call>'
    )
    assert shown(tokenizer, tokenizer.following(said, [RESULT], [CALL], [PRICE])) == (
        "<|im_end|>\n<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_refuses_the_role_hears_of_it_from_the_user() -> None:
    tokenizer = made(STRICT)
    said = tokenizer.encode("x")
    assert shown(tokenizer, tokenizer.following(said, [RESULT], [CALL], [PRICE])) == (
        "<|im_end|><|im_start|>user:<tool_response>\n3\n</tool_response><|im_end|>"
        "<|im_start|>assistant:"
    )
    with pytest.raises(InvalidOption, match="refuses this conversation: roles"):
        tokenizer.opening([Message("system", "x"), Message("user", "y")])


ONLY_BLOCKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}:{% for b in m.content %}"
    "{% if b.type == 'text' %}{{ b.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
REREAD = (
    "{% for m in messages %}<|im_start|>{{ m.role }}:"
    "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool {{ c.function.name }}>{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}{{ tools and '' }}"
)


def test_a_template_that_knows_blocks_alone_is_given_blocks() -> None:
    tokenizer = made(ONLY_BLOCKS)
    assert shown(tokenizer, tokenizer.opening([Message("user", "Hi")])) == (
        "<|im_start|>user:Hi<|im_end|><|im_start|>assistant:"
    )
    assert shown(tokenizer, tokenizer.following([5], [Message("user", "No")])) == (
        "<|im_end|><|im_start|>user:No<|im_end|><|im_start|>assistant:"
    )


def test_a_call_that_reads_otherwise_when_it_is_the_last_is_not_repeated() -> None:
    tokenizer = made(REREAD)
    assert shown(tokenizer, tokenizer.following([5], [RESULT], [CALL], [PRICE])) == (
        "<|im_end|><|im_start|>tool:3<|im_end|><|im_start|>assistant:"
    )


def test_content_blocks_are_text_where_a_template_knows_none() -> None:
    tokenizer = load_tokenizer()
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "What is it?"},
        PICTURE,
        {"type": "text", "text": "Say."},
    ]
    assert tokenizer.opening([Message("user", blocks)]) == (
        tokenizer.opening([Message("user", "What is it?\nSay.")])
    )


# -- all of TRL's ----------------------------------------------------------------------------


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def agent(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


ASKED = {"id": "call00001", "type": "function"}
ASKED["function"] = {"name": "price", "arguments": {"thing": 'a "plum"', "count": 2}}  # type: ignore[assignment]  # a dict of anything
GIVEN = {"role": "tool", "tool_call_id": "call00001", "name": "price", "content": "3.50"}
SEEN = user([{"type": "image"}, {"type": "text", "text": "What is <this>?"}])
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one message": ([user("Hi é <b>&")], {}),
    "a system message": (
        [{"role": "system", "content": "Be brief."}, user("Hi"), agent("Hello."), user("Bye")],
        {},
    ),
    "white space": ([user("Hi"), agent("  Hello.\n")], {}),
    "tools": ([user("Price?")], {"tools": [PRICE]}),
    "a call": ([user("?"), agent("", tool_calls=[ASKED]), GIVEN], {"tools": [PRICE]}),
    "a call alone": (
        [user("?"), agent(None, tool_calls=[ASKED]), GIVEN, agent("3.50"), user("ok")],
        {"tools": [PRICE]},
    ),
    "two calls": (
        [user("?"), agent("Look:", tool_calls=[ASKED, ASKED]), GIVEN, GIVEN, agent("7")],
        {"tools": [PRICE]},
    ),
    "reasoning": (
        [user("2+2"), agent("4", reasoning_content="a"), user("1"), agent("6", thinking="b")],
        {},
    ),
    "thinking off": (
        [user("2+2"), agent("<think>\na\n</think>\n\n4"), user("3")],
        {"enable_thinking": False},
    ),
    "a picture": ([SEEN, agent([{"type": "text", "text": "A dog."}]), SEEN], {}),
    "blocks of the system": ([{"role": "system", "content": [SEEN["content"][1]]}, SEEN], {}),
    "documents": ([user("q")], {"documents": [{"title": "T", "text": "X"}]}),
    "nothing said": ([user("")], {}),
    "the agent begins": ([agent("me first"), user("ok")], {}),
}


def templates_of_trl() -> list[Path]:
    trl = pytest.importorskip("trl")
    files = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    assert len(files) >= 72
    return files


def of_template(source: str) -> ChatTokenizer:
    """A tokenizer that has the special tokens that a template writes."""
    tokenizer = tokenizers.Tokenizer.from_str(load_tokenizer().tokenizer.to_str())
    tokenizer.add_special_tokens(sorted(set(SPECIAL.findall(source))))
    return ChatTokenizer(tokenizer, ChatTemplate(source, MARKS), END)


SPECIAL = re.compile(r"<\|[^|<>{}]+\|>|<｜[^｜]+｜>|<\w+_of_\w+>|<\w+\|>|</s>")


@pytest.mark.heavy
@pytest.mark.parametrize("calls", [(), (CALL,)], ids=["a message", "a call"])
def test_what_follows_a_message_is_what_each_template_of_trl_renders(
    calls: tuple[ToolCall, ...],
) -> None:
    """Nothing of the agent's own is in it, all that is new is, and the whole ends with it."""
    reply = RESULT if calls else Message("user", "3")
    tools = [PRICE] if calls else []
    for file in templates_of_trl():
        tokenizer = of_template(file.read_text(encoding="utf-8"))
        given = [Message("user", "Hi"), Message("assistant", "plum", list(calls) or None)]
        whole = shown(tokenizer, tokenizer.opening([*given, reply], tools))
        new = shown(tokenizer, tokenizer.following([5], [reply], calls, tools))
        assert "3" in new, file.name
        assert "plum" not in new, file.name
        assert "\u241f" not in new, file.name
        if not (calls and "gemma" in file.name):  # Gemma 4 writes the message after the result
            assert whole.endswith(new), file.name
            assert "plum" in whole.removesuffix(new), file.name


@pytest.mark.heavy
def test_all_templates_of_trl_are_rendered_as_transformers_renders_them() -> None:
    """Text and spans, of each template and case; where transformers refuses, we refuse."""
    files = templates_of_trl()
    transformers = pytest.importorskip("transformers")
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=load_tokenizer().tokenizer, **MARKS
    )
    equal = refused = 0
    for file in files:
        source = file.read_text(encoding="utf-8")
        template = ChatTemplate(source, tokenizer.special_tokens_map)
        for name, (messages, options) in CASES.items():
            for begin in (False, True):
                try:
                    text = tokenizer.apply_chat_template(
                        messages,
                        chat_template=source,
                        tokenize=False,
                        add_generation_prompt=begin,
                        **options,
                    )
                except Exception:  # whatever a template brings about
                    with pytest.raises(InvalidOption):
                        template.render(messages, begin=begin, **options)
                    refused += 1
                    continue
                assert template.render(messages, begin=begin, **options) == text, (file.name, name)
                plain = [{k: v for k, v in m.items() if v is not None} for m in messages]
                rendered: Any = render_jinja_template(
                    [plain],
                    chat_template=source,
                    return_assistant_tokens_mask=True,
                    add_generation_prompt=begin,
                    **tokenizer.special_tokens_map,
                    **options,
                )
                found = template.render_spans(messages, begin=begin, **options)
                assert found == Rendered(text, tuple(rendered[1][0])), (file.name, name)
                equal += 1
    assert equal > 6 * refused
