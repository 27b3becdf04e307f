"""Certificates for tests, made anew: an authority, and what it vouches for."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@dataclass
class Authority:
    """Signs certificates and writes them into a folder.

    Attributes:
        folder: where they go; ``ca.pem`` is its own.
    """

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key, repr=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {self.folder.name}")])
        own = self._builder(self.name, self.key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.file = self._write("ca.pem", own.sign(self.key, hashes.SHA256()))

    def issue(self, name: str, *, days: float = 1) -> tuple[str, str]:
        """The files of a certificate for a name or an address of IP, and of its key."""
        key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        try:
            called: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            called = x509.DNSName(name)
        builder = self._builder(subject, key, days).add_extension(x509.SubjectAlternativeName([called]), critical=False)
        place = name
        while (self.folder / f"{place}.crt").exists():
            place += "-new"
        certificate = self._write(f"{place}.crt", builder.sign(self.key, hashes.SHA256()))
        path = self.folder / f"{place}.key"
        path.touch(0o600)
        path.write_bytes(key_pem(key))
        return certificate, str(path)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float = 1) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        begin = now - datetime.timedelta(days=2)
        return x509.CertificateBuilder(
            self.name,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            begin,
            now + datetime.timedelta(days=days),
        )

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self.folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)
