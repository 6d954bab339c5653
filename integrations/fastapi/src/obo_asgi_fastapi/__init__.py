"""obo-asgi for FastAPI."""
