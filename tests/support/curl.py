"""The part of curl that the documentation uses, for machines without it: `curl` on PATH is this file then."""

import argparse
import http.client
import sys
import time
from urllib.parse import urlsplit


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="curl")
    parser.add_argument("--retry", type=int, default=0)
    parser.add_argument("--retry-delay", type=float, default=1.0)
    parser.add_argument("--retry-all-errors", action="store_true")
    parser.add_argument("--fail", "-f", action="store_true")
    parser.add_argument("--silent", "-s", action="store_true")
    parser.add_argument("-i", action="store_true", dest="head")
    parser.add_argument("-o", dest="output")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("url")
    return parser.parse_args(argv)


def ask(arguments: argparse.Namespace) -> int:
    """One request; 0, 7 when nobody answers, 22 for a status of 400 or more with --fail."""
    url = urlsplit(arguments.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=10)
    headers = dict(map(str.strip, line.split(":", 1)) for line in arguments.headers)
    try:
        connection.request("GET", url.path or "/", headers=headers)
        reply = connection.getresponse()
        body = reply.read()
    except OSError:
        return 7
    if arguments.fail and reply.status >= 400:
        return 22
    text = f"HTTP/1.1 {reply.status} {reply.reason}\r\n{reply.headers}" if arguments.head else ""
    if arguments.output is None:
        sys.stdout.write(text + body.decode(errors="replace"))
    return 0


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    for left in range(arguments.retry, -1, -1):
        code = ask(arguments)
        if code == 0 or not left:
            break
        time.sleep(arguments.retry_delay)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
