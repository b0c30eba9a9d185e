"""vLLM as a server to ask: started again once when it ends, with what was asked of it asked again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine.backends.endpoint import address
from engine.backends.endpoint.rejections import Dropped, Rejected
from engine.backends.endpoint.wire import Client, Server
from engine.backends.vllm.process import VLLMProcess
from engine.errors import AdapterError, GenerationError
from engine.options import EndpointOptions

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class VLLMServer(Server):
    """The server of a `VLLMProcess`.

    A process that has ended is started again, unless the one before has ended and nothing was answered since.
    """

    def __init__(self, options: EndpointOptions, process: VLLMProcess) -> None:
        """Takes a process that answers already."""
        super().__init__(_at(options, process), process.key)
        self.name = "vLLM"
        self._process = process
        self._may_restart = True
        self._restarting: asyncio.Task[None] | None = None

    async def ask(
        self, call: Callable[[Client], Awaitable[Result]], repeatable: Callable[[], bool] = lambda: True
    ) -> Result:
        """Makes a call; makes it once more when the process has ended meanwhile.

        Raises:
            GenerationError: no answer, or vLLM has ended twice; the text says why.
            ConfigurationError: a request that cannot be sent.
        """
        await self._restarted()
        starts = self._process.starts
        try:
            result = await super().ask(call, repeatable)
        except GenerationError:
            if self._process.running and self._process.starts == starts:
                raise
            if not repeatable():
                raise self._process.ended() from None
            await self._restarted(starts)
            try:
                result = await super().ask(call, repeatable)
            except GenerationError:
                if self._process.running:
                    raise
                raise self._process.ended() from None
        self._may_restart = True
        return result

    async def _restarted(self, starts: int | None = None) -> None:
        """Waits until the process is started again, if it is; starts it if `starts` was its last start."""
        if self._process.starts == starts and self._restarting is None:
            if not self._may_restart:
                raise self._process.ended()
            self._may_restart = False
            self._restarting = asyncio.ensure_future(self._restart())
        if self._restarting is not None:
            await asyncio.shield(self._restarting)

    async def _restart(self) -> None:
        logger.warning("vLLM has ended: it is started again, and asked again what it has not answered")
        try:
            await asyncio.to_thread(self._process.start)
        except AdapterError as error:
            raise GenerationError(f"vLLM has ended, and cannot be started again: {error}") from None
        finally:
            self._restarting = None
        self.options = _at(self.options, self._process)
        self.address = address.find(self.options, self._process.key)

    def _wait(self, error: Rejected | Dropped, attempt: int) -> float | None:
        if self._restarting is not None or not self._process.running:
            return None
        return super()._wait(error, attempt)


def _at(options: EndpointOptions, process: VLLMProcess) -> EndpointOptions:
    return options.model_copy(update={"base_url": f"http://127.0.0.1:{process.port}/v1"})
