"""Templates with named fields, as `str.format` writes them: "Which of {labels} is this? {text}". Pure.

A field is a name and nothing else: no attribute, no index, no conversion and no format, so that a template
reaches nothing but the texts that it is given. "{{" and "}}" are braces.
"""

from collections.abc import Mapping
from string import Formatter

# What is written, and the field after it, if there is one.
Parts = list[tuple[str, str | None]]


def parsed(template: str) -> Parts:
    """The parts of a template.

    Raises:
        ValueError: a brace without its other, or a field that is no plain name.
    """
    parts: Parts = []
    try:
        found = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}: write {{{{ and }}}} for braces") from None
    for text, name, spec, conversion in found:
        if name is not None and (not name.strip() or set(".[") & set(name) or spec or conversion):
            raise ValueError(
                f"{{{name}}} is not a plain name of a field: write one such as {{text}}, and {{{{ for a brace"
            )
        parts.append((text, name))
    return parts


def names(template: str) -> list[str]:
    """The names of a template's fields, each once, in their order."""
    return list(dict.fromkeys(name for _, name in parsed(template) if name is not None))


def filled(template: str, fields: Mapping[str, str]) -> str:
    """A template with its fields' texts, which are put in as they are.

    Raises:
        KeyError: a field is missing.
    """
    return "".join(text + ("" if name is None else fields[name]) for text, name in parsed(template))
