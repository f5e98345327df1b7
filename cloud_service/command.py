"""What all commands share: the cloud they work on, and how they tell what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click
import msgspec

from cloud_service.config import CloudConfig, load_config
from cloud_service.errors import CloudError, ConfigError, RecordRejected
from cloud_service.lake.lake import Lake
from cloud_service.pki import Pki
from cloud_service.registry.registry import Registry
from cloud_service.store import Store

P = ParamSpec("P")
REFUSED = 3  # exit code: all worked, and the answer is no


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
        with told_plainly(), opened(config_path) as cloud:
            command(cloud, *args, **kwargs)

    return run


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def time_of(text: str, option: str) -> datetime:
    """Return the time in *text*, or raise RecordRejected naming *option*."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise RecordRejected(f"{option} {text!r} is not a time ({error}); nothing is stored") from error


def tell(content: Any, sentence: str, *, as_json: bool) -> None:
    """Print *content* for programs or the *sentence* for people."""
    if as_json:
        print_json(content)
    else:
        click.echo(sentence)


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
def told_plainly() -> Iterator[None]:
    """Turn what was raised on purpose into one line and exit code 1."""
    try:
        yield
    except CloudError as error:
        raise click.ClickException(str(error)) from error
