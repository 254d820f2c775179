"""From a request's head to its first try: which route, which cluster, what the route asks for before.

Owns:   the order of these steps.
Not:    matching (agent.router), HTTP filters (passage), what a route changes (plan), copies (mirror), tries (attempt,
        retrying), the answers that end a request here (answers).
Invariant: a request keeps the configuration with which it was routed.
"""

from typing import TYPE_CHECKING

from agent.model.route import Forward, Redirect
from agent.proxy import answers, deadlines, switched
from agent.proxy.mirror import copies_of
from agent.proxy.passage import Passage
from agent.proxy.runtime import Snapshot
from agent.router.weights import pick_cluster

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange


def route(exchange: "Exchange") -> None:
    """Find the route of a request whose head is prepared, and do what it says."""
    chain = exchange.chain
    snapshot = chain.runtime.snapshot
    table = snapshot.routes.get(chain.hcm.route_config)
    if table is None:
        answers.no_route(exchange)
        return
    if table.internal_only_headers:
        exchange.head.headers.remove_all(table.internal_only_headers)
    exchange.match = match = table.match(exchange.head, chain.rng)
    if chain.filters.always or (match is not None and match.filters is not None):
        _filter(exchange, snapshot)
    else:
        _act(exchange, snapshot)


def _filter(exchange: "Exchange", snapshot: Snapshot) -> None:
    """Let the request pass the filters before the router, who know its cluster."""
    match = exchange.match
    if match is not None and isinstance(match.route.action, Forward):
        exchange.choice = pick_cluster(match.route.action, exchange.chain.rng)
    exchange.passage = passage = Passage(exchange)
    passage.begin(lambda: _act(exchange, snapshot))


def _act(exchange: "Exchange", snapshot: Snapshot) -> None:
    match = exchange.match
    if match is None:
        answers.no_route(exchange)
        return
    action = match.route.action
    if isinstance(action, Forward):
        exchange.action = action
        _forward(exchange, action, snapshot)
    elif isinstance(action, Redirect):
        answers.redirect(exchange, action)
    else:
        answers.direct(exchange, action)


def _forward(exchange: "Exchange", action: Forward, snapshot: Snapshot) -> None:
    chain, head = exchange.chain, exchange.head
    choice = exchange.choice
    if choice is None:
        clusters = action.clusters
        exchange.choice = choice = clusters[0] if len(clusters) == 1 else pick_cluster(action, chain.rng)
    exchange.cluster = cluster = snapshot.clusters.get(choice.cluster)
    if cluster is None:
        answers.no_cluster(exchange)
        return
    if head.upgrade and not switched.allowed(exchange, action):
        answers.upgrade_refused(exchange)
        return
    chain.prepare_upstream(exchange)
    deadlines.start(exchange, action)
    exchange.ask_for_body()
    if action.mirrors and not head.upgrade:
        _mirror(exchange, action, snapshot)
    else:
        exchange.try_host()


def _mirror(exchange: "Exchange", action: Forward, snapshot: Snapshot) -> None:
    """Try a host, and send copies if there is one."""
    copies = copies_of(exchange, action, snapshot)
    if exchange.passage is None:
        exchange.passage = Passage(exchange)
    exchange.passage.mirrors = list(copies)
    exchange.try_host()
    if exchange.host is not None:
        for copy in copies:
            copy.begin()
