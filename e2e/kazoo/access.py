"""ACLs: who is denied what, and digest authentication."""

from kazoo.exceptions import InvalidACLError, NoAuthError
from kazoo.security import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, Id, Permissions, make_digest_acl

import zk as z


def run(member, others, root):
    alice = z.client(member, auth_data=[("digest", "alice:secret")])
    bob = z.client(member, auth_data=[("digest", "bob:secret")])
    nobody = z.client(member)
    alice.ensure_path(root)
    denied(alice, bob, nobody, root)
    shared(alice, bob, nobody, root)
    changed(alice, bob, root)
    nobody.add_auth("digest", "alice:secret")
    assert nobody.get(f"{root}/private")[0] == b"hers"
    wrong(alice, member, root)
    for zk in (alice, bob, nobody):
        zk.stop()


def denied(alice, bob, nobody, root):
    path = alice.create(f"{root}/private", b"hers", acl=CREATOR_ALL_ACL)
    assert alice.get(path)[0] == b"hers"
    for zk in (bob, nobody):
        zk.sync(root)
        z.raises(NoAuthError, zk.get, path)
        z.raises(NoAuthError, zk.get_children, path)
        z.raises(NoAuthError, zk.set, path, b"")
        z.raises(NoAuthError, zk.create, f"{path}/child")
        z.raises(NoAuthError, zk.set_acls, path, OPEN_ACL_UNSAFE)
        z.raises(NoAuthError, zk.exists, path)
    multi = bob.transaction()
    multi.create(f"{root}/by-bob")
    multi.set_data(path, b"")
    assert isinstance(multi.commit()[1], NoAuthError)
    assert bob.exists(f"{root}/by-bob") is None
    child = alice.create(f"{path}/child", acl=[ACL(Permissions.ALL, Id("world", "anyone"))])
    # Deleting asks the parent.
    z.raises(NoAuthError, bob.delete, child)
    alice.delete(child)


def shared(alice, bob, nobody, root):
    acl = [make_digest_acl("alice", "secret", all=True), ACL(Permissions.READ, Id("world", "anyone"))]
    path = alice.create(f"{root}/shared", b"read me", acl=acl)
    for zk in (bob, nobody):
        zk.sync(root)
        assert zk.get(path)[0] == b"read me"
        z.raises(NoAuthError, zk.set, path, b"")
    address = bob._connection._socket.getsockname()[0]
    local = alice.create(f"{root}/local", b"", acl=[ACL(Permissions.ALL, Id("ip", address))])
    bob.sync(root)
    bob.set(local, b"by address")
    elsewhere = alice.create(f"{root}/elsewhere", b"", acl=[ACL(Permissions.ALL, Id("ip", "192.0.2.0/24"))])
    z.raises(NoAuthError, alice.set, elsewhere, b"")


def changed(alice, bob, root):
    path = f"{root}/shared"
    both = [make_digest_acl("alice", "secret", all=True), make_digest_acl("bob", "secret", read=True, write=True)]
    stat = alice.set_acls(path, both, version=0)
    assert stat.aversion == 1
    found, stat = alice.get_acls(path)
    assert found == both and stat.aversion == 1
    bob.sync(root)
    assert bob.set(path, b"by bob").version == 1


def wrong(alice, member, root):
    z.raises(InvalidACLError, alice.create, f"{root}/bad", b"", acl=[ACL(Permissions.ALL, Id("nonsense", "x"))])
    stranger = z.client(member)
    z.raises(InvalidACLError, stranger.create, f"{root}/bad", b"", acl=CREATOR_ALL_ACL)
    stranger.stop()

