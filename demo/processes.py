"""The programs a demo runs beside itself: started, told, killed, and always ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LineListener = Callable[[dict[str, Any]], None]
STOP_DEADLINE_S = 20.0


class ProgramFailed(RuntimeError):
    """A program ended when it should not have, or with an error; the message carries the end of what it said."""


def free_ports(count: int) -> list[int]:
    """Return *count* different loopback ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]


def installed(program: str) -> str:
    """Return the path of one of the distribution's programs, beside the interpreter that runs this."""
    return str(Path(sys.executable).with_name(program))


class Program:
    """A child process whose standard output is read line by line as JSON, and whose errors go to a file."""

    def __init__(self, name: str, command: Sequence[str], log_file: Path, on_line: LineListener | None = None) -> None:
        self.name = name
        self._command = list(command)
        self._log_file = log_file
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, in a session of its own, so that a Ctrl-C reaches it only through `stop`."""
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._reading = asyncio.create_task(self._read())

    async def tell(self, line: str) -> None:
        """Write one *line* to its standard input."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def kill(self) -> None:
        """End it with SIGKILL: it gets no chance to finish anything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> int:
        """Ask it to stop, wait, and return its exit code; after a deadline it is killed."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await self._ended()
        except TimeoutError:
            await self.kill()
        return self._process.returncode or 0

    async def wait(self) -> int:
        """Wait until it ends by itself and return its exit code."""
        await self._ended()
        assert self._process is not None
        return self._process.returncode or 0

    def check_running(self) -> None:
        """Raise `ProgramFailed` if it has ended."""
        if not self.running:
            raise ProgramFailed(f"{self.name} ended by itself; the end of {self._log_file}:\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        """Return the end of what it wrote to its log."""
        text = self._log_file.read_text(errors="replace") if self._log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def _ended(self) -> None:
        assert self._process is not None
        await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._log_file.open("ab") as log:
            async for line in self._process.stdout:
                log.write(line)
                log.flush()
                if self._on_line is not None:
                    with contextlib.suppress(json.JSONDecodeError):
                        self._on_line(json.loads(line))


async def run_json(name: str, command: Sequence[str], log_file: Path, *, allowed: Sequence[int] = (0,)) -> Any:
    """Run a program to its end and return what it printed as JSON.

    Raises:
        ProgramFailed: If its exit code is not among the *allowed*, or it printed no JSON.
    """
    with log_file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log)
        output, _ = await process.communicate()
        log.write(output)
    if process.returncode not in allowed:
        words = "\n".join(log_file.read_text(errors="replace").splitlines()[-15:])
        raise ProgramFailed(f"{name} ended with code {process.returncode}; the end of {log_file}:\n{words}")
    try:
        return json.loads(output)
    except json.JSONDecodeError as error:
        raise ProgramFailed(f"{name} printed no JSON ({error}): {output[:200]!r}") from error
