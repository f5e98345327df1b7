"""Following the configuration while the gateway runs: a changed tag list counts at once, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import msgspec

from gateway.config import AcquisitionConfig, GatewayConfig
from gateway.config_file import check_config
from gateway.errors import ConfigError

_LOOK_S = 1.0


async def changes(config_file: Path, config: GatewayConfig) -> AsyncIterator[GatewayConfig | ConfigError]:
    """Yield what *config_file*, read as *config*, and its tag list say when they change, or why they cannot be used.

    A file counts when two looks find it the same: one that is still being written is waited for.
    """
    known = await asyncio.to_thread(_content, (config_file, config.tags_file))
    seen = known
    while True:
        await asyncio.sleep(_LOOK_S)
        before, seen = seen, await asyncio.to_thread(_content, (config_file, config.tags_file))
        if seen == known or seen != before:
            continue
        known = seen
        try:
            config = await asyncio.to_thread(check_config, config_file)
        except ConfigError as error:
            yield error
            continue
        known = seen = await asyncio.to_thread(_content, (config_file, config.tags_file))
        yield config


def needs_restart(before: GatewayConfig, after: GatewayConfig) -> bool:
    """Return whether *after* differs from *before* in more than the assets, their tags and how they are read."""
    return _fixed(before) != _fixed(after)


def with_tags_of(config: GatewayConfig, changed: GatewayConfig) -> GatewayConfig:
    """Return *config* with the assets and tags of *changed*, and how they are read."""
    names = ("asset", "tag", "asset_class", "acquisition", "tags_file")
    return msgspec.structs.replace(config, **{name: getattr(changed, name) for name in names})


def _fixed(config: GatewayConfig) -> GatewayConfig:
    return msgspec.structs.replace(
        config, asset=(), tag=(), asset_class={}, acquisition=AcquisitionConfig(), tags_file=None
    )


def _content(paths: Iterable[Path | None]) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what tells one version of each file from another: when written, how large, which file."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None
