"""A replay gives what the gateway gave, from any position, and stores nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.journal_commands.reading import Lost, Stretch, read_pages
from gateway.journal_commands.view import JournalView
from gateway.replay.monitoring import Replayed, replay
from gateway.testing import MINUTE_NS, START_NS
from models.records import Results, Zone, from_ns, to_ns
from tests.gateway.replay.conftest import Site

HOUR_NS = 60 * MINUTE_NS


def replayed(site: Site, stretch: Stretch) -> Replayed:
    """Return what a replay of *stretch* with the live bundle gives."""
    with JournalView(site.state_dir) as view:
        return replay(view, stretch, site.blocks())


def stored_windows(site: Site) -> int:
    """Return how many states are stored."""
    with JournalView(site.state_dir) as view:
        parts = list(read_pages(view, Stretch()))
    contents = [page.content for part in parts if not isinstance(part, Lost) for page in part]
    return sum(len(content.states) for content in contents if isinstance(content, Results))


def test_all_of_it_gives_all_of_it_again(site: Site) -> None:
    """Every window in its zone, every advisory, nothing more and nothing less."""
    found = replayed(site, Stretch())

    assert found.same == stored_windows(site) > 50
    assert (found.different, found.only_replayed, found.only_stored) == ((), 0, 0)
    assert found.zones == found.stored_zones
    assert found.zones[Zone.ALARM] > 0
    assert found.advisories == found.stored_advisories != ()


@pytest.mark.parametrize("by", ["seq", "time"])
def test_from_the_middle_windows_know_their_past(site: Site, by: str) -> None:
    """Windows whose rows lie in pages before the position, in segments too, come out as they were."""
    stretch = Stretch(first_seq=12) if by == "seq" else Stretch(start_ns=START_NS + 30 * HOUR_NS)
    found = replayed(site, stretch)

    assert found.same > 20
    assert (found.different, found.only_stored) == ((), 0)


def test_up_to_a_position_the_results_beyond_it_are_compared_too(site: Site) -> None:
    """What was stored of a window stands after its rows; it is found there."""
    found = replayed(site, Stretch(last_seq=15))

    assert 0 < found.same < stored_windows(site)
    assert (found.different, found.only_replayed, found.only_stored) == ((), 0, 0)


def call(site: Site, *words: str) -> Result:
    """Run ``wearsight-gateway replay`` with *words*."""
    return CliRunner().invoke(main, ["replay", *words, "--config", str(site.config_file)])


def test_another_bundle_is_compared_with_what_is_stored(site: Site) -> None:
    """One that warns of nothing differs in the windows that were no longer normal; the live one stays live."""
    answer = call(site, "--bundle", str(site.blind), "--json")
    data = json.loads(answer.stdout)

    assert answer.exit_code == 0
    assert data["bundles"] == {"test_machine": 2}
    assert len(data["different"]) == data["stored_zones"]["warning"] + data["stored_zones"]["alarm"] > 0
    assert {one["replayed"] for one in data["different"]} == {"normal"}
    assert data["advisories"] == []
    assert json.loads(call(site, "--json").stdout)["bundles"] == {"test_machine": 1}


def test_what_comes_out_can_be_kept_as_json_lines(site: Site, tmp_path: Path) -> None:
    """Each record with the page after which it came."""
    path = tmp_path / "results.jsonl"
    answer = call(site, "-o", str(path))
    records = [json.loads(line) for line in path.read_text().splitlines()]

    assert answer.exit_code == 0
    assert "0 in another" in answer.output
    assert sum(record["record"] == "states" for record in records) == stored_windows(site)
    assert {"advisories", "health"} <= {record["record"] for record in records}


def test_nothing_is_stored(site: Site) -> None:
    """The folder is byte for byte what it was."""
    before = {path: path.read_bytes() for path in site.state_dir.rglob("*") if path.is_file()}
    assert call(site).exit_code == 0
    assert {path: path.read_bytes() for path in site.state_dir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--into", "historian"], "has no [historian]"),
        (["--into", "historian", "-o", "x"], "go with --into results"),
        (["--from", "soon"], "neither a seq"),
        (["--bundle", "{key}"], "refused"),
    ],
    ids=["no historian", "output", "place", "bundle"],
)
def test_what_cannot_be_done_is_said(site: Site, words: list[str], said: str) -> None:
    """In a sentence, with an exit code other than 0."""
    answer = call(site, *[word.format(key=site.folder / "signing.pub") for word in words])
    assert answer.exit_code in (1, 2)
    assert isinstance(answer.exception, SystemExit)
    assert said in answer.output


def test_times_are_utc_where_they_name_no_offset(site: Site) -> None:
    """The same moment said in two ways."""
    moment = from_ns(START_NS + 30 * HOUR_NS)
    there = (moment + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
    here = moment.replace(tzinfo=None).isoformat()
    answers = [json.loads(call(site, "--from", said, "--json").stdout) for said in (here, there)]
    assert answers[0] == answers[1]
    assert to_ns(moment) == START_NS + 30 * HOUR_NS
