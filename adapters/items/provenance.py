"""Provenance: what an annotation's metadata says of how its answer came about, bounded in size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.configuration import Configuration
from engine.environment import hub_token
from engine.options import GenerationOptions
from engine.redaction import redacted
from engine.types import Answer

# The most characters of an option's value; of a longer one its beginning and its hash are kept.
MAX_VALUE = 200
# Options that say where a model is, or hold what is nobody's business: names of folders, addresses, headers.
_ADAPTER = {"inject_context_to_user", "add_metadata", "max_context_tokens"}
_ENDPOINT = {"api", "provider"}
_LOAD = {
    "attn_implementation",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "dtype",
    "load_in_4bit",
    "load_in_8bit",
    "quantize",
    "use_quantization",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What the answers of one run have in common.

    Attributes:
        model: the hub id, the folder's name, or the name on the server; None if it is unknown.
        revision: the commit of the weights on the hub, or else the configured revision; None if unknown.
        options: those that differ from their defaults, as JSON.
        method: of the raw confidence.
    """

    model: str | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    method: str = GenerationOptions.model_fields["confidence"].default

    @classmethod
    def of(cls, configuration: Configuration, generation: GenerationOptions, revision: str | None) -> Source:
        """From a model's configuration and the generation options of a run.

        Args:
            revision: `Engine.revision`.
        """
        load = configuration.load
        options = configuration.adapter.model_dump(mode="json", include=_ADAPTER, exclude_defaults=True)
        options |= generation.model_dump(mode="json", exclude_defaults=True)
        if load is None:
            options["backend"] = configuration.adapter.backend
            options |= configuration.endpoint.model_dump(
                mode="json", include=_ENDPOINT, exclude_defaults=True
            )
            name = configuration.endpoint.model_name
        else:
            options |= load.model_dump(mode="json", include=_LOAD, exclude_defaults=True)
            # A folder of this machine is called otherwise on another one.
            name = Path(load.model_name).name if Path(load.model_name).exists() else load.model_name
        bounded = {key: _bounded(value) for key, value in sorted(options.items())}
        return cls(name, revision, bounded, generation.confidence)

    def provenance(self, answer: Answer, rank: int = 1, of: int = 1) -> dict[str, Any]:
        """What an annotation's metadata says of an answer; what is unknown is left out.

        Args:
            rank: by confidence, from 1, among `of` answers to the same turn.
        """
        usage, cut = answer.usage, answer.finish_reason == "length"
        found = {
            "finish_reason": answer.finish_reason,
            "cut_off": cut or None,
            "prompt_tokens": usage.prompt_tokens or None,
            "answer_tokens": usage.completion_tokens - usage.reasoning_tokens or None,
            "reasoning_tokens": usage.reasoning_tokens or None,
            "model": self.model,
            "revision": self.revision,
            "options": dict(self.options) or None,
            "confidence": {"method": "labels" if answer.labels else self.method, "value": answer.confidence},
            "seconds": None if answer.seconds is None else round(answer.seconds, 3),
        }
        ranked = {"rank": rank, "of": of} if of > 1 else {}
        return {key: value for key, value in found.items() if value is not None} | ranked


def _bounded(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    safe = redacted(text, [hub_token()])
    if safe == text and len(text) <= MAX_VALUE:
        return value
    if len(safe) <= MAX_VALUE:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
    return f"{safe[: MAX_VALUE // 2]}… ({len(text)} characters, SHA-256 {digest})"
