"""obo-asgi for Starlette."""
