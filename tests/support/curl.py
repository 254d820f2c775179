"""The part of curl that the documentation uses, for machines without it: `curl` on PATH is this file then."""

import argparse
import http.client
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

_RANGE = re.compile(r"\[(\d+)-(\d+)\]")


def on_path(folder: Path) -> dict[str, str]:
    """PATH with a curl on it, where there is none; the program is made in `folder`."""
    if shutil.which("curl"):
        return {}
    program = folder / "bin" / "curl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="curl")
    parser.add_argument("--retry", type=int, default=0)
    parser.add_argument("--retry-delay", type=float, default=1.0)
    parser.add_argument("--retry-all-errors", action="store_true")
    parser.add_argument("--fail", "-f", action="store_true")
    parser.add_argument("--silent", "-s", action="store_true")
    parser.add_argument("--parallel", action="store_true")
    parser.add_argument("--parallel-immediate", action="store_true")
    parser.add_argument("--parallel-max", type=int, default=50)
    parser.add_argument("-i", action="store_true", dest="head")
    parser.add_argument("-o", dest="output")
    parser.add_argument("-w", dest="format", default="")
    parser.add_argument("-X", dest="method", default="")
    parser.add_argument("-d", dest="data")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("url")
    return parser.parse_args(argv)


def urls(text: str) -> Iterator[str]:
    """The URL, or each of those that `[1-20]` in it stands for."""
    found = _RANGE.search(text)
    if found is None:
        yield text
        return
    for number in range(int(found[1]), int(found[2]) + 1):
        yield f"{text[: found.start()]}{number}{text[found.end() :]}"


def ask(arguments: argparse.Namespace, address: str) -> tuple[int, str]:
    """One request; 0, 7 when nobody answers, 22 for a status of 400 or more with --fail; what is printed."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=10)
    fields = [line.partition(":") for line in arguments.headers]
    headers = {name.strip(): value.strip() for name, _, value in fields}
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        connection.request(arguments.method or ("POST" if arguments.data else "GET"), path, arguments.data, headers)
        reply = connection.getresponse()
        body = reply.read()
    except OSError:
        return 7, ""
    if arguments.fail and reply.status >= 400:
        return 22, ""
    text = f"HTTP/1.1 {reply.status} {reply.reason}\r\n{reply.headers}" if arguments.head else ""
    shown = "" if arguments.output is not None else text + body.decode(errors="replace")
    return 0, shown + arguments.format.replace("%{http_code}", str(reply.status)).replace("\\n", "\n")


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    for left in range(arguments.retry, -1, -1):
        with ThreadPoolExecutor(arguments.parallel_max if arguments.parallel else 1) as pool:
            done = list(pool.map(lambda address: ask(arguments, address), urls(arguments.url)))
        sys.stdout.write("".join(text for _, text in done))
        code = max(code for code, _ in done)
        if code == 0 or not left:
            break
        time.sleep(arguments.retry_delay)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
