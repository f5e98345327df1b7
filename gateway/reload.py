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

_Stamp = tuple[int, int, int] | None


async def changes(config_file: Path, config: GatewayConfig) -> AsyncIterator[GatewayConfig | ConfigError]:
    """Yield what *config_file*, read as *config*, and its tag list say when they change, or why they cannot be used.

    A file counts when two looks find it the same: one that is still being written is waited for. What was written
    while *config* was being read is found by the first two looks.
    """
    current: GatewayConfig | ConfigError = config
    known: tuple[_Stamp, ...] = ()
    seen = known
    while True:
        await asyncio.sleep(_LOOK_S)
        before, seen = seen, await asyncio.to_thread(_stamps, (config_file, config.tags_file))
        if seen == known or seen != before:
            continue
        known = seen  # as it was before it is read: what is written meanwhile is another version
        try:
            changed = await asyncio.to_thread(check_config, config_file)
        except ConfigError as error:
            current = error
            yield error
            continue
        if changed.tags_file != config.tags_file:
            known = ()  # the other file has not been looked at
        config = changed
        if changed != current:
            current = changed
            yield changed


def needs_restart(before: GatewayConfig, after: GatewayConfig) -> bool:
    """Return whether *after* differs from *before* in more than the assets, their tags and how they are read."""
    return _fixed(before) != _fixed(after)


def with_tags_of(config: GatewayConfig, changed: GatewayConfig) -> GatewayConfig:
    """Return *config* with the assets and tags of *changed*, and how they are read.

    Assets of servers that only *changed* has, or reads elsewhere, wait for the restart.
    """
    servers = {server.name for server in config.server}
    asset = tuple(asset for asset in changed.asset if asset.server in servers)
    ids = {one.asset_id for one in asset}
    acquisition = msgspec.structs.replace(changed.acquisition, backfill_limit_h=config.acquisition.backfill_limit_h)
    return msgspec.structs.replace(
        config,
        asset=asset,
        tag=tuple(tag for tag in changed.tag if tag.asset_id in ids),
        asset_class=changed.asset_class,
        acquisition=acquisition,
        tags_file=changed.tags_file,
    )


def _fixed(config: GatewayConfig) -> GatewayConfig:
    acquisition = AcquisitionConfig(backfill_limit_h=config.acquisition.backfill_limit_h)
    return msgspec.structs.replace(config, asset=(), tag=(), asset_class={}, acquisition=acquisition, tags_file=None)


def _stamps(paths: Iterable[Path | None]) -> tuple[_Stamp, ...]:
    """Return what tells one version of each file from another: when written, how large, which file."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path | None) -> _Stamp:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None
