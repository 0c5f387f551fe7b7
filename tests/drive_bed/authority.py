"""A throwaway certificate authority, so that clients that insist on Google's own addresses can be led here."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

HOSTS = ("www.googleapis.com", "oauth2.googleapis.com", "accounts.google.com", "drive.google.com", "localhost")


def context(folder: Path) -> ssl.SSLContext:
    """A server's TLS context for HOSTS; the authority's certificate is in ``folder``/ca.pem, made if need be."""
    make(folder)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "server.pem")
    made.set_alpn_protocols(["http/1.1"])
    return made


def make(folder: Path) -> Path:
    """Make the authority and the server's certificate unless they are there; returns the authority's certificate."""
    ca, chain = folder / "ca.pem", folder / "server.pem"
    if ca.exists() and chain.exists():
        return ca
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def named(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    now = datetime.now(UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = named("Throwaway test authority")

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=2))

    root = builder(issuer, root_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    hosts = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
    leaf = builder(named(HOSTS[0]), key.public_key()).add_extension(hosts, False)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    folder.mkdir(parents=True, exist_ok=True)
    ca.write_bytes(root.sign(root_key, hashes.SHA256()).public_bytes(pem))
    chain.touch(mode=0o600)
    chain.write_bytes(secret + leaf.sign(root_key, hashes.SHA256()).public_bytes(pem))
    return ca


def new_key() -> tuple[str, str]:
    """An RSA key pair for a service account: private and public part, PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
