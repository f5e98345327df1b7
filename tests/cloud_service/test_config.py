from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from cloud_service.config import SAMPLE, CloudConfig, load_config, read_access_token
from cloud_service.errors import ConfigError


def config_of(folder: Path, text: str) -> CloudConfig:
    path = folder / "cloud.toml"
    path.write_text(text)
    return load_config(path)


def test_the_sample_is_the_default(tmp_path: Path) -> None:
    """Every key of the sample, the commented ones too, is what holds without it; only the token has no default."""
    spelled_out = re.sub(r"^# (\w+ = )", r"\1", SAMPLE, flags=re.MULTILINE)
    spelled_out = re.sub(r"^access_token_file.*$", "", spelled_out, flags=re.MULTILINE)
    assert config_of(tmp_path, spelled_out) == config_of(tmp_path, "") == config_of(tmp_path, SAMPLE)
    keys = {field.name for part in CloudConfig().__struct_fields__ for field in fields(getattr(CloudConfig(), part))}
    assert keys <= set(re.findall(r"^(?:# )?(\w+) = ", SAMPLE, re.MULTILINE))


def fields(part: msgspec.Struct) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(part)


def test_an_unknown_key_is_refused_by_file_and_name(tmp_path: Path) -> None:
    """A mistyped key is no silent default."""
    with pytest.raises(ConfigError, match=r"cloud\.toml.*`adress`.*ingest"):
        config_of(tmp_path, '[ingest]\nadress = "127.0.0.1:1"\n')


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[ingest]\naddress = "8443"', "ingest.address"),
        ('[ingest]\naddress = "127.0.0.1:99999"', "ingest.address"),
        ("[ingest]\nsegment_limit_mib = 0", "segment_limit_mib"),
        ('[ingest]\nsegment_limit_mib = "big"', "ingest.segment_limit_mib"),
        ('[storage]\nfolder = ""', "storage.folder"),
        ("[ingest", "cloud.toml"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config_of(tmp_path, text)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Wherever the service is started from."""
    config = config_of(tmp_path, '[storage]\nfolder = "state"\n[web]\naccess_token_file = "web.token"\n')
    assert config.storage.lake == tmp_path / "state" / "lake"
    assert config.web.access_token_file == tmp_path / "web.token"


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "10.1.2.3:80", "[::]:8080", "plant.example:8080"])
def test_a_web_address_for_others_needs_a_token(tmp_path: Path, address: str) -> None:
    """The inbox does not become public by one changed line."""
    with pytest.raises(ConfigError, match="access_token_file"):
        config_of(tmp_path, f'[web]\naddress = "{address}"\n')
    with_token = config_of(tmp_path, f'[web]\naddress = "{address}"\naccess_token_file = "t"\n')
    assert not with_token.web_address.is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "localhost:0", "[::1]:8080"])
def test_a_loopback_address_needs_none(tmp_path: Path, address: str) -> None:
    assert config_of(tmp_path, f'[web]\naddress = "{address}"\n').web_address.is_loopback


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    """An empty file would let everybody in."""
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match="16 characters"):
        read_access_token(tmp_path / "token")
