"""An interactive program: says what terminal it has and when that changes, and answers lines. `interactive.py URL`."""

import os
import signal
import sys
import urllib.request


def size():
    columns, lines = os.get_terminal_size(0)
    return f"{columns}x{lines}"


signal.signal(signal.SIGWINCH, lambda *_: print("resized", size(), flush=True))
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
print("terminal", os.ttyname(0), os.isatty(1), size(), flush=True)
while True:
    line = input()
    if line == "page":
        print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode(), end="", flush=True)
    elif line == "quit":
        sys.exit(5)
    else:
        print("heard", line, flush=True)
