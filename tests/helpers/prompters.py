"""Makes prompters with a byte tokenizer, and chat templates with different demands."""

from tokenizers.processors import TemplateProcessing

from engine.options import GenerationOptions
from engine.prompting.prompter import Prompter
from engine.types import Message
from tests import tiny

ALTERNATING = (
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"
)
# The two ways in which chat templates of the hub leave a system message out: loudly and silently.
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + ALTERNATING
IGNORING = (
    "{% for message in messages if message.role != 'system' %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"
)
WITH_BOS = "{{ bos_token }}" + ALTERNATING


def prompter(
    template: str | dict[str, str] | None = tiny.CHAT_TEMPLATE,
    architecture: str = "llama",
    context_length: int | None = None,
    before: str = "",
    after: str = "",
    **changes,
) -> Prompter:
    """A prompter with a byte tokenizer that adds special tokens before and after a text."""
    tokenizer = tiny.byte_tokenizer(template)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{before} $A {after}".strip(),
        special_tokens=[(name, i) for i, name in enumerate(tiny.SPECIALS)],
    )
    config = tiny.CONFIGS[architecture]()
    config.update(changes)
    return Prompter(tokenizer, config, context_length)


def read(prompter: Prompter, *messages: Message, **options) -> str:
    """The prompt as the model reads it, special tokens included."""
    return prompter.tokenizer.decode(prompter.encode(messages, GenerationOptions(**options)))
