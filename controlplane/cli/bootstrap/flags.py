"""Flags that `envoy bootstrap` and `grpc bootstrap` share, and getting the certificates that they ask for.

Owns:   how a client joins (token), renews, or goes without certificates.
Not:    the bootstraps themselves (envoy, grpc), files (secrets).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from controlplane.cli.bootstrap.record import Record, read_record
from controlplane.cli.client import server_of
from controlplane.cli.identity import token
from controlplane.cli.identity.signing import Credentials, Names, host_port, join, renew
from mesh.errors import ErrorCode, MeshError
from mesh.identity import join_token
from mesh.vocabulary import Locality

MTLS_PORT, TLS_PORT = 18000, 18001

ReadHeld = Callable[[Path, Record], Credentials]


def add_joining(parser: argparse.ArgumentParser) -> None:
    """Who joins, where, and with what."""
    parser.add_argument("--node", required=True, help="the node's name, as in the join token")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--token", help="the join token; other users of this machine can see it: better --token-file")
    how.add_argument("--token-file", dest="join_token_file", metavar="FILE", help="file with the join token")
    how.add_argument("--renew", action="store_true", help="no token: renew with the certificate in --dir")
    how.add_argument("--plaintext", action="store_true", help="no certificates: for --xds-plaintext, in development")
    parser.add_argument(
        "--join-address", metavar="HOST:PORT", help=f"gRPC with server TLS (default: the server's host, {TLS_PORT})"
    )
    parser.add_argument(
        "--xds-address", metavar="HOST:PORT", help=f"gRPC for xDS (default: the server's host, {MTLS_PORT})"
    )
    parser.add_argument("--locality", type=locality, default=Locality(), metavar="REGION[/ZONE[/SUBZONE]]")


def locality(text: str) -> Locality:
    """An argparse type."""
    try:
        return Locality.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def xds_address(arguments: argparse.Namespace) -> str:
    """Where xDS is served. Raises SETTINGS."""
    address = arguments.xds_address or f"{_host(arguments)}:{MTLS_PORT}"
    host_port(address, "--xds-address")
    return str(address)


def obtain(arguments: argparse.Namespace, client: str, names: Names, folder: Path, read_held: ReadHeld) -> Credentials:
    """Certificates by the token, or by the present certificate with --renew. Raises MeshError."""
    if arguments.renew:
        record = read_record(folder, client)
        if record.node != names.node:
            raise MeshError(
                ErrorCode.SETTINGS, f"found node {record.node} in {folder}, expected {names.node}", subject="--node"
            )
        return renew(xds_address(arguments), read_held(folder, record), names)
    if arguments.token:
        held = join_token.parse(arguments.token, "--token")
    elif arguments.join_token_file:
        held = token.read(arguments.join_token_file)
    else:
        raise MeshError(
            ErrorCode.SETTINGS,
            "found none of --token-file, --token, --renew and --plaintext",
            subject="--token-file",
            hint="meshctl token create",
        )
    return join(arguments.join_address or f"{_host(arguments)}:{TLS_PORT}", held, names)


def renew_folder(folder: Path, client: str, read_held: ReadHeld) -> Credentials:
    """New certificates for what was bootstrapped in a folder. Raises MeshError."""
    held = read_record(folder, client)
    return renew(held.xds_address, read_held(folder, held), held.names)


def _host(arguments: argparse.Namespace) -> str:
    host = server_of(arguments).host
    return f"[{host}]" if ":" in host else host
