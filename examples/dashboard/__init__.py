"""The demo: a page, a web API that acts on behalf of its user, and two APIs behind it.

Run it with ``python -m examples.dashboard``. What each module shows:

- `api`: the web API; this is the part to copy from.
- `graph`, `partner`: downstream APIs, each protected by its own `OnBehalfOfMiddleware`.
- `page`: the page that signs a person in (authorization code with PKCE) and draws the timeline.
- `timeline`: measures what happens when.
- `asgi`: the little that these apps need of a web framework.
- `world`: starts everything on real sockets with TLS, FakeEntra in the place of Entra ID.
- `trouble`: makes a downstream API fail, a consent vanish, a token be refused, on command.
- `backstage`: what only a demo has: the page orders trouble and looks into FakeEntra's ledger.
- `once`, `trouble_scenes`: play the whole demo without a browser and check what it claims, by
  `player`, which does what a browser does; `report` prints it.
"""
