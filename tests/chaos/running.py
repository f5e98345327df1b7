"""The program under test as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.chaos.disk import FOR_EVER
from tests.integration.peers.server import ROOT


class Program:
    """``python -m tests.chaos.program`` in a process, and all that it said.

    Args:
        mode: Its mode.
        state_dir: Where its journal lies.
        seed: Of its plant.
        arguments: Further ones.
        environment: On top of this process's.

    Attributes:
        said: Each line it has said so far.
    """

    def __init__(
        self, mode: str, state_dir: Path, seed: int, *arguments: object, environment: Mapping[str, str] | None = None
    ) -> None:
        self.said: list[str] = []
        self._arguments = ("-m", "tests.chaos.program", mode, str(state_dir), str(seed), *map(str, arguments))
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._errors: asyncio.Task[bytes]

    async def start(self) -> None:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=self._environment,
        )
        assert self._process.stderr is not None
        self._errors = asyncio.create_task(self._process.stderr.read())

    async def ended(self) -> None:
        """Run it to its own end.

        Raises:
            RuntimeError: If that is none to be proud of.
        """
        await self.start()
        await self.hear(FOR_EVER)
        process, errors = await self._gone()
        if process.returncode:
            raise RuntimeError(f"the program ended with {process.returncode}: {errors}")

    async def halted(self) -> None:
        """Run it until it says that it has come to its end, and SIGKILL it there.

        Raises:
            RuntimeError: If it ends before.
        """
        await self.start()
        while await self.hear(1):
            if self.said[-1] == "end\n":
                await self.kill()
                return
        raise RuntimeError(await self.kill())

    async def hear(self, lines: int) -> bool:
        """Wait until it has said so many more lines; return False when it has ended instead."""
        assert self._process is not None
        assert self._process.stdout is not None
        for _ in range(lines):
            line = (await self._process.stdout.readline()).decode()
            if not line.endswith("\n"):  # it died in the midst of it, or had
                return False
            self.said.append(line)
        return True

    async def kill(self) -> str:
        """SIGKILL it, take what it has said, and return what it wrote about it when it had ended by itself before."""
        assert self._process is not None
        is_alive = self._process.returncode is None and not self._errors.done()
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        await self.hear(FOR_EVER)
        process, errors = await self._gone()
        return "" if is_alive else f"it ended by itself with {process.returncode}: {errors}"

    async def _gone(self) -> tuple[asyncio.subprocess.Process, str]:
        assert self._process is not None
        await self._process.wait()
        return self._process, (await self._errors).decode()[-2000:]
