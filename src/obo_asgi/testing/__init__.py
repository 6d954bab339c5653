"""An offline Microsoft Entra ID for tests, demos and local development.

`FakeEntra` is an ASGI app that plays the sign-in service: metadata, keys, tokens, consent, errors.
`serve` puts any ASGI app on a real socket with TLS. `fake_downstream` is what the unit test of a
handler passes in place of a request's `Downstream`. The pytest plugin ``obo_asgi.testing.plugin``
brings FakeEntra as fixtures.
"""

from .entra import FakeEntra
from .fake_downstream import FakeCall, FakeDownstream, fake_downstream
from .server import serve

__all__ = ["FakeCall", "FakeDownstream", "FakeEntra", "fake_downstream", "serve"]
