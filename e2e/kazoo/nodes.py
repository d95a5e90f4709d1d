"""Node kinds, versions, and transactions through one member."""

from kazoo.exceptions import (
    BadVersionError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)

import zk as z


def run(member, others, root):
    zk = z.client(member)
    zk.ensure_path(root)
    plain(zk, root)
    sequential(zk, root)
    ephemeral(zk, member, root)
    container_and_ttl(zk, root)
    transactions(zk, root)
    elsewhere(zk, others, root)
    zk.stop()


def plain(zk, root):
    path = f"{root}/plain"
    created, stat = zk.create(path, b"one", include_data=True)
    assert created == path and stat.version == 0 and stat.czxid == stat.mzxid == stat.pzxid
    z.raises(NodeExistsError, zk.create, path)
    z.raises(NoNodeError, zk.create, f"{root}/missing/child")
    z.raises(NoNodeError, zk.get, f"{root}/missing")
    assert zk.exists(f"{root}/missing") is None
    stat = zk.set(path, b"four", version=0)
    assert (stat.version, stat.dataLength) == (1, 4) and stat.mzxid > stat.czxid
    z.raises(BadVersionError, zk.set, path, b"no", version=0)
    z.raises(BadVersionError, zk.delete, path, version=0)
    zk.create(f"{path}/child", None)
    data, stat = zk.get(path)
    assert data == b"four" and (stat.numChildren, stat.cversion) == (1, 1) and stat.pzxid > stat.mzxid
    z.raises(NotEmptyError, zk.delete, path)
    assert z.call(zk, z.GetAllChildrenNumber(path)) == 1
    zk.delete(f"{path}/child")
    zk.delete(path, version=1)
    assert zk.exists(path) is None


def sequential(zk, root):
    parent = zk.create(f"{root}/sequential")
    names = [zk.create(f"{parent}/n-", sequence=True) for _ in range(3)]
    assert names == [f"{parent}/n-{i:010}" for i in range(3)], names
    zk.delete(names[1])
    assert zk.create(f"{parent}/n-", sequence=True) == f"{parent}/n-{3:010}"
    # The number is the parent's count of creations and deletions.
    assert zk.create(f"{parent}/other-", sequence=True).startswith(f"{parent}/other-000000000")
    assert len(zk.get_children(parent)) == 4


def ephemeral(zk, member, root):
    other = z.client(member)
    path = other.create(f"{root}/ephemeral", ephemeral=True)
    numbered = other.create(f"{root}/ephemeral-", ephemeral=True, sequence=True)
    _, stat = other.get(path)
    assert stat.ephemeralOwner == other.client_id[0]
    z.raises(NoChildrenForEphemeralsError, other.create, f"{path}/child")
    assert sorted(z.call(other, z.GetEphemerals(root))) == [path, numbered]
    other.stop()
    # Closing the session is a transaction; it is acknowledged to its client when it is applied on this member.
    assert zk.exists(path) is None and zk.exists(numbered) is None


def container_and_ttl(zk, root):
    path, stat = z.call(zk, z.CreateContainer(f"{root}/container", b"c"))
    assert path == f"{root}/container" and stat.ephemeralOwner == 0
    zk.create(f"{path}/child")
    assert zk.get(path)[1].numChildren == 1
    path, stat = z.call(zk, z.CreateTTL(f"{root}/ttl", b"t", z.TTL, 3_600_000))
    # Clients see no owner, although the owner's field holds the time to live.
    assert path == f"{root}/ttl" and stat.ephemeralOwner == 0
    path, _ = z.call(zk, z.CreateTTL(f"{root}/ttl-", b"t", z.TTL_SEQUENTIAL, 3_600_000))
    assert path.startswith(f"{root}/ttl-00")
    assert zk.get(path)[0] == b"t"
    # These two go by themselves when the leader next looks for such nodes (the test has it look every second).
    z.call(zk, z.CreateTTL(f"{root}/ttl-short", b"", z.TTL, 100))
    empty, _ = z.call(zk, z.CreateContainer(f"{root}/container-emptied", b""))
    zk.create(f"{empty}/child")
    zk.delete(f"{empty}/child")
    for short in (f"{root}/ttl-short", empty):
        z.eventually(f"{short} goes", lambda path=short: zk.exists(path) is None)
    assert zk.exists(f"{root}/container") and zk.exists(f"{root}/ttl")


def transactions(zk, root):
    parent = zk.create(f"{root}/multi")
    good = zk.transaction()
    good.create(f"{parent}/a", b"1")
    good.create(f"{parent}/a/s-", b"", sequence=True)
    good.set_data(f"{parent}/a", b"2")
    good.check(f"{parent}/a", 1)
    good.create(f"{parent}/gone")
    good.delete(f"{parent}/gone")
    results = good.commit()
    assert results[:2] == [f"{parent}/a", f"{parent}/a/s-{0:010}"], results
    assert results[2].version == 1 and results[3] is True and results[5] is True, results
    data, stat = zk.get(f"{parent}/a")
    assert data == b"2" and stat.czxid == stat.mzxid == stat.pzxid, stat

    failing = zk.transaction()
    failing.create(f"{parent}/b", b"1")
    failing.check(f"{parent}/a", 7)
    failing.delete(f"{parent}/a")
    kinds = [type(result) for result in failing.commit()]
    assert kinds == [RolledBackError, BadVersionError, RuntimeInconsistency], kinds
    assert zk.exists(f"{parent}/b") is None
    assert zk.get(f"{parent}/a")[1].version == 1


def elsewhere(zk, others, root):
    """After a sync every other member shows the same."""
    expected = {path: zk.get(f"{root}/{path}") for path in ("multi/a", "ttl", "container")}
    for other in others:
        there = z.client(other)
        there.sync(root)
        for path, value in expected.items():
            assert there.get(f"{root}/{path}") == value, f"{path} on {other}"
        there.stop()
