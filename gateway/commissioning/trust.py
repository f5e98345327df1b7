"""The commands ``opcua trust``, ``trusted`` and ``renew``: whom the gateway trusts, and who trusts the gateway."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click
import msgspec
from asyncua import ua
from cryptography import x509

from gateway.command import EXIT_FAULT, config_option, json_option
from gateway.commissioning.endpoints import called, endpoints_of, expected_of
from gateway.commissioning.server_argument import Target, fail, finish, server_argument, target_command
from gateway.config import Security
from gateway.config_file import load_config
from gateway.data_acquisition.certificate import (
    application_uri,
    ensure_application_certificate,
    renew_application_certificate,
)
from gateway.data_acquisition.connection import connect
from gateway.data_acquisition.endpoint import choose, security_of
from gateway.data_acquisition.server_certificate import UNTRUSTED, Problem
from gateway.data_acquisition.trust import TrustList, fingerprint, own_part
from gateway.errors import ConfigError, GatewayError, ServerUntrusted, SourceUnavailable


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What people compare about a certificate."""

    fingerprint: str
    subject: str
    issuer: str
    valid_from: datetime
    valid_until: datetime
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The certificate of a server, and what the checks say of it."""

    der: bytes
    summary: Summary
    problems: tuple[Problem, ...]

    @property
    def trusted(self) -> bool:
        """Whether it is on the list, or of an authority that is."""
        return all(problem.status != UNTRUSTED for problem in self.problems)


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """Whether the server lets us in, and if not, why."""

    accepted: bool
    reason: str = ""


def summary_of(certificate: bytes) -> Summary:
    """Return what people compare about *certificate* (DER).

    Raises:
        ValueError: If it cannot be read.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    return Summary(
        fingerprint=fingerprint(certificate),
        subject=parsed.subject.rfc4514_string(),
        issuer="itself" if parsed.issuer == parsed.subject else parsed.issuer.rfc4514_string(),
        valid_from=parsed.not_valid_before_utc,
        valid_until=parsed.not_valid_after_utc,
        names=tuple(str(name.value) for name in names),
    )


async def look(target: Target) -> Shown:
    """Return the certificate that the server of *target* shows for the configured security.

    Raises:
        SourceUnavailable: If it does not answer, or does not offer that security.
        ServerUntrusted: If the certificate cannot be read.
    """
    server = target.server
    found = await endpoints_of(target)
    endpoint = choose(found, server.endpoint, server.security)
    if endpoint is None:
        offered = ", ".join(dict.fromkeys(str(s) for e in found if (s := security_of(e)) is not None))
        raise SourceUnavailable(
            f"{server.name}: {server.endpoint} does not offer {server.security}, but {offered or 'nothing usable'}"
        )
    return _shown(endpoint, target)


def _shown(endpoint: ua.EndpointDescription, target: Target) -> Shown:
    chain = endpoint.ServerCertificate or b""
    expected = expected_of(endpoint, target.server.endpoint, target.server.security)
    found = TrustList(target.identity.pki_dir).problems(chain, expected)
    certificate = own_part(chain)
    try:
        return Shown(der=certificate, summary=summary_of(certificate), problems=tuple(found))
    except ValueError as error:
        raise ServerUntrusted(f"{target.server.name}: the server's certificate {found[0].reason}") from error


async def try_channel(target: Target) -> Accepted:
    """Return whether the server of *target* takes our certificate and lets us sign in."""
    try:
        connection = await connect(target.server, target.identity)
    except GatewayError as error:
        return Accepted(accepted=False, reason=str(error).removesuffix("; it is tried again"))
    await connection.close(kindly=True)
    return Accepted(accepted=True)


@click.command("trust")
@server_argument
@click.option("--yes", is_flag=True, help="Trust what is shown, without asking: only where nobody can stand between.")
@click.option("--fingerprint", "expected", metavar="SHA256", help="Trust it if it has this one, and only then.")
@click.option("--remove", is_flag=True, help="Trust this server no longer.")
@target_command
def trust_command(target: Target, expected: str | None, *, yes: bool, remove: bool) -> None:
    """Show the certificate of SERVER, trust it, and see whether the server trusts us."""
    if target.server.security is Security.NONE:
        raise ConfigError(f"{target.server.name}: security None uses no certificate; there is nothing to trust")
    wanted = _fingerprint(expected)
    if remove:
        _remove(target, wanted, yes=yes)
        return
    own, _ = ensure_application_certificate(
        target.identity.pki_dir, target.identity.application_uri, target.identity.common_name
    )
    shown = finish(look(target))
    if not target.as_json:
        _show(shown, target)
    if wanted and wanted != shown.summary.fingerprint:
        raise ServerUntrusted(
            f"{target.server.name}: the server shows another certificate (SHA-256 {shown.summary.fingerprint}) than "
            f"the one you expect ({wanted}); nothing was changed"
        )
    changed = not shown.trusted and _decided(target, sure=yes or bool(wanted))
    path = TrustList(target.identity.pki_dir).add(target.server.name, shown.der) if changed else None
    trusted = shown.trusted or changed
    answer = finish(try_channel(target)) if trusted else Accepted(accepted=False, reason="it is not trusted")
    if target.as_json:
        _print_json(target, shown, own, answer, trusted=trusted, changed=changed)
    else:
        _tell(target, own, path, answer, trusted=trusted)
    if not (trusted and answer.accepted):
        sys.exit(EXIT_FAULT)


def _fingerprint(text: str | None) -> str:
    """Return *text* as fingerprints are written here; nothing for None."""
    if text is None:
        return ""
    digits = "".join(character for character in text if character not in ":- \t").upper()
    if len(digits) == 40:
        raise click.UsageError("that is a SHA-1 thumbprint; compare the SHA-256 fingerprint, which cannot be imitated")
    if len(digits) != 64 or set(digits) - set("0123456789ABCDEF"):
        raise click.UsageError("a SHA-256 fingerprint has 64 hexadecimal digits")
    return ":".join(digits[i : i + 2] for i in range(0, 64, 2))


def _decided(target: Target, *, sure: bool) -> bool:
    """Return whether the certificate is to be trusted: said with the command, or by whoever is asked."""
    if sure:
        return True
    if target.as_json or not sys.stdin.isatty():
        return False
    click.echo("\nCompare the fingerprint with the one that the server itself shows, on its own screen or tool.")
    return click.confirm("Is it the same, and is this server to be trusted?", default=False)


def _show(shown: Shown, target: Target) -> None:
    summary = shown.summary
    click.echo(f"{target.server.name} at {target.server.endpoint} ({target.server.security}) shows:\n")
    click.echo(f"  SHA-256   {click.style(summary.fingerprint, bold=True)}")
    click.echo(f"  subject   {summary.subject}")
    click.echo(f"  issuer    {summary.issuer}")
    click.echo(f"  valid     {summary.valid_from:%Y-%m-%d} to {summary.valid_until:%Y-%m-%d}")
    click.echo(f"  names     {', '.join(summary.names) or 'none'}\n")
    for problem in shown.problems:
        tolerated = problem.tolerated_by in target.server.tolerate if problem.tolerated_by else False
        colour = "yellow" if tolerated or problem.status == UNTRUSTED else "red"
        note = ""
        if problem.tolerated_by is not None:
            note = " (tolerated)" if tolerated else f' (or set tolerate = ["{problem.tolerated_by}"])'
        click.secho(f"  ! it {problem.reason}{note} [{problem.status}]", fg=colour)
    if not shown.problems:
        click.secho("  ✓ it is good and trusted", fg="green")
    elif {problem.status for problem in shown.problems} == {UNTRUSTED}:
        click.secho("  ✓ nothing else is wrong with it", fg="green")


def _tell(target: Target, own: Path, path: Path | None, answer: Accepted, *, trusted: bool) -> None:
    """Say what was done, whether the server lets us in, and what is left to do."""
    if path is not None:
        click.secho(f"\nTrusted: {path}", fg="green")
    if not trusted:
        click.secho("\nNot trusted; nothing was changed.", fg="red", err=True)
        if not sys.stdin.isatty():
            click.echo("  → there is no terminal to ask in: give --fingerprint SHA256, or --yes", err=True)
        return
    if answer.accepted:
        click.secho(f"The server accepts us: {target.server.name} is ready.", fg="green")
        return
    click.secho(f"The server does not let us in yet: {answer.reason}", fg="red", err=True)
    if "secure channel" in answer.reason:
        click.echo("\nThe server has to trust this gateway too:", err=True)
        click.echo(f"  our certificate  {own}", err=True)
        click.echo(f"  SHA-256          {fingerprint(own.read_bytes())}", err=True)
        click.echo(f"  application      {target.identity.application_uri}", err=True)
        click.echo("  → in the server's tool it is now among the rejected clients: accept it there;", err=True)
        click.echo("    or copy the file into its folder of trusted clients", err=True)
        click.echo(f"  → then: wearsight-gateway opcua trust {called(target)}", err=True)


def _print_json(target: Target, shown: Shown, own: Path, answer: Accepted, *, trusted: bool, changed: bool) -> None:
    body = {
        "server": target.server.name,
        "endpoint": target.server.endpoint,
        "security": target.server.security,
        "certificate": shown.summary,
        "problems": shown.problems,
        "trusted": trusted,
        "changed": changed,
        "accepted": answer.accepted,
        "reason": answer.reason or None,
        "own_certificate": {"path": str(own), "fingerprint": fingerprint(own.read_bytes())},
    }
    click.echo(msgspec.json.encode(body).decode())


def _remove(target: Target, wanted: str, *, yes: bool) -> None:
    """Take from the trust list what was trusted as this server, or what has the fingerprint *wanted*."""

    def chosen(path: Path, certificate: bytes) -> bool:
        return fingerprint(certificate) == wanted if wanted else path.name.startswith(f"{target.server.name}-")

    trust = TrustList(target.identity.pki_dir)
    found = [path for path, certificate in trust.entries() if chosen(path, certificate)]
    if not found:
        raise ConfigError(f"{target.server.name}: nothing in {trust.trusted} was trusted for it; see opcua trusted")
    names = ", ".join(str(path) for path in found)
    asked = not yes and not target.as_json and sys.stdin.isatty()
    if asked and not click.confirm(f"Remove {names}?", default=False):
        return
    gone = [str(path) for path in trust.remove(chosen)]
    if target.as_json:
        click.echo(msgspec.json.encode({"server": target.server.name, "removed": gone}).decode())
    else:
        click.echo(f"No longer trusted: {names}. A connection that stands goes on until it ends.")


@click.command("trusted")
@config_option
@json_option
def trusted_command(config_file: Path, *, as_json: bool) -> None:
    """List the certificates this gateway trusts; needs no network."""
    try:
        trust = TrustList(load_config(config_file).pki_dir)
    except ConfigError as error:
        fail(error, "", as_json=as_json)
    entries = [(path, summary_of(certificate)) for path, certificate in trust.entries()]
    if as_json:
        body = [{"path": str(path), **msgspec.to_builtins(summary)} for path, summary in entries]
        click.echo(msgspec.json.encode(body).decode())
        return
    for path, summary in entries:
        click.echo(f"{path.name}\n  SHA-256 {summary.fingerprint}")
        click.echo(f"  {summary.subject}, issued by {summary.issuer}, valid until {summary.valid_until:%Y-%m-%d}")
    if not entries:
        click.echo(f"{trust.trusted} is empty: no server is trusted")


@click.command("renew")
@config_option
@json_option
def renew_command(config_file: Path, *, as_json: bool) -> None:
    """Make the gateway a new certificate; servers refuse it until they trust the new one."""
    try:
        config = load_config(config_file)
        common_name = f"Wearsight gateway {config.gateway_id}"
        kept, made = renew_application_certificate(config.pki_dir, application_uri(config.gateway_id), common_name)
    except (ConfigError, OSError) as error:
        fail(error, "", as_json=as_json)
    summary = summary_of(made.read_bytes())
    if as_json:
        body = {"path": str(made), "kept": str(kept), **msgspec.to_builtins(summary)}
        click.echo(msgspec.json.encode(body).decode())
        return
    click.echo(
        f"New certificate: {made}\n  SHA-256 {summary.fingerprint}\n  valid until {summary.valid_until:%Y-%m-%d}"
    )
    click.echo(f"The old one is kept: {kept}")
    for server in config.server:
        if server.security is not Security.NONE:
            click.echo(f"  → let {server.name} trust it: wearsight-gateway opcua trust {server.name}")
