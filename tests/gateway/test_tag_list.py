"""The tag list as people and spreadsheets write it."""

from __future__ import annotations

import math
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import tag_list
from gateway.errors import ConfigError
from gateway.tag_list import (
    COLUMNS,
    TagRow,
    format_tags,
    join_path,
    parse_node,
    parse_tags,
    problem_of,
    read_tags,
    split_path,
    write_tags,
)

texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40).filter(
    lambda t: t == t.strip()
)
names = st.text(min_size=1, max_size=20)
ends = st.tuples(st.floats(-1e12, 1e12), st.floats(0.001, 1e12)).map(lambda e: (e[0], e[0] + e[1]))


@st.composite
def rows(draw: st.DrawFn) -> TagRow:
    """Any row that is fine in itself."""
    low, high = draw(st.one_of(st.just((-math.inf, math.inf)), ends))
    by_node, by_path = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    return TagRow(
        server=draw(texts),
        asset_id=draw(texts),
        asset_class=draw(st.one_of(st.just(""), texts)),
        channel=draw(texts),
        node=f"nsu=urn:plant;s={draw(texts)}" if by_node else "",
        path=join_path(draw(st.lists(texts, min_size=1, max_size=4))).strip() if by_path else "",
        unit=draw(st.one_of(st.just(""), texts)),
        low=low,
        high=high,
        group=draw(st.one_of(st.just(""), texts)),
    )


@given(listed=st.lists(rows().filter(lambda row: not problem_of(row)), max_size=5))
def test_what_is_written_reads_back(listed: list[TagRow]) -> None:
    """A tag list survives the way to its file and back, to the last bit."""
    assert list(parse_tags(format_tags(listed), "tags.csv").values()) == listed


@given(path=st.lists(names, max_size=5))
def test_a_path_comes_apart_as_it_was_joined(path: list[str]) -> None:
    """Slashes and backslashes inside a name stay inside."""
    assert split_path(join_path(path)) == path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_spreadsheets_write_it_their_way(tmp_path: Path, delimiter: str, end: str, mark: str) -> None:
    """Delimiter, line end, byte order mark, order of columns, empty lines and decimal comma are as they come."""
    path = tmp_path / "tags.csv"
    header = ["channel", "Asset_ID", "server", "node", "low", "high"]
    row = ["flow", "pump-01", "cell-1", '"nsu=urn:plant;s=Flow"', '"-1,5"', "40"]
    lines = [delimiter.join(header), delimiter.join(row), delimiter * 5, ""]
    path.write_bytes((mark + end.join(lines)).encode())
    expected = TagRow(
        server="cell-1", asset_id="pump-01", channel="flow", node="nsu=urn:plant;s=Flow", low=-1.5, high=40.0
    )
    assert read_tags(path) == {2: expected}


def test_a_written_file_opens_in_a_spreadsheet(tmp_path: Path) -> None:
    """It begins with a byte order mark, and its lines end as spreadsheets end them."""
    row = TagRow(server="s", asset_id="a", channel="temperature_°C", path="M/T")
    write_tags(tmp_path / "tags.csv", [row])
    content = (tmp_path / "tags.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbfserver,asset_id,")
    assert content.endswith(b"\r\n")
    assert read_tags(tmp_path / "tags.csv") == {2: row}


HEADER = ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: column 'server' is missing"),
        ("server,asset_id,channel,nod\n", "line 1: unknown column 'nod'; known: server, asset_id"),
        ("server,server,asset_id,channel\n", "line 1: column 'server' is given twice"),
        (HEADER + "s,a,,c,nsu=urn:p;s=T,,,low,,\n", "line 2, column low: 'low' is no number"),
        (HEADER + "\ns,a,,c,nsu=urn:p;s=T,,,5,5,\n", "line 3, column high: the range 5 to 5"),
        (HEADER + "s,a,,c,nsu=urn:p;s=T,,,nan,,\n", "line 2, column high: the range nan"),
        (HEADER + ",a,,c,nsu=urn:p;s=T,,,,,\n", "line 2, column server: must not be empty"),
        (HEADER + "s,a,,c,,,,,,\n", "line 2, column node: a node, a path, or both are needed"),
        (HEADER + "s,a,,c,ns=2;s=T,M/T,,,,\n", "line 2, column node: 'ns=2;s=T' counts on a namespace index"),
        (HEADER + "s,a,,c,nsu=urn:p;s=T,//,,,,\n", "line 2, column path: '//' has no name in it"),
        (HEADER + "s,a,,c,ns=2;s=T,,,,,\n", "line 2, column node: 'ns=2;s=T' counts on a namespace index"),
        (HEADER + "s,a,,c,i=85,,,,,\n", "line 2, column node: 'i=85' counts on a namespace index"),
        (HEADER + "s,a,,c,T,,,,,\n", "line 2, column node: 'T' is no node id; write it as nsu="),
        (HEADER + "s,a,,c,nsu=urn:p;i=x,,,,,\n", "line 2, column node: 'nsu=urn:p;i=x': 'x' is no identifier"),
        (HEADER + "s,a,,c,,M\\T,,,,\n", "line 2, column path: 'M\\\\T': a backslash stands only before"),
        (HEADER + "s,a,,c,,//,,,,\n", "line 2, column path: '//' has no name in it"),
        (HEADER + "s,a,,c,nsu=urn:p;s=T,,,,,,more\n", "line 2: 11 cells under 10 columns"),
        (HEADER + f"s,a,,{'c' * 1025},nsu=urn:p;s=T,,,,,\n", "line 2, column channel: longer than 1024"),
        (HEADER + 's,a,,"c\nd",nsu=urn:p;s=T,,,,,\n', "line 2, column channel: 'c\\nd' has a control character"),
        (HEADER + 's,a,,"c" d,,,,,,\n', "line 2: "),
        (HEADER + 's,a,,"c\n', "line 2: "),
    ],
)
def test_what_cannot_be_used_is_told_with_line_and_column(text: str, told: str) -> None:
    """The message leads to the cell."""
    with pytest.raises(ConfigError) as refused:
        parse_tags(text, "tags.csv")
    assert str(refused.value).startswith("tags.csv, ")
    assert told in str(refused.value)


def test_a_file_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    """As a spreadsheet writes it that was not asked for UTF-8."""
    path = tmp_path / "tags.csv"
    path.write_bytes(f"{HEADER}s,a,,temperature_°C,nsu=urn:p;s=T,,,,,\n".encode("cp1252"))
    with pytest.raises(ConfigError, match=r"tags\.csv, line 2: not UTF-8; save it as 'CSV UTF-8'"):
        read_tags(path)


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large is not read into memory, and too many rows are refused."""
    listed = [TagRow(server="s", asset_id="a", channel=f"c{i}", path="M/T") for i in range(4)]
    write_tags(tmp_path / "tags.csv", listed)
    monkeypatch.setattr(tag_list, "ROWS_MOST", 3)
    with pytest.raises(ConfigError, match="line 5: more than 3 tags"):
        read_tags(tmp_path / "tags.csv")
    monkeypatch.setattr(tag_list, "BYTES_MOST", 1 << 20)
    (tmp_path / "large.csv").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_tags(tmp_path / "large.csv")


def test_the_example_of_the_reference_is_a_tag_list() -> None:
    """As it stands on the page, which names every column."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "tag-list.md").read_text()
    example = page.split("```csv\n")[1].split("```")[0]
    assert [row.channel for row in parse_tags(example, "example").values()] == ["flow_m3_h", "vibration_rms_mm_s"]
    assert [column for column in COLUMNS if f"`{column}`" not in page] == []


@pytest.mark.parametrize(
    ("node", "parts"),
    [
        ("nsu=urn:plant;s=T1", ("urn:plant", "T1")),
        ('nsu=http://siemens.com/x;s="DB 1"."a;b=c"', ("http://siemens.com/x", '"DB 1"."a;b=c"')),
        ("nsu=urn:a%3Bb%25;i=4294967295", ("urn:a;b%", 4294967295)),
        ("nsu=u;g=09087e75-8e5e-499b-954f-f2a9603db28a", ("u", UUID("09087e75-8e5e-499b-954f-f2a9603db28a"))),
        ("nsu=u;b=M/RbKBsRVkePCePcx24oRA==", ("u", bytes.fromhex("33f45b281b1156478f09e3dcc76e2844"))),
    ],
)
def test_a_node_id_of_every_kind_is_read(node: str, parts: tuple[str, object]) -> None:
    """Escapes of the URI are undone; the identifier is the whole rest."""
    assert parse_node(node) == parts


@pytest.mark.parametrize(
    "node", ["nsu=u;i=4294967296", "nsu=u;i=-1", "nsu=u;i=1_0", "nsu=u;g=1", "nsu=u;b=*", "nsu=;s=a"]
)
def test_an_identifier_that_is_none_is_refused(node: str) -> None:
    """A number beyond 32 bits, a broken GUID or base64, no namespace."""
    with pytest.raises(ValueError, match=node.replace("*", r"\*")):
        parse_node(node)
