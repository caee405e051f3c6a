"""Processes on this machine that train one learner together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time


def run(count, directory, words):
    """Runs `keras-meta` in `count` processes that train one learner together.

    Args:
        count: the number of processes.
        directory: a `pathlib.Path`; receives the output of all processes but the first.
        words: the arguments of the command.

    Returns:
        The exit status of a process that failed, or 0.
    """
    addresses = free_addresses(count)
    processes = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        log = (
            None
            if index == 0
            else (directory / f"worker-{index}.log").open("w", encoding="utf-8")
        )
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "keras_meta", *words],
                env={**os.environ, "TF_CONFIG": config},
                stdout=log,
                stderr=log,
            )
        )

    def stop(number, frame):
        for process in processes:
            process.send_signal(number)

    # A Ctrl-C in a terminal reaches all processes directly.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The others report to the first process, which therefore ends last.
    while processes[0].poll() is None and not any(p.poll() for p in processes):
        time.sleep(0.2)
    status = next((p.poll() for p in processes if p.poll()), 0)
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
    return status


def free_addresses(count):
    """Addresses of this machine, `host:port`, that no program listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    return addresses
