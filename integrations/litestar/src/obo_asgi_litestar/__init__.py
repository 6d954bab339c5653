"""obo-asgi for Litestar."""
