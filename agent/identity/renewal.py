"""Keeps every identity that the node needs signed: at the first start, for new services, and before expiry.

Owns:   which identities are due, the order of joining and renewing, back-off after failures.
Not:    the calls (agent.identity.authority), storing (agent.identity.vault).
Source: decisions 13 and 14; the time of renewal is at half of the lifetime, +- 10 % of it, drawn once per certificate.

    NO NODE IDENTITY --token--> JOINED --Renew: workloads--> HELD --half of a lifetime, or a new workload--> Renew
           ^                                                   |
           +-----------expired: the control plane was away-----+

Invariants: the token is used only when there is no valid node certificate; one identity that is refused does not cost
        the others; `on_change` is called whenever one is held or refused; a failure is retried with back-off for ever
        and shown in `problems`.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.identity import authority, token
from agent.identity.authority import Signed
from agent.identity.keys import NewKey, make_keys
from agent.identity.vault import Identity, Vault
from agent.settings import ControlPlaneSettings
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.identity.join_token import JoinToken
from mesh.logs import get_logger
from mesh.resilience.backoff import Backoff, Rng

_log = get_logger(__name__)

BATCH = 32  # Renew takes at most 64
RETRY_BASE_S = 0.5
RETRY_MAX_S = 30.0
DENIED_RETRY_S = 60.0  # a permission does not come by itself
_MAX_SLEEP_S = 600.0  # the wall clock may jump


def renew_at_s(identity: Identity, rng: Rng) -> float:
    """When a certificate is renewed: 40 % to 60 % into its life."""
    return identity.not_before_s + (identity.not_after_s - identity.not_before_s) * (0.4 + 0.2 * rng())


@dataclass(slots=True)
class Plan:
    """`now`: identities to get signed at once; `next_s`: when to look again, wall clock."""

    now: tuple[str, ...]
    next_s: float


def plan(
    wanted: Iterable[str],
    held: Mapping[str, Identity],
    renew_at: Mapping[str, float],
    not_before: Mapping[str, float],
    now_s: float,
) -> Plan:
    """What is due. `not_before`: refused identities are not asked for again before then."""
    due: list[str] = []
    times = [now_s + _MAX_SLEEP_S]
    for spiffe_id in wanted:
        at_s = renew_at.get(spiffe_id, 0.0) if spiffe_id in held else 0.0
        at_s = max(at_s, not_before.get(spiffe_id, 0.0))
        if at_s <= now_s:
            due.append(spiffe_id)
        else:
            times.append(at_s)
    return Plan(now=tuple(due), next_s=min(times))


class IdentityKeeper:
    """Runs the renewals. `on_change` is called after each set of new certificates, and after a refusal."""

    def __init__(
        self,
        settings: ControlPlaneSettings,
        node: str,
        node_id: str,
        vault: Vault,
        *,
        clock: Clock,
        on_change: Callable[[bool], None],
        rng: Rng = random.random,
    ) -> None:
        """`on_change(node_renewed)`."""
        self._settings = settings
        self._node = node
        self._node_id = node_id
        self._vault = vault
        self._clock = clock
        self._on_change = on_change
        self._rng = rng
        self._wanted: tuple[str, ...] = ()
        self._renew_at = {name: renew_at_s(item, rng) for name, item in vault.identities.items()}
        self._refused_until: dict[str, float] = {}
        self._join_key: NewKey | None = None
        self._wake = asyncio.Event()
        self.problems: dict[str, str] = {}

    @property
    def node_identity(self) -> Identity | None:
        """The node's own certificate, as long as it is valid."""
        found = self._vault.identities.get(self._node_id)
        return found if found is not None and found.not_after_s > self._clock.wall() else None

    def renew_times(self) -> Mapping[str, float]:
        """SPIFFE id -> wall clock seconds of its next renewal."""
        return self._renew_at

    def decided(self, spiffe_id: str) -> bool:
        """Is it held, or refused for the reason in `problems`?"""
        return spiffe_id in self._vault.identities or spiffe_id in self.problems

    def want(self, workload_ids: Iterable[str]) -> None:
        """These identities of local services are needed; others are forgotten."""
        self._wanted = tuple(dict.fromkeys(workload_ids))
        for name in [name for name in self._vault.identities if name != self._node_id and name not in self._wanted]:
            self._vault.forget(name)
            self._renew_at.pop(name, None)
        self.problems = {name: why for name, why in self.problems.items() if name in (*self._wanted, self._node_id)}
        self._wake.set()

    def can_begin(self) -> bool:
        """Is there a valid identity, or a readable token to get one? Raises SETTINGS when neither."""
        return self.node_identity is not None or bool(self._token())

    async def run(self) -> None:
        """Keep the identities valid until cancelled."""
        backoff = Backoff(RETRY_BASE_S, RETRY_MAX_S)
        while True:
            self._wake.clear()
            try:
                wait_s = await self._step()
                backoff.reset()
            except MeshError as error:
                self._note(self._node_id, str(error))
                wait_s = backoff.next_delay_s(self._rng)
            try:
                # Not wait_for: before Python 3.12 it forgets a cancellation that comes together with the event.
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _step(self) -> float:
        """Do what is due; the seconds until something may be due again."""
        if self.node_identity is None:
            await self._join()
        now_s = self._clock.wall()
        found = plan((self._node_id, *self._wanted), self._vault.identities, self._renew_at, self._refused_until, now_s)
        for start in range(0, len(found.now), BATCH):
            await self._renew(found.now[start : start + BATCH])
        return 0.05 if found.now else max(found.next_s - now_s, 0.05)

    async def _join(self) -> None:
        held = self._token()
        if self._join_key is None:
            # Kept over failures: a join whose answer was lost may be asked for again with the same key.
            (self._join_key,) = await make_keys([self._node_id])
        signed = await authority.join(self._settings, self._node, held, [self._join_key])
        self._join_key = None
        _log.info("joined the mesh", node=self._node, trust_domain=signed.trust_domain)
        self._hold(signed)

    def _token(self) -> JoinToken:
        if not self._settings.token_file or not self._settings.join_address:
            raise MeshError(
                ErrorCode.SETTINGS,
                "there is no valid node certificate, and no join token to get one",
                subject="control_plane.token_file",
                hint="set join_address and token_file; meshctl token create makes one",
            )
        return token.read(Path(self._settings.token_file))

    async def _renew(self, spiffe_ids: Sequence[str]) -> None:
        """Get a batch signed; when it is refused, one by one, so that the refused ones are known."""
        try:
            await self._sign(spiffe_ids)
        except MeshError as error:
            if error.code not in (ErrorCode.PERMISSION_DENIED, ErrorCode.INVALID):
                raise
            if len(spiffe_ids) > 1:
                for spiffe_id in spiffe_ids:
                    await self._renew([spiffe_id])
                return
            self._refused_until[spiffe_ids[0]] = self._clock.wall() + DENIED_RETRY_S
            self._note(spiffe_ids[0], str(error))
            self._on_change(False)

    async def _sign(self, spiffe_ids: Sequence[str]) -> None:
        node = self.node_identity
        assert node is not None
        keys = await make_keys(spiffe_ids)
        self._hold(await authority.renew(self._settings, node, self._vault.trust_pem, keys))

    def _hold(self, signed: Signed) -> None:
        for item in signed.identities:
            self._renew_at[item.spiffe_id] = renew_at_s(item, self._rng)
            self._refused_until.pop(item.spiffe_id, None)
            self.problems.pop(item.spiffe_id, None)
            _log.info("certificate issued", spiffe_id=item.spiffe_id, not_after_s=int(item.not_after_s))
        self.problems.pop(self._node_id, None)
        try:
            self._vault.store(signed.identities, signed.trust_pem)
        finally:  # a full disk does not keep new certificates from being used
            self._on_change(any(item.spiffe_id == self._node_id for item in signed.identities))

    def _note(self, subject: str, reason: str) -> None:
        if self.problems.get(subject) != reason:
            _log.warning("no new certificate", spiffe_id=subject, reason=reason)
        self.problems[subject] = reason
