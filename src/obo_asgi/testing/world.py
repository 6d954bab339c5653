"""The whole state of one sign-in service, which the endpoints share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from .directory import Directory
from .faults import Faults
from .grants import Grants
from .keys import KeyRing
from .ledger import Ledger
from .policy import Consents, Sessions, StepUp


@dataclass
class World:
    """Everything that commands change and endpoints read, both while they hold `lock`."""

    authority: str
    directory: Directory
    consents: Consents = field(default_factory=Consents)
    step_up: StepUp = field(default_factory=StepUp)
    sessions: Sessions = field(default_factory=Sessions)
    keys: KeyRing = field(default_factory=KeyRing)
    grants: Grants = field(default_factory=Grants)
    faults: Faults = field(default_factory=Faults)
    ledger: Ledger = field(default_factory=Ledger)
    token_lifetime: int = 3600
    refresh_in: int | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def issuer(self, tenant_id: str, version: str) -> str:
        """Return the issuer of a tenant's tokens, of version "1.0" or "2.0"."""
        if version == "1.0":
            return f"https://sts.windows.net/{tenant_id}/"
        return f"{self.authority}/{tenant_id}/v2.0"
