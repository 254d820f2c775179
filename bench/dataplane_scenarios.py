"""What `make bench-dataplane` asks of the proxies: one table of scenarios.

Owns:   which request on how many connections, over which way, in which world; the stages of the world in their order.
Not:    the policies of a world (dataplane_policies), sending (load), answering (origin).
"""

from dataclasses import dataclass, field

KIB, MIB = 1024, 1024 * 1024
DEFAULT_ANSWER = 128  # bytes
MANY = 1000  # hosts, clusters, routes
FEW = 10
PLAIN_HOST = "plain.bench"
ROUTES_HOST = "routes.bench"

# Thirteen fields of a browser's size, Host among them: what a mesh really carries. The session is each connection's.
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Cache-Control: no-cache",
    "Cookie: session={session:040x}; theme=dark; consent=essential",
    "Origin: https://shop.example",
    "Referer: https://shop.example/catalogue/garden/chairs",
    "Sec-Fetch-Dest: empty",
    "Sec-Fetch-Mode: cors",
    "X-Tenant: 4711",
    "X-Client-Version: 2026.11.3",
)


def host_of(number: int) -> str:
    """One of the MANY hosts, each with a cluster of its own."""
    return f"host-{number}.bench"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One request. `path` may have `{n}`, which runs through 50 numbers; `fields` may have `{session}` and `{token}`.

    `answer`: bytes of the answer's body. `sends`: bytes of the request's body; `chunked`: it has no content-length.
    """

    method: str = "GET"
    path: str = "/users/{n}"
    fields: tuple[str, ...] = BROWSER
    answer: int = DEFAULT_ANSWER
    sends: int = 0
    chunked: bool = False


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row for each proxy.

    `way`: `outbound` = client, outbound proxy, origin; `mesh` = mutual TLS to an inbound proxy of its kind between.
    `authorities`: of the outbound way, asked in turn. `rate`: requests per second of an open loop; 0 = closed loop.
    `direct`: the origin is asked without a proxy too; `peers`: other proxies do the same work.
    """

    name: str
    says: str
    shape: Shape = field(default_factory=Shape)
    stage: str = "base"
    way: str = "outbound"
    authorities: tuple[str, ...] = (PLAIN_HOST,)
    connections: int = 64
    rate: float = 0.0
    workers: int = 1
    direct: bool = False
    peers: bool = False


_BARE = Shape(fields=())
_TOKEN = Shape(fields=(*BROWSER, "Authorization: Bearer {token}"))

# In this order; each keeps what the ones before it have posted.
STAGES = ("base", "guarded", "few hosts", "many hosts", "many routes")
SCENARIOS = (
    Scenario(name="get", says="GET with Host only", shape=_BARE, peers=True),
    Scenario(name="headers", says="GET with 13 fields, 740 bytes; so are the others", peers=True),
    Scenario(
        name="body-64k", says="answers of 64 KiB", shape=Shape(path=f"/bytes/{64 * KIB}", answer=64 * KIB), peers=True
    ),
    Scenario(name="body-1m", says="answers of 1 MiB", shape=Shape(path=f"/bytes/{MIB}", answer=MIB), peers=True),
    Scenario(
        name="chunked", says="answers of 64 KiB in 16 chunks", peers=True,
        shape=Shape(path=f"/chunked/{64 * KIB}", answer=64 * KIB),
    ),
    Scenario(name="post", says="POST of 4 KiB", shape=Shape(method="POST", sends=4 * KIB), peers=True),
    Scenario(
        name="post-chunked", says="POST of 64 KiB in 16 chunks", peers=True,
        shape=Shape(method="POST", sends=64 * KIB, chunked=True),
    ),
    Scenario(name="connections-1", says="one connection", connections=1, peers=True),
    Scenario(name="connections-1000", says="1000 connections", connections=1000, peers=True),
    Scenario(name="workers-2", says="two workers, 64 connections", workers=2),
    Scenario(name="latency", says="64 connections, 1000 requests/s", rate=1000.0, direct=True, peers=True),
    Scenario(name="mtls", says="mutual TLS, both proxies counted", way="mesh"),
    Scenario(name="latency-mtls", says="the same at 1000 requests/s", way="mesh", rate=1000.0, direct=True),
    Scenario(
        name="guarded", says="mtls, JWT, authorization, rate limit", way="mesh", stage="guarded", shape=_TOKEN,
    ),
    Scenario(name="hosts-10", says="one of 10 hosts", stage="few hosts", authorities=(host_of(FEW - 1),)),
    Scenario(name="hosts-1000", says="one of 1000 hosts", stage="many hosts", authorities=(host_of(FEW - 1),)),
    Scenario(
        name="clusters-1000", says="1000 clusters in turn", stage="many hosts",
        authorities=tuple(host_of(number) for number in range(MANY)),
    ),
    Scenario(
        name="routes-1000", says="the last of 1000 routes of a host", stage="many routes",
        authorities=(ROUTES_HOST,), shape=Shape(path=f"/part-{MANY - 1}/{{n}}"),
    ),
)  # fmt: skip
