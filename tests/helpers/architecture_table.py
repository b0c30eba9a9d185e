"""docs/architectures.md, what runs how: `python -m tests.helpers.architecture_table` writes it."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import transformers

from engine.backends.local import LocalEngine
from engine.errors import AdapterError
from engine.scoring.logits_readers import TreeReader
from engine.scoring.reader_selection import select_reader
from tests import tiny
from tests.helpers import architectures

FILE = Path(__file__).parents[2] / "docs" / "architectures.md"
NO = "no: "
_HEAD = f"""# Architectures

Every architecture with a causal or an encoder-decoder language model in transformers
{transformers.__version__}, and how it is run here.

`python -m tests.helpers.architecture_table` writes this file, with a tiny random model of each
architecture. `make test` compares what each of them answers, scores and embeds, alone and in batches,
with transformers' own run of one text at a time in float32.

- **answers** are generated *in flight* (continuous batching: each sequence enters and leaves by itself);
  *in batches*, which end with their longest answer; *in batches of one length*, for a model that does not
  support padding; or *one by one*. They differ in speed only.
- **scores** of given texts, and **vectors** (embeddings): many texts are *packed* into one row without
  padding; *padded* to rows of one length; grouped by equal length (*level*); or each is read alone
  (*single*).
- **why** is the reason in the log if answers are not generated in flight.
- The log-probabilities of an answer equal those of `generate`. A few classes give different logits in one
  pass than with a cache (sparse attention beyond its best keys: `axk2`, `deepseek_v32`, `dots3_note`,
  `glm_moe_dsa`, `hy_v4`; other positions: `camembert`, `roberta` and related models; `moshi`,
  `prophetnet`, `xlm`, `xlnet`, `cpmant`). There a score, which uses one pass, differs from the
  log-probability of the same text as an answer.
- An architecture that is a decoder both alone and with an encoder has two rows, the former
  `…{architectures.DECODER}`. Encoders such as BERT are run as the decoders that their configuration can
  make of them.

| architecture | class | answers | scores | vectors | why |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """How an architecture is run; "no: …" where it is not."""

    name: str
    class_name: str
    answers: str
    scores: str = ""
    vectors: str = ""
    why: str = ""

    def how(self) -> tuple[str, ...]:
        """All but the reasons, which quote other packages' words."""
        cells = (self.class_name, self.answers, self.scores, self.vectors)
        return tuple(NO if cell.startswith(NO) else cell for cell in cells)

    def __str__(self) -> str:
        return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in astuple(self))} |"


def made(name: str, engine: LocalEngine) -> Row:
    """The row of an architecture, of which the engine has a tiny model."""
    with _logged() as lines:
        answers = _way(lambda: engine.new_generator() and engine.batching)
    # How far off a trial was depends on the machine.
    why = re.search(r"not in flight: (.*?)( \(by \S+\))?$", "\n".join(lines), re.MULTILINE)
    return Row(
        name,
        type(engine.loaded.model).__name__,
        answers,
        _way(lambda: _scoring(engine)),
        _way(lambda: engine._embedder.reader.batching),
        why[1] if why else "",
    )


def written() -> dict[str, Row]:
    """The rows of the file, by name."""
    lines = [line for line in FILE.read_text().splitlines() if line.startswith("| ")]
    rows = [Row(*(cell.strip() for cell in line[1:-1].split("|"))) for line in lines[1:]]
    return {row.name: row for row in rows}


def _way(find: Callable[[], str]) -> str:
    try:
        return find()
    except AdapterError as error:
        return f"{NO}{error}"
    except Exception as error:  # A fault, which a test shows.
        return f"fails: {type(error).__name__}"


def _scoring(engine: LocalEngine) -> str:
    if error := engine.score("A text.", [" More."]).error:
        raise error
    reader, batched = select_reader(engine.loaded.model)
    return ("packed" if isinstance(reader, TreeReader) else "padded") if batched else "single"


@contextmanager
def _logged() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("engine.backends.local")
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def engine(model: transformers.PreTrainedModel) -> LocalEngine:
    """An engine whose answers no token ends."""
    made = LocalEngine(tiny.loaded(model, tiny.byte_tokenizer(eos_token=None)))
    made.eos = frozenset()
    return made


def _row(name: str) -> Row:
    if reason := architectures.LEFT_OUT.get(name):
        return Row(name, architectures.class_name(name), f"no tiny model: {reason}")
    print(name, flush=True)
    return made(name, engine(architectures.tiny_model(name)))


if __name__ == "__main__":
    FILE.write_text(_HEAD + "".join(f"{_row(name)}\n" for name in architectures.names()))
