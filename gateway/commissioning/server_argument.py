"""The argument SERVER of the commands: a server of the configuration, or an address with options of its own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from asyncua.client.client import Client
from asyncua.ua.uaerrors import UaError

from gateway.command import config_option, fail_with, json_option
from gateway.config import GatewayConfig, Security, ServerConfig
from gateway.config_file import load_config
from gateway.data_acquisition.address_space import AddressSpace
from gateway.data_acquisition.certificate import application_uri
from gateway.data_acquisition.connection import Identity, connected
from gateway.data_acquisition.profiles import MOST, ServerProfile, read_profile
from gateway.errors import ConfigError, GatewayError, ServerUntrusted, SourceUnavailable

T = TypeVar("T")

_DONE_ONCE = ("; it is tried again", ", and it is tried again", "; it is made anew", "; the service does not start")


class NothingConfigured(ConfigError):
    """Nothing is read from the server yet."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server a command is about.

    Attributes:
        server: How it is reached.
        identity: Who we are towards it.
        config: The configuration, when there is one.
        config_file: Where that is.
        as_json: Whether the answer is data.
    """

    server: ServerConfig
    identity: Identity
    config: GatewayConfig | None
    config_file: Path
    as_json: bool

    def needs_config(self) -> GatewayConfig:
        """Return the configuration, which the command cannot do without.

        Raises:
            ConfigError: If there is none, or the server is not in it.
        """
        if self.config is None:
            raise ConfigError(f"{self.config_file} is not there; name the gateway's configuration with --config")
        if self.server.name not in {server.name for server in self.config.server}:
            raise ConfigError(
                f"{self.config_file}: no [[server]] has the endpoint {self.server.endpoint}; tags belong to a "
                "server of the configuration, so add it there"
            )
        return self.config


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session with the target's server."""

    client: Client
    profile: ServerProfile
    space: AddressSpace


server_argument = click.argument("server")  # above a command's own arguments, so that it comes first


def target_command(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options that go with SERVER, after its own; it takes all of them as ``target``."""

    @functools.wraps(command)
    def with_target(
        *,
        server: str,
        config_file: Path,
        security: str | None,
        insecure: bool,
        user: str | None,
        password_file: Path | None,
        pki: Path | None,
        as_json: bool,
        **others: Any,
    ) -> None:
        try:
            config = _config(config_file, needed="://" not in server)
            target = Target(
                server=_server(server, config, config_file, security, insecure, user, password_file),
                identity=_identity(config, pki),
                config=config,
                config_file=config_file,
                as_json=as_json,
            )
            command(target=target, **others)
        except BrokenPipeError:
            raise  # who read us has enough; click ends the program
        except click.UsageError as error:
            if not as_json:
                raise
            fail(ConfigError(error.format_message()), server, as_json=as_json)
        except (GatewayError, UaError, OSError) as error:
            fail(error, server, as_json=as_json)

    for option in reversed(_OPTIONS):
        with_target = option(with_target)
    return with_target


_OPTIONS = (
    config_option,
    click.option(
        "--security",
        type=click.Choice([security.value for security in Security]),
        metavar="POLICY",
        help="Of an address, as in the configuration; default: Basic256Sha256-SignAndEncrypt.",
    ),
    click.option("--insecure", is_flag=True, help="Talk to an address in clear: neither signed nor encrypted."),
    click.option("--user", help="Sign in to an address as this user, not anonymously."),
    click.option("--password-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its password."),
    click.option(
        "--pki",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of our certificate and the trust list; default: the gateway's, or without one the user's.",
    ),
    json_option,
)


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* returns."""
    return asyncio.run(work)


@asynccontextmanager
async def session(target: Target) -> AsyncIterator[Session]:
    """Hold a session with the server of *target*, knowing what it takes.

    Raises:
        SourceUnavailable: As `connected` does.
    """
    async with connected(target.server, target.identity) as client:
        profile = await read_profile(client, MOST)
        yield Session(client=client, profile=profile, space=await AddressSpace.open(client, profile.limits))


def fail(error: Exception, server: str, *, as_json: bool) -> NoReturn:
    """Say what went wrong and the next step, and end the program."""
    reason = str(error) or type(error).__name__
    for ending in _DONE_ONCE:
        reason = reason.replace(ending, "")
    fail_with(error, reason, _next_step(error, server), as_json=as_json)


def _next_step(error: Exception, server: str) -> str:
    match error:
        case ServerUntrusted():
            return f"compare the fingerprint with the server's own, then: wearsight-gateway opcua trust {server}"
        case NothingConfigured():
            return f"choose channels: wearsight-gateway opcua pick {server}"
        case ConfigError():
            return "correct the named key or option; wearsight-gateway check-config checks a configuration"
        case SourceUnavailable() if "no node" in str(error):
            return f"look for it: wearsight-gateway opcua browse {server} --search TEXT"
        case SourceUnavailable() | OSError() | UaError() if "cannot listen" not in str(error):
            return f"see whether it answers, and try again: wearsight-gateway opcua endpoints {server}"
        case _:
            return ""


def _config(path: Path, *, needed: bool) -> GatewayConfig | None:
    """Return the configuration; None when it is not there and not *needed*."""
    return load_config(path) if needed or path.is_file() else None


def _identity(config: GatewayConfig | None, pki: Path | None) -> Identity:
    gateway_id = config.gateway_id if config is not None else "commissioning"
    folder = pki or (config.pki_dir if config is not None else Path(click.get_app_dir("wearsight")) / "pki")
    return Identity(application_uri=application_uri(gateway_id), common_name=gateway_id, pki_dir=folder)


def _server(
    server: str,
    config: GatewayConfig | None,
    config_file: Path,
    security: str | None,
    insecure: bool,  # noqa: FBT001 - as the option is
    user: str | None,
    password_file: Path | None,
) -> ServerConfig:
    """Return the server called *server*, or at the address *server*; a configured address is reached as configured."""
    known = config.server if config is not None else ()
    found = next((one for one in known if server in (one.name, one.endpoint)), None)
    told = security is not None or insecure or user is not None or password_file is not None
    if found is not None and (found.name == server or not told):
        if told:
            raise ConfigError(f"{server} is configured in {config_file}; options of an address do not apply to it")
        return found
    if "://" not in server:
        names = ", ".join(one.name for one in known) or "none"
        raise ConfigError(f"{config_file} has no server {server!r} (it has: {names}); name one, or give an address")
    if not server.startswith("opc.tcp://"):
        raise ConfigError(f"{server} is no OPC UA address; it begins with opc.tcp://")
    if (security == Security.NONE) and not insecure:
        raise ConfigError("--security None sends everything in clear, passwords too; add --insecure if that is meant")
    if insecure and security not in (None, Security.NONE):
        raise ConfigError(f"--insecure and --security {security} do not go together")
    if (user is None) != (password_file is None):
        raise ConfigError("--user and --password-file belong together")
    chosen = Security.NONE if insecure else Security(security or Security.SIGN_AND_ENCRYPT)
    name = found.name if found is not None else server.removeprefix("opc.tcp://").split("/")[0].replace(":", "-")
    return ServerConfig(name=name, endpoint=server, security=chosen, user=user, password_file=password_file)
