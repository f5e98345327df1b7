"""Which gateways belong to the fleet, and whether a certificate still entitles to be one."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from cloud_service.errors import EnrollmentError, NotEntitled
from cloud_service.pki import Identity
from cloud_service.store import GatewayRow


def enroll(session: Session, identity: Identity) -> None:
    """Let *identity* in from now on; an older certificate of the same gateway is out."""
    row = session.get(GatewayRow, identity.gateway_id)
    if row is None:
        row = GatewayRow(gateway_id=identity.gateway_id)
        session.add(row)
    row.certificate_sha256 = identity.certificate_sha256
    row.enrolled_at = datetime.now(UTC)
    row.revoked_at = None


def revoke(session: Session, gateway_id: str) -> None:
    """Keep *gateway_id* out from its next request on. What it sent stays."""
    row = session.get(GatewayRow, gateway_id)
    if row is None:
        raise EnrollmentError(f"gateway {gateway_id} was never enrolled; nothing is revoked")
    row.revoked_at = row.revoked_at or datetime.now(UTC)


def check_entitled(session: Session, identity: Identity) -> None:
    """Raise NotEntitled unless *identity* is enrolled, not revoked, and its certificate the newest."""
    row = session.get(GatewayRow, identity.gateway_id)
    if row is None:
        raise NotEntitled(f"gateway {identity.gateway_id} is not enrolled; nothing is stored")
    if row.revoked_at is not None:
        raise NotEntitled(
            f"gateway {identity.gateway_id} was revoked at {row.revoked_at:%Y-%m-%d %H:%M}Z; nothing is stored"
        )
    if row.certificate_sha256 != identity.certificate_sha256:
        raise NotEntitled(f"gateway {identity.gateway_id} has a newer certificate than this one; nothing is stored")
