"""All programs through one member: main.py MEMBER OTHER... prints one line for each program and fails at the first error."""

import sys
import time

import access
import nodes
import recipes
import sessions
import watches

PROGRAMS = (nodes, watches, access, recipes, sessions)


def main(member, *others):
    name = member.replace(":", "-")
    for program in PROGRAMS:
        start = time.monotonic()
        figures = program.run(member, list(others), f"/kazoo-{name}/{program.__name__}")
        took = f"{program.__name__} {time.monotonic() - start:.1f} s"
        print(f"{took} ({figures})" if figures else took, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
