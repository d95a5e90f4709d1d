"""Watches of all kinds through one member; the changes come through another one."""

from kazoo.exceptions import NoWatcherError

import zk as z


def run(member, others, root):
    zk = z.client(member)
    writer = z.client(others[0])
    zk.ensure_path(root)
    writer.sync(root)
    one_shot(zk, writer, root)
    persistent(zk, writer, root)
    recursive(zk, writer, root)
    caught_up(zk, writer, root)
    zk.stop()
    writer.stop()


def ignore(event):
    """kazoo wants a callback to set a watch; the events are in `zk.events`."""


def one_shot(zk, writer, root):
    path = f"{root}/one"
    assert zk.exists(path, watch=ignore) is None
    writer.create(path, b"0")
    assert zk.events.take(1) == [(z.CREATED, path)]
    zk.get(path, watch=ignore)
    zk.get_children(path, watch=ignore)
    writer.set(path, b"1")
    writer.set(path, b"2")
    assert zk.events.take(1) == [(z.CHANGED, path)]
    writer.create(f"{path}/child")
    writer.delete(f"{path}/child")
    assert zk.events.take(1) == [(z.CHILD, path)]
    zk.get(path, watch=ignore)
    writer.delete(path)
    assert zk.events.take(1) == [(z.DELETED, path)]
    zk.sync(root)
    zk.events.none()


def persistent(zk, writer, root):
    path = f"{root}/persistent"
    z.call(zk, z.AddWatch(path, z.PERSISTENT))
    writer.create(path, b"0")
    writer.set(path, b"1")
    writer.create(f"{path}/child")
    writer.set(f"{path}/child", b"unseen")
    writer.delete(f"{path}/child")
    writer.delete(path)
    kinds = [z.CREATED, z.CHANGED, z.CHILD, z.CHILD, z.DELETED]
    assert zk.events.take(5) == [(kind, path) for kind in kinds]
    z.call(zk, z.RemoveWatches(path, 3))
    z.raises(NoWatcherError, z.call, zk, z.RemoveWatches(path, 3))
    writer.create(path)
    zk.sync(root)
    zk.events.none()


def recursive(zk, writer, root):
    path = zk.create(f"{root}/recursive")
    writer.sync(root)
    z.call(zk, z.AddWatch(path, z.RECURSIVE))
    writer.create(f"{path}/a")
    writer.create(f"{path}/a/b")
    writer.set(f"{path}/a/b", b"1")
    writer.delete(f"{path}/a/b")
    writer.set(path, b"1")
    expected = [
        (z.CREATED, f"{path}/a"),
        (z.CREATED, f"{path}/a/b"),
        (z.CHANGED, f"{path}/a/b"),
        (z.DELETED, f"{path}/a/b"),
        (z.CHANGED, path),
    ]
    assert zk.events.take(5) == expected
    z.call(zk, z.RemoveWatches(path, 5))
    writer.set(path, b"2")
    zk.sync(root)
    zk.events.none()


def caught_up(zk, writer, root):
    """A client that sets its watches again gets what it missed, and keeps the others."""
    for name in ("changed", "deleted", "same"):
        zk.create(f"{root}/{name}")
    before = zk.last_zxid
    writer.set(f"{root}/changed", b"1")
    writer.delete(f"{root}/deleted")
    writer.create(f"{root}/created")
    zk.sync(root)
    zk.events.none()
    data = [f"{root}/changed", f"{root}/deleted", f"{root}/same"]
    z.call(zk, z.SetWatches(before, data, [f"{root}/created"], [f"{root}/same"]))
    missed = sorted(zk.events.take(3))
    expected = [(z.CREATED, f"{root}/created"), (z.DELETED, f"{root}/deleted"), (z.CHANGED, f"{root}/changed")]
    assert missed == sorted(expected), missed
    writer.create(f"{root}/same/child")
    writer.set(f"{root}/same", b"1")
    assert zk.events.take(2) == [(z.CHILD, f"{root}/same"), (z.CHANGED, f"{root}/same")]
