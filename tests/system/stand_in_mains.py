"""A node and a worker that do as they are told in lines of text, for tests of what starts and ends processes.

Driver -> node: `fork N`, `tell N EXPRESSION`, `here EXPRESSION`, `exit STATUS`.
Node -> driver: `report ...`, `said N VALUE` (what a worker evaluated), `here VALUE`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

NAMES = {"os": os, "signal": signal, "subprocess": subprocess, "sys": sys, "time": time}


def daemon() -> int:
    """A grandchild that has left the worker's group and session; its pid."""
    return subprocess.Popen(["sleep", "999"], start_new_session=True).pid


def node(endowment: Any) -> None:
    links: dict[int, socket.socket] = {}
    buffered = {endowment.link.fileno(): b""}
    poller = select.poll()
    for watched in (endowment.link, endowment.zygote, endowment.driver_pidfd):
        poller.register(watched, select.POLLIN)
    numbers: dict[int, int] = {}

    def say(text: str) -> None:
        endowment.link.sendall(text.encode() + b"\n")

    def obey(line: str) -> None:
        verb, _, rest = line.partition(" ")
        if verb == "fork":
            here, there = socket.socketpair()
            links[int(rest)] = here
            numbers[here.fileno()] = int(rest)
            buffered[here.fileno()] = b""
            poller.register(here, select.POLLIN)
            endowment.zygote.fork(int(rest), there)
        elif verb == "tell":
            number, _, expression = rest.partition(" ")
            links[int(number)].sendall(expression.encode() + b"\n")
        elif verb == "here":
            say(f"here {eval(rest, {**NAMES, 'endowment': endowment})!r}")
        elif verb == "exit":
            sys.exit(int(rest))

    while True:
        for descriptor, _ in poller.poll():
            if descriptor == endowment.driver_pidfd:
                return
            if descriptor == endowment.zygote.fileno():
                for report in endowment.zygote.read_reports():
                    say(f"report {report!r}")
                if endowment.zygote.ended:
                    poller.unregister(descriptor)
                    say("zygote ended")
                continue
            owner = endowment.link if descriptor == endowment.link.fileno() else links[numbers[descriptor]]
            data = owner.recv(65_536)
            if not data:
                poller.unregister(descriptor)
            *lines, buffered[descriptor] = (buffered[descriptor] + data).split(b"\n")
            for line in lines:
                if owner is endowment.link:
                    obey(line.decode())
                else:
                    say(f"said {numbers[descriptor]} {line.decode()}")


def worker(endowment: Any) -> None:
    with endowment.link.makefile("rw") as lines:
        lines.write(f"{os.getpid()}\n")
        lines.flush()
        for line in lines:
            value = eval(line, {**NAMES, "endowment": endowment, "daemon": daemon})
            lines.write(f"{value!r}\n")
            lines.flush()


def failing_node(endowment: Any) -> None:
    raise ValueError("this node fails")
