"""What is served, and when: nothing before everything that it needs, nothing gone before nobody needs it.

Resources are written as in tests/support/agent_resources.py. What is served is shown as name=content by kind.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ipc.messages import CLUSTER, KINDS, LISTENER, LOAD_ASSIGNMENT, ROUTE_CONFIGURATION, VIRTUAL_HOST
from agent.model.cluster import Cluster, LoadAssignment
from agent.model.listener import Direction, FilterChain, Listener, TcpProxy
from agent.model.route import RouteConfiguration, VirtualHost
from agent.model.tls import DownstreamTls, KeyPair
from agent.xds.resources import Decoded, Held
from agent.xds.warming import EMPTY, WARM_WITHIN_S, Published, Tables, Warming, clusters_of, route_configurations_of
from mesh.xds import type_url
from tests.support.agent_resources import held, value
from tests.support.depth import examples

SHORT = {"cds": CLUSTER, "eds": LOAD_ASSIGNMENT, "lds": LISTENER, "rds": ROUTE_CONFIGURATION, "vhds": VIRTUAL_HOST}


def resources(*specs: str) -> list[Held]:
    """`cds:a=1` and so on."""
    return [held(*spec.split(":", 1)) for spec in specs]


def content(item: object) -> str:
    """The content of a value as its spec had it."""
    match item:
        case Cluster():
            return item.alt_stat_name
        case LoadAssignment():
            return item.endpoints[0].hostname if item.endpoints else "empty"
        case Listener():
            return item.filter_chains[0].name
        case RouteConfiguration():
            return item.virtual_hosts[0].routes[0].name if item.virtual_hosts else "*"
        case VirtualHost():
            return item.routes[0].name
    raise AssertionError(item)


def shown(published: Published) -> dict[str, dict[str, str]]:
    """What is served, by the short name of its type."""
    found = {
        short: {name: content(item) for name, item in published.tables[kind].items()} for short, kind in SHORT.items()
    }
    return {short: items for short, items in found.items() if items}


class Play:
    """A Warming and its clock."""

    def __init__(self) -> None:
        self.warming = Warming()
        self.now = 100.0
        self.absent: set[tuple[str, str]] = set()

    def step(self, *specs: str, after: float = 0.0) -> dict[str, dict[str, str]]:
        self.now += after
        self.published = self.warming.step(resources(*specs), self.now, self.absent)
        return shown(self.published)

    @property
    def waiting(self) -> tuple[str, ...]:
        return self.published.waiting


def test_a_cluster_waits_for_its_endpoints() -> None:
    play = Play()
    assert play.step("cds:a=1") == {}
    assert play.waiting == ("cluster a waits for its endpoints",)
    assert play.step("cds:a=1", "eds:a=1") == {"cds": {"a": "1"}, "eds": {"a": "1"}}
    assert play.waiting == ()


def test_a_static_cluster_waits_for_nothing() -> None:
    assert Play().step("cds:a=1>static") == {"cds": {"a": "1"}}


def test_endpoints_by_another_name() -> None:
    play = Play()
    assert play.step("cds:a=1>other", "eds:a=1") == {"eds": {"a": "1"}}
    assert play.step("cds:a=1>other", "eds:other=2")["cds"] == {"a": "1"}


def test_the_wait_for_endpoints_ends() -> None:
    """From its beginning, whatever else changes meanwhile; then the cluster is served without any."""
    play = Play()
    play.step("cds:a=1")
    assert play.step("cds:a=1", "cds:b=1", "eds:b=1", after=WARM_WITHIN_S - 1)["cds"] == {"b": "1"}
    assert play.step("cds:a=1", after=0.5) == {}
    assert play.step("cds:a=1", after=0.5) == {"cds": {"a": "1"}, "eds": {"a": "empty"}}
    assert play.waiting == ()
    assert play.step("cds:a=1", "eds:a=2")["eds"] == {"a": "2"}


def test_a_wait_begins_anew_for_a_cluster_that_was_away() -> None:
    play = Play()
    play.step("cds:a=1")
    play.step(after=WARM_WITHIN_S)
    assert play.step("cds:a=1") == {}


def test_the_old_form_is_served_while_the_new_one_waits() -> None:
    """The cluster moves to endpoints that are not there yet; the old ones stay with it."""
    play = Play()
    play.step("cds:a=1", "eds:a=1")
    assert play.step("cds:a=2>other") == {"cds": {"a": "1"}, "eds": {"a": "1"}}
    assert play.waiting == ("cluster a waits for its endpoints",)
    assert play.step("cds:a=2>other", "eds:other=2") == {"cds": {"a": "2"}, "eds": {"other": "2"}}


def test_routes_wait_for_the_clusters_that_exist() -> None:
    play = Play()
    assert play.step("cds:a=1", "rds:r=1>a,nowhere") == {}
    assert "route_configuration r waits for cluster a" in play.waiting
    assert play.step("cds:a=1", "eds:a=1", "rds:r=1>a,nowhere")["rds"] == {"r": "1"}


def test_a_cluster_that_is_nowhere_holds_nothing_up() -> None:
    """It answers 503 NC."""
    assert Play().step("rds:r=1>nowhere", "vhds:r/h=1>nowhere") == {"rds": {"r": "1"}, "vhds": {"r/h": "1"}}


def test_virtual_hosts_wait_each_for_itself() -> None:
    play = Play()
    found = play.step("cds:a=1", "eds:a=1", "cds:b=1", "rds:r=1*", "vhds:r/x=1>a", "vhds:r/y=1>b")
    assert found["vhds"] == {"r/x": "1"}
    assert play.waiting == ("cluster b waits for its endpoints", "virtual_host r/y waits for cluster b")


def test_a_changed_virtual_host_waits_in_its_old_form() -> None:
    play = Play()
    play.step("cds:a=1", "eds:a=1", "rds:r=1*", "vhds:r/x=1>a")
    new = ("cds:a=1", "eds:a=1", "cds:b=1", "rds:r=1*", "vhds:r/x=2>b")
    assert play.step(*new)["vhds"] == {"r/x": "1"}
    assert play.step(*new, "eds:b=1")["vhds"] == {"r/x": "2"}


def test_a_listener_waits_for_its_routes() -> None:
    play = Play()
    assert play.step("lds:l=1>r") == {}
    assert play.waiting == ("listener l waits for route configuration r",)
    assert play.step("lds:l=1>r", "rds:r=1")["lds"] == {"l": "1"}


def test_a_listener_waits_for_all_its_routes_and_their_clusters() -> None:
    play = Play()
    specs = ("lds:l=1>r,s", "rds:r=1", "rds:s=1>a", "cds:a=1")
    assert "lds" not in play.step(*specs)
    assert play.step(*specs, "eds:a=1")["lds"] == {"l": "1"}


def test_a_listener_waits_for_a_first_virtual_host() -> None:
    play = Play()
    assert "lds" not in play.step("lds:l=1>r", "rds:r=1*", "vhds:other/h=1")
    assert play.step("lds:l=1>r", "rds:r=1*", "vhds:r/h=1")["lds"] == {"l": "1"}


def test_the_wait_for_virtual_hosts_ends() -> None:
    play = Play()
    play.step("lds:l=1>r", "rds:r=1*")
    assert "lds" not in play.step("lds:l=1>r", "rds:r=1*", after=WARM_WITHIN_S - 1)
    assert play.step("lds:l=1>r", "rds:r=1*", after=1)["lds"] == {"l": "1"}


def test_a_new_listener_waits_for_its_routes_and_the_wait_ends() -> None:
    """Then it is served without routes: 404, as Envoy's initial fetch time-out has it. Later they come."""
    play = Play()
    assert play.step("lds:l=1>r", after=1) == {}
    assert play.step("lds:l=1>r", after=WARM_WITHIN_S - 0.1) == {}
    assert play.step("lds:l=1>r", after=0.1) == {"lds": {"l": "1"}, "rds": {"r": "*"}}
    assert play.published.waiting == ()
    assert play.step("lds:l=1>r", "rds:r=1") == {"lds": {"l": "1"}, "rds": {"r": "*"}}
    assert play.step("lds:l=1>r", "rds:r=1>x") == {"lds": {"l": "1"}, "rds": {"r": "1"}}


def test_a_served_listener_keeps_its_form_while_its_new_routes_do_not_come() -> None:
    play = Play()
    play.step("lds:l=1>r", "rds:r=1>x")
    for after in (0.0, 100 * WARM_WITHIN_S):
        assert play.step("lds:l=2>q", after=after) == {"lds": {"l": "1"}, "rds": {"r": "1"}}
        assert play.published.waiting == ("listener l waits for route configuration q",)


def test_routes_that_wait_for_a_cluster_are_waited_for() -> None:
    play = Play()
    play.step("lds:l=1>r", "rds:r=1>c", "cds:c=1")
    assert play.step("lds:l=1>r", "rds:r=1>c", "cds:c=1", after=WARM_WITHIN_S - 0.1) == {}
    done = play.step("lds:l=1>r", "rds:r=1>c", "cds:c=1", after=0.1)
    assert done == {"cds": {"c": "1"}, "eds": {"c": "empty"}, "rds": {"r": "1"}, "lds": {"l": "1"}}


def test_what_the_server_does_not_have_is_not_waited_for() -> None:
    play = Play()
    play.absent = {(type_url.CLUSTER_LOAD_ASSIGNMENT, "c"), (type_url.ROUTE_CONFIGURATION, "r")}
    wanted = {"cds": {"c": "1"}, "eds": {"c": "empty"}, "lds": {"l": "1"}, "rds": {"r": "*"}}
    assert play.step("cds:c=1", "lds:l=1>r") == wanted
    before = play.published.tables
    assert play.step("cds:c=1", "lds:l=1>r") == wanted
    assert play.published.tables[LOAD_ASSIGNMENT]["c"] is before[LOAD_ASSIGNMENT]["c"], "nothing is told anew"


def test_endpoints_that_are_taken_away_serve_on_through_the_wait() -> None:
    """Whether the server removes a cluster's endpoints or forgets them, nobody is answered 503 at once."""
    play = Play()
    play.step("cds:c=1", "eds:c=1")
    play.absent = {(type_url.CLUSTER_LOAD_ASSIGNMENT, "c")}
    assert play.step("cds:c=1") == {"cds": {"c": "1"}, "eds": {"c": "1"}}
    assert play.step("cds:c=1", after=WARM_WITHIN_S) == {"cds": {"c": "1"}, "eds": {"c": "empty"}}


def test_a_changed_listener_keeps_its_old_routes_meanwhile() -> None:
    """The server has let go of `r` already: it stays as long as the old listener is served."""
    play = Play()
    play.step("lds:l=1>r", "rds:r=1>a", "cds:a=1", "eds:a=1")
    assert play.step("lds:l=2>new") == {"lds": {"l": "1"}, "rds": {"r": "1"}, "cds": {"a": "1"}, "eds": {"a": "1"}}
    assert play.step("lds:l=2>new", "rds:new=1*", "vhds:new/h=1") == {
        "lds": {"l": "2"}, "rds": {"new": "*"}, "vhds": {"new/h": "1"}
    }  # fmt: skip


def test_a_cluster_goes_when_nothing_served_names_it() -> None:
    play = Play()
    base = ("cds:b=1", "eds:b=1", "rds:r=1*")
    play.step(*base, "cds:a=1", "eds:a=1", "vhds:r/x=1>a")
    assert play.step(*base, "vhds:r/x=1>a")["cds"] == {"b": "1", "a": "1"}
    assert play.step(*base, "vhds:r/x=2>b") == {
        "cds": {"b": "1"}, "eds": {"b": "1"}, "rds": {"r": "*"}, "vhds": {"r/x": "2"}
    }  # fmt: skip


def test_everything_removed_is_gone_at_once() -> None:
    play = Play()
    play.step("cds:a=1", "eds:a=1", "lds:l=1>r", "rds:r=1>a")
    assert play.step() == {}


def test_the_tables_have_every_kind() -> None:
    play = Play()
    play.step()
    assert set(play.published.tables) == set(KINDS)


def test_references() -> None:
    assert clusters_of(value("rds", "r=1>a,b")) == ("a", "b")
    assert clusters_of(value("vhds", "r/h=1>a")) == ("a",)
    assert clusters_of(value("vhds", "r/h=1")) == ()
    assert clusters_of(value("lds", "l=1")) == ("c",)  # a TCP proxy
    assert clusters_of(value("cds", "a=1")) == ()
    assert route_configurations_of(value("lds", "l=1>r,s")) == ("s", "r")
    assert route_configurations_of(value("lds", "l=1")) == ()
    assert route_configurations_of(value("rds", "r=1")) == ()


# --- whatever comes, in whatever order


NAMES = st.sampled_from(["a", "b"])
CONTENTS = st.sampled_from(["1", "2"])
TARGETS = st.lists(NAMES, max_size=2, unique=True).map(",".join)
SPECS = st.one_of(
    st.builds("cds:{}={}>{}".format, NAMES, CONTENTS, st.sampled_from(["a", "b", "static"])),
    st.builds("eds:{}={}".format, NAMES, CONTENTS),
    st.builds("lds:{}={}>{}".format, NAMES, CONTENTS, TARGETS.filter(bool)),
    st.builds("rds:{}={}{}>{}".format, NAMES, CONTENTS, st.sampled_from(["", "*"]), TARGETS),
    st.builds("vhds:{}/{}={}>{}".format, NAMES, NAMES, CONTENTS, TARGETS),
)
STEPS = st.lists(
    st.tuples(
        st.lists(SPECS, max_size=8, unique_by=lambda spec: spec.partition("=")[0]),
        st.sampled_from([0.0, 1.0, WARM_WITHIN_S]),
    ),
    max_size=6,
)


@given(steps=STEPS)
@settings(max_examples=examples(300))
def test_every_result_is_closed(steps: list[tuple[list[str], float]]) -> None:
    """All that is served finds what it names, unless that is nowhere; what is desired and not served waits."""
    play = Play()
    before: Tables = EMPTY
    for specs, after in steps:
        play.step(*specs, after=after)
        tables = play.published.tables
        desired = {(SHORT[short], rest.partition("=")[0]) for short, _, rest in (s.partition(":") for s in specs)}
        for kind in (LISTENER, ROUTE_CONFIGURATION, VIRTUAL_HOST):
            for own, item in tables[kind].items():
                for target in clusters_of(item):
                    closed = target in tables[CLUSTER] or (CLUSTER, target) not in desired
                    assert closed or before[kind].get(own) == item
                for name in route_configurations_of(item):
                    assert name in tables[ROUTE_CONFIGURATION]
        for cluster in tables[CLUSTER].values():
            assert isinstance(cluster, Cluster)
            assert cluster.static is not None or cluster.eds_name in tables[LOAD_ASSIGNMENT]
        waiting = {tuple(line.split()[:2]) for line in play.waiting}
        for kind, name in desired:
            assert name in tables[kind] or (kind, name) in waiting
        before = tables


@given(steps=STEPS, specs=STEPS.map(lambda steps: steps[0][0] if steps else []))
@settings(max_examples=examples(150))
def test_at_rest_what_is_desired_is_served(steps: list[tuple[list[str], float]], specs: list[str]) -> None:
    """Once the waits have run out, history leaves nothing but clusters that something served names, and the routes of
    listeners whose new ones do not come."""
    play, fresh = Play(), Play()
    for earlier, after in steps:
        play.step(*earlier, after=after)
    for one in (play, fresh):
        one.step(*specs)
        one.step(*specs, after=WARM_WITHIN_S)
    for kind in (ROUTE_CONFIGURATION, VIRTUAL_HOST):
        served = play.published.tables[kind]
        missing = RouteConfiguration(name="")
        for name, item in fresh.published.tables[kind].items():
            never_came = kind == ROUTE_CONFIGURATION and not any(spec.startswith(f"rds:{name}=") for spec in specs)
            assert served.get(name) == item or (never_came and item == replace(missing, name=name))
    assert fresh.published.tables[LISTENER].keys() <= play.published.tables[LISTENER].keys()


def gateway(*secrets: str, name: str = "l") -> Held:
    """A listener whose chains show certificates of the user's."""
    chains = [
        FilterChain(
            name=secret, server_names=(f"{secret}.org",), network=TcpProxy(stat_prefix="s", cluster="c"),
            tls=DownstreamTls(secret=secret, require_client_certificate=False),
        )
        for secret in secrets
    ]  # fmt: skip
    made = Listener(name=name, address="127.0.0.1", port=443, direction=Direction.OUTBOUND, filter_chains=tuple(chains))
    return Held(
        type_url=type_url.LISTENER, name=name, version="1", body=b"", decoded=Decoded(values=((LISTENER, name, made),))
    )


def certificate(name: str) -> Held:
    pair = KeyPair(identity=name, chain_pem=b"c", key_pem=b"k")
    return Held(type_url=type_url.SECRET, name=name, version="1", body=b"", decoded=Decoded(values=(), pair=pair))


def test_a_listener_waits_for_its_secrets() -> None:
    """A new one is served when they are there, a changed one in its old form until then or until they are absent."""
    warming = Warming()
    assert not warming.step([gateway("a", "b"), certificate("a")], 0.0).tables[LISTENER]
    first = warming.step([gateway("a", "b"), certificate("a"), certificate("b")], 1.0)
    assert [chain.name for chain in first.tables[LISTENER]["l"].filter_chains] == ["a", "b"]  # type: ignore[union-attr]
    held = [gateway("a", "c"), certificate("a")]
    second = warming.step(held, 2.0)
    assert second.tables[LISTENER]["l"] is first.tables[LISTENER]["l"]
    assert second.waiting == ("listener l waits for secret c",)
    third = warming.step(held, 3.0, {(type_url.SECRET, "c")})
    assert [chain.name for chain in third.tables[LISTENER]["l"].filter_chains] == ["a", "c"]  # type: ignore[union-attr]


def test_the_wait_for_secrets_ends() -> None:
    warming = Warming()
    assert not warming.step([gateway("a")], 0.0).tables[LISTENER]
    assert warming.step([gateway("a")], WARM_WITHIN_S).tables[LISTENER]
