"""The program under test as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

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

    async def ended(self) -> None:
        """Run it to its own end.

        Raises:
            RuntimeError: If that is none to be proud of.
        """
        await self.start()
        assert self._process is not None
        out, errors = await self._process.communicate()
        self._take(out)
        if self._process.returncode:
            raise RuntimeError(f"the program ended with {self._process.returncode}: {errors.decode()[-2000:]}")

    async def halted(self) -> None:
        """Run it until it says that it has come to its end, and SIGKILL it there.

        Raises:
            RuntimeError: If it ends before.
        """
        await self.start()
        process = self._process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        while line := await process.stdout.readline():
            self._take(line)
            if line == b"end\n":
                process.kill()
        await process.wait()
        if not self.said or self.said[-1] != "end\n":
            raise RuntimeError(f"the program ended with {process.returncode}: {(await errors).decode()[-2000:]}")
        await errors

    async def killed(self, *, after_lines: int, further_s: float) -> str:
        """Start it, SIGKILL it *further_s* after it said so many lines, and return what it wrote of its own death.

        That is empty unless it ended by itself before.
        """
        await self.start()
        process = self._process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        rest = asyncio.create_task(process.stderr.read())
        lines = [await process.stdout.readline() for _ in range(after_lines)]
        await asyncio.sleep(further_s)
        had_ended = process.returncode is not None or (after_lines > 0 and lines[-1] == b"")
        if not had_ended:
            process.kill()
        self._take(b"".join(lines) + await process.stdout.read())
        await process.wait()
        errors = (await rest).decode()
        return f"it ended by itself with {process.returncode}: {errors[-2000:]}" if had_ended else ""

    def _take(self, out: bytes) -> None:
        self.said += [line for line in out.decode().splitlines(keepends=True) if line.endswith("\n")]
