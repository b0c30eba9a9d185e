"""A program that is called as an interpreter with vLLM is, and hands what it is asked on to `VLLMApi`.

`vllm_python` may name it: it runs as a file, needs the standard library only, and starts at once. It notes
its arguments and settings in the file FAKE_VLLM_NOTES and hands on to the port FAKE_VLLM_API;
FAKE_VLLM_FAULT ends it, and with FAKE_VLLM_HANGS nothing but SIGKILL does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading


def main() -> None:
    """Serves until it is ended."""
    if "FAKE_VLLM_HANGS" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    key = os.environ["VLLM_API_KEY"]
    with open(os.environ["FAKE_VLLM_NOTES"], "a") as notes:
        settings = {name: value for name, value in os.environ.items() if name.startswith("VLLM_CPU")}
        line = {
            "arguments": sys.argv[1:],
            "pid": os.getpid(),
            "child": child.pid,
            "key": key,
            "settings": settings,
        }
        notes.write(f"{json.dumps(line)}\n")
    print("INFO loading weights", flush=True)
    if fault := os.environ.get("FAKE_VLLM_FAULT"):
        print(f"{fault} with the key {key}", flush=True)
        sys.exit(3)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    with socket.create_server(("127.0.0.1", port)) as listening:
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=serve, args=[connection, key], daemon=True).start()


def serve(client: socket.socket, key: str) -> None:
    """Serves one connection: with the key, or its health."""
    head = b""
    while b"\r\n\r\n" not in head and (part := client.recv(2**16)):
        head += part
    if not head:
        return
    if not head.startswith(b"GET /health") and f"bearer {key}".encode().lower() not in head.lower():
        client.sendall(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        client.close()
        return
    api = socket.create_connection(("127.0.0.1", int(os.environ["FAKE_VLLM_API"])))
    api.sendall(head)
    threading.Thread(target=pump, args=[client, api], daemon=True).start()
    pump(api, client)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copies what comes from one connection to another one, to its end."""
    try:
        while part := source.recv(2**16):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


if __name__ == "__main__":
    main()
