"""How fast is the channel? Two processes on loopback, beside raw trio TCP and py-libp2p's stream per request.

    python benchmarks/channel.py [--json] [--seconds N]

Absolute figures depend on the machine and on who else uses it; compare within one run. The goals, on an
idle machine: 20,000 small requests/s with 128 in flight, 1,000 one at a time, 80 MB/s in bulk.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from ainp2p.protocol.identity import Key
from ainp2p.protocol.libp2p import Libp2pNetwork, open_network
from ainp2p.protocol.network import Call

SMALL = bytes(200)
BULK = bytes(1 << 20)
IN_FLIGHT = 128
CHUNKS = 20
LIBP2P_ECHO = "/bench/echo/1"


# --- the server process -------------------------------------------------------------------------


async def serve() -> None:
    async with open_network(Key(b"s" * 32)) as network, trio.open_nursery() as nursery:
        network.serve("/bench/echo", _echo)
        network.serve("/bench/sink", _sink)
        network.serve("/bench/source", _source)
        network.serve("/bench/cpu", _cpu)
        network._host.set_stream_handler(LIBP2P_ECHO, _libp2p_echo)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, _tcp_echo, listeners)
        print(network.addresses[0], listeners[0].socket.getsockname()[1], flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            await stdin.receive_some()  # ends when our parent does
        nursery.cancel_scope.cancel()


async def _echo(call: Call) -> bytes:
    return call.body


async def _sink(call: Call) -> bytes:
    return b""


async def _source(call: Call) -> None:
    for _ in range(int(call.body)):
        await call.send(BULK)


async def _cpu(call: Call) -> bytes:
    return struct.pack("!d", time.process_time())


async def _libp2p_echo(stream: Any) -> None:
    await stream.write(await stream.read(len(SMALL)))
    await stream.close()


async def _tcp_echo(stream: trio.SocketStream) -> None:
    while data := await stream.receive_some(65536):
        await stream.send_all(data[:200] if len(data) > 200 else data)


# --- the client process -------------------------------------------------------------------------


class Bench:
    """One client and its server, and how long each kind of work takes."""

    def __init__(self, network: Libp2pNetwork, server: str, tcp_port: int, seconds: float) -> None:
        self.network, self.server, self.tcp_port, self.seconds = network, server, tcp_port, seconds
        self.results: dict[str, float] = {}

    async def server_cpu(self) -> float:
        cpu: float = struct.unpack("!d", await self.network.request(self.server, "/bench/cpu", b""))[0]
        return cpu

    async def rate(self, name: str, once: Callable[[], Awaitable[object]], *, at_once: int = 1) -> float:
        """Repeat `once` for some seconds in `at_once` tasks; notes and returns how many times a second."""
        await once()
        done, server = 0, await self.server_cpu()
        wall, cpu = time.perf_counter(), time.process_time()
        until = wall + self.seconds

        async def work() -> None:
            nonlocal done
            while time.perf_counter() < until:
                await once()
                done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(work)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.results[name] = done / wall
        self.results[f"{name}_client_cpu_us"] = cpu / done * 1e6
        self.results[f"{name}_server_cpu_us"] = (await self.server_cpu() - server) / done * 1e6
        return done / wall

    async def run(self) -> dict[str, float]:
        request = self.network.request
        await self.rate("channel_128", lambda: request(self.server, "/bench/echo", SMALL), at_once=IN_FLIGHT)
        await self.rate("channel_1", lambda: request(self.server, "/bench/echo", SMALL))
        await self.rate("channel_mb", lambda: request(self.server, "/bench/sink", BULK), at_once=4)
        await self.rate("channel_stream_mb", self.stream_bulk)
        self.results["channel_stream_mb"] *= CHUNKS
        for side in ("client", "server"):
            self.results[f"channel_stream_mb_{side}_cpu_us"] /= CHUNKS
        await self.rate("libp2p_stream_1", self.libp2p_stream)
        await self.rate("libp2p_stream_32", self.libp2p_stream, at_once=32)
        async with await trio.open_tcp_stream("127.0.0.1", self.tcp_port) as tcp:

            async def ping() -> None:
                await tcp.send_all(SMALL)
                await tcp.receive_some(200)

            await self.rate("tcp_1", ping)
        await self.tcp_bulk()
        return self.results

    async def stream_bulk(self) -> None:
        async with self.network.stream(self.server, "/bench/source", b"%d" % CHUNKS) as chunks:
            async for _ in chunks:
                pass

    async def libp2p_stream(self) -> None:
        stream = await self.network._host.new_stream(self.network._id(self.server), [LIBP2P_ECHO])
        await stream.write(SMALL)
        await stream.read(len(SMALL))
        await stream.close()

    async def tcp_bulk(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        got = 0

        async def swallow(stream: trio.SocketStream) -> None:
            nonlocal got
            while data := await stream.receive_some(1 << 18):
                got += len(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, swallow, listeners)
            port = listeners[0].socket.getsockname()[1]
            async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
                start = time.perf_counter()
                while time.perf_counter() - start < self.seconds / 2:
                    await tcp.send_all(BULK)
            self.results["tcp_one_process_mb"] = got / 1e6 / (time.perf_counter() - start)
            nursery.cancel_scope.cancel()


@contextmanager
def server_process() -> Iterator[tuple[str, int]]:
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address, port = process.stdout.readline().split()
        yield address, int(port)
        process.kill()


async def measure(seconds: float, address: str, tcp_port: int) -> dict[str, float]:
    async with open_network(Key(b"c" * 32)) as network:
        server = await network.connect(address)
        results = await Bench(network, server, tcp_port, seconds).run()
    results["channel_mb"] *= len(BULK) / 1e6
    results["channel_stream_mb"] *= len(BULK) / 1e6
    return {
        **results,
        "ratio_channel_128_to_libp2p_stream_32": results["channel_128"] / results["libp2p_stream_32"],
        "ratio_channel_1_to_libp2p_stream_1": results["channel_1"] / results["libp2p_stream_1"],
        "ratio_channel_1_to_tcp_1": results["channel_1"] / results["tcp_1"],
        "ratio_channel_mb_to_tcp_mb": results["channel_mb"] / results["tcp_one_process_mb"],
        "load_average": os.getloadavg()[0],
    }


ROWS = (
    ("channel, 128 in flight", "channel_128", "requests/s"),
    ("channel, one at a time", "channel_1", "requests/s"),
    ("libp2p, stream per request, 32 in flight", "libp2p_stream_32", "requests/s"),
    ("libp2p, stream per request, one at a time", "libp2p_stream_1", "requests/s"),
    ("raw trio TCP, one at a time", "tcp_1", "requests/s"),
    ("channel, 1 MiB requests", "channel_mb", "MB/s"),
    ("channel, stream of 1 MiB chunks", "channel_stream_mb", "MB/s"),
    ("raw trio TCP, both ends in one process", "tcp_one_process_mb", "MB/s"),
)


def show(results: dict[str, float]) -> None:
    print(f"{'':44}{'':>12} {'':12}{'CPU µs/op':>14}{'CPU µs/op':>12}")
    print(f"{'':44}{'':>12} {'':12}{'client':>14}{'server':>12}")
    for words, name, unit in ROWS:
        cpu = [results.get(f"{name}_{side}_cpu_us") for side in ("client", "server")]
        text = "".join(f"{value:>13,.0f}" if value is not None else f"{'':>13}" for value in cpu)
        print(f"{words:44}{results[name]:>12,.0f} {unit:12}{text}")
    for name in (name for name in results if name.startswith("ratio")):
        print(f"{name.removeprefix('ratio_').replace('_', ' '):44}{results[name]:>12,.2f}")
    print(f"{'load average':44}{results['load_average']:>12,.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures by name, as JSON")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each measurement lasts")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        trio.run(serve)
        return
    with server_process() as (address, tcp_port):
        results = trio.run(measure, args.seconds, address, tcp_port)
    print(json.dumps(results, indent=1)) if args.json else show(results)


if __name__ == "__main__":
    main()
