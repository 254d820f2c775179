"""Asking the other replicas about their own proxies: each replica knows only those that are connected to it.

Owns:   the HTTP exchange with every other replica that is alive, its bounds, and who did not answer.
Not:    merging what they say (state_views).
Source: decision 16: per-proxy state never goes to etcd; REST asks the replicas and says `partial` if one is silent.

Invariants: a silent replica costs at most `TIMEOUT_S` beyond what the question itself may take; the caller's own token
        is passed on, since replicas share one token file; `local=1` keeps a question from being asked in circles.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from controlplane.distribution.replicas import ReplicaRecord

TIMEOUT_S = 3.0
_MAX_BYTES = 64 * 1024 * 1024
_CHUNK = 64 * 1024


@dataclass(slots=True)
class PeerAnswers:
    """`values` by replica, None for one that does not know the thing; `silent` by replica, with the reason."""

    values: dict[str, Any] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)


def partial(answers: PeerAnswers) -> dict[str, Any]:
    """What an answer says of the replicas that are missing in it."""
    silent = [{"replica": name, "reason": reason} for name, reason in sorted(answers.silent.items())]
    return {"partial": True, "silent": silent} if silent else {"partial": False}


@dataclass(frozen=True, slots=True)
class Question:
    """One request to another replica; the caller's `authorization` goes with it. `body` None = none."""

    method: str
    path: str
    parameters: Mapping[str, str]
    authorization: str
    body: Any = None

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        return {**headers, "Authorization": self.authorization} if self.authorization else headers


class Peers:
    """The other replicas. `own`: this replica's name."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        replicas: tuple[ReplicaRecord, ...],
        path: str,
        parameters: Mapping[str, str],
        authorization: str,
        *,
        wait_s: float = 0.0,
    ) -> PeerAnswers:
        """GET `path` of every replica but this one. `wait_s`: how long the question itself may take."""
        return await self._ask_all(replicas, Question("GET", path, parameters, authorization), wait_s)

    async def post(
        self,
        replicas: tuple[ReplicaRecord, ...],
        path: str,
        parameters: Mapping[str, str],
        authorization: str,
        body: Any,
        *,
        wait_s: float = 0.0,
    ) -> PeerAnswers:
        """POST `body` as JSON to every replica but this one: for questions that do not fit into a path."""
        return await self._ask_all(replicas, Question("POST", path, parameters, authorization, body), wait_s)

    async def _ask_all(self, replicas: tuple[ReplicaRecord, ...], question: "Question", wait_s: float) -> PeerAnswers:
        others = [record for record in replicas if record.name != self._own]
        answers = PeerAnswers()
        await asyncio.gather(*(self._ask(record, question, TIMEOUT_S + wait_s, answers) for record in others))
        return answers

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(
        self, record: ReplicaRecord, question: "Question", timeout_s: float, answers: PeerAnswers
    ) -> None:  # fmt: skip
        url = f"http://{record.rest}{question.path}"
        query = {**question.parameters, "local": "1"}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._opened().request(
                    question.method, url, params=query, json=question.body, headers=question.headers
                ) as response,
            ):
                body = await _body(response)
            if response.status == 404:
                answers.values[record.name] = None
            elif response.status == 200:
                answers.values[record.name] = json.loads(body)
            else:
                answers.silent[record.name] = f"HTTP {response.status}"
        except TimeoutError:
            answers.silent[record.name] = f"no answer within {timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            answers.silent[record.name] = str(error) or type(error).__name__

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32))
        return self._session


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > _MAX_BYTES:
            raise ValueError(f"its answer is larger than {_MAX_BYTES} bytes")
    return bytes(body)
