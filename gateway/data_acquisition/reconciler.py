"""The wanted tag list is the truth: what the server monitors is compared with it, until both are equal, and on.

A tag that is refused or not there is tried again for ever, at first soon and then seldom, and is listed with its reason
meanwhile. None stops another. What changes in the list changes at the server for those tags alone.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping

import numpy as np
import structlog
from asyncua.client.client import Client

from gateway.config import Mode
from gateway.data_acquisition.batch import AcquisitionCounters
from gateway.data_acquisition.polling import Polling
from gateway.data_acquisition.profiles import ServerProfile, budget
from gateway.data_acquisition.publishing import Item, Publishing
from gateway.data_acquisition.resolution import Discovery, FoundChannel, resolve
from gateway.data_acquisition.tags import Folder, WantedTags
from gateway.data_acquisition.watched import Watched
from models.records import AssetDescription, Results, Stream

log = structlog.get_logger()

_RETRY_FIRST_S, _RETRY_SOON_S, _RETRY_MOST_S = 1.0, 8.0, 60.0
_SOON_TRIES = 20  # a controller that boots takes minutes; until then it is looked for every few seconds
_VERIFY_S = 60.0

Members = MutableMapping[str, tuple[str, frozenset[Stream]]]


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
        drained: Waits until all values that have arrived are passed on.
        members: Of each folder, by its place, where it is and the channels found there; kept up to date, and handed
            from one session to the next, so that a channel that does not come back is told.

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
        drained: Callable[[], Awaitable[None]],
        members: Members | None = None,
    ) -> None:
        self._client = client
        self._polling = polling
        self.wanted = wanted
        self._publishing = publishing
        self._server_name = server_name
        self._profile = profile
        self._watched = watched
        self._counters = counters
        self._drained = drained
        self._members: Members = {} if members is None else members
        self.lost: set[int] = set()
        self.unheard: set[int] = set()
        self._missing: dict[str, str] = {}
        self._told: dict[str, str] = {}  # reasons that were logged, of what is missing still
        self._notes: dict[str, str] = {}
        self._undone: set[str] = set()  # places that were being looked at when the link was lost
        self._untimed: dict[str, None] = {}
        self._described: tuple[AssetDescription, ...] = ()
        self._clock = asyncio.get_running_loop().time
        self._tries = 0
        self._look_at = self._verified_at = self._clock()
        self._lost_at: dict[int, float] = {}

    def go_on(self, client: Client, polling: Polling) -> None:
        """Go on with the same session over another connection."""
        self._client, self._polling, self._tries = client, polling, 0
        self._look_at, self._verified_at = self._clock(), -math.inf
        polled = [item.handle for item in self._active_items() if item.sampling.mode is Mode.POLL]
        self._watched.ready[polled] = False  # nobody read them while there was no link
        self._update_polling()

    def wait_s(self) -> float:
        """Return how long until the next look: for what is missing, or at what the server monitors."""
        verify_at = self._verified_at + _VERIFY_S
        at = min(self._look_at, verify_at) if self._missing or self._undone else verify_at
        return max(0.0, at - self._clock())

    async def first(self) -> Results:
        """Find and watch everything that is wanted; return what the assets are."""
        results = await self._watch(self.wanted)
        self._look_later()
        return results

    async def again(self) -> Results:
        """Look for what is missing, and ask the server what it monitors; return the assets that changed."""
        places: set[str] = set()
        if self._clock() - self._verified_at >= _VERIFY_S:
            await self._verify()
            places |= {folder.place for folder in self.wanted.folders}  # which may have more channels by now
        await self._lose(self.lost)
        await self.rewatch(self.unheard)
        is_due = self._clock() >= self._look_at
        if is_due:
            self._tries += 1
            places |= {*self._missing, *self._undone} | {place.rpartition("/")[0] for place in self._missing}
        results = await self._watch(self.wanted.only(places)) if places else Results()
        if is_due:
            self._look_later()
        return results

    def _look_later(self) -> None:
        most = _RETRY_SOON_S if self._tries < _SOON_TRIES else _RETRY_MOST_S
        wait_s = min(_RETRY_FIRST_S * 1.5 ** min(self._tries, 20), most)
        self._look_at = self._clock() + random.uniform(0.8, 1.0) * wait_s  # noqa: S311 - no secret hangs on it

    async def change(self, wanted: WantedTags) -> Results:
        """Make *wanted* the truth; only the tags that differ are touched."""
        before, self.wanted, self._tries = self.wanted, wanted, 0
        old, new = ({tag.stream: tag for tag in tags.tags} for tags in (before, wanted))
        folders = {folder.place for folder in wanted.folders}
        kept = folders | {tag.place for tag in wanted.tags}
        self._missing, self._notes = (
            {place: why for place, why in told.items() if place in kept or place.rpartition("/")[0] in folders}
            for told in (self._missing, self._notes)
        )
        places = {tag.place for tag in wanted.tags if old.get(tag.stream) != tag}
        places |= {folder.place for folder in wanted.folders if folder not in before.folders}
        # A channel that had a tag of its own may be its folder's now.
        places |= {stream.asset_id for stream in old.keys() - new.keys()} & folders
        self._undone = (self._undone & kept) | places
        streams = self._watched.streams
        active = self._active()
        await self._end([h for h in active if streams[h] not in new and streams[h].asset_id not in folders])
        results = await self._watch(wanted.only(places))
        self._look_later()
        return results

    async def rewatch(self, handles: Collection[int]) -> None:
        """Ask the server anew for the tags *handles*, which it does not report though it should."""
        handles = tuple(handles)
        if asked := [handle for handle in handles if self._watched.active[handle]]:
            await self._publishing.unwatch(asked)
            await self._begin([self._watched.found[handle] for handle in asked])
        self.unheard.difference_update(handles)

    async def _lose(self, handles: Collection[int]) -> None:
        """Look for the tags *handles* anew: their nodes are not where they were.

        At once, unless one is lost again and again: then with the others that are missing.
        """
        now, handles = self._clock(), tuple(handles)
        gone = [handle for handle in handles if self._watched.active[handle]]
        for handle in gone:
            found = self._watched.found[handle]
            if now - self._lost_at.get(handle, -math.inf) > _RETRY_MOST_S:
                self._tries, self._look_at = 0, now
            self._lost_at[handle] = now
            self._tell_missing(
                "/".join(found.stream), f"node {found.node.to_string()} is not there any more; it is looked for again"
            )
        await self._end(gone)
        self.lost.difference_update(handles)

    async def _watch(self, wanted: WantedTags) -> Results:
        """Find what of *wanted* is not watched as it should be, and have it reported."""
        looked_for = {tag.place for tag in wanted.tags} | {folder.place for folder in wanted.folders}
        self._undone |= looked_for
        discovery = await resolve(self._client, wanted, self._profile.limits)
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
        for folder in wanted.folders:
            if folder.place not in discovery.missing:
                await self._compare(folder, discovery)
        self._check_budget(discovery)
        await self._take(discovery)
        self._undone -= looked_for
        self._untimed |= dict.fromkeys("/".join(stream) for stream in discovery.untimed)
        self._tell()
        return self._described_anew()

    async def _compare(self, folder: Folder, discovery: Discovery) -> None:
        """End the channels of *folder* that are not in it any more, and tell them, unless it is another folder now."""
        own = {tag.stream for tag in self.wanted.tags}
        here = {found.stream for found in discovery.found if found.stream.asset_id == folder.asset_id} - own
        path, before = self._members.get(folder.place, (folder.path, frozenset()))
        gone = before - here - own if path == folder.path else frozenset()
        for stream in gone:
            if "/".join(stream) not in discovery.missing:
                reason = f"no variable {stream.channel} with a unit in {folder.path} any more; it is looked for again"
                self._tell_missing("/".join(stream), reason)
        self._members[folder.place] = folder.path, frozenset(here | gone)
        streams = self._watched.streams
        active = self._active()
        await self._end([h for h in active if streams[h].asset_id == folder.asset_id and streams[h] not in here | own])

    def _check_budget(self, discovery: Discovery) -> None:
        """Say before the server is asked what of it is too much for it."""
        modes = {found.stream: found.sampling.mode for found in map(self._watched.found.__getitem__, self._active())}
        modes |= {found.stream: found.sampling.mode for found in discovery.found}
        modes |= {tag.stream: tag.sampling.mode for tag in self.wanted.tags}
        wanted = sum(mode is Mode.SUBSCRIBE for mode in modes.values())
        before, self._counters.budget = self._counters.budget, budget(self._profile, wanted)
        if self._counters.budget and self._counters.budget != before:
            log.warning("too much for the server", server=self._server_name, reason=self._counters.budget)

    def _tell(self) -> None:
        """Bring the counters up to date."""
        counters, watched = self._counters, self._watched
        active = set(watched.named(np.flatnonzero(watched.active)))
        self._untimed = {place: None for place in self._untimed if place in active}
        counters.untimed = tuple(self._untimed)
        counters.missing = dict(self._missing)
        self._told = {place: reason for place, reason in self._told.items() if place in self._missing}
        granted = {"/".join(watched.streams[handle]): note for handle, note in self._publishing.notes.items()}
        counters.notes = granted | self._notes
        counters.streams = len(active)

    async def _take(self, discovery: Discovery) -> None:
        """Have what was found reported: new tags are begun, others modified or left alone."""
        watched = self._watched
        begin, modify, same = [], [], []
        for found in discovery.found:
            handle = watched.handle(found.stream)
            known = watched.found[handle] if handle is not None else None
            if handle is None or known is None or not watched.active[handle]:
                begin.append(found)
            elif (known.node, known.sampling.mode) != (found.node, found.sampling.mode):
                await self._end([handle])
                begin.append(found)
            elif known.sampling != found.sampling:
                modify.append(found)
            else:
                same.append(found)
        handles = watched.add([*begin, *same])
        untimed = set(discovery.untimed)
        # Their time is the server's, of each read another.
        watched.by_value[[handle for handle in handles if watched.streams[handle] in untimed]] = True
        await self._begin(begin)
        if modify:
            refused = await self._publishing.modify(self._items(modify))
            watched.add(modify)  # not before: what a lost link leaves undone is seen to differ
            await self.rewatch(refused)
        self._update_polling()

    async def _begin(self, channels: Iterable[FoundChannel]) -> None:
        """Have the values of *channels* reported, or read."""
        items = self._items(channels)
        reported = [item for item in items if item.sampling.mode is Mode.SUBSCRIBE]
        if twice := [item.handle for item in reported if self._publishing.last_message_at(item.handle) is not None]:
            await self._publishing.unwatch(twice)
        # A value on its way from before is not the first of these.
        await self._drained()
        # Before the server is asked: the first values may come before its answer.
        self._watched.begin((item.handle for item in items), self._clock())
        if reported:
            try:
                self._refuse(await self._publishing.watch(reported))
            except BaseException:
                self._watched.end(item.handle for item in reported)
                raise
        self._update_polling()

    async def _end(self, handles: Collection[int]) -> None:
        """Have nothing more reported of *handles*."""
        if not handles:
            return
        self._watched.end(handles)
        self._update_polling()
        if reported := [h for h in handles if self._watched.found[h].sampling.mode is Mode.SUBSCRIBE]:
            await self._publishing.unwatch(reported)

    async def _verify(self) -> None:
        """Compare with what the server itself says it monitors, and mend the difference."""
        monitored = await self._publishing.monitored()
        self._verified_at = self._clock()
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

    def _active(self) -> list[int]:
        return np.flatnonzero(self._watched.active).tolist()

    def _active_items(self) -> list[Item]:
        return self._items(self._watched.found[handle] for handle in self._active())

    def _update_polling(self) -> None:
        self._polling.update([item for item in self._active_items() if item.sampling.mode is Mode.POLL])

    def refuse(self, refused: Mapping[int, str]) -> None:
        """Take note that the server has *refused* tags it had monitored, and why; they are tried again soon."""
        self._refuse({handle: reason for handle, reason in refused.items() if self._watched.active[handle]})
        self._tries = 0
        self._look_later()

    def _refuse(self, refused: Mapping[int, str]) -> None:
        for handle, reason in refused.items():
            found = self._watched.found[handle]
            self._tell_missing("/".join(found.stream), f"node {found.node.to_string()} {reason}; channel left out")
        self._watched.end(refused)

    def _tell_missing(self, place: str, reason: str) -> None:
        if self._told.get(place) != reason:
            log.warning("channel left out", server=self._server_name, channel=place, reason=reason)
        self._missing[place] = self._told[place] = reason
        self._counters.missing = dict(self._missing)

    def _described_anew(self) -> Results:
        """Return the assets as they are now, those that changed since they were told last."""
        found = tuple(self._watched.found[handle] for handle in self._active())
        now = Discovery(found=found, missing={}).descriptions(self.wanted.assets)
        changed = tuple(asset for asset in now if asset not in self._described)
        self._described = now
        return Results(assets=changed)
