"""The whole state of one sign-in service, which the endpoints share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from .cloud import Cloud
from .directory import Directory
from .faults import Faults
from .grants import Grants
from .keys import KeyRing, SigningKey
from .ledger import Ledger
from .policy import Consents, Sessions, StepUp


@dataclass
class World:
    """Everything that commands change and endpoints read, both while they hold `lock`."""

    authority: str
    directory: Directory
    own_issuer: str | None = None
    """The v2 issuer, with ``{tenantid}``, behind an authority that is none of Microsoft's."""
    consents: Consents = field(default_factory=Consents)
    step_up: StepUp = field(default_factory=StepUp)
    sessions: Sessions = field(default_factory=Sessions)
    keys: KeyRing = field(default_factory=KeyRing)
    foreign_keys: dict[str, SigningKey] = field(default_factory=dict)
    """The keys of the other issuers that the service plays."""
    grants: Grants = field(default_factory=Grants)
    faults: Faults = field(default_factory=Faults)
    ledger: Ledger = field(default_factory=Ledger)
    token_lifetime: int = 3600
    refresh_in: int | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def cloud(self) -> Cloud:
        """The cloud of the authority at the moment."""
        return Cloud(self.authority, self.own_issuer)

    def issuer(self, tenant_id: str, version: str) -> str:
        """Return the issuer of a tenant's tokens, of version "1.0" or "2.0"."""
        return self.cloud.issuer(tenant_id, version)

    def add_issuer(self, issuer: str) -> SigningKey:
        """Return the key that an issuer signs with now; another issuer is played from now on."""
        if issuer not in self.foreign_keys:
            if self._is_own(issuer):
                return self.keys.current
            self.foreign_keys[issuer] = self.keys.new()
        return self.foreign_keys[issuer]

    def issuer_key(self, issuer: str, kid: object) -> SigningKey | None:
        """Return the published key of that id of an issuer that was added."""
        key = self.foreign_keys.get(issuer)
        if key is None:
            return self.keys.find(kid)
        return key if key.kid == kid else None

    def _is_own(self, issuer: str) -> bool:
        tenant_ids = self.directory.tenant_ids
        return any(issuer == self.issuer(tid, ver) for tid in tenant_ids for ver in ("1.0", "2.0"))
