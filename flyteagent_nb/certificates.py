"""Certificates and keys from files, looked at before gRPC has them: its own words for a bad one name neither the file nor the fault."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from typing import TYPE_CHECKING, Final

from flyteagent_nb.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYSTEM_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)


class _Encrypted(Exception):
    """A key that asks for a password."""


def read_pair(certificate: str, key: str, *, service: str, address: str) -> tuple[bytes, bytes]:
    """A certificate (PEM, with those that vouch for it below) and its private key (PEM), as they stand in their files.

    Args:
        certificate: a path; ``~`` stands for the home.
        key: a path; it may be the same file.
        service: for the error: whose they are.
        address: for the error: where they should be used.

    Raises:
        ServiceError: a file cannot be read, or has something else in it; the key is another certificate's, or is encrypted. It
            names the file.
    """
    with _told(service, address):
        if not certificate or not key:
            given, lacking = ("a key", "its certificate") if key else ("a certificate", "its key")
            raise _Bad(
                f"{given} is given without {lacking}", "TLS takes both; one file that has both can be given twice"
            )
        chain, secret = _read(certificate, "certificate"), _read(key, "key")
        _check_certificates(chain, certificate)
        _check_pair(certificate, key, secret)
        return chain, secret


def read_authorities(path: str, *, service: str, address: str) -> bytes:
    """The certificates of an authority (PEM) in a file.

    Raises:
        ServiceError: the file cannot be read, or has no certificate in it. It names the file.
    """
    with _told(service, address):
        found = _read(path, "certificate")
        _check_certificates(found, path)
        return found


def system_authorities() -> bytes | None:
    """The authorities that this system trusts (PEM), or None where none are found. gRPC itself would take a list that it brings along."""
    context = ssl.create_default_context()
    found = context.get_ca_certs(binary_form=True)
    if found:
        return "".join(ssl.DER_cert_to_PEM_cert(each) for each in found).encode()
    if sys.platform != "win32":
        for path in _SYSTEM_FILES:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                return file.read()
    return None


class _Bad(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@contextlib.contextmanager
def _told(service: str, address: str) -> Iterator[None]:
    try:
        yield
    except _Bad as bad:
        raise ServiceError(f"no TLS for {address}: {bad}", service=service, address=address, hint=bad.hint) from None


def _read(path: str, what: str) -> bytes:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return file.read()
    except OSError as error:
        raise _Bad(f"the {what}'s file {path} cannot be read: {error.strerror or error}", "give its path") from None


def _check_certificates(data: bytes, path: str) -> None:
    try:  # lines between certificates tell whose they are, in any language
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise _Bad(f"{path} has no certificate in PEM", "it begins with -----BEGIN CERTIFICATE-----") from None


def _check_pair(certificate: str, key: str, secret: bytes) -> None:
    def ask() -> str:
        raise _Encrypted

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.expanduser(certificate), os.path.expanduser(key), ask)
    except _Encrypted:
        hint = f"write it without one: openssl pkey -in {key} -out plain.pem, in a folder of yours alone"
        raise _Bad(f"the key in {key} asks for a password, which nobody could give", hint) from None
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise _Bad(f"the key in {key} is not that of the certificate in {certificate}", "give the pair") from None
        told = {
            "CA_MD_TOO_WEAK": "is signed with a hash that is too weak",
            "EE_KEY_TOO_SMALL": "has a key that is too small",
        }
        if error.reason in told:
            raise _Bad(f"the certificate in {certificate} {told[error.reason]}", "make a new one") from None
        if b"PRIVATE KEY-----" in secret:
            raise _Bad(f"the private key in {key} is damaged", "write it anew") from None
        raise _Bad(f"{key} has no private key in PEM", "it begins with -----BEGIN PRIVATE KEY-----") from None
