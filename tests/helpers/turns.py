"""Runs in threads that make their requests one by one, each when it is let, and die at one of them."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any


class Killed(BaseException):
    """The process has ended; nothing of it takes place any more."""


class Inline:
    """An executor whose calls take place where they are submitted: a run makes one request at a time."""

    def __init__(self, workers: int) -> None:
        pass

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable, *arguments: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: object) -> None:
        pass


class Inheriting(threading.Thread):
    """A thread that belongs to the run that has started it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._of_its_run = copy_context()

    def run(self) -> None:
        with contextlib.suppress(Killed):
            self._of_its_run.run(super().run)


RUN: ContextVar["Run"] = ContextVar("RUN")


@dataclass
class Run:
    """A run whose requests take place one by one, when they are let.

    Attributes:
        resume, stream: its options.
        dies: the number of the request at which it is killed, and whether that has taken effect.
    """

    resume: bool
    stream: bool
    dies: tuple[int, bool] | None
    killed: bool = False
    made: int = 0
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    let: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self, work: Callable[[], None]) -> None:
        def body() -> None:
            RUN.set(self)
            try:
                work()
            except BaseException as error:
                self.error = error
            self.made = -1
            self.arrived.release()

        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()
        self.arrived.acquire()

    @property
    def ended(self) -> bool:
        return self.made < 0

    def go_on(self) -> None:
        """Lets its next request take place, and waits for the one after."""
        self.let.release()
        self.arrived.acquire()

    def request(self, ask: Callable[[], Any]) -> Any:
        if self.killed:
            raise Killed
        self.arrived.release()
        self.let.acquire()
        if self.dies == (self.made, False):
            self.killed = True
            raise Killed
        answer = ask()
        if self.dies == (self.made, True):
            self.killed = True
            raise Killed
        self.made += 1
        return answer
