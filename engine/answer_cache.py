"""A cache of answers on disk: what one model has answered to the same tokens with the same options.

Importing this imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import AdapterError, ConfigurationError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from engine.types import Answer, Request

logger = logging.getLogger(__name__)

FILE = "answers.sqlite3"
# Seconds to wait for another process that writes.
PATIENCE = 30


@dataclass(slots=True)
class Reused:
    """How many answers were not made anew.

    Attributes:
        shared: those of an equal request of the same run.
        cached: those from the cache on disk.
    """

    shared: int = 0
    cached: int = 0

    def __bool__(self) -> bool:
        return bool(self.shared or self.cached)

    def __str__(self) -> str:
        return f"{self.shared} answers were shared by equal requests, {self.cached} came from the cache"

    def add(self, other: Reused) -> None:
        """Counts the others, too."""
        self.shared += other.shared
        self.cached += other.cached


class AnswerCache:
    """Answers by what they depend on. Threads and processes may share the file.

    An entry that cannot be read is none; a failing disk costs no answer.
    """

    def __init__(self, folder: str | Path, identity: str, tokens: Callable[[Request], Sequence[int]]) -> None:
        """Opens the cache, or makes it, for its owner's eyes only.

        Args:
            identity: of the model: its weights, how they are run, and the versions of what runs them.
            tokens: the token ids of a request's prompt.

        Raises:
            ConfigurationError: the folder cannot be written, or holds another kind of file of this name.
        """
        self._identity = identity
        self._tokens = tokens
        self._lock = threading.Lock()
        self._failed = False
        path = Path(folder) / FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(
                path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, digest BLOB, answer BLOB)"
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(
                f"option 'cache': {str(path)!r} cannot be used ({error}): choose another folder, or remove it"
            ) from None

    def key(self, request: Request) -> bytes | None:
        """What an answer to a request depends on, as 32 bytes; None if it is not to be cached.

        So are requests that cannot be encoded, and those whose confidence takes another model, which is not
        part of the key.
        """
        options = request.options
        if options.confidence_model is not None or options.judge is not None:
            return None
        try:
            tokens = self._tokens(request)
        except AdapterError:
            return None
        parts = [self._identity, list(tokens), repr(request.asked), options.as_json()]
        return hashlib.sha256(json.dumps(parts).encode()).digest()

    def get(self, key: bytes) -> Answer | None:
        """The answer of a key; None if there is none that can be read."""
        try:
            with self._lock:
                row = self._database.execute(
                    "SELECT digest, answer FROM answers WHERE key = ?", (key,)
                ).fetchone()
            if row is None or hashlib.sha256(row[1]).digest() != row[0]:
                return None
            return _answers().validate_json(row[1])
        except sqlite3.Error as error:
            self._tell(error)
        except (TypeError, ValueError):  # Written by something else.
            logger.debug("an entry of the cache cannot be read", exc_info=True)
        return None

    def put(self, key: bytes, answer: Answer) -> None:
        """Stores an answer without an error."""
        try:
            text = _answers().dump_json(answer)
            with self._lock:
                self._database.execute(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
                    (key, hashlib.sha256(text).digest(), text),
                )
        except (sqlite3.Error, ValueError) as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._failed:
            logger.warning("the cache does not work (%s): answers are made anew", type(error).__name__)
            logger.debug("the cache does not work", exc_info=True)
        self._failed = True


@cache
def _answers() -> TypeAdapter[Answer]:
    from pydantic import TypeAdapter

    from engine.types import Answer

    return TypeAdapter(Answer)
