"""kazoo's recipes, with contenders on different members."""

import threading

import zk as z


def run(member, others, root):
    everyone = [member, *others]
    clients = [z.client(host) for host in everyone]
    clients[0].ensure_path(root)
    for zk in clients:
        zk.sync(root)
    lock(clients, root)
    election(clients, root)
    barrier(clients, root)
    double_barrier(clients, root)
    counter(clients, root)
    for zk in clients:
        zk.stop()


def together(clients, body):
    """Runs `body(index, client)` for each client in a thread of its own; an error in any is an error."""
    errors = []

    def guarded(index, zk):
        try:
            body(index, zk)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=pair) for pair in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a contender hangs"
    if errors:
        raise errors[0]


def lock(clients, root):
    holders, order = [], []

    def body(index, zk):
        for _ in range(5):
            with zk.Lock(f"{root}/lock", str(index)):
                holders.append(index)
                assert holders == [index], f"held by {holders}"
                order.append(index)
                holders.remove(index)

    together(clients, body)
    assert len(order) == 5 * len(clients)
    first, second = clients[0].Lock(f"{root}/lock", "a"), clients[1].Lock(f"{root}/lock", "b")
    assert first.acquire() and not second.acquire(blocking=False)
    first.release()
    assert second.acquire(timeout=10)
    second.release()


def election(clients, root):
    leaders = []

    def lead(index):
        leaders.append(index)

    together(clients, lambda index, zk: zk.Election(f"{root}/election", str(index)).run(lead, index))
    assert sorted(leaders) == list(range(len(clients))), leaders


def barrier(clients, root):
    clients[0].Barrier(f"{root}/barrier").create()
    for zk in clients:
        zk.sync(root)
    assert not clients[1].Barrier(f"{root}/barrier").wait(timeout=0.1)
    passed = []

    def body(index, zk):
        if index == 0:
            zk.Barrier(f"{root}/barrier").remove()
        else:
            assert zk.Barrier(f"{root}/barrier").wait(timeout=20)
            passed.append(index)

    together(clients, body)
    assert len(passed) == len(clients) - 1


def double_barrier(clients, root):
    inside, lock, seen = set(), threading.Lock(), []

    def body(index, zk):
        double = zk.DoubleBarrier(f"{root}/double", len(clients), str(index))
        with lock:
            inside.add(index)
        double.enter()
        with lock:
            seen.append(len(inside))
        double.leave()

    together(clients, body)
    assert seen == [len(clients)] * len(clients), seen


def counter(clients, root):
    def body(_, zk):
        number = zk.Counter(f"{root}/counter")
        for _ in range(10):
            number += 1

    together(clients, body)
    clients[0].sync(root)
    assert clients[0].Counter(f"{root}/counter").value == 10 * len(clients)
