"""What a client's bytes may leave in the log."""

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.plane import api


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\nHost: a\n\n", b"\0\1\2\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_http_is_refused_without_a_traceback(
    tmp_path: Path, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with api(tmp_path) as rest:
        caplog.set_level(logging.INFO)
        assert rest.client.port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.client.port)
        writer.write(raw)
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()
    assert [record for record in caplog.records if record.exc_info] == []
