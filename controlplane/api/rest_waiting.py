"""`?wait=30s` on a write, over HTTP: what is answered when the wait is over.

Owns:   the parameter, the status, headers and warnings of a write that was waited for.
Not:    waiting (revisions), what a write answers otherwise (rest_objects, rest_state).

Status: the write is done and stays done, however the wait ends, so the status is never one that clients take for a
failure and try again. 200 or 201: every proxy that it touches has it. 202 Accepted: it is stored, but some proxy
refuses it or has not answered in time; `Gossamer-Outcome` says which of the two, `Warning` names each such proxy, and
the body of a batch has all of it under `wait`.
"""

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from controlplane.api.exchange import answer
from controlplane.api.revisions import ACKNOWLEDGED, Revisions, Waited, wait_s
from controlplane.api.writes import BatchResult, Caller

ACCEPTED = 202


def wait_of(request: web.Request) -> float:
    """The seconds that a write shall be waited for; ask before the write, as it may be refused."""
    return wait_s(request.query.get("wait"))


async def waited_for(
    request: web.Request, revisions: Revisions, caller: Caller, done: BatchResult, seconds: float
) -> Waited | None:
    """The end of the wait; None when there is nothing to wait for."""
    if not seconds or caller.dry_run or not done.revision:
        return None
    return await revisions.wait(done.revision, seconds, request.headers.get("Authorization", ""))


def written(
    request: web.Request,
    value: Any,
    done: BatchResult,
    waited: Waited | None,
    *,
    status: int = 200,
    warnings: Iterable[str] = (),
) -> web.Response:
    """The answer to a write."""
    headers: dict[str, str] = {}
    if done.revision:
        # What /mesh/v1/revisions/{revision} is asked for; the body has the object's own resourceVersion.
        headers["Gossamer-Revision"] = str(done.revision)
    if waited is not None:
        headers["Gossamer-Outcome"] = waited.outcome
        warnings = [*waited.lines(), *warnings]
        status = status if waited.outcome == ACKNOWLEDGED else ACCEPTED
    return answer(request, value, status=status, warnings=warnings, headers=headers)
