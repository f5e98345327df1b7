"""What an InfluxDB 2 needs to be a gateway's historian, made as the configuration says: once, and changed with it.

One bucket for what the gateway writes, one more for each downsampling interval, a task that fills each of these, and
the names under which InfluxQL finds them. What is there already and right stays; what is not ours is never touched.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.config import DownsampleConfig, HistorianConfig
from gateway.errors import HistorianError
from gateway.historian.api import InfluxApi

_DAY_S = 86400
_LATE = {"m": "10s", "h": "2m", "d": "10m"}  # after the end of an interval, values are waited for
_FLUX = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$"})


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that setup looked at.

    Attributes:
        what: ``bucket``, ``task``, ``name`` (a DBRP mapping) or ``token``.
        name: Which.
        action: ``keep``, ``create``, ``change`` or ``remove``.
        detail: From what to what, and what that costs.
    """

    what: str
    name: str
    action: str
    detail: str = ""
    do: Callable[[], Awaitable[None]] | None = field(default=None, repr=False, compare=False)


async def set_up(config: HistorianConfig, setup_token: str, *, dry_run: bool = False) -> list[Step]:
    """Make the server as *config* says; return what was looked at, and done, or with *dry_run* would be done.

    Raises:
        HistorianError: If the server cannot be asked, says no, or has something else under a name that is needed; what
            was done before stays, and the next run goes on there.
    """
    async with InfluxApi(config.influxdb_url, setup_token) as api:
        plan = _Setup(config, api, await _organisation(config, api))
        steps: list[Step] = []
        for examine in (plan.buckets, plan.tasks, plan.names, plan.token):
            for step in await examine():
                if step.do is not None and not dry_run:
                    await step.do()
                steps.append(step)
        return steps


def bucket_name(config: HistorianConfig, downsample: DownsampleConfig) -> str:
    """Return the bucket in which the intervals of *downsample* are."""
    return f"{config.influxdb_bucket}_{downsample.every}"


async def _organisation(config: HistorianConfig, api: InfluxApi) -> str:
    found = (await api.call("GET", "/api/v2/orgs", query={"org": config.influxdb_org})).get("orgs") or []
    if not found:
        raise HistorianError(
            f"{config.influxdb_url}: has no organisation {config.influxdb_org!r}, or the token does not see it; "
            "nothing is set up"
        )
    return str(found[0]["id"])


class _Setup:
    """Examines one thing after the other; each depends on those before it."""

    def __init__(self, config: HistorianConfig, api: InfluxApi, org_id: str) -> None:
        self._config = config
        self._api = api
        self._org = {"orgID": org_id}
        self._ids: dict[str, str] = {}

    async def buckets(self) -> list[Step]:
        """Return what to do for the buckets."""
        config = self._config
        kept = {config.influxdb_bucket: config.retention_days}
        kept |= {bucket_name(config, downsample): downsample.retention_days for downsample in config.downsample}
        found = {b["name"]: b for b in await self._api.every("/api/v2/buckets", "buckets", self._org)}
        return [self._bucket(name, round(days * _DAY_S), found.get(name)) for name, days in kept.items()]

    def _bucket(self, name: str, kept_s: int, found: dict[str, Any] | None) -> Step:
        rules = [{"type": "expire", "everySeconds": kept_s}]  # 0 is for ever

        async def create() -> None:
            made = await self._api.call(
                "POST", "/api/v2/buckets", body={**self._org, "name": name, "retentionRules": rules}
            )
            self._ids[name] = made["id"]

        async def change() -> None:
            await self._api.call("PATCH", f"/api/v2/buckets/{self._ids[name]}", body={"retentionRules": rules})

        if found is None:
            return Step(what="bucket", name=name, action="create", detail=f"keeps {_span(kept_s)}", do=create)
        self._ids[name] = found["id"]
        before_s = sum(int(rule["everySeconds"]) for rule in found.get("retentionRules") or [])
        if before_s == kept_s:
            return Step(what="bucket", name=name, action="keep", detail=f"keeps {_span(kept_s)}")
        loses = "; what is older is deleted" if kept_s and (kept_s < before_s or not before_s) else ""
        detail = f"kept {_span(before_s)}, is to keep {_span(kept_s)}{loses}"
        return Step(what="bucket", name=name, action="change", detail=detail, do=change)

    async def tasks(self) -> list[Step]:
        """Return what to do for the downsampling tasks: those of ours that are not wanted any more go."""
        ours = {task["name"]: task for task in await self._our_tasks()}
        steps = []
        for downsample in self._config.downsample:
            name = f"{self._config.influxdb_bucket} every {downsample.every}"
            steps.append(self._task(name, flux_of(self._config, downsample, name), ours.pop(name, None)))
        return steps + [self._removal(task) for task in ours.values()]

    async def _our_tasks(self) -> list[dict[str, Any]]:
        found = await self._api.every("/api/v2/tasks", "tasks", self._org)
        return [task for task in found if task.get("description") == self._mark]

    @property
    def _mark(self) -> str:
        return f"Downsamples {self._config.influxdb_bucket}; made by `wearsight-gateway historian setup`."

    def _task(self, name: str, flux: str, found: dict[str, Any] | None) -> Step:
        async def create() -> None:
            body = {**self._org, "flux": flux, "description": self._mark, "status": "active"}
            await self._api.call("POST", "/api/v2/tasks", body=body)

        async def change() -> None:
            assert found is not None
            await self._api.call("PATCH", f"/api/v2/tasks/{found['id']}", body={"flux": flux, "status": "active"})

        if found is None:
            return Step(what="task", name=name, action="create", do=create)
        if found.get("flux", "").strip() == flux.strip() and found.get("status") == "active":
            return Step(what="task", name=name, action="keep")
        detail = "is stopped" if found.get("status") != "active" else "does something else"
        return Step(what="task", name=name, action="change", detail=detail, do=change)

    def _removal(self, task: dict[str, Any]) -> Step:
        async def remove() -> None:
            await self._api.call("DELETE", f"/api/v2/tasks/{task['id']}")

        detail = "its interval is not configured any more; its bucket stays"
        return Step(what="task", name=task["name"], action="remove", detail=detail, do=remove)

    async def names(self) -> list[Step]:
        """Return what to do for the names of InfluxQL: the bucket is a database, each interval a retention policy."""
        answer = await self._api.call("GET", "/api/v2/dbrps", query=self._org)
        database = self._config.influxdb_bucket
        found = {
            str(mapping["retention_policy"]): mapping
            for mapping in answer.get("content") or []
            if mapping["database"] == database and not mapping.get("virtual")
        }
        wanted = {"autogen": database, **{d.every: bucket_name(self._config, d) for d in self._config.downsample}}
        return [self._name(policy, bucket, found.get(policy)) for policy, bucket in wanted.items()]

    def _name(self, policy: str, bucket: str, found: dict[str, Any] | None) -> Step:
        database = self._config.influxdb_bucket
        name = f"{database}.{policy}"

        async def create() -> None:
            body = {
                **self._org,
                "bucketID": self._ids[bucket],
                "database": database,
                "retention_policy": policy,
                "default": policy == "autogen",
            }
            await self._api.call("POST", "/api/v2/dbrps", body=body)

        if found is None:
            return Step(what="name", name=name, action="create", detail=f"of bucket {bucket}", do=create)
        if found["bucketID"] != self._ids.get(bucket):
            raise HistorianError(
                f"{self._config.influxdb_url}: the InfluxQL name {name} belongs to another bucket "
                f"({found['bucketID']}); it is left alone, rename historian.influxdb_bucket or remove the mapping"
            )
        return Step(what="name", name=name, action="keep", detail=f"of bucket {bucket}")

    async def token(self) -> list[Step]:
        """Return what to do for the gateway's own token: a file that is there stays."""
        path = self._config.influxdb_token_file
        if path.exists():
            return [Step(what="token", name=str(path), action="keep")]

        async def create() -> None:
            buckets = [self._config.influxdb_bucket, *(bucket_name(self._config, d) for d in self._config.downsample)]
            permissions = [
                {"action": action, "resource": {"type": "buckets", "id": self._ids[bucket], **self._org}}
                for bucket in buckets
                for action in ("read", "write")[: 2 if bucket == buckets[0] else 1]
            ]
            made = await self._api.call(
                "POST",
                "/api/v2/authorizations",
                body={**self._org, "description": f"Wearsight gateway, {buckets[0]}", "permissions": permissions},
            )
            _write_secret(path, made["token"])

        detail = "may write this bucket, and read it and its intervals; nothing else"
        return [Step(what="token", name=str(path), action="create", detail=detail, do=create)]


def flux_of(config: HistorianConfig, downsample: DownsampleConfig, name: str) -> str:
    """Return the task that fills the bucket of *downsample*: each run computes the last two whole intervals anew."""
    every, unit = downsample.every, downsample.every[-1]
    back = f"{2 * int(every[:-1])}{unit}"
    source, target = _quoted(config.influxdb_bucket), _quoted(bucket_name(config, downsample))
    aggregates = "\n\n".join(
        "values\n"
        f'    |> aggregateWindow(every: {every}, fn: {function}, createEmpty: false, timeSrc: "_start")\n'
        f'    |> set(key: "_field", value: "{function}")\n'
        f"    |> to(bucket: {target}, org: {_quoted(config.influxdb_org)})"
        for function in ("mean", "min", "max", "count")
    )
    return (
        'import "date"\n\n'
        f"option task = {{name: {_quoted(name)}, every: {every}, offset: {_LATE[unit]}}}\n\n"
        f"stop = date.truncate(t: now(), unit: {every})\n"
        f"values =\n    from(bucket: {source})\n"
        f"        |> range(start: date.sub(d: {back}, from: stop), stop: stop)\n"
        '        |> filter(fn: (r) => r._measurement == "observation")\n'
        '        |> filter(fn: (r) => r._field == "value" or r._field == "rms")\n\n'
        f"{aggregates}\n"
    )


def _write_secret(path: os.PathLike[str], secret: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secret + "\n")


def _span(seconds: int) -> str:
    return f"{seconds / _DAY_S:g} days" if seconds else "for ever"


def _quoted(text: str) -> str:
    return f'"{text.translate(_FLUX)}"'
