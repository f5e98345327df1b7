"""Publishing through grafana-api, against a server that holds to Grafana's HTTP contract for what we call."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dashboards.publish import GrafanaConfig, PublishError, load_config, publish

TOKEN = "glsa_test"
SAVE_KEYS = {"dashboard", "folderUid", "message", "overwrite", "folderId", "isFolder", "userId"}


class Grafana:
    """Keeps folders and dashboards as Grafana does, and answers 4xx where it would."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, Any]] = {}
        self.boards: dict[str, dict[str, Any]] = {}
        self.writes = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self, None)

            def do_POST(self) -> None:
                outer.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: Any) -> None:
        status, content = self._reply(request, body)
        data = json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _reply(self, request: BaseHTTPRequestHandler, body: Any) -> tuple[int, dict[str, Any]]:
        if request.headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        match request.command, request.path.removeprefix("/api").split("/")[1:]:
            case "GET", ["folders", uid]:
                return (200, self.folders[uid]) if uid in self.folders else (404, {"message": "folder not found"})
            case "POST", ["folders"]:
                self.writes += 1
                self.folders[body["uid"]] = {"uid": body["uid"], "title": body["title"]}
                return 200, self.folders[body["uid"]]
            case "GET", ["dashboards", "uid", uid]:
                return (
                    (200, {"dashboard": self.boards[uid], "meta": {}})
                    if uid in self.boards
                    else (404, {"message": "?"})
                )
            case "POST", ["dashboards", "db"]:
                return self._save(body)
            case _:
                return 404, {"message": f"no such path {request.path}"}

    def _save(self, body: Any) -> tuple[int, dict[str, Any]]:
        if not set(body) <= SAVE_KEYS or not isinstance(body["dashboard"].get("title"), str):
            return 400, {"message": "bad request data"}
        if body["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        uid = body["dashboard"]["uid"]
        if uid in self.boards and not body.get("overwrite"):
            return 412, {"message": "version-mismatch"}
        self.writes += 1
        version = self.boards.get(uid, {}).get("version", 0) + 1
        self.boards[uid] = {**body["dashboard"], "id": len(self.boards) + 1, "version": version}
        return 200, {"uid": uid, "status": "success", "version": version}


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    """A Grafana of the test's own."""
    server = Grafana()
    yield server
    server.close()


def _config(folder: Path, url: str, token: str = TOKEN) -> GrafanaConfig:
    (folder / "token").write_text(token + "\n")
    path = folder / "grafana.toml"
    path.write_text(f'url = "{url}"\ntoken_file = "token"\n')
    return load_config(path)


def test_publishing_twice_changes_nothing(grafana: Grafana, tmp_path: Path) -> None:
    """The second run finds every board as it should be."""
    config = _config(tmp_path, grafana.url)
    assert {p.outcome for p in publish(config)} == {"created"}
    writes = grafana.writes
    assert {p.outcome for p in publish(config)} == {"unchanged"}

    assert grafana.writes == writes == 3


def test_a_board_changed_by_hand_is_put_right(grafana: Grafana, tmp_path: Path) -> None:
    """What somebody clicked together on a generated board is replaced."""
    config = _config(tmp_path, grafana.url)
    publish(config)
    grafana.boards["wearsight-fleet"]["title"] = "mine"

    assert [p.outcome for p in publish(config)] == ["updated", "unchanged"]
    assert grafana.boards["wearsight-fleet"]["title"] == "Wearsight: fleet"


def test_a_dry_run_writes_nothing(grafana: Grafana, tmp_path: Path) -> None:
    """It says what would be created."""
    assert {p.outcome for p in publish(_config(tmp_path, grafana.url), dry_run=True)} == {"created"}
    assert grafana.writes == 0


def test_a_wrong_token_is_told(grafana: Grafana, tmp_path: Path) -> None:
    """The message says where, why, and that nothing was published."""
    with pytest.raises(PublishError, match="Unauthorized; published before that: nothing"):
        publish(_config(tmp_path, grafana.url, "wrong"))


@pytest.mark.parametrize("line", ['urll = "http://x"', 'url = "ftp://x"'])
def test_a_bad_configuration_is_told(tmp_path: Path, line: str) -> None:
    """Unknown keys and addresses that are none are refused before anything is sent."""
    path = tmp_path / "grafana.toml"
    path.write_text(f'{line}\ntoken_file = "token"\n')
    with pytest.raises(PublishError, match="nothing is published"):
        load_config(path)
