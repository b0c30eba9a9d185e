"""What every backend's worker is wrapped in: ranks, label mode, and the requests that a confidence needs."""

from engine.backends.dispatch import Worker
from engine.backends.label_worker import LabelWorker
from engine.backends.ranking_worker import RankingWorker
from engine.backends.sampling_worker import SamplingWorker
from engine.contract import Engine


def workers(worker: Worker, engine: Engine) -> Worker:
    """A worker for all requests, from one that generates an answer for each."""
    return RankingWorker(LabelWorker(SamplingWorker(worker, engine), engine))
