"""Prompt formats of model families, for tokenizers that have none, and by name for `chat_template`.

Each is a Jinja template over `messages`, as its family was trained; a text ends where the assistant's begins.
"""

import difflib
from dataclasses import dataclass

from engine.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Template:
    """How a conversation is written.

    Attributes:
        text: Jinja, with `messages`, `bos_token` and `eos_token`.
        stops: texts that end an answer besides the end token: where the next turn would begin.
    """

    text: str
    stops: tuple[str, ...] = ()


def _turns(user: str, assistant: str, system: str) -> str:
    """A template of all messages one after the other; "…" stands for what is said."""
    parts = {"user": user, "assistant": assistant, "system": system}
    cases = "".join(
        f"{{% {'if' if i == 0 else 'elif'} message.role == '{role}' %}}"
        + text.replace("…", "{{ message.content | trim }}")
        for i, (role, text) in enumerate(parts.items())
    )
    return "{% for message in messages %}" + cases + "{% endif %}{% endfor %}"


def _chatml(end: str) -> str:
    # StarChat has seen no conversation without a system message, if an empty one.
    return (
        f"{{% if messages[0].role != 'system' %}}<|system|>\n{end}\n{{% endif %}}"
        + _turns(f"<|user|>\n…{end}\n", f"<|assistant|>\n…{end}\n", f"<|system|>\n…{end}\n")
        + "<|assistant|>"
    )


# The system message is part of the user turn after it.
_LLAMA2 = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.previtem is defined and loop.previtem.role == 'system' %}"
    "<<SYS>>\n{{ loop.previtem.content | trim }}\n<</SYS>>\n\n{% endif %}"
    "{{ message.content | trim }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content | trim }} {{ eos_token }}{% endif %}"
    "{% endfor %}"
)
_VICUNA = _turns("USER: … ", "ASSISTANT: …{{ eos_token }}", "… ") + "ASSISTANT:"
_STABLEBELUGA = Template(
    _turns("### User:\n…\n\n", "### Assistant:\n…\n\n", "### System:\n…\n\n") + "### Assistant:{{ '\n' }}",
    ("### User:",),
)

TEMPLATES = {
    # DialoGPT was trained on turns that each end with the end-of-text token.
    "dialogpt": Template("{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"),
    "plain": Template(
        "{% for message in messages %}"
        "{% if message['role'] != 'system' %}{{ message['role'] | capitalize }}: {% endif %}"
        "{{ message['content'] }}\n"
        "{% endfor %}Assistant:",
        ("\nUser:",),
    ),
    "raw": Template("{{ messages | map(attribute='content') | join('\n') }}"),
    "llama2": Template(_LLAMA2, ("[INST]",)),
    "vicuna": Template(_VICUNA, ("USER:",)),
    "wizardlm": Template(_VICUNA, ("USER:",)),
    "chatml_falcon": Template(_chatml("{{ eos_token }}"), ("<|user|>",)),
    # Its end of turn is not its tokenizer's end of text.
    "chatml_starchat": Template(_chatml("<|end|>"), ("<|end|>",)),
    "falcon": Template(_turns("User: …\n", "Falcon: …\n", "System: …\n") + "Falcon:", ("\nUser:",)),
    "stablebeluga": _STABLEBELUGA,
    "stablebeluga2": _STABLEBELUGA,
    "open_assistant": Template(
        _turns("<|prompter|>…{{ eos_token }}", "<|assistant|>…{{ eos_token }}", "<|system|>…{{ eos_token }}")
        + "<|assistant|>",
        ("<|prompter|>",),
    ),
    # Of newlines after a block Jinja drops one.
    "anthropic": Template(
        _turns("{{ '\n\n' }}Human: …", "{{ '\n\n' }}Assistant: …", "…") + "{{ '\n\n' }}Assistant:",
        ("\n\nHuman:",),
    ),
}


def find(given: str) -> Template:
    """The template of a name, or of a Jinja text.

    Raises:
        ConfigurationError: it is neither; the nearest name is suggested.
    """
    if given in TEMPLATES:
        return TEMPLATES[given]
    if "{" not in given:
        raise no_template(repr(given), given)
    return Template(given)


def no_template(what: str, given: str = "") -> ConfigurationError:
    """The error for an option that is no template."""
    near = difflib.get_close_matches(given.lower(), TEMPLATES, n=1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return ConfigurationError(
        f"option 'chat_template' is no valid Jinja template ({what}), nor one of {', '.join(TEMPLATES)}{hint}"
    )
