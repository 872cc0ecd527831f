"""Connects as it is told, and says how each attempt ended, a line each: the kernel's own errno, no library's idea of it.

connects.py blocking|waiting HOST PORT [TIMES]

blocking: connect(2) itself tells. waiting: a socket that does not block, waited for with poll(2), as libuv and most do it.
More than one attempt: the next comes when a line is read from standard input.
"""

import errno
import select
import socket
import sys
import time


def ending(sock):
    """What a reader meets first: bytes, the end, or an error."""
    try:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return "answered" if sock.recv(1) else "closed"
    except OSError as error:
        return errno.errorcode[error.errno]


def attempt(how, address):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(how == "blocking")
    begun = time.monotonic()
    result = sock.connect_ex(address)
    said = [errno.errorcode.get(result, "connected")]
    if result == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        poll.poll()
        result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        said.append(errno.errorcode.get(result, "connected"))
    took = time.monotonic() - begun
    if result == 0:
        sock.setblocking(True)
        said.append(ending(sock))
    sock.close()
    return f"{' '.join(said)} after {took:.2f} s"


how, host, port, *times = sys.argv[1:]
try:
    address = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0][4]
except socket.gaierror as error:
    print("no address:", [name for name in dir(socket) if name.startswith("EAI_") and getattr(socket, name) == error.errno][0])
    sys.exit()
for i in range(int(times[0]) if times else 1):
    if i > 0 and not sys.stdin.readline():
        break
    print(attempt(how, address), flush=True)
