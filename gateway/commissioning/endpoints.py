"""The command ``opcua endpoints``: how a server can be reached, the best protected way first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import click
import msgspec
from asyncua import ua
from asyncua.ua.uaerrors import UaError

from gateway.commissioning.server_argument import Target, finish, server_argument, target_command
from gateway.config import Security, ServerConfig, server_warnings
from gateway.data_acquisition.endpoint import ask_endpoints, by_strength, security_of
from gateway.data_acquisition.server_certificate import UNTRUSTED, Expected
from gateway.data_acquisition.trust import TrustList, fingerprint, own_part
from gateway.errors import SourceUnavailable

_SIGN_IN = {
    ua.UserTokenType.Anonymous: "anonymous",
    ua.UserTokenType.UserName: "user and password",
    ua.UserTokenType.Certificate: "user certificate",
    ua.UserTokenType.IssuedToken: "issued token",
}


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One endpoint.

    Attributes:
        security: The setting that uses it; empty when the gateway cannot.
        policy: The policy's name, as the server writes it.
        mode: Of messages: SignAndEncrypt, Sign, None.
        url: As the server writes it; the gateway calls the address it is given.
        sign_in: What kinds of users it takes.
        fingerprint: SHA-256 of the server's certificate; empty without one.
        trusted: Whether that certificate is on the trust list, and good.
        problems: What is wrong with it otherwise.
        weaker: What is weaker in it than the default.
    """

    security: str
    policy: str
    mode: str
    url: str
    sign_in: tuple[str, ...]
    fingerprint: str
    trusted: bool
    problems: tuple[str, ...]
    weaker: tuple[str, ...]


async def offers(target: Target) -> list[Offer]:
    """Return what the server of *target* offers, the best protected first.

    Raises:
        SourceUnavailable: If it does not answer as an OPC UA server.
    """
    found = await endpoints_of(target)
    trust = TrustList(target.identity.pki_dir)
    return [_offer(endpoint, target.server.endpoint, trust) for endpoint in by_strength(found)]


async def endpoints_of(target: Target) -> list[ua.EndpointDescription]:
    """Return the endpoints as the server of *target* tells them.

    Raises:
        SourceUnavailable: If it does not answer as an OPC UA server.
    """
    url = target.server.endpoint
    try:
        return await ask_endpoints(url, target.identity.application_uri)
    except (OSError, TimeoutError, UaError) as error:
        reason = str(error) or "no answer"
        raise SourceUnavailable(f"{target.server.name}: cannot connect to {url} ({reason})") from error


def expected_of(endpoint: ua.EndpointDescription, url: str, security: Security | None) -> Expected:
    """Return what the certificate of *endpoint* has to match."""
    return Expected(
        application_uri=endpoint.Server.ApplicationUri or "",
        host=urlsplit(url).hostname or "",
        security=security or Security.SIGN_AND_ENCRYPT,
    )


def _offer(endpoint: ua.EndpointDescription, url: str, trust: TrustList) -> Offer:
    security = security_of(endpoint)
    chain = endpoint.ServerCertificate or b""
    secured = security is not Security.NONE and bool(chain)
    found = trust.problems(chain, expected_of(endpoint, url, security)) if secured else []
    kinds = sorted({token.TokenType for token in endpoint.UserIdentityTokens})
    example = ServerConfig(name="server", endpoint=url, user="user", security=security or Security.SIGN_AND_ENCRYPT)
    return Offer(
        security=security.value if security is not None else "",
        policy=(endpoint.SecurityPolicyUri or "").rsplit("#", 1)[-1],
        mode=endpoint.SecurityMode.name.rstrip("_"),
        url=endpoint.EndpointUrl or "",
        sign_in=tuple(_SIGN_IN.get(kind, str(kind)) for kind in kinds),
        fingerprint=fingerprint(own_part(chain)) if chain else "",
        trusted=secured and not found,
        problems=tuple(problem.reason for problem in found if problem.status != UNTRUSTED),
        weaker=tuple(warning.partition(": ")[2] for warning in server_warnings(example)),
    )


@click.command("endpoints")
@server_argument
@target_command
def endpoints_command(target: Target) -> None:
    """List how a server can be reached, the best protected way first, and what to set for it."""
    found = finish(offers(target))
    if target.as_json:
        body = {"server": target.server.name, "endpoint": target.server.endpoint, "offers": found}
        click.echo(msgspec.json.encode(body).decode())
        return
    for line in _lines(found, target):
        click.echo(line)


def called(target: Target) -> str:
    """Return what SERVER is in the next command: its name when it is configured, else its address."""
    known = {server.name for server in target.config.server} if target.config is not None else set()
    return target.server.name if target.server.name in known else target.server.endpoint


def _lines(found: Sequence[Offer], target: Target) -> list[str]:
    lines = [
        f"{target.server.endpoint} offers {len(found)} endpoint{'s' * (len(found) != 1)}, the best protected first:",
        "",
    ]
    for number, offer in enumerate(found, 1):
        colour = "green" if not offer.weaker and offer.security else "yellow"
        name = click.style(offer.security or f"{offer.policy}-{offer.mode}", fg=colour, bold=True)
        lines.append(f"{number}. {name}{'' if offer.security else ' (the gateway cannot use it)'}")
        lines += [click.style(f"   ! {warning}", fg="yellow") for warning in offer.weaker]
        lines.append(f"   sign in: {', '.join(offer.sign_in) or 'not told'}; {_certificate_line(offer)}")
        lines += [click.style(f"   ! its certificate {problem}", fg="red") for problem in offer.problems]
    lines += ["", *(f"certificate, SHA-256 {text}" for text in dict.fromkeys(o.fingerprint for o in found) if text)]
    if foreign := [url for url in dict.fromkeys(o.url for o in found) if urlsplit(url).netloc != _host(target)]:
        lines.append(f"the server calls itself {', '.join(foreign)}; the gateway calls the address it is given")
    best = next((offer for offer in found if offer.security), None)
    if best is not None:
        lines += ["", "In gateway.toml:", f'  endpoint = "{target.server.endpoint}"', f'  security = "{best.security}"']
        if best.security != Security.NONE and not best.trusted:
            lines.append(f"  → trust its certificate: wearsight-gateway opcua trust {called(target)}")
    return lines


def _certificate_line(offer: Offer) -> str:
    if not offer.fingerprint or offer.security == Security.NONE:
        return "no certificate is used"
    state = click.style("trusted", fg="green") if offer.trusted else click.style("not trusted", fg="yellow")
    return f"certificate {offer.fingerprint[:11]}… {state}"


def _host(target: Target) -> str:
    return urlsplit(target.server.endpoint).netloc
