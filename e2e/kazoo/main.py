"""All programs through one member: main.py MEMBER OTHER... prints one line for each program and fails at the first error.

A member is HOST:PORT; the programs get its address, by which they tell members apart.
"""

import socket
import sys
import time

import access
import nodes
import recipes
import sessions
import watches

PROGRAMS = (nodes, watches, access, recipes, sessions)


def address(member):
    host, port = member.rsplit(":", 1)
    return f"{socket.gethostbyname(host)}:{port}"


def main(*members):
    member, *others = map(address, members)
    name = member.replace(":", "-")
    for program in PROGRAMS:
        start = time.monotonic()
        figures = program.run(member, others, f"/kazoo-{name}/{program.__name__}")
        took = f"{program.__name__} {time.monotonic() - start:.1f} s"
        print(f"{took} ({figures})" if figures else took, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
