"""What a program meets whose supervisor dies, an errno or an end for each thing it was doing: survivor.py HOST DEAD-HOST.

One connection to HOST is open, a connect to DEAD-HOST waits; when both are over, it tries everything once more.
"""

import errno
import os
import platform
import socket
import sys
import threading

CONNECT = {"x86_64": "42", "aarch64": "203"}[platform.machine()]
host, dead = sys.argv[1:]


def connect(address, blocking=True):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(blocking)
    result = sock.connect_ex(address)
    sock.close()
    return errno.errorcode.get(result, "connected")


def hold(sock):
    try:
        said = "closed" if sock.recv(1) == b"" else "answered"
    except OSError as error:
        said = errno.errorcode[error.errno]
    print("open:", said, flush=True)


def waits(thread):
    """Whether the thread is in connect(2)."""
    with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
        return file.read().split()[0] == CONNECT


opened = socket.create_connection((host, 80))
address = opened.getpeername()
threads = [
    threading.Thread(target=hold, args=(opened,)),
    threading.Thread(target=lambda: print("under way:", connect((dead, 80)), flush=True)),
]
for thread in threads:
    thread.start()
while not waits(threads[1]):
    os.sched_yield()
print("ready", flush=True)
for thread in threads:
    thread.join()
print("blocking:", connect(address))
print("not blocking:", connect(address, blocking=False))
try:
    socket.getaddrinfo(host, 80)
    print("name: found")
except socket.gaierror as error:
    print("name:", {socket.EAI_AGAIN: "EAI_AGAIN", socket.EAI_NONAME: "EAI_NONAME"}.get(error.errno, error))
print("over", flush=True)
