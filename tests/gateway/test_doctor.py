from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.doctor import examine

CONFIG = """
gateway_id = "gw-1"
state_dir = "state"
[uplink]
cloud_url = "https://127.0.0.1:1"
ca_file = "gateway.pem"
certificate_file = "gateway.pem"
key_file = "gateway.pem"
"""


def certificate(*, valid_days: float) -> bytes:
    """Return a certificate that is valid so many days more."""
    key, now = Ed25519PrivateKey.generate(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw-1")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=valid_days))
        .sign(key, None)
    )
    return built.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(("days", "level"), [(300.0, "good"), (10.0, "warning"), (-1.0, "fault")])
async def test_a_certificate_is_told_before_it_expires(tmp_path: Path, days: float, level: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "gateway.toml").write_text(CONFIG)
    (tmp_path / "gateway.pem").write_bytes(certificate(valid_days=days))

    findings = await examine(tmp_path / "gateway.toml")

    assert {f.level for f in findings if f.subject == "certificate"} == {level}
    assert [f.level for f in findings if f.subject == "uplink"] == ["fault"]  # nobody listens there
    assert not any(f.subject == "state_dir" for f in findings)
