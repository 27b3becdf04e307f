"""A certificate or key that does not do is told with its file, before gRPC sees it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from certificates import Authority, key_pem, new_key
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from flyteagent_nb import certificates
from flyteagent_nb.certificates import read_authorities, read_pair, system_authorities
from flyteagent_nb.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

WHERE = {"service": "kernel", "address": "127.0.0.1:8000"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    authority = Authority(folder)
    certificate, key = authority.issue("localhost")
    other = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    written = {
        "another": key_pem(new_key()),
        "another kind": other,
        "encrypted": key_pem(new_key(), b"password"),
        "text": "das ist kein Schlüssel".encode("latin-1"),
        "empty": b"",
        "both": Path(key).read_bytes() + Path(certificate).read_bytes(),
        "half": Path(certificate).read_bytes()[:200],
        "half a key": Path(key).read_bytes()[:100],
    }
    for name, data in written.items():
        (folder / name).write_bytes(data)
    return {"certificate": certificate, "key": key, "missing": str(folder / "missing"), "folder": str(folder)} | {
        name: str(folder / name) for name in written
    }


@pytest.mark.parametrize(("certificate", "key"), [("certificate", "key"), ("both", "both"), ("both", "key")])
def test_a_pair(files: Mapping[str, str], certificate: str, key: str) -> None:
    chain, secret = read_pair(files[certificate], files[key], **WHERE)
    assert chain == Path(files[certificate]).read_bytes() and secret == Path(files[key]).read_bytes()


@pytest.mark.parametrize(
    ("certificate", "key", "words", "named"),
    [
        ("certificate", "another", "is not that of the certificate", ("certificate", "another")),
        ("certificate", "another kind", "is not that of the certificate", ("certificate", "another kind")),
        ("certificate", "encrypted", "asks for a password", ("encrypted",)),
        ("certificate", "text", "has no private key in PEM", ("text",)),
        ("certificate", "half a key", "is damaged", ("half a key",)),
        ("certificate", "empty", "has no private key in PEM", ("empty",)),
        ("certificate", "certificate", "has no private key in PEM", ("certificate",)),
        ("certificate", "missing", "the key's file", ("missing",)),
        ("certificate", "folder", "Is a directory", ("folder",)),
        ("key", "certificate", "has no certificate in PEM", ("key",)),
        ("text", "key", "has no certificate in PEM", ("text",)),
        ("half", "key", "has no certificate in PEM", ("half",)),
        ("empty", "key", "has no certificate in PEM", ("empty",)),
        ("missing", "key", "No such file", ("missing",)),
        ("certificate", "", "a certificate is given without its key", ()),
        ("", "key", "a key is given without its certificate", ()),
    ],
)
def test_what_does_not_do(
    files: Mapping[str, str], certificate: str, key: str, words: str, named: tuple[str, ...]
) -> None:
    with pytest.raises(ServiceError) as raised:
        read_pair(files.get(certificate, ""), files.get(key, ""), **WHERE)
    error = raised.value
    assert words in error.message and error.message.startswith("no TLS for 127.0.0.1:8000: ")
    assert all(files[name] in error.message for name in named)
    assert (error.service, error.address) == ("kernel", "127.0.0.1:8000") and error.hint
    assert error.__cause__ is None and error.__suppress_context__  # OpenSSL's own words, of no use
    secret = Path(files["key"]).read_text().splitlines()[1]
    assert secret not in f"{error} {vars(error)}"


def test_a_home_is_found(files: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", files["folder"])
    read_pair("~/localhost.crt", "~/localhost.key", **WHERE)


def test_authorities(files: Mapping[str, str]) -> None:
    assert read_authorities(files["certificate"], **WHERE) == Path(files["certificate"]).read_bytes()
    with pytest.raises(ServiceError, match="has no certificate in PEM"):
        read_authorities(files["key"], **WHERE)
    with pytest.raises(ServiceError, match="cannot be read"):
        read_authorities(files["missing"], **WHERE)


def test_words_between_certificates_may_be_of_any_language(files: Mapping[str, str], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes("# Főtanúsítvány\n".encode() + Path(files["certificate"]).read_bytes())
    assert read_authorities(str(bundle), **WHERE) == bundle.read_bytes()
    assert read_pair(str(bundle), files["key"], **WHERE)[0] == bundle.read_bytes()


def test_the_authorities_of_the_system(
    files: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(Path(files["folder"]) / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    found = system_authorities()
    assert found is not None and found.split() == (Path(files["folder"]) / "ca.pem").read_bytes().split()
    # A system that keeps them in a folder only, which Python reads when it needs one.
    monkeypatch.setenv("SSL_CERT_FILE", files["missing"])
    monkeypatch.setattr(certificates, "_SYSTEM_FILES", (files["missing"], files["certificate"]))
    assert system_authorities() == Path(files["certificate"]).read_bytes()
    monkeypatch.setattr(certificates, "_SYSTEM_FILES", ())
    assert system_authorities() is None
    monkeypatch.setattr(certificates, "sys", SimpleNamespace(platform="win32"))
    assert system_authorities() is None
