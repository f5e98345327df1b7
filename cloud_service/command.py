"""What all commands share: the cloud they work on, and how they tell what they found.

Exit codes: 0 fine, 1 a fault, 2 usage or configuration, 3 all worked, and the answer is no.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec

import click
import msgspec

from cloud_service.config import CloudConfig, load_config
from cloud_service.errors import CloudError, ConfigError, RecordRejected
from cloud_service.lake.lake import Lake
from cloud_service.pki import Pki
from cloud_service.registry.registry import Registry
from cloud_service.store import Store

P = ParamSpec("P")
EXIT_FAULT, EXIT_CONFIG, EXIT_FOUND = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """What every command but ``init`` works with."""

    config: CloudConfig
    store: Store

    @property
    def lake(self) -> Lake:
        """What the gateways sent."""
        return Lake(self.config.storage.lake, self.store)

    @property
    def registry(self) -> Registry:
        """All versions of all bundles."""
        return Registry(self.config.storage.registry, self.store)

    @property
    def pki(self) -> Pki:
        """The fleet's keys."""
        return Pki(self.config.storage.pki)


def with_cloud(command: Callable[Concatenate[Cloud, P], None]) -> Callable[..., None]:
    """Give *command* the option ``--config`` and, as its first argument, the `Cloud` that it names."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        default=Path("cloud.toml"),
        show_default=True,
        help="The cloud service's configuration.",
    )
    @wraps(command)
    def run(config_path: Path, *args: P.args, **kwargs: P.kwargs) -> None:
        with told_plainly(as_json=bool(kwargs.get("as_json"))), opened(config_path) as cloud:
            command(cloud, *args, **kwargs)

    return run


as_json = click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")


def time_of(text: str, option: str) -> datetime:
    """Return the time in *text*, or raise RecordRejected naming *option*."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise RecordRejected(f"{option} {text!r} is not a time ({error}); nothing is stored") from error


def utc_time_of(text: str, option: str) -> datetime:
    """Return the time in *text*, in UTC where it names no offset.

    Raises:
        click.UsageError: If it is none; the message names *option*.
    """
    try:
        said = datetime.fromisoformat(text)
        return said if said.tzinfo else said.replace(tzinfo=UTC)
    except ValueError:
        raise click.UsageError(f"{option} {text!r} is not a time, as 2026-03-02T08:00") from None


def tell(content: Any, sentence: str, *, as_json: bool) -> None:
    """Print *content* for programs or the *sentence* for people."""
    if as_json:
        print_json(content)
    else:
        click.echo(sentence)


def many(count: int, what: str) -> str:
    """Return *count* of *what*, a word that takes an s."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def print_json(content: Any) -> None:
    """Print *content* for programs."""
    click.echo(msgspec.json.encode(content, enc_hook=str).decode())


@contextmanager
def opened(config_path: Path) -> Iterator[Cloud]:
    """Give the cloud that the configuration at *config_path* names."""
    config = load_config(config_path)
    if not config.storage.database.parent.is_dir():
        raise ConfigError(f"{config_path}: storage.folder {config.storage.folder} is not a folder; nothing is done")
    store = Store(config.storage.database)
    try:
        yield Cloud(config=config, store=store)
    finally:
        store.close()


@contextmanager
def told_plainly(*, as_json: bool = False) -> Iterator[None]:
    """Turn what was raised on purpose into one line, or data too, and the exit code that it has."""
    try:
        yield
    except CloudError as error:
        _fail(error, str(error), EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAULT, as_json=as_json)
    except click.UsageError as error:
        if not as_json:
            raise
        _fail(error, error.format_message(), EXIT_CONFIG, as_json=as_json)


def _fail(error: Exception, reason: str, code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"error": type(error).__name__, "reason": reason, "next_step": ""})
    click.echo(f"Error: {reason}", err=True)
    sys.exit(code)
