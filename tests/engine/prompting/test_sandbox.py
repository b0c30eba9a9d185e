"""Rendering: a template is its author's code, and takes neither the time nor the memory of others."""

import resource
import sys
import time

import pytest

from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.prompting import sandbox
from engine.prompting.sandbox import TemplateLimitExceeded, render
from tests.helpers.prompters import prompter
from tests.helpers.talk import said

MESSAGES = [{"role": "user", "content": "How are you?"}]
LONG = "{% set long = 'a' * 10000000 %}"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits long for what has no end."""
    monkeypatch.setattr(sandbox, "TIME_LIMIT", 0.2)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}" + "x" * 999 + "{% endfor %}{% endfor %}",
        "{% set x %}{% for a in range(99999) %}{% for b in range(99999) %}{{ messages[0].content }}"
        "{% endfor %}{% endfor %}{% endset %}",
    ],
    ids=["loops", "filters", "macros", "constants", "blocks"],
)
def test_what_goes_on_for_ever_is_stopped(template: str):
    start = time.monotonic()
    with pytest.raises(
        TemplateLimitExceeded, match=r"takes more than .* seconds .* set chat_template to another"
    ):
        render(template, MESSAGES)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 10000000000 * 'ab' }}",
        "{{ [1] * 10**10 }}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=99999) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ 'a'.center(10000000000) }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a'.zfill(10000000000) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 9999999999) }}",
        "{{ 9 ** 999999999 }}",
        LONG + "{{ long.replace('a', long) }}",
        LONG + "{{ long | replace('a', long) }}",
        LONG + "{{ long.join(long) }}",
        LONG + "{{ long | join(long) }}",
        LONG + "{{ ([long] * 10000) | join }}",
        LONG + "{{ ([long] * 10000) | tojson }}",
        LONG + "{{ [long] * 10000 }}",
        "".join(f"{{% set x{i} = 'a' * 60000000 %}}" for i in range(9)),
    ],
)
def test_what_would_fill_the_memory_is_not_made(template: str):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateLimitExceeded):
        render(template, MESSAGES)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (2**30 if sys.platform == "darwin" else 2**20)


@pytest.mark.parametrize(
    "template", ["{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ lipsum(10**9) }}"]
)
def test_what_fails_fails_at_once(template: str):
    with pytest.raises(Exception, match=r"recursion|undefined"):
        render(template, MESSAGES)


def test_an_endless_template_fails_each_prompt_in_one_sentence_and_is_run_once():
    writer = prompter("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    start = time.monotonic()
    for _ in range(50):
        with pytest.raises(PromptError, match="takes more than"):
            writer.encode(said("hi", "yo", "bye"), GenerationOptions())
    assert time.monotonic() - start < 5


def test_a_template_has_what_transformers_gives_it():
    template = (
        "{{ strftime_now('%Y') }}|{{ tools is none }}|{% for m in messages %}{{ loop.index }}{{ loop.last }}"
        "{{ m | tojson }}{% if loop.first %}{% continue %}{% endif %}{% endfor %}"
        "|{{ '%s-%d' | format('a', 3) }}"
        "|{{ bos_token ~ 'x' ~ 1 }}|{% generation %}g{% endgeneration %}|{{ '{:>5}'.format('a') }}"
        "|{{ ['a', 'b'] | join(', ') }}|{{ 'a-b'.split('-')[-1] }}|{{ namespace(a=1).a + 2 }}"
    )
    values = {"bos_token": "<s>", "add_generation_prompt": True}
    theirs = prompter().tokenizer.apply_chat_template(
        MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert render(template, MESSAGES, **values) == theirs


def test_long_conversations_are_no_reason_to_stop():
    messages = MESSAGES * 3000
    template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim }}{% endfor %}"
    assert len(render(template, messages)) == len("<user>How are you?") * 3000
