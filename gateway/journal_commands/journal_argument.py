"""Which journal a command is about: the one of a configuration, or the one in a folder."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import structlog

from gateway.command import config_option, fail_with, json_option, tell
from gateway.config import GatewayConfig, JournalConfig
from gateway.config_file import load_config
from gateway.errors import ConfigError, GatewayError
from gateway.journal.errors import JournalLocked, JournalMismatch


@dataclass(frozen=True, kw_only=True)
class JournalTarget:
    """The journal a command is about.

    Attributes:
        state_dir: The folder it lies in.
        config: The configuration, when there is one.
        config_file: Where that is.
        as_json: Whether the answer is data.
    """

    state_dir: Path
    config: GatewayConfig | None
    config_file: Path
    as_json: bool

    @property
    def limits(self) -> JournalConfig | None:
        """The limits of this journal; None for a copy, which has none."""
        if self.config is None or self.config.state_dir.resolve() != self.state_dir.resolve():
            return None
        return self.config.journal

    def needs_config(self) -> GatewayConfig:
        """Return the configuration, which the command cannot do without.

        Raises:
            ConfigError: If there is none.
        """
        if self.config is None:
            raise ConfigError(f"{self.config_file} is not there; name the gateway's configuration with --config")
        return self.config

    def tell(self, data: object, text: str) -> None:
        """Print *data* or *text*, as was asked."""
        tell(data, text, as_json=self.as_json)


def journal_command(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options that say which journal; it takes them as ``target``, after its own."""

    @functools.wraps(command)
    def with_target(*, config_file: Path, journal_dir: Path | None, as_json: bool, **others: Any) -> None:
        try:
            config = load_config(config_file) if journal_dir is None or config_file.is_file() else None
            state_dir = journal_dir or (config.state_dir if config is not None else Path())
            target = JournalTarget(state_dir=state_dir, config=config, config_file=config_file, as_json=as_json)
            with _quiet():
                command(target=target, **others)
        except BrokenPipeError:
            raise  # who read us has enough; click ends the program
        except click.UsageError as error:
            if not as_json:
                raise
            fail(ConfigError(error.format_message()), as_json=as_json)
        except (GatewayError, OSError) as error:
            fail(error, as_json=as_json)

    for option in reversed(_OPTIONS):
        with_target = option(with_target)
    return with_target


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what is logged meanwhile: what matters of it is in the answer."""
    configured = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**configured)


_OPTIONS = (
    config_option,
    click.option(
        "--journal",
        "journal_dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of another journal, as a copy; default: state_dir of the configuration.",
    ),
    json_option,
)


def fail(error: Exception, *, as_json: bool) -> NoReturn:
    """Say what went wrong and the next step, and end the program."""
    reason = str(error).replace("; the service does not start", "").replace("; the gateway does not start", "")
    fail_with(error, reason or type(error).__name__, _next_step(error), as_json=as_json)


def _next_step(error: Exception) -> str:
    match error:
        case GatewayError() if "No such file" in str(error) or "is not there" in str(error):
            return "name the configuration with --config, or a journal's folder with --journal"
        case ConfigError():
            return "correct the named key or option; wearsight-gateway check-config checks a configuration"
        case JournalLocked():
            return "stop the gateway first, as: systemctl stop wearsight-gateway"
        case JournalMismatch():
            return ""
        case GatewayError() if "cannot be read" in str(error):
            return "see how far it is damaged: wearsight-gateway journal verify"
        case _:
            return ""
