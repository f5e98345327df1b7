"""A real browser reads the inbox of a real cloud that real segments reached."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_service.testing import CloudProcess
from models.records import Results
from tests.cloud_service.conftest import Gateway, make_advisory, make_page

pytestmark = [pytest.mark.integration, pytest.mark.browser]

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """A cloud with two open advisories, one from a gateway that means no good."""
    with CloudProcess(tmp_path_factory.mktemp("cloud")) as running:
        hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
        advisories = (make_advisory(), replace(make_advisory(), advisory_id="hostile", asset_id=hostile))
        pages = [make_page("gw-1", 1), make_page("gw-1", 2, Results(advisories=advisories))]
        assert Gateway(running, "gw-1").put_pages(pages)[0] == 200
        yield running


def browse(tmp_path: Path, *options: str) -> bytes:
    """Run the browser once and return what it prints."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    command = [
        *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}", *options),
    ]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def test_the_inbox_shows_the_advisory(cloud: CloudProcess, tmp_path: Path) -> None:
    """As a browser has it after parsing; the hostile name is text there, and nothing of it ran."""
    page = browse(tmp_path, "--dump-dom", f"{cloud.web_url}/inbox").decode()
    assert "<h2>pump-01: bearing outer race</h2>" in page
    assert "Replace the drive-end bearing." in page
    assert "<title>2 open · Wearsight</title>" in page
    assert "owned</title>" not in page
    assert "<img" not in page


def test_the_inbox_can_be_looked_at(cloud: CloudProcess, tmp_path: Path) -> None:
    """In light and in dark: two pictures that are not the same."""
    pictures = []
    for scheme in (1, 0):  # Blink's numbers: dark is 0
        path = tmp_path / f"inbox-{scheme}.png"
        look = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1180,1200", f"--screenshot={path}"]
        browse(tmp_path, *look, f"{cloud.web_url}/inbox")
        pictures.append(path.read_bytes())
    assert all(picture.startswith(PNG) for picture in pictures)
    assert pictures[0] != pictures[1]
