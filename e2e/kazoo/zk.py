"""What the programs share: clients, requests that kazoo has no method for, and a record of every watch event."""

import threading
import time
from collections import namedtuple

from kazoo.client import KazooClient
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import (
    Watch,
    int_struct,
    long_struct,
    read_string,
    stat_struct,
    write_buffer,
    write_string,
)
from kazoo.protocol.states import ZnodeStat
from kazoo.security import OPEN_ACL_UNSAFE

CONTAINER, TTL, TTL_SEQUENTIAL = 4, 5, 6
CREATED, DELETED, CHANGED, CHILD = 1, 2, 3, 4
PERSISTENT, RECURSIVE = 0, 1
TIMEOUT = 10.0


def client(hosts, timeout=TIMEOUT, **options):
    """A started client of the given members, which keeps every watch event that it gets in `events`."""
    zk = KazooClient(hosts=hosts, timeout=timeout, randomize_hosts=False, **options)
    zk.events = Events()
    zk.start(timeout=30)
    return zk


class Events:
    """Watch events in the order of their arrival."""

    def __init__(self):
        self._events = []
        self._changed = threading.Condition()

    def add(self, event):
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def take(self, count, timeout=10.0):
        """The next `count` events as (type, path); fewer is an error."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._events) >= count, timeout)
            assert enough, f"{count} events expected, got {self._events}"
            taken, self._events = self._events[:count], self._events[count:]
            return taken

    def none(self):
        """An error if there is one. For after a round trip on the same connection: events come before its reply."""
        with self._changed:
            assert not self._events, f"unexpected events: {self._events}"


def _record(handler, buffer, offset, original=ConnectionHandler._read_watch_event):
    watch, _ = Watch.deserialize(buffer, offset)
    events = getattr(handler.client, "events", None)
    if events is not None:
        events.add((watch.type, watch.path))
    original(handler, buffer, offset)


ConnectionHandler._read_watch_event = _record


def call(zk, request):
    """Sends a request and waits for what its `deserialize` makes of the answer."""
    result = zk.handler.async_result()
    zk._call(request, result)
    return result.get(timeout=30)


def _acl(acl):
    entries = b"".join(int_struct.pack(a.perms) + write_string(a.id.scheme) + write_string(a.id.id) for a in acl)
    return int_struct.pack(len(acl)) + entries


def _strings(strings):
    return int_struct.pack(len(strings)) + b"".join(write_string(s) for s in strings)


class _Created:
    @classmethod
    def deserialize(cls, data, offset):
        path, offset = read_string(data, offset)
        return path, ZnodeStat._make(stat_struct.unpack_from(data, offset))


class _Empty:
    @classmethod
    def deserialize(cls, data, offset):
        return True


class CreateContainer(_Created, namedtuple("CreateContainer", "path data")):
    type = 19

    def serialize(self):
        return write_string(self.path) + write_buffer(self.data) + _acl(OPEN_ACL_UNSAFE) + int_struct.pack(CONTAINER)


class CreateTTL(_Created, namedtuple("CreateTTL", "path data flags ttl")):
    type = 21

    def serialize(self):
        head = write_string(self.path) + write_buffer(self.data) + _acl(OPEN_ACL_UNSAFE)
        return head + int_struct.pack(self.flags) + long_struct.pack(self.ttl)


class AddWatch(_Empty, namedtuple("AddWatch", "path mode")):
    type = 106

    def serialize(self):
        return write_string(self.path) + int_struct.pack(self.mode)


class RemoveWatches(_Empty, namedtuple("RemoveWatches", "path watcher_type")):
    type = 18

    def serialize(self):
        return write_string(self.path) + int_struct.pack(self.watcher_type)


class SetWatches(_Empty, namedtuple("SetWatches", "zxid data exist child")):
    type = 101

    def serialize(self):
        return long_struct.pack(self.zxid) + _strings(self.data) + _strings(self.exist) + _strings(self.child)


class GetEphemerals(namedtuple("GetEphemerals", "path")):
    type = 103

    def serialize(self):
        return write_string(self.path)

    @classmethod
    def deserialize(cls, data, offset):
        (count,) = int_struct.unpack_from(data, offset)
        offset += int_struct.size
        paths = []
        for _ in range(count):
            path, offset = read_string(data, offset)
            paths.append(path)
        return paths


class GetAllChildrenNumber(namedtuple("GetAllChildrenNumber", "path")):
    type = 104

    def serialize(self):
        return write_string(self.path)

    @classmethod
    def deserialize(cls, data, offset):
        return int_struct.unpack_from(data, offset)[0]


def raises(kind, function, *arguments, **options):
    """An error unless the call fails with `kind`."""
    try:
        value = function(*arguments, **options)
    except kind:
        return
    raise AssertionError(f"{kind.__name__} expected, got {value!r}")


def eventually(what, probe, timeout=15.0):
    """Waits until `probe()` holds; returns how many seconds that took."""
    start = time.monotonic()
    while not probe():
        assert time.monotonic() - start < timeout, f"waited {timeout} s in vain: {what}"
        time.sleep(0.02)
    return time.monotonic() - start
