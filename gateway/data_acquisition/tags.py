"""The tags that are wanted of a server: what the configuration says, one entry a channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

from gateway.config import AssetClassConfig, AssetConfig, GatewayConfig, Sampling
from gateway.tag_list import TagRow, join_path, split_path
from models.records import Stream

_Samplings = Callable[[str | None], Sampling]


@dataclass(frozen=True, kw_only=True)
class Tag:
    r"""One wanted channel, by ``node``, by ``path``, or by ``path`` when its node is no longer there.

    Attributes:
        stream: Asset and channel.
        node: ``nsu=urn:plant;s=T1``; or empty.
        path: Browse path below Objects, ``/``-separated, ``\/`` for a slash inside a name; or empty. The namespaces
            of the names do not matter. With a node, where to look when the server has no such node.
        sampling: How its values are asked for.
        unit: As configured; empty takes the server's.
        low: Lower end of the range in the unit; -inf takes the server's.
        high: Upper end; inf takes the server's.
    """

    stream: Stream
    node: str = ""
    path: str = ""
    sampling: Sampling
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def place(self) -> str:
        """The key of this tag in `Discovery.missing`."""
        return "/".join(self.stream)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Every variable with EngineeringUnits under an asset's path is wanted, by its browse name.

    Attributes:
        asset_id: The asset.
        path: Browse path of the folder below Objects.
        sampling: How values are asked for, but for
        channel_sampling: these channels.
        own_tags: Channels that have a `Tag` of their own, and are not taken from the folder.
    """

    asset_id: str
    path: str
    sampling: Sampling
    channel_sampling: tuple[tuple[str, Sampling], ...] = ()
    own_tags: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        """The key of this folder in `Discovery.missing`."""
        return self.asset_id

    def sampling_of(self, channel: str) -> Sampling:
        """Return how the values of *channel* are asked for."""
        return dict(self.channel_sampling).get(channel, self.sampling)


@dataclass(frozen=True, kw_only=True)
class WantedTags:
    """All that is wanted of one server."""

    assets: tuple[AssetConfig, ...]
    tags: tuple[Tag, ...]
    folders: tuple[Folder, ...]

    def only(self, places: Collection[str]) -> WantedTags:
        """Return the tags and folders whose `place` is in *places*: ``asset/channel``, or ``asset`` for a folder."""
        return WantedTags(
            assets=self.assets,
            tags=tuple(tag for tag in self.tags if tag.place in places),
            folders=tuple(folder for folder in self.folders if folder.place in places),
        )


def wanted_tags(config: GatewayConfig, server: str) -> WantedTags:
    """Return what *config* wants of *server*: each channel once, in the order of the assets.

    A ``[[tag]]`` or a row of the tag list wins over the same channel of the asset's class.
    """
    assets = config.assets_of(server)
    samplings = cache(config.acquisition.sampling)
    rows: dict[str, list[TagRow]] = {}
    for row in config.tag:
        rows.setdefault(row.asset_id, []).append(row)
    tags: list[Tag] = []
    folders: list[Folder] = []
    for asset in assets:
        told = rows.get(asset.asset_id, [])
        asset_class = config.asset_class[asset.asset_class]
        tags += [_tag_of(samplings, asset_class, row) for row in told]
        own = frozenset(row.channel for row in told)
        if not split_path(asset.path):
            continue
        tags += [_tag_of_class(samplings, asset_class, asset, name) for name in asset_class.channels if name not in own]
        if not asset_class.channels:
            folders.append(_folder(samplings, asset, asset_class, own))
    return WantedTags(assets=assets, tags=tuple(tags), folders=tuple(folders))


def _tag_of(samplings: _Samplings, asset_class: AssetClassConfig, row: TagRow) -> Tag:
    group = row.group or asset_class.group_of(row.channel)
    return Tag(
        stream=Stream(row.asset_id, row.channel),
        node=row.node,
        path=row.path,
        sampling=samplings(group),
        unit=row.unit,
        low=row.low,
        high=row.high,
    )


def _tag_of_class(samplings: _Samplings, asset_class: AssetClassConfig, asset: AssetConfig, channel: str) -> Tag:
    return Tag(
        stream=Stream(asset.asset_id, channel),
        path=f"{asset.path.rstrip('/')}/{join_path([channel])}",
        sampling=samplings(asset_class.group_of(channel)),
    )


def _folder(samplings: _Samplings, asset: AssetConfig, asset_class: AssetClassConfig, own: frozenset[str]) -> Folder:
    return Folder(
        asset_id=asset.asset_id,
        path=asset.path,
        sampling=samplings(asset_class.group),
        channel_sampling=tuple((name, samplings(group)) for name, group in sorted(asset_class.channel_group.items())),
        own_tags=own,
    )
