"""The places of a group's counts are those of its names: a name in between moves all behind it."""

from agent.stats import names
from agent.stats.groups import Layout

HISTOGRAMS = ("RQ_TIME", "CX_CONNECT_MS", "DOWN_RQ_TIME")


def test_places_follow_the_names() -> None:
    """Each group's places, in the module's order: from 0, as many as the layouts behind them have names."""
    places: list[str] = []
    done = True
    layouts = 0
    for name, value in vars(names).items():
        if isinstance(value, Layout):
            assert len(places) == len(value.names), (name, places)
            done = True
            layouts += 1
        elif isinstance(value, int) and name not in HISTOGRAMS:
            places = [] if done else places
            assert value == len(places), name
            places.append(name)
            done = False
    assert done
    assert layouts > 5


def test_a_place_says_what_it_counts() -> None:
    for layout, place, name in [
        (names.CLUSTER, names.RQ_TOTAL, "upstream_rq_total"),
        (names.CLUSTER, names.RQ_ACTIVE_OVERFLOW, "upstream_rq_active_overflow"),
        (names.HTTP, names.HTTP_RQ_TOTAL, "rq_total"),
        (names.HTTP, names.DOWN_RQ_ACTIVE, "downstream_rq_active"),
        (names.LISTENER, names.LISTENER_SSL_REUSED, "ssl.session_reused"),
        (names.WORKER, names.LOG_WRITTEN, "access_log.written"),
    ]:
        assert layout.names[place] == name
