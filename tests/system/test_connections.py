"""Keep-alive connections are balanced between the web processes."""

import socket
import time
from contextlib import ExitStack

import psutil

CONNECTIONS = 16


def test_connections_are_balanced_between_processes(product):
    until_all_serve(product)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(CONNECTIONS)]
        for entry in clients:  # all at once, as after a restart of Nginx
            entry.setblocking(False)
            entry.connect_ex(("127.0.0.1", product.port))
        for entry in clients:
            entry.settimeout(10)
            entry.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert all(entry.recv(1000).startswith(b"HTTP/1.1 200") for entry in clients)
        shares = sorted(held(pid, product.port) for pid in product.workers())
    assert sum(shares) == CONNECTIONS
    # An even share is 8. On a loaded machine, a slow process may accept fewer connections.
    assert shares[0] >= CONNECTIONS // 8, shares


def until_all_serve(product):
    deadline = time.monotonic() + 120
    while product.log.read_text().count('"event":"model_switched"') < len(product.workers()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)


def held(pid, port):
    return sum(
        entry.status == psutil.CONN_ESTABLISHED and entry.laddr.port == port
        for entry in psutil.Process(pid).net_connections(kind="tcp")
    )
