"""A gateway of a few lines for tests of the rollout: it takes and refuses bundles, and says what their models see.

As a program it obeys ``bundle install`` and ``bundle rollback``; as a server it answers ``/health`` from the same file.
A bundle is a JSON file: its version, the share of windows it alarms on, and whether it is broken. The demo runs the
same playbook against real gateways.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

ASSET_CLASS = "centrifugal_pump"
WINDOWS = 100


def health(folder: Path) -> dict[str, Any]:
    """Return what a gateway with this folder says of itself."""
    live: dict[str, Any] = json.loads((folder / "live.json").read_text())
    alarms = int(WINDOWS * live["alarms"])
    states = {"normal": WINDOWS - alarms, "alarm": alarms}
    return {"gateway_id": folder.name, "bundles": {ASSET_CLASS: {"version": live["version"], "states": states}}}


class HealthHandler(BaseHTTPRequestHandler):
    """Answers ``/NAME/health`` for the gateway in the server's folder of that name."""

    folder: Path

    def do_GET(self) -> None:
        """Answer with the gateway's health."""
        body = json.dumps(health(self.folder / self.path.split("/")[1])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Obey one command: ``bundle install ARCHIVE --config F --json`` or ``bundle rollback CLASS --config F``."""
    _, command, subject, _, config, *_ = sys.argv[1:]
    live, previous = (Path(config).parent / name for name in ("live.json", "previous.json"))
    if command == "rollback":
        previous.replace(live)
        return
    bundle = json.loads(Path(subject).read_text())
    cause = "DigestMismatch" if bundle.get("broken") else ""
    if not cause and bundle["version"] <= json.loads(live.read_text())["version"]:
        cause = "VersionNotNewer"
    if cause:
        sys.stdout.write(json.dumps({"installed": False, "cause": cause, "reason": f"{subject}: {cause}"}))
        sys.exit(3)
    previous.write_text(live.read_text())
    live.write_text(json.dumps(bundle))
    sys.stdout.write(json.dumps({"installed": True}))


if __name__ == "__main__":
    main()
