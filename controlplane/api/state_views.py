"""The views of the mesh's state, by name: the one table behind /mesh/v1 and the gRPC Status call.

Owns:   checking parameters, joining this replica's part with the other replicas'.
Not:    which views there are (state_catalog), shapes (state_json), what one replica knows (state_local), HTTP, gRPC.
Source: design section 3; decision 16.

Invariants: a parameter that a view does not know is refused, with the nearest that it knows. What is joined from
        several replicas says `partial: true` and who was `silent` when one did not answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from controlplane.api import certificates_view, history_json, state_json, state_local
from controlplane.api.exchange import whole
from controlplane.api.history import wanted_object
from controlplane.api.operations import Operations
from controlplane.api.peers import PeerAnswers, Peers, partial
from controlplane.api.revisions import Revisions, wait_s
from controlplane.api.rollout_json import rollout_json
from controlplane.api.rollouts import Rollouts
from controlplane.api.state_catalog import VIEWS
from controlplane.api.state_json import Json
from controlplane.api.token_requests import token_json
from controlplane.api.view import Dependencies
from mesh.errors import ErrorCode, MeshError

_LOCAL = "local"  # asked by another replica: this one's part only


@dataclass(frozen=True, slots=True)
class Question:
    """One request for a view. `authorization`: the caller's, passed on to other replicas."""

    parameters: Mapping[str, str]
    authorization: str = ""

    def text(self, name: str) -> str:
        return self.parameters.get(name, "")

    @property
    def local(self) -> bool:
        return bool(self.text(_LOCAL))

    @property
    def wait_s(self) -> float:
        """`wait`, at most a minute."""
        return wait_s(self.parameters.get("wait"))


class StateViews:
    """Answers for one replica; `close` when it stops."""

    def __init__(self, dependencies: Dependencies, operations: Operations) -> None:
        self._view = dependencies.view
        self._store = dependencies.store
        self._tokens = dependencies.tokens
        self._roots_pem = dependencies.roots_pem
        self._rotations = dependencies.rotations
        self._replica = dependencies.replica
        self._client_statuses = dependencies.client_statuses
        self._operations = operations
        self._rollouts = Rollouts(dependencies)
        self.peers = Peers(dependencies.replica)
        self.revisions = Revisions(dependencies, self.peers)
        self._answers: Mapping[str, Callable[[Question], Awaitable[Json]]] = {
            "status": self._status,
            "nodes": self._nodes,
            "node": self._node,
            "services": self._services,
            "service": self._service,
            "endpoints": self._endpoints,
            "proxies": self._proxies,
            "proxy": self._proxy,
            "config_dump": self._config_dump,
            "client_status": self._client_status,
            "certificates": self._certificates,
            "traffic": self._traffic,
            "circuit_breakers": self._circuit_breakers,
            "events": self._events,
            "history": self._history,
            "change": self._change,
            "revision": self._revision,
            "rollouts": self._list_rollouts,
            "rollout": self._rollout,
            "replicas": self._replicas,
            "tokens": self._list_tokens,
        }

    async def answer(self, name: str, parameters: Mapping[str, str], authorization: str = "") -> Any:
        """The view's value. Raises NOT_FOUND for an unknown view or thing, UNREADABLE for bad parameters."""
        view = VIEWS.get(name)
        if view is None:
            raise MeshError(
                ErrorCode.NOT_FOUND, f"found {name[:64]!r}, expected one of {', '.join(VIEWS)}", subject="view"
            )
        known = (*view.path_parameters, *view.parameters)
        for parameter in parameters:
            if parameter not in (*known, _LOCAL):
                near = get_close_matches(parameter, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
                raise MeshError(ErrorCode.UNREADABLE, "found an unknown parameter", subject=parameter[:64], hint=hint)
        for parameter in view.path_parameters:
            if not parameters.get(parameter):
                raise MeshError(ErrorCode.UNREADABLE, "found nothing, expected a value", subject=parameter)
        return await self._answers[name](Question(parameters, authorization))

    async def close(self) -> None:
        """Close what was opened towards other replicas."""
        await self.peers.close()

    # --- what every replica knows alike

    async def _services(self, question: Question) -> Json:
        found = state_local.services(
            self._view.mesh(), service=question.text("service"), namespace=question.text("namespace")
        )
        return _items(found)

    async def _service(self, question: Question) -> Json:
        host = question.text("host")
        found = [item for item in state_local.services(self._view.mesh(), service=host) if item["host"] == host]
        return _only(found, f"service {host}", "give the full host: GET /mesh/v1/services lists them")

    async def _endpoints(self, question: Question) -> Json:
        found = state_local.endpoints(
            self._view.mesh(),
            service=question.text("service"),
            namespace=question.text("namespace"),
            node=question.text("node"),
        )
        return _items(found)

    async def _certificates(self, _: Question) -> Json:
        mesh, rotation = self._view.mesh(), await self._rotations.present()
        return {
            "trust_domain": mesh.settings.trust_domain,
            "roots": certificates_view.roots_json(self._roots_pem()),
            "rotation": certificates_view.rotation_json(rotation) if rotation is not None else None,
            "identities": state_local.identities(mesh),
            "grants": await certificates_view.grants_json(self._store),
        }

    async def _history(self, question: Question) -> Json:
        wanted = wanted_object(question.text("object")) if question.text("object") else None
        page = await self._operations.history.page(
            wanted, limit=whole(question.text("limit"), "limit"), continue_=question.text("continue")
        )
        found = _items([state_json.apply_json(record) for record in page.records])
        return {**found, "continue": page.next} if page.next else found

    async def _change(self, question: Question) -> Json:
        revision = whole(question.text("revision"), "revision")
        return history_json.change_json(await self._operations.history.change(revision))

    async def _list_rollouts(self, _: Question) -> Json:
        found = await self._rollouts.all()
        return _items([rollout_json(stored, await self._rollouts.seen(stored[0])) for stored in found])

    async def _rollout(self, question: Question) -> Json:
        stored = await self._rollouts.get(question.text("id"))
        return rollout_json(stored, await self._rollouts.seen(stored[0]))

    async def _list_tokens(self, _: Question) -> Json:
        return _items([token_json(token) for token in await self._tokens.list()])

    # --- what each replica knows of its own proxies

    async def _ask(self, question: Question, path: str, **parameters: str) -> PeerAnswers:
        if question.local:
            return PeerAnswers()
        return await self.peers.ask(
            self._view.peers(), f"/mesh/v1/{path}", parameters, question.authorization, wait_s=question.wait_s
        )

    async def _all_proxies(self, question: Question) -> tuple[list[Json], PeerAnswers]:
        answers = await self._ask(question, "proxies")
        found = [
            state_json.proxy_json(state, self._replica, self._view.rollout_of(state.node))
            for state in self._view.ledger().proxies()
        ]
        found += _items_of(answers)
        return sorted(found, key=lambda item: (item["node"], item["replica"], item["stream"])), answers

    async def _proxies(self, question: Question) -> Json:
        found, answers = await self._all_proxies(question)
        node = question.text("node")
        return _items([item for item in found if node in ("", item["node"])], answers)

    async def _proxy(self, question: Question) -> Json:
        node = question.text("node")
        found, answers = await self._all_proxies(question)
        own = [item for item in found if item["node"] == node]
        if not own:
            raise _not_connected(node, answers)
        return _items(own, answers)

    async def _config_dump(self, question: Question) -> Json:
        node, type_, name = question.text("node"), question.text("type"), question.text("name")
        if type_ and not state_local.is_known_type(type_):
            raise MeshError(
                ErrorCode.UNREADABLE,
                f"found {type_[:40]!r}, expected CDS, EDS, LDS, RDS, VHDS or SDS",
                subject="type",
            )
        view = self._view.config_dump(node)
        if view is not None:
            return state_local.config_dump(node, view, self._replica, type_=type_, name=name)
        answers = await self._ask(question, f"proxies/{node}/config_dump", **_present(type=type_, name=name))
        found = next((value for value in answers.values.values() if value is not None), None)
        if found is None:
            raise _not_connected(node, answers)
        return dict(found)

    async def _client_status(self, question: Question) -> Json:
        node = question.text("node")
        configs, answers = await asyncio.gather(
            self._client_statuses(lambda one: one == node), self._ask(question, f"proxies/{node}/client_status")
        )
        found = [state_json.client_status_json(config, self._replica) for config in configs] + _items_of(answers)
        if not found and not question.local:
            raise _not_connected(node, answers)
        return _items(found, answers)

    async def _nodes(self, question: Question) -> Json:
        proxies, answers = await self._all_proxies(question)
        mesh, sync = self._view.mesh(), state_local.sync_by_node(proxies)
        return _items([state_json.node_json(node, mesh, sync.get(node.name, "")) for node in mesh.nodes()], answers)

    async def _node(self, question: Question) -> Json:
        name = question.text("node")
        found = await self._nodes(question)
        own = [item for item in found["items"] if item["name"] == name]
        return _only(own, f"node {name}", "GET /mesh/v1/nodes lists those that have joined")

    async def _status(self, question: Question) -> Json:
        proxies, answers = await self._all_proxies(question)
        mesh, sync = self._view.mesh(), state_local.sync_by_node(proxies)
        states = [item["sync"] for item in proxies]
        totals = {"total": len(states), **{word: states.count(word) for word in ("synced", "pending", "rejected")}}
        return {
            "replica": self._replica,
            "revision": mesh.revision,
            "published": self._view.ledger().published,
            "ready": dict(self._view.ready()),
            "mesh": mesh.settings.model_dump(),
            "nodes": {"total": len(mesh.nodes()), "connected": sum(node.name in sync for node in mesh.nodes())},
            "services": len(mesh.services()),
            "endpoints": state_local.endpoint_totals(mesh),
            "proxies": totals,
            "objects": state_local.object_counts(mesh),
            "problems": state_local.problems(self._view.conditions()),
            **partial(answers),
        }

    async def _traffic(self, question: Question) -> Json:
        answers = await self._ask(question, "traffic")
        own = [state_json.traffic_json(item) for item in self._view.traffic()]
        return _items(state_local.merged_traffic([*own, *_items_of(answers)]), answers)

    async def _circuit_breakers(self, question: Question) -> Json:
        answers = await self._ask(question, "circuit_breakers")
        own = [state_json.breaker_json(item) for item in self._view.breakers()]
        chosen = state_local.chosen_breakers(
            [*own, *_items_of(answers)], breaker=question.text("breaker"), node=question.text("node")
        )
        return _items(chosen, answers)

    async def _events(self, question: Question) -> Json:
        answers = await self._ask(question, "events")
        found = [{**event, "replica": self._replica} for event in self._view.events()]
        return _items(sorted([*found, *_items_of(answers)], key=lambda item: str(item["at"])), answers)

    async def _replicas(self, question: Question) -> Json:
        answers = await self._ask(question, "replicas")
        told = {item["replica"]: item for item in _items_of(answers)}
        mine = {
            "revision": self._view.mesh().revision,
            "published": self._view.ledger().published,
            "proxies": len(self._view.ledger().proxies()),
            "ready": dict(self._view.ready()),
        }
        found: list[Json] = []
        for record in self._view.peers():
            here = record.name == self._replica
            if here or not question.local:
                state = mine if here else {key: told.get(record.name, {}).get(key) for key in mine}
                found.append(
                    {
                        "replica": record.name,
                        "rest": record.rest,
                        "started": state_json.time_of(record.started_at),
                        "here": here,
                        "reachable": here or record.name in told,
                        **state,
                    }
                )
        return _items(found, answers)

    async def _revision(self, question: Question) -> Json:
        revision = whole(question.text("revision"), "revision")
        return await self.revisions.state(
            revision, wait_s=question.wait_s, authorization=question.authorization, local=question.local
        )


def _items(found: list[Json], answers: PeerAnswers | None = None) -> Json:
    return {"items": found, **partial(answers or PeerAnswers())}


def _items_of(answers: PeerAnswers) -> list[Json]:
    return [item for value in answers.values.values() if value is not None for item in value["items"]]


def _present(**parameters: str) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}


def _only(found: list[Json], what: str, hint: str) -> Json:
    if not found:
        raise MeshError(ErrorCode.NOT_FOUND, "not found", subject=what, hint=hint)
    return found[0]


def _not_connected(node: str, answers: PeerAnswers) -> MeshError:
    silent = f"; silent: {', '.join(sorted(answers.silent))}" if answers.silent else ""
    return MeshError(
        ErrorCode.NOT_FOUND, f"no proxy of this node is connected{silent}", subject=f"node {node}"
    )  # fmt: skip
