"""Sessions: ended, expired, and taken along to another member."""

import os
import signal
import subprocess
import sys

from kazoo.client import KazooState
from kazoo.exceptions import NoNodeError, SessionExpiredError
from kazoo.protocol.connection import _CONNECTION_DROP

import zk as z

SHORT = 2.0


def run(member, others, root):
    zk = z.client(member)
    zk.ensure_path(root)
    listed(zk)
    vanished = expiry(zk, member, root)
    told(zk, member, root)
    moved(zk, member, others, root)
    zk.stop()
    return f"a dead client's ephemeral node was gone after {vanished:.1f} s (time-out {SHORT:.0f} s)"


def listed(zk):
    """The session stands in its server's list, whatever role that has."""
    session, dump = f"0x{zk.client_id[0] & (1 << 64) - 1:x}", zk.command(b"dump")
    assert session in dump, f"{session} is not in the dump: {dump}"


def expiry(zk, member, root):
    """A client dies without a word: its ephemeral nodes go after its time-out, not before, and watchers are told."""
    path = f"{root}/of-the-dead"
    child = start_child(member, path)
    z.eventually("the child's node", lambda: zk.exists(path))
    zk.get(path, watch=lambda event: None)
    child.kill()
    child.wait()
    took = z.eventually("the node of the dead client goes", lambda: zk.exists(path) is None, timeout=SHORT * 6)
    assert took > SHORT / 2, f"gone after {took} s, before its time-out"
    assert zk.events.take(1) == [(z.DELETED, path)]
    return took


def told(zk, member, root):
    """A client that slept past its time-out learns that its session is gone."""
    path = f"{root}/of-the-sleeper"
    child = start_child(member, path)
    z.eventually("the child's node", lambda: zk.exists(path))
    os.kill(child.pid, signal.SIGSTOP)
    z.eventually("the sleeper's node goes", lambda: zk.exists(path) is None, timeout=SHORT * 6)
    os.kill(child.pid, signal.SIGCONT)
    try:
        output, _ = child.communicate("", timeout=20)
        assert "LOST" in output, output
    finally:
        child.kill()


def start_child(member, path):
    return subprocess.Popen(
        [sys.executable, __file__, member, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def child(member, path):
    """Holds an ephemeral node; prints each change of state; ends when its session is lost."""
    zk = z.client(member, timeout=SHORT)
    lost = zk.handler.event_object()

    def changed(state):
        print(state, flush=True)
        if state == KazooState.LOST:
            lost.set()

    zk.add_listener(changed)
    zk.create(path, ephemeral=True)
    lost.wait(60)


def moved(zk, member, others, root):
    """A client goes on at another member: same session, its ephemeral nodes stay, its writes are seen."""
    mover = z.client(member, timeout=20.0)
    session = mover.client_id
    path = mover.create(f"{root}/mover", b"0", ephemeral=True)
    for step, other in enumerate([*others, member], start=1):
        mover.set_hosts(other)
        mover._call(_CONNECTION_DROP, mover.handler.async_result())
        z.eventually("the client is at the other member", lambda host=other: at(mover, host))
        assert mover.client_id == session, f"{mover.client_id} after {session}"
        data, stat = mover.get(path)
        assert int(data) == step - 1 and stat.ephemeralOwner == session[0]
        mover.set(path, str(step).encode())
    zk.sync(root)
    assert zk.get(path)[0] == str(len(others) + 1).encode()
    mover.stop()
    zk.sync("/")
    z.raises(NoNodeError, zk.get, path)


def at(zk, host):
    """Whether the client has a session on the member `host`."""
    try:
        return zk.connected and "{}:{}".format(*zk._connection._socket.getpeername()[:2]) == host
    except (OSError, AttributeError, SessionExpiredError):
        return False


if __name__ == "__main__":
    child(*sys.argv[1:])
