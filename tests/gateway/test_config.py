from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.config import (
    SAMPLE,
    AcquisitionConfig,
    AssetClassConfig,
    GatewayConfig,
    GroupConfig,
    HistorianConfig,
    Mode,
    Sampling,
    Security,
    read_secret,
    standing_warnings,
)
from gateway.config_file import check_config, load_config, missing_files
from gateway.errors import ConfigError
from gateway.tag_list import TagRow, format_tags


@pytest.fixture
def sample() -> str:
    return SAMPLE.read_text()


HISTORIAN = """[historian]
influxdb_url = "http://127.0.0.1:8086"
influxdb_org = "o"
influxdb_bucket = "b"
influxdb_token_file = "t"
"""
TAG = '[[tag]]\nserver = "cell-1"\nasset_id = "pump-01"\nchannel = "flow"\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    return path


def uncommented(text: str) -> str:
    return re.sub(r"(?m)^# ?(?!#)", "", text)


def plain(full: GatewayConfig) -> GatewayConfig:
    """Return *full* without what is an example in the sample, and not a default."""
    assert full.acquisition.group["fast"].publishing_interval_ms == 50.0
    assert full.tag[0] == TagRow(
        server="cell-1", asset_id="pump-01", asset_class="centrifugal_pump", channel="flow_m3_h",
        node="nsu=urn:plant:cell-1;s=Pump1.Flow",
    )  # fmt: skip
    assert full.asset_class["centrifugal_pump"].group == "fast"
    assert full.asset[0].in_service_since == datetime(2026, 3, 2, 6, tzinfo=UTC)
    return msgspec.structs.replace(
        full,
        tags_file=None,
        asset=(msgspec.structs.replace(full.asset[0], in_service_since=None),),
        acquisition=msgspec.structs.replace(full.acquisition, group={}),
        asset_class={"centrifugal_pump": AssetClassConfig()},
        tag=(),
        historian=None,
        uplink=None,
        bundles=None,
    )


def test_a_life_that_began_at_no_certain_moment_is_refused(tmp_path: Path, sample: str) -> None:
    """A time without zone could be hours off; the message names the key."""
    text = sample.replace("# in_service_since = 2026-03-02T06:00:00Z", "in_service_since = 2026-03-02T06:00:00")
    with pytest.raises(ConfigError, match="in_service_since"):
        load_config(written(tmp_path, text))


def test_the_sample_loads(tmp_path: Path, sample: str) -> None:
    """The sample as it stands is a configuration; its paths become absolute."""
    config = load_config(written(tmp_path, sample))
    assert config.state_dir == tmp_path / "state"
    assert config.server[0].password_file == tmp_path / "secrets" / "cell-1.password"
    assert config.server[0].security is Security.SIGN_AND_ENCRYPT
    assert config.assets_of("cell-1") == config.asset
    assert config.historian is None
    assert config.uplink is None


def test_commented_values_of_the_sample_are_the_defaults(tmp_path: Path, sample: str) -> None:
    """What the sample comments out changes nothing when it is put in."""
    config = load_config(written(tmp_path, sample))
    full = load_config(written(tmp_path, uncommented(sample)))
    assert plain(full) == config
    assert full.uplink is not None
    defaults: dict[str, Any] = {
        field.name: field.default for field in msgspec.structs.fields(type(full.uplink)) if not field.required
    }
    assert full.historian is not None
    historian = {field.name: field.default for field in msgspec.structs.fields(HistorianConfig) if not field.required}
    assert {name: getattr(full.historian, name) for name in historian} == historian
    examples = {"proxy_url", "proxy_user", "proxy_password_file"}
    assert {name: getattr(full.uplink, name) for name in defaults if name not in examples} == {
        name: value for name, value in defaults.items() if name not in examples
    }


def test_the_sample_names_every_key(sample: str) -> None:
    """A key that exists stands in the sample."""
    tables = tomllib.loads(uncommented(sample))

    def keys(struct: Any, table: dict[str, Any]) -> None:
        assert set(table) == {field.name for field in msgspec.structs.fields(struct)}

    keys(GatewayConfig, tables)
    config = msgspec.convert(tables, GatewayConfig, dec_hook=lambda kind, value: kind(value))
    for name in ("status", "acquisition", "journal", "historian", "uplink", "bundles"):
        keys(getattr(config, name), tables[name])
    own = {"backfill_limit_h", "group"}  # the rest may stand in a group, as the sample says
    assert set(GroupConfig.__struct_fields__) == set(AcquisitionConfig.__struct_fields__) - own
    keys(config.tag[0], tables["tag"][0])
    keys(config.server[0], tables["server"][0])
    keys(config.asset[0], tables["asset"][0])
    keys(config.asset_class["centrifugal_pump"], tables["asset_class"]["centrifugal_pump"])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('gateway_id = "gw-1"', 'gateway_id = "gw-1"\ngatway = 1', "unknown key `gatway`"),
        ("[acquisition]", "[acquisition]\nqueue = 3", "unknown key `acquisition.queue`"),
        ('user = "gateway"', 'usr = "gateway"', "server[0].usr"),
        ("# queue_size = 1000", 'queue_size = "many"', "acquisition.queue_size"),
        ("# queue_size = 1000", "queue_size = 0", "acquisition.queue_size"),
        ("# publishing_interval_ms = 250.0", "publishing_interval_ms = nan", "acquisition.publishing_interval_ms"),
        ('server = "cell-1"', 'server = "cell-2"', "asset[0].server 'cell-2' (pump-01)"),
        ('asset_class = "centrifugal_pump"', 'asset_class = "pomp"', "asset[0].asset_class 'pomp' (pump-01)"),
        ("opc.tcp://", "http://", "server[0].endpoint"),
        ("opc.tcp://127.0.0.1:4841", "opc.tcp://[::1:4841", "server[0].endpoint"),
        ("opc.tcp://127.0.0.1:4841", "opc.tcp://plc:port", "server[0].endpoint"),
        ("opc.tcp://127.0.0.1:4841", "opc.tcp://", "server[0].endpoint"),
        (
            "[asset_class.centrifugal_pump]",
            '[asset_class."pump.v2"]\n[asset_class.centrifugal_pump]',
            "asset_class.pump.v2",
        ),
        ('user = "gateway"', "", "server[0]: user and password_file"),
        ("# [historian]", HISTORIAN + "retention_days = 0.01", "historian.retention_days"),
        ("# [historian]", HISTORIAN + 'downsample = [{ every = "1w", retention_days = 1.0 }]', "downsample[0].every"),
        ("# [historian]", HISTORIAN.replace("http:", "ftp:"), "historian.influxdb_url"),
        ("# commit_interval_ms = 50.0", "commit_interval_ms = 300.0", "journal.commit_interval_ms"),
        ("# max_size_mib = 0", "max_size_mib = -1", "journal.max_size_mib"),
        ("# channel_upload = { vibration", 'channel_upload = { x = "all" } # ', "channel_upload"),
        ('gateway_id = "gw-1"', 'gateway_id = "../gw"', "gateway_id '../gw'"),
        ("# channels = []", 'channels = ["a", "a"]', "asset_class.centrifugal_pump.channels 'a'"),
        ('# address = "127.0.0.1:9101"', 'address = "9101"', "status.address '9101'"),
        ('# security = "Basic256Sha256-SignAndEncrypt"', 'security = "none"', "server[0].security"),
        ('# mode = "subscribe"', 'mode = "polled"', "acquisition.mode"),
        ('# mode = "subscribe"', 'mode = "poll"', "acquisition.sampling_interval_ms must be above 0 with mode = poll"),
        ("# queue_size = 1000", "queue_size = 1000001", "acquisition.queue_size is 1000001; at most 1000000"),
        ('# discard = "oldest"', 'discard = "all"', "acquisition.discard"),
        ("# silence_s = 30.0", "silence_s = 0", "acquisition.silence_s is 0"),
        ("# heartbeat_s = 0.0", "heartbeat_s = -1", "acquisition.heartbeat_s is -1"),
        ('# deadband = "none"', 'deadband = "absolute"', "acquisition.deadband = absolute and"),
        ("# deadband_value = 0.0", "deadband_value = 1", "acquisition.deadband_value = 1 do not go together"),
        ("# deadband_value = 0.0", 'deadband = "percent"\ndeadband_value = 101', "at most 100 percent"),
        (
            "# sampling_interval_ms = 0.0",
            'mode = "poll"\nsampling_interval_ms = 1\ndeadband = "absolute"\ndeadband_value = 1',
            "acquisition.deadband must be none with mode = poll",
        ),
        (
            "# [acquisition.group.fast]",
            '[acquisition.group.fast]\nmode = "poll"',
            "acquisition.group.fast.sampling_inter",
        ),
        (
            "# [acquisition.group.fast]",
            "[acquisition.group.fast]\nqueue_size = 0",
            "acquisition.group.fast.queue_size is 0",
        ),
        ("# [acquisition.group.fast]", "[acquisition.group.fast]\nspeed = 1", "acquisition.group[...].speed"),
        ("# [acquisition.group.fast]", '[acquisition.group."a b"]', "acquisition.group.'a b' must be"),
        ("# channels = []", 'group = "fats"', "asset_class.centrifugal_pump.group 'fats' is no group; known: []"),
        ("# channels = []", 'channel_group = { flow = "x" }', "asset_class.centrifugal_pump.channel_group.flow 'x'"),
        (
            "# channels = []",
            'channels = ["flow"]\nchannel_group = { speed = "fast" }\n[acquisition.group.fast]',
            "asset_class.centrifugal_pump.channel_group.speed: centrifugal_pump has no such channel",
        ),
        ('# time = "source"', 'time = "plc"', "server[0].time"),
        ("# clock_tolerance_s = 86400.0", "clock_tolerance_s = -1", "server[0].clock_tolerance_s is -1"),
        (
            'path = "Machines/pump-01/Monitoring"',
            "",
            "asset[0].path must not be empty: no tag names a channel of 'pump-01'",
        ),
        ('path = "Machines/pump-01/Monitoring"', "path = 'a\\b'", "asset[0].path: 'a\\\\b': a backslash"),
        ("# [[tag]]", TAG + 'node = "ns=2;s=T"\n', "tag[0].node: 'ns=2;s=T' counts on a namespace index"),
        ("# [[tag]]", TAG + 'path = "T"\ngroup = "x"\n', "tag[0].group: 'x' is no group"),
        ("# [[tag]]", (TAG + 'path = "T"\n') * 2, "tag[1].channel: pump-01/flow is given twice, first at"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, sample: str, old: str, new: str, named: str) -> None:
    """A key that is unknown or cannot be used is named, with the file and what happens now."""
    assert old in sample
    path = written(tmp_path, sample.replace(old, new))
    with pytest.raises(ConfigError, match="does not start") as refused:
        load_config(path)
    assert str(path) in str(refused.value)
    assert named in str(refused.value)


def test_missing_files_are_named_by_check(tmp_path: Path, sample: str) -> None:
    """Checking names each missing file by its key; with the files there it passes."""
    path = written(tmp_path, uncommented(sample))
    config = load_config(path)
    missing = missing_files(config)
    assert len(missing) == 7
    with pytest.raises(ConfigError, match=r"server\[0\]\.password_file.*bundles\.trusted_key_file"):
        check_config(path)
    for line in missing:
        file = Path(line.split(": ", 1)[1].removesuffix(" is not a file"))
        file.parent.mkdir(exist_ok=True)
        file.write_text(format_tags([]) if file.suffix == ".csv" else "secret\n")
    assert check_config(path) == config
    assert read_secret(tmp_path / "secrets" / "cell-1.password", "server[0].password_file") == "secret"


def test_weaker_security_raises_a_standing_warning(tmp_path: Path, sample: str) -> None:
    """Only what is weaker than the default is warned of."""
    assert standing_warnings(load_config(written(tmp_path, sample))) == ()
    weak = sample.replace('# security = "Basic256Sha256-SignAndEncrypt"', 'security = "None"')
    assert "neither signed nor encrypted" in standing_warnings(load_config(written(tmp_path, weak)))[0]


def test_a_configuration_cannot_be_changed(tmp_path: Path, sample: str) -> None:
    """A value that was read stays."""
    config = load_config(written(tmp_path, sample))
    with pytest.raises(AttributeError):
        config.gateway_id = "gw-2"  # type: ignore[misc]  # this is what must fail


def test_a_group_inherits_what_it_does_not_name(tmp_path: Path, sample: str) -> None:
    """And the gateway's own keys are those of no group."""
    text = sample.replace("# queue_size = 1000", "queue_size = 10").replace(
        "# [acquisition.group.fast]", '[acquisition.group.fast]\nmode = "poll"\nsampling_interval_ms = 100'
    )
    acquisition = load_config(written(tmp_path, text)).acquisition
    assert acquisition.sampling() == Sampling(queue_size=10)
    assert acquisition.sampling("fast") == Sampling(queue_size=10, mode=Mode.POLL, sampling_interval_ms=100.0)


def test_the_tag_list_is_part_of_the_configuration(tmp_path: Path, sample: str) -> None:
    """It is found beside the file; one that is missing is named by check, and one that is wrong by both."""
    path = written(tmp_path, sample.replace('# tags_file = "tags.csv"', 'tags_file = "tags.csv"'))
    assert load_config(path).tag == ()
    assert missing_files(load_config(path))[0] == f"tags_file: {tmp_path / 'tags.csv'} is not a file"
    row = TagRow(server="cell-1", asset_id="pump-02", asset_class="centrifugal_pump", channel="flow", path="M/F")
    (tmp_path / "tags.csv").write_text(format_tags([row]))
    config = load_config(path)
    assert config.tag == (row,)
    assert [asset.asset_id for asset in config.assets_of("cell-1")] == ["pump-01", "pump-02"]
    (tmp_path / "tags.csv").write_text("server\n")
    with pytest.raises(
        ConfigError, match=r"tags\.csv, line 1: column 'asset_id' is missing; the service does not start"
    ):
        load_config(path)


def test_check_config_checks_the_tag_list(tmp_path: Path, sample: str) -> None:
    """The command ends with the configuration's exit code and names line and column."""
    sample = re.sub(r"(?m)^(user|password_file) = .*\n", "", sample)
    path = written(tmp_path, sample.replace('# tags_file = "tags.csv"', 'tags_file = "tags.csv"'))
    row = TagRow(server="cell-1", asset_id="pump-01", channel="flow", path="M/F")

    def checked(*rows: TagRow) -> Result:
        (tmp_path / "tags.csv").write_text(format_tags(rows))
        return CliRunner().invoke(main, ["check-config", "--config", str(path)])

    assert checked(row).exit_code == 0
    refused = checked(row, msgspec.structs.replace(row, channel="speed", group="none"))
    assert refused.exit_code == 2
    assert "tags.csv, line 3, column group: 'none' is no group; known: []" in refused.output
