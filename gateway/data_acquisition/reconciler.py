"""The wanted tag list is the truth: what the server monitors is compared with it, until both are equal, and on.

A tag that is refused or not there is tried again for ever, at first soon and then seldom, and is listed with its reason
meanwhile. None stops another. What changes in the list changes at the server for those tags alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import structlog
from asyncua.client.client import Client

from gateway.config import Mode
from gateway.data_acquisition.batch import AcquisitionCounters
from gateway.data_acquisition.polling import Polling
from gateway.data_acquisition.profiles import ServerProfile, budget
from gateway.data_acquisition.publishing import Item, Publishing
from gateway.data_acquisition.resolution import Discovery, FoundChannel, resolve
from gateway.data_acquisition.tags import WantedTags
from gateway.data_acquisition.watched import Watched
from models.records import AssetDescription, Results

log = structlog.get_logger()

_RETRY_FIRST_S, _RETRY_SOON_S, _RETRY_MOST_S = 1.0, 8.0, 60.0
_SOON_TRIES = 20  # a controller that boots takes minutes; until then it is looked for every few seconds
_VERIFY_S = 60.0


class Reconciler:
    """Makes what one server monitors equal to what is wanted of it.

    Args:
        client: The connected client.
        publishing: The session's subscriptions.
        polling: What is read instead.
        server_name: For messages.
        wanted: The truth.
        profile: What the server takes.
        watched: What is known of the tags; kept up to date.
        counters: Kept up to date.

    Attributes:
        lost: Handles of tags whose nodes are not there any more, to be looked for anew.
        unheard: Handles of tags that the server does not report though it should, to be asked for anew.
    """

    def __init__(
        self,
        client: Client,
        publishing: Publishing,
        polling: Polling,
        *,
        server_name: str,
        wanted: WantedTags,
        profile: ServerProfile,
        watched: Watched,
        counters: AcquisitionCounters,
    ) -> None:
        self._client = client
        self._polling = polling
        self.wanted = wanted
        self._publishing = publishing
        self._server_name = server_name
        self._profile = profile
        self._watched = watched
        self._counters = counters
        self.lost: set[int] = set()
        self.unheard: set[int] = set()
        self._missing: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._untimed: dict[str, None] = {}
        self._described: tuple[AssetDescription, ...] = ()
        self._tries = 0
        self._verified_at = asyncio.get_running_loop().time()

    def go_on(self, client: Client, polling: Polling) -> None:
        """Go on with the same session over another connection."""
        self._client, self._polling, self._tries = client, polling, 0
        self._update_polling()

    def wait_s(self) -> float:
        """Return how long until the next look: for what is missing, or at what the server monitors."""
        if not self._missing:
            return _VERIFY_S
        most = _RETRY_SOON_S if self._tries < _SOON_TRIES else _RETRY_MOST_S
        return random.uniform(0.8, 1.0) * min(_RETRY_FIRST_S * 1.5 ** min(self._tries, 20), most)  # noqa: S311 - no secret

    async def first(self) -> Results:
        """Find and watch everything that is wanted; return what the assets are."""
        return await self._watch(self.wanted)

    async def again(self) -> Results:
        """Look for what is missing, and ask the server what it monitors; return the assets that changed."""
        self._tries += 1
        lost, self.lost = self.lost, set()
        unheard, self.unheard = self.unheard - lost, set()
        await self._lose(lost)
        await self.rewatch(unheard)
        places = set(self._missing) | {place.rpartition("/")[0] for place in self._missing}
        now = asyncio.get_running_loop().time()
        if now - self._verified_at >= _VERIFY_S:
            self._verified_at = now
            await self._verify()
            places |= {folder.place for folder in self.wanted.folders}  # which may have more channels by now
        return await self._watch(self.wanted.only(places)) if places else Results()

    async def change(self, wanted: WantedTags) -> Results:
        """Make *wanted* the truth; only the tags that differ are touched."""
        before, self.wanted, self._tries = self.wanted, wanted, 0
        old, new = ({tag.stream: tag for tag in tags.tags} for tags in (before, wanted))
        folders = {folder.place for folder in wanted.folders}
        places = {tag.place for tag in wanted.tags if old.get(tag.stream) != tag}
        places |= {folder.place for folder in wanted.folders if folder not in before.folders}
        kept = folders | {tag.place for tag in wanted.tags}
        self._missing = {place: reason for place, reason in self._missing.items() if place in kept}
        streams = self._watched.streams
        active = np.flatnonzero(self._watched.active).tolist()
        await self._end([h for h in active if streams[h] not in new and streams[h].asset_id not in folders])
        return await self._watch(wanted.only(places))

    async def rewatch(self, handles: Collection[int]) -> None:
        """Ask the server anew for the tags *handles*, which it does not report though it should."""
        if not handles:
            return
        await self._publishing.unwatch(list(handles))
        await self._begin([self._watched.found[handle] for handle in handles])

    async def _lose(self, handles: Collection[int]) -> None:
        """Look for the tags *handles* anew: their nodes are not where they were."""
        for handle in handles:
            found = self._watched.found[handle]
            self._tries = 0
            self._tell_missing(
                "/".join(found.stream), f"node {found.node.to_string()} is not there any more; it is looked for again"
            )
        if handles:
            await self._end(handles)

    async def _watch(self, wanted: WantedTags) -> Results:
        """Find what of *wanted* is not watched as it should be, and have it reported."""
        discovery = await resolve(self._client, wanted, self._profile.limits)
        looked_for = {tag.place for tag in wanted.tags} | {folder.place for folder in wanted.folders}
        self._missing, self._notes = (
            {
                place: told
                for place, told in before.items()
                if place not in looked_for and place.rpartition("/")[0] not in looked_for
            }
            for before in (self._missing, self._notes)
        )
        for place, note in discovery.notes.items():
            log.warning("channel is not as configured", server=self._server_name, channel=place, reason=note)
            self._notes[place] = note.removeprefix(f"{place}: ")
        for place, reason in discovery.missing.items():
            self._tell_missing(place, reason)
        self._untimed |= dict.fromkeys("/".join(stream) for stream in discovery.untimed)
        await self._take(discovery)
        self._counters.untimed = tuple(self._untimed)
        self._counters.missing = dict(self._missing)
        granted = {"/".join(self._watched.streams[handle]): note for handle, note in self._publishing.notes.items()}
        self._counters.notes = granted | self._notes
        self._counters.streams = int(self._watched.active.sum())
        self._counters.budget = budget(self._profile, self._counters.streams + len(self._missing))
        return self._described_anew()

    async def _take(self, discovery: Discovery) -> None:
        """Have what was found reported: new tags are begun, others modified or left alone."""
        before = {found.stream: found for found in self._watched.found}
        begin, modify = [], []
        for found in discovery.found:
            handle = self._watched.handle(found.stream)
            known = before.get(found.stream)
            if handle is None or known is None or not self._watched.active[handle]:
                begin.append(found)
            elif (known.node, known.sampling.mode) != (found.node, found.sampling.mode):
                await self._end([handle])
                begin.append(found)
            elif known.sampling != found.sampling:
                modify.append(found)
        self._watched.add(discovery.found)
        await self._begin(begin)
        if refused := await self._publishing.modify(self._items(modify)):
            await self.rewatch(refused)
        self._update_polling()

    async def _begin(self, channels: Iterable[FoundChannel]) -> None:
        """Have the values of *channels* reported, or read."""
        items = self._items(channels)
        reported = [item for item in items if item.sampling.mode is Mode.SUBSCRIBE]
        refused = await self._publishing.watch(reported) if reported else {}
        now = asyncio.get_running_loop().time()
        self._watched.begin((item.handle for item in items if item.handle not in refused), now)
        self.refuse(refused)
        self._update_polling()

    async def _end(self, handles: Collection[int]) -> None:
        """Have nothing more reported of *handles*."""
        self._watched.end(handles)
        if reported := [h for h in handles if self._watched.found[h].sampling.mode is Mode.SUBSCRIBE]:
            await self._publishing.unwatch(reported)
        self._update_polling()

    async def _verify(self) -> None:
        """Compare with what the server itself says it monitors, and mend the difference."""
        monitored = await self._publishing.monitored()
        if monitored is None:
            return
        expected = {item.handle for item in self._active_items() if item.sampling.mode is Mode.SUBSCRIBE}
        if lost := expected - monitored:
            log.warning("server does not monitor what it said", server=self._server_name, tags=len(lost))
            self._counters.revived += len(lost)
            await self.rewatch(lost)
        if unwanted := monitored - expected:
            await self._publishing.unwatch(list(unwanted))

    def _items(self, channels: Iterable[FoundChannel]) -> list[Item]:
        handles = ((found, self._watched.handle(found.stream)) for found in channels)
        return [Item(handle=h, node=found.node, sampling=found.sampling) for found, h in handles if h is not None]

    def _active_items(self) -> list[Item]:
        return self._items(self._watched.found[handle] for handle in np.flatnonzero(self._watched.active).tolist())

    def _update_polling(self) -> None:
        self._polling.update([item for item in self._active_items() if item.sampling.mode is Mode.POLL])

    def refuse(self, refused: Mapping[int, str]) -> None:
        """Take note that the server *refused* tags, and why; they are tried again."""
        for handle, reason in refused.items():
            found = self._watched.found[handle]
            self._watched.end([handle])
            place = "/".join(found.stream)
            self._tell_missing(place, f"node {found.node.to_string()} {reason}; channel left out")

    def _tell_missing(self, place: str, reason: str) -> None:
        if self._missing.get(place) != reason:
            log.warning("channel left out", server=self._server_name, channel=place, reason=reason)
        self._missing[place] = reason
        self._counters.missing = dict(self._missing)

    def _described_anew(self) -> Results:
        """Return the assets as they are now, those that changed since they were told last."""
        found = tuple(self._watched.found[handle] for handle in np.flatnonzero(self._watched.active).tolist())
        now = Discovery(found=found, missing={}).descriptions(self.wanted.assets)
        changed = tuple(asset for asset in now if asset not in self._described)
        self._described = now
        return Results(assets=changed)
