"""Built-in chat templates of model families: for tokenizers without one, and by name for `chat_template`.

Each is a Jinja template over `messages` in the format of the family's training, up to the assistant's turn.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template.

    Attributes:
        text: Jinja source, with `messages`, `bos_token` and `eos_token`.
        stops: stop strings of answers, besides the end token: the beginning of the next turn.
    """

    text: str
    stops: tuple[str, ...] = ()


def _turns(user: str, assistant: str, system: str) -> str:
    """A template that concatenates the messages; "…" is replaced by a message's content."""
    parts = {"user": user, "assistant": assistant, "system": system}
    cases = "".join(
        f"{{% {'if' if i == 0 else 'elif'} message.role == '{role}' %}}"
        + text.replace("…", "{{ message.content | trim }}")
        for i, (role, text) in enumerate(parts.items())
    )
    return "{% for message in messages %}" + cases + "{% endif %}{% endfor %}"


def _chatml(end: str) -> str:
    # StarChat was trained with a system message in each conversation, if an empty one.
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
    # Jinja drops the first newline after a block.
    "anthropic": Template(
        _turns("{{ '\n\n' }}Human: …", "{{ '\n\n' }}Assistant: …", "…") + "{{ '\n\n' }}Assistant:",
        ("\n\nHuman:",),
    ),
}

# What the renderer itself gives a template.
_NOT_ARGUMENTS = frozenset(["messages", "tools", "documents", "add_generation_prompt"])


def find_template(given: str) -> Template:
    """The built-in template of this name, or a template of this Jinja source.

    Raises:
        ConfigurationError: it is neither; suggests the nearest name.
    """
    if given in TEMPLATES:
        return TEMPLATES[given]
    if "{" not in given:
        raise invalid_template(repr(given), given)
    return Template(given)


def invalid_template(what: str, given: str = "") -> ConfigurationError:
    """The error for an invalid `chat_template`: `what` is wrong; `given` may be near a built-in name."""
    near = difflib.get_close_matches(given.lower(), TEMPLATES, n=1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return ConfigurationError(
        f"option 'chat_template' is not a valid Jinja template ({what}), nor one of "
        f"{', '.join(TEMPLATES)}{hint}"
    )


def check_arguments(given: Mapping[str, Any], template: str) -> Mapping[str, Any]:
    """`chat_template_kwargs` as they are, if the template reads each of them, and none replaces a message.

    Raises:
        ConfigurationError: one that does nothing, or that is not the user's to set; it is named.
    """
    for key in given:
        if key in _NOT_ARGUMENTS or key.endswith("_token"):
            raise ConfigurationError(f"option 'chat_template_kwargs' cannot set {key!r}: leave it out")
        if not re.search(rf"\b{re.escape(key)}\b", template):
            raise ConfigurationError(
                f"option 'chat_template_kwargs': the chat template has no variable {key!r}: leave it out, or "
                "set chat_template to one that has it"
            )
    return given
