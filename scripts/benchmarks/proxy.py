"""A distant registry: a TCP proxy that delays each answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 1 << 16


@contextmanager
def slow_proxy(port: int, to_port: int, delay: float) -> Iterator[None]:
    """Forwards 127.0.0.1:``port`` to 127.0.0.1:``to_port``; each answer starts ``delay`` seconds late."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()

    async def serve() -> asyncio.Server:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _relay(reader, writer, to_port, delay)

        return await asyncio.start_server(handle, "127.0.0.1", port, backlog=256)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        server = asyncio.run_coroutine_threadsafe(serve(), loop).result()
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(stop(server), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, delay: float) -> None:
    upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
    asked = asyncio.Event()

    async def requests() -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                asked.set()
                upstream_writer.write(data)
                await upstream_writer.drain()
            upstream_writer.close()

    async def answers() -> None:
        with suppress(OSError):
            while data := await upstream_reader.read(CHUNK):
                if asked.is_set():
                    asked.clear()
                    await asyncio.sleep(delay)
                writer.write(data)
                await writer.drain()
            writer.close()

    try:
        await asyncio.gather(requests(), answers())
    finally:
        writer.close()
        upstream_writer.close()
