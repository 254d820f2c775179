"""Requests that could be read as two messages by one hop and as one by the next, and answers of that kind.

AMBIGUOUS: name -> (bytes, status of the refusal). Nothing of what stands behind the ambiguous place may reach anybody.
ANSWERS: name -> the framing fields of an answer. Source: RFC 9112; data-plane.md 2.1 and 2.2, "agent must".
"""

SMUGGLED = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

BAD_LENGTHS = [
    *(
        b"+2",
        b"-2",
        b"-0",
        b"+0",
        b"0x2",
        b"0X2",
        b"0b1",
        b"0o2",
        b"2h",
        b"2;",
        b"2,",
        b",2",
        b"2,2",
        b"2, 2",
        b"2 , 2",
    ),
    *(b"2, 3", b"2 2", b"2 3", b"1_0", b"2.0", b"2e0", b"1e1", b"two", b'"2"', b"'2'", b"", b",", b";", b"2\t2", b"\t"),
    *(b"\xb2", b"\xd9\xa2", b"2\xa0", b"\xa02", b"2\x85", b"\xef\xbc\x92", b"2\x0b", b"\x0b2", b"2\x0c", b"\x0c2"),
    *(b"2\x00", b"\x002", b"2\x01", b"2\x7f", b"2\r3", b"9" * 20, b"9" * 30, b"1" + b"0" * 400),
    *(b"18446744073709551617", b"18446744073709551616", b"9223372036854775808", b"4294967296, 2", b"chunked"),
]
BAD_CODINGS = {
    400: [
        *(b"\x0bchunked", b"\x0cchunked", b"chunked\x00", b"\x00chunked", b"chunked\x01", b"chunked\x7f"),
        *(b"chu\rnked", b"chunked\rx", b"\rchunked"),
    ],
    501: [
        *(b"gzip", b"gzip, chunked", b"gzip,chunked", b"chunked, gzip", b"deflate, chunked", b"compress"),
        *(b"identity", b"identity, chunked", b"chunked, identity", b"xchunked", b"chunkedx", b"chunked, chunked"),
        *(b"chunked,chunked", b"chunked,", b",chunked", b", chunked", b"chunked;q=1", b"chunked;foo=bar", b"chunked x"),
        *(b"x chunked", b'"chunked"', b"'chunked'", b"chunk", b"chunke", b"hunked", b"cow", b"trailers", b"", b","),
        *(b"chunked\xa0", b"\xa0chunked", b"\x85chunked", b"chun\xe9ked", b"chunked chunked", b"chunked\tx", b"0"),
        *(b"br, chunked", b"chunked\t", b"chunked \t", b"chunked\t "),
    ],
}  # fmt: skip
BAD_SIZES = [
    *(b"0x2", b"-2", b"+2", b" 2", b"\t2", b"2 ", b"2\t", b"2 x", b"g", b"", b"2_0", b"2.0", b"\xb2", b"\xd9\xa2"),
    *(b"2\x00", b"f" * 17, b"1" + b"0" * 16, b"0x", b"2,2", b"2\r", b"\r2", b"2\xa0", b"two", b";a=b"),
]  # fmt: skip


def _post(found: bytes, body: bytes = SMUGGLED, version: bytes = b"1.1") -> bytes:
    return b"POST /ok HTTP/" + version + b"\r\nHost: a\r\n" + found + b"\r\n" + body


def _refused() -> dict[str, tuple[bytes, int]]:
    both = {"CL, TE": b"Content-Length: 2\r\n%b", "TE, CL": b"%bContent-Length: 2\r\n"}
    found: dict[str, tuple[bytes, int]] = {}
    for value in BAD_LENGTHS:
        found[f"CL {value[:40]!r}"] = (_post(b"Content-Length: " + value + b"\r\n"), 400)
    for one, other in ((b"2", b"2"), (b"2", b"3"), (b"0", b"2"), (b"02", b"2"), (b"2", b"+2"), (b"2", b"")):
        found[f"two CL {one!r} {other!r}"] = (
            _post(b"Content-Length: %b\r\ncontent-length: %b\r\n" % (one, other)),
            400,
        )
    for status, codings in BAD_CODINGS.items():
        for value in codings:
            found[f"TE {value!r}"] = (_post(b"Transfer-Encoding: " + value + b"\r\n"), status)
    for name, form in both.items():
        for coding in (b"chunked", b"CHUNKED", b" chunked ", b"\tchunked", b"cHuNkEd"):
            found[f"{name} {coding!r}"] = (_post(form % (b"Transfer-Encoding:" + coding + b"\r\n")), 400)
        found[f"{name} lower case"] = (_post(form.lower() % b"transfer-encoding: chunked\r\n"), 400)
    for one, other in (
        (b"chunked", b"chunked"),
        (b"chunked", b"gzip"),
        (b"gzip", b"chunked"),
        (b"identity", b"chunked"),
    ):
        found[f"two TE {one!r} {other!r}"] = (
            _post(b"Transfer-Encoding: %b\r\ntransfer-encoding: %b\r\n" % (one, other)),
            501,
        )
    for version in (b"1.0",):
        found[f"TE on HTTP/{version.decode()}"] = (_post(b"Transfer-Encoding: chunked\r\n", version=version), 400)
    for name, line in {
        "TE space before colon": b"Transfer-Encoding : chunked\r\n",
        "TE tab before colon": b"Transfer-Encoding\t: chunked\r\n",
        "TE without colon": b"Transfer-Encoding chunked\r\n",
        "TE folded": b"Transfer-Encoding:\r\n chunked\r\n",
        "TE folded by tab": b"Transfer-Encoding:\r\n\tchunked\r\n",
        "TE in a folded field": b"X: y\r\n Transfer-Encoding: chunked\r\n",
        "TE behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n",
        "TE behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n",
        "TE behind NUL": b"X: y\x00Transfer-Encoding: chunked\r\n",
        "TE after a blank": b" Transfer-Encoding: chunked\r\n",
        "TE with a control in its name": b"Transfer-Encoding\x0b: chunked\r\n",
        "TE with NUL in its name": b"Transfer\x00-Encoding: chunked\r\n",
        "TE quoted name": b'"Transfer-Encoding": chunked\r\n',
        "TE ended by LF": b"Transfer-Encoding: chunked\n",
        "TE ended by CR": b"Transfer-Encoding: chunked\r",
        "CL space before colon": b"Content-Length : 2\r\n",
        "CL tab before colon": b"Content-Length\t: 2\r\n",
        "CL without colon": b"Content-Length 2\r\n",
        "CL folded": b"Content-Length:\r\n 2\r\n",
        "CL folded after its value": b"Content-Length: 2\r\n 3\r\n",
        "CL behind a bare LF": b"X: y\nContent-Length: 2\r\n",
        "CL behind a bare CR": b"X: y\rContent-Length: 2\r\n",
        "CL ended by LF": b"Content-Length: 2\n",
        "CL with NUL in its name": b"Content-\x00Length: 2\r\n",
        "second host": b"Host: b\r\n",
        "second host, equal": b"Host: a\r\n",
        "second host, other case": b"HOST: b\r\n",
    }.items():
        found[name] = (_post(line), 400)
    for size in BAD_SIZES:
        found[f"chunk {size!r}"] = (_post(b"Transfer-Encoding: chunked\r\n", size + b"\r\nab\r\n" + SMUGGLED), 400)
    for name, body in {
        "chunk sizes ended by LF": b"2\nab\n0\n\n",
        "chunk size ended by LF": b"2\nab\r\n" + SMUGGLED,
        "chunk size ended by CR": b"2\rab\r\n" + SMUGGLED,
        "chunk ended by LF": b"2\r\nab\n" + SMUGGLED,
        "chunk ended by CR": b"2\r\nab\r" + SMUGGLED,
        "chunk without an end": b"2\r\nab" + SMUGGLED,
        "chunk longer than its size": b"2\r\nabc\r\n" + SMUGGLED,
        "chunk shorter than its size": b"5\r\nab\r\n0\r\n\r\n",
        "extension with a bare LF": b"2;a\nb\r\nab\r\n" + SMUGGLED,
        "extension with a bare CR": b"2;a\rb\r\nab\r\n" + SMUGGLED,
        "extension with NUL": b"2;a\x00b\r\nab\r\n" + SMUGGLED,
        "last chunk ended by LF": b"0\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer with a bare LF": b"0\r\nX: y\nZ: a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer folded": b"0\r\nX: y\r\n z\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer that closes": b"0\r\nConnection: close\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer that upgrades": b"0\r\nUpgrade: h2c\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer with a length": b"0\r\nContent-Length: 3\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer space before colon": b"0\r\nX : y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    }.items():
        found[name] = (_post(b"Transfer-Encoding: chunked\r\n", body), 400)
    return found


AMBIGUOUS = _refused()
ANSWERS = {
    **{f"CL {value[:40]!r}": b"Content-Length: " + value for value in BAD_LENGTHS},
    **{f"TE {value!r}": b"Transfer-Encoding: " + value for values in BAD_CODINGS.values() for value in values},
    "CL, TE": b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    "TE, CL": b"Transfer-Encoding: chunked\r\nContent-Length: 2",
    "two CL": b"Content-Length: 2\r\nContent-Length: 2",
    "two TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "TE space before colon": b"Transfer-Encoding : chunked",
    "TE folded": b"Transfer-Encoding:\r\n chunked",
}
