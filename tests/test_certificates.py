"""Certificates: what can be read of a PEM or PFX file, and the assertion that its key signs."""

from __future__ import annotations

import base64
import datetime
import time
import traceback
from collections.abc import Sequence
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from obo_asgi import ClientCertificate, ConfigurationError
from obo_asgi.certificates import ASSERTION_LIFETIME, SigningCertificate

CLIENT = "33333333-3333-4333-8333-333333333333"
AUDIENCE = "https://login.microsoftonline.com/t/oauth2/v2.0/token"
PASSWORD = b"correct horse battery staple"


@cache
def rsa_key(name: str = "api", bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the same key for the same name."""
    return rsa.generate_private_key(65537, bits)


def certificate(key: Any, name: str = "api") -> x509.Certificate:
    """Return a certificate that a key signed for itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(days=1),
        not_valid_after=now + datetime.timedelta(days=30),
    )
    is_edwards = isinstance(key, ed25519.Ed25519PrivateKey)
    return builder.sign(key, None if is_edwards else hashes.SHA256())


def key_pem(
    key: Any, password: bytes | None = None, form: PrivateFormat = PrivateFormat.PKCS8
) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return bytes(key.private_bytes(Encoding.PEM, form, encryption))


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(item.public_bytes(Encoding.PEM) for item in certificates)


def pfx(
    key: Any,
    leaf: x509.Certificate | None,
    password: bytes | None = None,
    others: Sequence[x509.Certificate] = (),
) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return pkcs12.serialize_key_and_certificates(b"api", key, leaf, others, encryption)


def read(data: bytes, password: bytes | None = None) -> SigningCertificate:
    loaded = ClientCertificate(data, password=password).certificate
    assert loaded is not None
    return loaded


def with_unknown_key_type(block: bytes) -> bytes:
    """Return the PEM block of an Ed25519 key or certificate with a key type that nobody knows."""
    first, *body, last = block.decode().splitlines()
    der = base64.b64decode("".join(body)).replace(b"\x06\x03+ep", b"\x06\x03+e\x7f")
    return f"{first}\n{base64.encodebytes(der).decode()}{last}\n".encode()


KEY = rsa_key()
LEAF = certificate(KEY)
ISSUER = certificate(rsa_key("issuer"), "issuer")
ROOT = certificate(ec.generate_private_key(ec.SECP256R1()), "root")
EDWARDS = ed25519.Ed25519PrivateKey.generate()
UNKNOWN = with_unknown_key_type(pem(certificate(EDWARDS)))
PKCS1 = PrivateFormat.TraditionalOpenSSL


@pytest.mark.parametrize(
    ("data", "password"),
    [
        pytest.param(key_pem(KEY) + pem(LEAF), None, id="PKCS 8"),
        pytest.param(key_pem(KEY, form=PKCS1) + pem(LEAF), None, id="PKCS 1"),
        pytest.param(key_pem(KEY, PASSWORD) + pem(LEAF), PASSWORD, id="PKCS 8, encrypted"),
        pytest.param(key_pem(KEY, PASSWORD, PKCS1) + pem(LEAF), PASSWORD, id="PKCS 1, encrypted"),
        pytest.param(pem(LEAF) + key_pem(KEY), None, id="the certificate first"),
        pytest.param(pem(LEAF, ISSUER) + key_pem(KEY) + pem(ROOT), None, id="the key in between"),
        pytest.param(pem(ROOT, ISSUER, LEAF) + key_pem(KEY), None, id="the root first"),
        pytest.param(
            (b"Bag Attributes\n  localKeyID: 01\n" + key_pem(KEY) + b"subject=CN = api\n")
            + pem(LEAF),
            None,
            id="as openssl pkcs12 prints it",
        ),
        pytest.param(
            (key_pem(KEY) + pem(LEAF)).replace(b"\n", b"\r\n"), None, id="lines of Windows"
        ),
        pytest.param(b"\xef\xbb\xbf" + key_pem(KEY) + pem(LEAF), None, id="a byte order mark"),
        pytest.param(key_pem(KEY) + pem(LEAF) + UNKNOWN, None, id="an issuer of an unknown kind"),
        pytest.param(pfx(KEY, LEAF), None, id="PFX"),
        pytest.param(pfx(KEY, LEAF, PASSWORD), PASSWORD, id="PFX with a password"),
        pytest.param(pfx(KEY, LEAF, PASSWORD, [ROOT, ISSUER]), PASSWORD, id="PFX with a chain"),
    ],
)
def test_a_certificate_is_read(data: bytes, password: bytes | None) -> None:
    """Whatever the form and the order, the key signs and its own certificate is named."""
    assertion = read(data, password).sign(CLIENT, AUDIENCE, send_x5c=False)

    assert thumbprint(LEAF) == jwt.get_unverified_header(assertion)["x5t#S256"]
    assert CLIENT == decode(assertion)["iss"]


NO_MATCH = "no certificate belongs to the private key: put both into the file"
NEITHER = "neither PEM nor a PFX file"
SHORT = rsa_key("short", 1024)


@pytest.mark.parametrize(
    ("data", "password", "fragment"),
    [
        pytest.param(b"\n", None, NEITHER, id="nothing"),
        pytest.param(b"garbage", None, NEITHER, id="garbage"),
        pytest.param(
            (key_pem(KEY) + pem(LEAF)).replace(b"\n", rb"\n"), None, "line breaks", id="one line"
        ),
        pytest.param(b"\x30\x82\xff\xff", None, NEITHER, id="half of a PFX file"),
        pytest.param((key_pem(KEY) + pem(LEAF)).decode().encode("utf-16"), None, NEITHER, id="16"),
        pytest.param(LEAF.public_bytes(Encoding.DER), None, NEITHER, id="a DER certificate"),
        pytest.param(pem(LEAF), None, "holds 0 private keys", id="no key"),
        pytest.param(
            key_pem(KEY) * 2 + pem(LEAF), None, "2 private keys; it needs exactly one", id="2 keys"
        ),
        pytest.param(key_pem(KEY), None, NO_MATCH, id="no certificate"),
        pytest.param(key_pem(KEY) + pem(ISSUER), None, NO_MATCH, id="another's certificate"),
        pytest.param((key_pem(KEY) + pem(LEAF))[:-90], None, NO_MATCH, id="half a certificate"),
        pytest.param((pem(LEAF) + key_pem(KEY))[:-90], None, "0 private keys", id="half a key"),
        pytest.param(
            key_pem(KEY) + pem(LEAF).replace(b"MII", b"####"), None, "cannot be read", id="not b64"
        ),
        pytest.param(
            key_pem(KEY, PASSWORD) + pem(LEAF), None, "is encrypted: pass its password", id="no pw"
        ),
        pytest.param(
            key_pem(KEY, PASSWORD) + pem(LEAF), b"x", "is the password right?", id="wrong password"
        ),
        pytest.param(
            key_pem(KEY, PASSWORD, PKCS1) + pem(LEAF), b"x", "is the password right?", id="PKCS 1"
        ),
        pytest.param(
            key_pem(KEY) + pem(LEAF), b"x", "not encrypted: leave the password out", id="extra pw"
        ),
        pytest.param(pfx(KEY, LEAF, PASSWORD), None, NEITHER, id="PFX, no password"),
        pytest.param(pfx(KEY, LEAF, PASSWORD), b"x", NEITHER, id="PFX, wrong password"),
        pytest.param(pfx(KEY, LEAF), b"x", NEITHER, id="PFX, superfluous password"),
        pytest.param(pfx(KEY, None), None, NO_MATCH, id="PFX without a certificate"),
        pytest.param(pfx(None, LEAF), None, "no private key", id="PFX without a key"),
        pytest.param(pfx(KEY, LEAF)[:-50], None, NEITHER, id="half of a PFX"),
        pytest.param(key_pem(EDWARDS) + pem(certificate(EDWARDS)), None, "not an RSA", id="25519"),
        pytest.param(
            with_unknown_key_type(key_pem(EDWARDS)) + UNKNOWN, None, "cannot be read", id="unknown"
        ),
        pytest.param(key_pem(SHORT) + pem(certificate(SHORT)), None, "2048 bits", id="1024 bits"),
    ],
)
def test_what_cannot_be_used_is_refused(data: bytes, password: bytes | None, fragment: str) -> None:
    """Each mistake has its sentence, which says what to change and shows nothing of the key."""
    with pytest.raises(ConfigurationError) as caught:
        ClientCertificate(data, password=password)

    assert fragment in str(caught.value)
    assert str(caught.value).startswith("ClientCertificate: ")
    assert [] == [word for word in ("BEGIN", "MII", PASSWORD.decode()) if word in str(caught.value)]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="elliptic curve"),
        pytest.param(dsa.generate_private_key(2048), id="DSA"),
    ],
)
def test_a_key_that_entra_does_not_know_is_refused(key: Any) -> None:
    """Entra accepts RSA keys alone, so that any other is refused at once."""
    with pytest.raises(ConfigurationError, match="the private key is not an RSA key"):
        ClientCertificate(key_pem(key) + pem(certificate(key)))


def test_a_password_is_not_suspected_where_none_was_passed() -> None:
    """A file that is broken, not encrypted, is not answered with a question about a password."""
    with pytest.raises(ConfigurationError) as caught:
        ClientCertificate(key_pem(KEY) + pem(LEAF).replace(b"MII", b"####"))

    assert "password" not in str(caught.value)


def thumbprint(item: x509.Certificate) -> str:
    return base64.urlsafe_b64encode(item.fingerprint(hashes.SHA256())).decode().rstrip("=")


def decode(assertion: str) -> dict[str, Any]:
    """Check an assertion as Entra does, with the public key of the uploaded certificate."""
    key: Any = LEAF.public_key()
    required = ["aud", "iss", "sub", "jti", "nbf", "exp"]
    return jwt.decode(
        assertion, key, algorithms=["PS256"], audience=AUDIENCE, options={"require": required}
    )


def sign(*, send_x5c: bool = False, data: bytes | None = None) -> str:
    data = data or key_pem(KEY) + pem(LEAF)
    return read(data).sign(CLIENT, AUDIENCE, send_x5c=send_x5c)


def test_the_assertion_is_what_entra_documents() -> None:
    """The client is issuer and subject, the token endpoint the audience, PS256 the algorithm."""
    before = int(time.time())
    assertion = sign()
    claims = decode(assertion)

    assert (CLIENT, CLIENT, AUDIENCE) == (claims["iss"], claims["sub"], claims["aud"])
    assert {"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint(LEAF)} == (
        jwt.get_unverified_header(assertion)
    )
    assert before <= claims["nbf"] <= time.time()
    assert ASSERTION_LIFETIME == claims["exp"] - claims["nbf"]


def test_each_assertion_has_an_id_of_its_own() -> None:
    """Two assertions differ in their jti, so that Entra can tell a repeated one."""
    assert decode(sign())["jti"] != decode(sign())["jti"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(key_pem(KEY) + pem(LEAF, ISSUER, ROOT), id="leaf first"),
        pytest.param(pem(ISSUER, ROOT, LEAF) + key_pem(KEY), id="leaf last"),
        pytest.param(pem(ISSUER, LEAF) + key_pem(KEY) + pem(ROOT), id="leaf in between"),
    ],
)
def test_the_chain_goes_out_by_option_with_the_leaf_first(data: bytes) -> None:
    """With send_x5c the header holds our certificate first and then its issuers, in base64 DER."""
    header = jwt.get_unverified_header(sign(send_x5c=True, data=data))

    sent = [x509.load_der_x509_certificate(base64.b64decode(item)) for item in header["x5c"]]
    assert [LEAF, ISSUER, ROOT] == sent
    assert "x5c" not in jwt.get_unverified_header(sign(data=data))


@pytest.mark.parametrize("as_text", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("password", [PASSWORD, PASSWORD.decode(), "pässwörd€", b"\xff\x00\xfe"])
def test_a_password_may_be_text_or_bytes(password: str | bytes, as_text: bool) -> None:
    """A password of any characters, and PEM as text or bytes, are read as they were written."""
    written = password.encode() if isinstance(password, str) else password
    data = key_pem(KEY, written) + pem(LEAF)

    credential = ClientCertificate(data.decode() if as_text else data, password=password)

    assert credential.certificate is not None
    assert CLIENT == decode(credential.certificate.sign(CLIENT, AUDIENCE, send_x5c=False))["sub"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(key_pem(KEY, PASSWORD) + pem(LEAF), id="a wrong password"),
        pytest.param(key_pem(KEY) + pem(LEAF), id="a superfluous password"),
        pytest.param(key_pem(KEY, b"wrong-password") + pem(ISSUER), id="another's certificate"),
        pytest.param(pfx(KEY, LEAF, PASSWORD), id="PFX"),
    ],
)
def test_a_failure_shows_neither_key_nor_password(data: bytes) -> None:
    """Neither the error nor the locals of our frames, which trackers record, hold a secret."""
    with pytest.raises(ConfigurationError) as caught:
        ClientCertificate(data, password="wrong-password")

    error: BaseException | None = caught.value
    shown = [str(error), repr(error)]
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if "/obo_asgi/" in frame.f_code.co_filename:
                shown += [repr(value) for value in frame.f_locals.values()]
        error = error.__cause__ or error.__context__
    words = ["wrong-password", "PRIVATE KEY", repr(data)[:40]]
    assert [] == [text for text in shown if any(word in text for word in words)]
