"""An offline Microsoft Entra ID for tests, demos and local development.

`FakeEntra` is an ASGI app that plays the sign-in service: metadata, keys, tokens, consent, errors.
`serve` puts any ASGI app on a real socket with TLS. The pytest plugin ``obo_asgi.testing.plugin``
brings both as fixtures.
"""

from .entra import FakeEntra
from .server import serve

__all__ = ["FakeEntra", "serve"]
