"""A server in the background of this machine: it is started, and returned when it answers right."""

from functools import partial
from pathlib import Path

import requests

from inference.store import manifest
from inference.tools import limits
from serve.health import check_health, wait
from serve.host import HOST
from serve.record import NotServing, Server, find, recall
from serve.versions import choose


def start(run_directory: Path, store: Path, names: list[str], port: int, workers: int = 1) -> Server:
    """Starts a server and returns once every model is ready. Else raises ValueError, and nothing is left running.

    A server that runs already is taken when it is the one that was asked for, and ready.
    """
    running = find(run_directory)
    chosen = choose(manifest.Manifest.read(store), names, run_directory)
    total, most = len(chosen) * workers, limits.cores()
    if workers > 1 and total > most:
        asked = f"--workers {workers} makes {total} workers in all"
        raise ValueError(f"{asked}, and the server may use {most} cores. Ask for fewer, or serve fewer models.")
    server = HOST.new(run_directory, store, run_directory, port, chosen, workers)
    if running:
        _check_same(running, server)
        return running
    manifest.check(store, {one.file: one for archives in chosen.values() for one in archives})
    HOST.check_ports(port)
    if stale := recall(run_directory):
        HOST.stop(stale)
    log = HOST.log(run_directory)
    try:
        server.remember()
        with log.open("wb") as output:
            process = HOST.start(server, chosen, output)
        ready = partial(wait, server, process, lambda: HOST.load_failed(log.read_text(errors="replace")))
        try:
            ready()
            if workers > 1:
                _give_workers(server)
                ready()
        except NotServing as error:
            words = log.read_text(errors="replace").splitlines()[-25:]
            raise NotServing("\n".join([f"{error} Its last words:", *words])) from None
    except BaseException:
        HOST.stop(server)
        raise
    return server


def _check_same(running: Server, asked: Server) -> None:
    """Raises NotServing unless the running server is what was asked for, serves what the store holds, and is ready."""
    there = f"A server is running already, on port {running.port}"
    remedy = "Stop it first: python -m serve down"
    if (running.port, running.store, running.models.keys()) != (asked.port, asked.store, asked.models.keys()):
        raise NotServing(f"{there}, with {', '.join(running.models)} of {running.store}. {remedy}")
    if running.workers != asked.workers:
        raise NotServing(f"{there}, started with --workers {running.workers}. {remedy}")
    for name, digests in asked.models.items():
        if running.models[name] != digests:
            raise NotServing(f"{there}, and {name} was exported again since it was started. {remedy}")
    for health in check_health(running):
        if health.reason:
            raise NotServing(f"{there}, and {health.version.model} is not ready: {health.reason}. {remedy}")


def _give_workers(server: Server) -> None:
    """Each model's default version gets as many as the server was started for. Raises NotServing."""
    running = HOST.connect(server)
    assert running
    with running.session:
        for name in server.models:
            try:
                default = running.describe(name)
                server.check_memory(default, server.workers - len(default.workers))
                running.scale(name, default.version, server.workers)
            except (NotServing, requests.RequestException) as error:
                raise NotServing(f"The server could not start {server.workers} workers of {name} ({error}).") from None
