"""The project's own commands as real processes, in one namespace, all stopped at the end."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.transport import make_transport
from tq.child_process import kill_group, start_child
from tq.runtime import Runtime
from tq.settings import Settings

BIN = Path(sys.executable).parent
NAMESPACE = "e2e"


class Commands:
    """Starts commands for one tasks file, and stops them all at the end."""

    def __init__(
        self, folder: Path, redis_url: str, tasks: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        tasks_file = folder / "tasks.yaml"
        tasks_file.write_text(tasks)
        self.environment = {
            "TQ_REDIS_URL": redis_url,
            "TQ_NAMESPACE": NAMESPACE,
            "TQ_TASKS_FILE": str(tasks_file),
            "TQ_ALLOW_PRIVATE_ENDPOINTS": "true",
            "LOG_FORMAT": "json",
            "PYTHONFAULTHANDLER": "1",
            **(environment or {}),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self.settings = Settings.model_validate(
            {
                name.removeprefix("TQ_").lower(): value
                for name, value in self.environment.items()
                if name.startswith("TQ_")
            }
        )

    def open_runtime(self) -> Runtime:
        """A runtime of our own in the same namespace, to look and to change."""
        return Runtime(self.settings, make_transport(self.settings))

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a command; what it prints goes to a log of that name."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = start_child(command, env={**self.environment, **(env or {})}, output=log)
        self._processes.append(process)
        return process

    def start_worker(self, name: str = "worker", *, threads: int = 4) -> subprocess.Popen[bytes]:
        """`dramatiq actors`, as it is."""
        return self.start(name, [str(BIN / "dramatiq"), "actors", "-p", "1", "-t", str(threads)])

    def start_workers(self, name: str = "worker", *, processes: int, threads: int) -> subprocess.Popen[bytes]:
        """`tq worker`, which keeps so many processes running."""
        options = ["--processes", str(processes), "--threads", str(threads), "--shutdown-timeout", "10s"]
        return self.start(name, [str(BIN / "tq"), "worker", *options])

    def start_scheduler(self, name: str = "scheduler") -> subprocess.Popen[bytes]:
        """`periodiq actors`, as it is."""
        return self.start(name, [str(BIN / "periodiq"), "actors"])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `tq` to its end."""
        return subprocess.run(
            [str(BIN / "tq"), *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def log_text(self) -> str:
        """Everything that any process has printed."""
        return "".join(log.read_text(errors="replace") for log in sorted(self.logs.iterdir()))

    def stop(self) -> None:
        """Ends everything that was started."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            kill_group(process)
            process.wait()
