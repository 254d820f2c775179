"""`meshctl grpc bootstrap|renew`: the bootstrap of proxyless gRPC, on standard output or in a folder.

Owns:   flags -> facts, the order of the steps.
Not:    the bootstrap's form (bootstrap.grpc), certificates (identity, bootstrap.secrets).
"""

import argparse
import sys
from pathlib import Path

from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.bootstrap import flags, grpc
from controlplane.cli.bootstrap.files import make_folder, write_private
from controlplane.cli.bootstrap.grpc import GrpcFacts
from controlplane.cli.bootstrap.record import Record
from controlplane.cli.bootstrap.secrets import read_pem, write_pem
from controlplane.cli.bootstrap.workloads import identity_of, parse_workloads
from controlplane.cli.commands.envoy import validity
from controlplane.cli.identity.signing import Names
from controlplane.cli.output.documents import as_json
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE, DEFAULT_SERVICE_ACCOUNT

CLIENT = "grpc"
FILE = "bootstrap.json"
EPILOG = """\
examples:
  development: gossamer-controlplane ... --xds-plaintext 127.0.0.1:18002
    meshctl grpc bootstrap --node client-1 --xds-address 127.0.0.1:18002 > bootstrap.json
  with certificates:
    meshctl grpc bootstrap --node client-1 --token-file client-1.token --dir ./client-1 --service-account orders
  a server, with grpc.xds_server_credentials on 10.0.0.7:50051:
    meshctl grpc bootstrap --node server-1 --xds-address 127.0.0.1:18002 --address 10.0.0.7 \\
      --workload name=greeter,port=50051,address=10.0.0.7,labels.app=greeter > bootstrap.json
  then: GRPC_XDS_BOOTSTRAP=bootstrap.json python client.py     (channel target xds:///user-service:50051)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("bootstrap", help="write a bootstrap; plaintext xDS unless a token is given")
    flags.add_joining(make)
    make.add_argument("--dir", type=Path, help="folder for key, certificates and bootstrap.json (0700)")
    make.add_argument("--namespace", default=DEFAULT_NAMESPACE, help="of the client (default default)")
    make.add_argument("--service-account", default=DEFAULT_SERVICE_ACCOUNT, help="of the client (default default)")
    make.add_argument("--address", default="127.0.0.1", help="where others reach the node's services")
    make.add_argument(
        "--workload", action="append", default=[], metavar="KEY=VALUE,...",
        help="a service that the process serves; `address` is the one that the server is bound to",
    )  # fmt: skip
    again = actions.add_parser("renew", help="replace the certificates; gRPC picks them up by itself")
    again.add_argument("--dir", required=True, type=Path, help="the folder of bootstrap")


def run(arguments: argparse.Namespace) -> int:
    """Bootstrap or renew."""
    if arguments.action == "renew":
        folder = make_folder(arguments.dir)
        credentials = flags.renew_folder(folder, CLIENT, read_pem)
        write_pem(folder, credentials)
        print(f"renewed in {folder}: {validity(credentials)}")
        return EXIT_DONE
    if arguments.token or arguments.join_token_file or arguments.renew:
        return _with_certificates(arguments)
    text = as_json(grpc.bootstrap(_facts(arguments, "")))
    if arguments.dir is None:
        sys.stdout.write(text)
    else:
        path = make_folder(arguments.dir) / FILE
        write_private(path, text.encode())
        print(f"start the client with: GRPC_XDS_BOOTSTRAP={path}")
    return EXIT_DONE


def _with_certificates(arguments: argparse.Namespace) -> int:
    if arguments.dir is None:
        raise MeshError(ErrorCode.SETTINGS, "found none, expected a folder for the certificates", subject="--dir")
    folder = make_folder(arguments.dir)
    names = Names(node=arguments.node, workload=(arguments.namespace, arguments.service_account))
    facts = _facts(arguments, str(folder))
    served = identity_of(facts.workloads)
    if served not in (None, names.workload):
        message = f"found {'/'.join(served or ())}, expected --namespace and --service-account: it has one certificate"
        raise MeshError(ErrorCode.SETTINGS, message, subject="--workload")
    credentials = flags.obtain(arguments, CLIENT, names, folder, read_pem)
    write_pem(folder, credentials)
    Record(
        client=CLIENT,
        node=names.node,
        namespace=arguments.namespace,
        service_account=arguments.service_account,
        trust_domain=credentials.trust_domain,
        xds_address=facts.xds_address,
    ).write(folder)
    write_private(folder / FILE, as_json(grpc.bootstrap(facts)).encode())
    print(f"certificates: {validity(credentials)}")
    print(f"start the client with: GRPC_XDS_BOOTSTRAP={folder / FILE}")
    return EXIT_DONE


def _facts(arguments: argparse.Namespace, tls_dir: str) -> GrpcFacts:
    return GrpcFacts(
        node=arguments.node,
        xds_address=flags.xds_address(arguments),
        tls_dir=tls_dir,
        namespace=arguments.namespace,
        service_account=arguments.service_account,
        locality=arguments.locality,
        address=arguments.address,
        workloads=parse_workloads(arguments.workload),
    )
