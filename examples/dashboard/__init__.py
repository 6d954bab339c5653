"""The demo: a page, a web API that acts on behalf of its user, and two APIs behind it.

Run it with ``python -m examples.dashboard``. What each module shows:

- `api`: the web API; this is the part to copy from.
- `graph`, `partner`: downstream APIs, each protected by its own `OnBehalfOfMiddleware`.
- `page`: the page that signs a person in (authorization code with PKCE) and draws the timeline.
- `timeline`: measures what happens when.
- `asgi`: the little that these apps need of a web framework.
- `world`: starts everything on real sockets with TLS, FakeEntra in the place of Entra ID.
- `backstage`: what only a demo has: the page looks into FakeEntra's ledger.
- `once`: plays the whole demo without a browser and checks what it claims.
"""
