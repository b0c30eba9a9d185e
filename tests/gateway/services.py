"""The processes behind services: one each, running `runner.py` on the unpacked code."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.gateway.store import Record, Store, now

FINAL = ("success", "failed")
_RUNNER = Path(__file__).with_name("runner.py")


class Services:
    """Starts, feeds and ends the process of each service.

    A process reads the ids of its executions from its standard input and leaves when that closes, so it
    cannot outlive the gateway. `login(folder, user)` writes an SDK cookie and returns the environment
    variables that point at it.
    """

    def __init__(self, store: Store, folder: Path, login: Callable[[Path, str], dict[str, str]]):
        self._store = store
        self._folder = folder / "services"
        self._login = login
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._outdated: set[str] = set()

    def start(self, service: Record) -> None:
        """Start the process: with an empty home, its own DATALOOP_PATH, and no way to the checkout."""
        folder = self._folder / service["id"]
        code, home = folder / "code", folder / "home"
        for part in (code, home):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DTLPY_", "PYTHONPATH", "PYTEST_"))}
        login = self._login(folder / "dataloop", f"{service['id']}@bot.example.com")
        port = {"PORT": str(service["port"])} if "port" in service else {}
        with self._log(service["id"]).open("ab") as log:
            # -P: or else the folder of the runner, a part of the checkout, would be importable.
            self._processes[service["id"]] = subprocess.Popen(
                [sys.executable, "-P", "-u", str(_RUNNER), service["id"]],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=code,
                env=kept | login | {"HOME": str(home)} | port,
                start_new_session=True,
            )

    def submit(self, service: Record, execution: Record) -> None:
        """Hand an execution to the process of its service; to a new one, if that has ended or is outdated."""
        process = self._processes.get(service["id"])
        if process is None or process.poll() is not None or self._may_renew(service, execution):
            self.end(service["id"])
            self.start(service)
        stdin = self._processes[service["id"]].stdin
        assert stdin is not None
        try:
            stdin.write(f"{execution['id']}\n".encode())
            stdin.flush()
        except BrokenPipeError:
            self.check(execution)

    def outdate(self, service_id: str) -> None:
        """Let the service go on in a new process, with new code or a changed model, as soon as it is idle."""
        self._outdated.add(service_id)

    def _may_renew(self, service: Record, new: Record) -> bool:
        others = [e for e in self._store.find("executions", serviceId=service["id"]) if e is not new]
        idle = all(e["latestStatus"]["status"] in FINAL for e in others)
        return service["id"] in self._outdated and idle

    def check(self, execution: Record) -> None:
        """Fail an unfinished execution whose process has ended."""
        process = self._processes.get(execution["serviceId"])
        if execution["latestStatus"]["status"] in FINAL:
            return
        if process is None or process.poll() is not None:
            code = "" if process is None else f" with code {process.returncode}"
            message = f"The process of the service ended{code}.\n{self.log(execution['serviceId'])[-4000:]}"
            status = {"status": "failed", "percentComplete": 0, "timestamp": now()}
            execution["latestStatus"] = status | {"message": message, "error": message}
            execution["status"].append(execution["latestStatus"])

    def end(self, service_id: str) -> None:
        """End the process of a service, and all that it started."""
        process = self._processes.pop(service_id, None)
        self._outdated.discard(service_id)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()

    def runs(self, service_id: str) -> bool:
        """Whether the process of a service runs."""
        process = self._processes.get(service_id)
        return process is not None and process.poll() is None

    def stop(self) -> None:
        """End the processes of all services."""
        for service_id in list(self._processes):
            self.end(service_id)

    def log(self, service_id: str) -> str:
        """What the process of a service has printed."""
        path = self._log(service_id)
        return path.read_text(errors="replace") if path.exists() else ""

    def _log(self, service_id: str) -> Path:
        return self._folder / service_id / "log.txt"
