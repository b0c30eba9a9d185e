"""What a backend's worker is wrapped in: sharing, ranks, judge, label mode, what a confidence needs."""

import logging
from collections.abc import Iterable, Iterator

from engine.backends.dispatch import Worker, dispatch
from engine.backends.judge_worker import JudgeWorker
from engine.backends.label_worker import LabelWorker
from engine.backends.ranking_worker import RankingWorker
from engine.backends.sampling_worker import SamplingWorker
from engine.backends.sharing_worker import SharingWorker
from engine.contract import Engine, Follow
from engine.types import Chunk, Request

logger = logging.getLogger(__name__)


def workers(worker: Worker, engine: Engine) -> Worker:
    """A worker for all requests, from one that generates an answer for each."""
    return RankingWorker(JudgeWorker(LabelWorker(SamplingWorker(worker, engine), engine), engine))


def answered(
    requests: Iterable[Request | None], follow: Follow | None, worker: Worker, engine: Engine
) -> Iterator[Chunk]:
    """Answers requests as `dispatch` does, with a worker that generates an answer for each.

    Equal requests are answered once.
    """
    sharing = SharingWorker(workers(worker, engine), engine.cache)
    try:
        yield from dispatch(requests, follow, sharing)
    finally:
        if sharing.reused:
            engine.reused.add(sharing.reused)
            logger.info("%s", sharing.reused)
