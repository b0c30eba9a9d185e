"""The run: which files are left, who answers them, and where the results go."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.cli.inputs import LINES, STDIN
from adapters.cli.output import Signals, Stop, say
from adapters.cli.ray.parts import Parts
from adapters.cli.ray.worker import Worker
from engine.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
# What the nodes of a cluster do not need of this folder.
LEFT_OUT = [".git", ".venv*", "tests", "docs", "benchmarks", "**/__pycache__", ".*_cache"]
# The most files of a batch: what is lost, and asked again, when a node dies.
BATCH = 256
# Batches for each replica, so that all have work to the end.
SHARES = 4
# How often a batch is tried whose process or node has died under it.
TRIES = 3
# Failed items that are told one by one.
TOLD = 10


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many copies of the model there are, and what each of them holds.

    Attributes:
        count: None: as many as the cluster has room for.
        cpus: of each.
        gpus: of each.
    """

    count: int | None = None
    cpus: float = 1
    gpus: float = 0

    def on(self, resources: Mapping[str, float]) -> int:
        """How many a cluster is to have.

        Raises:
            ConfigurationError: it has no room for one.
        """
        room = [resources.get("CPU", 0) / self.cpus] if self.cpus else []
        room += [resources.get("GPU", 0) / self.gpus] if self.gpus else []
        most = math.floor(min(room, default=1))
        if most < 1:
            has = ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
            raise ConfigurationError(f"the cluster has {has}, less than one replica: lower --cpus or --gpus")
        return min(self.count or most, most)


def predict_on_ray(
    files: Sequence[str], stem: str, configuration: Mapping[str, Any], out: Path | None, replicas: Replicas
) -> int:
    """Answers files of prompt items on Ray, and writes their rows; those that `out` answers are left alone.

    Returns:
        The exit code: 1 where an item has no answer, 130 after Ctrl-C; what is answered is written.

    Raises:
        ConfigurationError: an input or output that does not fit, Ray is missing or has no room, or the model
            cannot be used.
    """
    from tqdm import tqdm

    if out is None or out.suffix != ".jsonl":
        raise ConfigurationError("--ray writes lines of JSON: give --out FILE.jsonl")
    if others := [path for path in files if path == STDIN or Path(path).suffix in LINES]:
        raise ConfigurationError(f"--ray answers files of one prompt item each (.json), not {others[0]!r}")
    parts = Parts(out)
    answered = parts.answered
    left = [path for path in files if path not in answered]
    before, code = len(files) - len(left), 0
    with Signals() as signals, tqdm(total=len(files), initial=before, unit="item", disable=None) as progress:
        try:
            for rows in _results(left, stem, configuration, replicas) if left else ():
                with signals.held():
                    parts.add(rows)
                    progress.update(len({row["item"] for row in rows}))
        except Stop as stop:
            code = stop.code
        finally:
            signals.hold()
            parts.finish(files)
    reason = "interrupted: run again" if code else f"its process has died {TRIES + 1} times"
    failures = [f"{name}: {why}" for name in left for why in _failures(parts, name, reason)]
    for failure in failures[:TOLD]:
        say(f"error: {failure}")
    if len(failures) > TOLD:
        say(f"error: and {len(failures) - TOLD} more")
    earlier = f", {before} of them before" if before else ""
    say(f"{len(parts.answered.intersection(files))} of {len(files)} items are answered{earlier}: {out}")
    return code or (1 if failures else 0)


def _failures(parts: Parts, name: str, otherwise: str) -> list[str]:
    """Why an item has not all its answers."""
    if name not in parts.rows:
        return [otherwise]
    return [str(row["error"]) for row in parts.rows[name] if row["error"]]


def _results(
    files: Sequence[str], stem: str, configuration: Mapping[str, Any], replicas: Replicas
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each batch, as they come; a file under which every process dies has none.

    Raises:
        ConfigurationError: Ray is missing, has no room, or the model cannot be used.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(f"--ray needs Ray ({error}): run `pip install 'ray[data]'`") from None
    with _cluster(ray):
        count = replicas.on(ray.cluster_resources())  # type: ignore[no-untyped-call]
        size = max(1, min(BATCH, math.ceil(len(files) / (count * SHARES))))
        left = set(files)
        # What dies with one file's batch is asked again, one by one.
        for most in (size, 1):
            asked = [{"file": file} for file in files if file in left]
            if not asked:
                break
            answered = ray.data.from_items(
                asked, override_num_blocks=math.ceil(len(asked) / most)
            ).map_batches(
                Worker,
                fn_constructor_args=(stem, dict(configuration)),
                batch_size=most,
                compute=ray.data.ActorPoolStrategy(size=count),
                num_cpus=replicas.cpus,
                num_gpus=replicas.gpus or None,
                max_task_retries=TRIES,
            )
            for batch in answered.iter_rows():
                if batch["reason"]:
                    raise ConfigurationError(batch["reason"])
                rows = json.loads(batch["rows"])
                left.difference_update(row["item"] for row in rows)
                yield rows


@contextlib.contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """The cluster of RAY_ADDRESS, or one on this machine that ends with the run."""
    try:
        ray.init(
            runtime_env={"working_dir": str(ROOT), "excludes": LEFT_OUT},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"Ray does not start ({error}): see RAY_ADDRESS") from None
    chosen = ray.data.DataContext.get_current()
    chosen.enable_progress_bars = False
    chosen.max_errored_blocks = -1
    try:
        with _quiet():
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of Ray's plans, and of the failures that it mends, on the terminal; with --debug, all of it."""
    if logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        yield
        return
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)
