"""Finds a CORS middleware that sits where a browser's script never learns of our refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

_MAX_DEPTH: Final = 50


def has_cors_inside(app: object) -> bool:
    """Tell whether a CORS middleware is among what an app is made of, as far as one can see."""
    return any("CORSMiddleware" in (cls.__name__ for cls in part.__mro__) for part in _parts(app))


def _parts(app: Any) -> Iterator[type]:
    """Give the classes of the middlewares inside an app, from the outside in."""
    for _ in range(_MAX_DEPTH):
        if app is None:
            return
        yield type(app)
        for added in getattr(app, "user_middleware", None) or ():  # Starlette's, before it is built
            cls = getattr(added, "cls", None)
            if isinstance(cls, type):
                yield cls
        app = getattr(app, "app", None)
