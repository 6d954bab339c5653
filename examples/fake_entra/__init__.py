"""A pretend Entra ID as a process, with a web API that trusts it: ``docker compose up``."""
