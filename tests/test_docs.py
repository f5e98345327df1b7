"""The documentation points at things that exist, and everything that must be findable is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
_PATH = re.compile(
    r"`((?:gateway|cloud_service|models|dashboards|ansible|demo|tests|benchmarks|scripts|docs)/[\w./-]*)`"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_lead_somewhere(page: Path) -> None:
    """Every relative link and every path of the tree that a page names exists."""
    text = page.read_text()
    links = [link for link in _LINK.findall(text) if "://" not in link]
    lost = [link for link in links if not (page.parent / link).exists()]
    lost += [path for path in _PATH.findall(text) if not (ROOT / path).exists()]

    assert lost == []


def test_every_decision_is_in_the_index() -> None:
    """A decision that cannot be found was not taken."""
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    decisions = [path.name for path in (ROOT / "docs" / "adr").glob("0*.md")]

    assert decisions
    assert [name for name in decisions if f"]({name})" not in index] == []


def test_every_page_is_reachable_from_the_readme() -> None:
    """A newcomer gets to every page by links alone."""
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = [(page.parent / link).resolve() for link in _LINK.findall(page.read_text()) if "://" not in link]
        waiting += [t for t in targets if t.suffix == ".md" and t.exists() and t not in reached]

    assert [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md") if page not in reached] == []
