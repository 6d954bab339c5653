"""obo-asgi for the Azure SDKs."""
