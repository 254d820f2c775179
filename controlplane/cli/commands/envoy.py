"""`meshctl envoy bootstrap|renew`: a folder from which a real Envoy joins the mesh (decision 15).

Owns:   flags -> facts, the order of the steps, what is said at the end.
Not:    the bootstrap's form (bootstrap.envoy), certificates (identity, bootstrap.secrets).
"""

import argparse
import ipaddress
import sys
from datetime import UTC, datetime
from pathlib import Path

from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.bootstrap import envoy, flags
from controlplane.cli.bootstrap.envoy import EnvoyFacts
from controlplane.cli.bootstrap.files import make_folder, write_private
from controlplane.cli.bootstrap.gateway import GatewayNode, parse_gateway
from controlplane.cli.bootstrap.record import Record
from controlplane.cli.bootstrap.secrets import read_sds, write_sds
from controlplane.cli.bootstrap.workloads import Workload, identity_of, parse_workloads
from controlplane.cli.identity.signing import Credentials, Names, host_port
from controlplane.cli.output.documents import as_yaml

CLIENT = "envoy"
FILE = "bootstrap.yaml"
EPILOG = """\
example:
  meshctl token create --node edge-1 --output-file edge-1.token
  meshctl envoy bootstrap --node edge-1 --token-file edge-1.token --dir ./edge-1 \\
    --workload name=billing,service-account=billing,port=3005
  envoy -c ./edge-1/bootstrap.yaml
  meshctl envoy bootstrap --node gw-1 --token-file gw-1.token --dir ./gw-1 --address 10.0.0.9 \\
    --gateway namespace=ingress,service-account=ingress,labels.istio=ingressgateway

Certificates hold for a day: let a timer run 'meshctl envoy renew --dir ./edge-1'; Envoy picks them up by itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("bootstrap", help="join the mesh and write everything that Envoy needs")
    flags.add_joining(make)
    make.add_argument("--dir", required=True, type=Path, help="folder for key, certificates and bootstrap (0700)")
    make.add_argument("--address", default="127.0.0.1", help="where other nodes reach this Envoy (default 127.0.0.1)")
    make.add_argument("--outbound-address", help="where applications send to (default: --address if loopback)")
    make.add_argument("--outbound-port", type=int, default=15001, help="(default 15001)")
    make.add_argument("--admin", metavar="HOST:PORT", help="Envoy's admin (default: the outbound address, 15000)")
    make.add_argument(
        "--workload", action="append", default=[], metavar="KEY=VALUE,...",
        help="a service behind this Envoy: name=, port=, namespace=, service-account=, inbound-port= (from 20000), "
        "address= (where it listens), protocol=, id=, labels.KEY=; may be repeated",
    )  # fmt: skip
    make.add_argument(
        "--gateway", metavar="KEY=VALUE,...",
        help="this Envoy is a gateway: labels.KEY= (what selectors of Gateways look for), namespace= (where its "
        "Secrets are), service-account=, address= (where it binds their ports; default: --address)",
    )  # fmt: skip
    make.add_argument("--sotw", action="store_true", help="state-of-the-world xDS instead of delta")
    again = actions.add_parser("renew", help="replace the certificates; Envoy picks them up by itself")
    again.add_argument("--dir", required=True, type=Path, help="the folder of bootstrap")


def run(arguments: argparse.Namespace) -> int:
    """Bootstrap or renew."""
    folder = make_folder(arguments.dir)
    if arguments.action == "renew":
        credentials = flags.renew_folder(folder, CLIENT, read_sds)
        write_sds(folder, credentials)
        print(f"renewed in {folder}: {validity(credentials)}")
        return EXIT_DONE
    return _bootstrap(arguments, folder)


def _bootstrap(arguments: argparse.Namespace, folder: Path) -> int:
    workloads, gateway = parse_workloads(arguments.workload), parse_gateway(arguments.gateway)
    names = Names(node=arguments.node, workload=identity_of(workloads, gateway.identity if gateway else None))
    facts = facts_of(arguments, folder, workloads, gateway)
    if not arguments.plaintext:
        credentials = flags.obtain(arguments, CLIENT, names, folder, read_sds)
        write_sds(folder, credentials)
        _record(names, credentials, facts.xds_address).write(folder)
        print(f"certificates: {validity(credentials)}")
    write_private(folder / FILE, as_yaml(envoy.bootstrap(facts)).encode())
    print(f"start it with: envoy -c {folder / FILE}")
    return EXIT_DONE


def facts_of(
    arguments: argparse.Namespace, folder: Path, workloads: tuple[Workload, ...], gateway: GatewayNode | None = None
) -> EnvoyFacts:
    """From the flags. Raises SETTINGS."""
    outbound = arguments.outbound_address or (arguments.address if _is_loopback(arguments.address) else "127.0.0.1")
    admin = arguments.admin or f"{outbound}:15000"
    host_port(admin, "--admin")
    return EnvoyFacts(
        node=arguments.node,
        address=arguments.address,
        xds_address=flags.xds_address(arguments),
        outbound_address=outbound,
        outbound_port=arguments.outbound_port,
        admin=admin,
        tls_dir="" if arguments.plaintext else str(folder),
        delta=not arguments.sotw,
        locality=arguments.locality,
        workloads=workloads,
        gateway=gateway,
    )


def _record(names: Names, credentials: Credentials, address: str) -> Record:
    namespace, account = names.workload or ("", "")
    return Record(
        client=CLIENT,
        node=names.node,
        namespace=namespace,
        service_account=account,
        trust_domain=credentials.trust_domain,
        xds_address=address,
    )


def validity(credentials: Credentials) -> str:
    """`spiffe://... until 2026-01-31 10:20:30 UTC`."""
    until = datetime.fromtimestamp(credentials.workload.not_after_s, UTC)
    return f"{credentials.workload.spiffe_id} until {until:%Y-%m-%d %H:%M:%S} UTC"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        print(f"Warning: --address {address} is a name; other Envoys need an IP address", file=sys.stderr)
        return False
