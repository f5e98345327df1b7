"""The web listener with an access token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cloud_service.api import web_app
from cloud_service.store import Store

TOKEN = "a token of many characters"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Asks the application itself, without a listener."""
    store = Store(tmp_path / "cloud.sqlite")
    transport = httpx.ASGITransport(web_app(store, TOKEN))
    async with httpx.AsyncClient(transport=transport, base_url="http://plant.example") as client:
        yield client
    store.close()


@pytest.mark.parametrize("path", ["/", "/inbox", "/metrics", "/api/v1/advisories", "/api/v1/maintenance", "/nowhere"])
async def test_without_the_token_there_is_nothing(web: httpx.AsyncClient, path: str) -> None:
    """Missing, wrong, or of a form that cannot be: 401, with the browser's cue to ask for it."""
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic %%%"}, {"Authorization": "Basic"}):
        answer = await web.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")


async def test_the_token_opens_as_bearer_and_as_password(web: httpx.AsyncClient) -> None:
    """For programs and for browsers, whatever the host is called."""
    assert (await web.get("/inbox", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200
    assert (await web.get("/inbox", auth=("anyone", TOKEN))).status_code == 200


async def test_health_needs_no_token(web: httpx.AsyncClient) -> None:
    """A watchdog has no secrets; it learns no more than that the service answers."""
    assert (await web.get("/healthz")).status_code == 200
