#!/usr/bin/env python3
"""Clients that ask an image worker as fast as they can: errors, memory, throughput.

Starts `upscaled worker`, lets N clients POST a picture over and over for some seconds, and
compares the rate with what the engine does alone (`upscaled model bench` at the picture's size).
Answers other than 200 and 429 are errors. Memory is the worker's resident set, sampled each
second, without its first fifth. A slow client uploads a byte now and then all the while.

Prints one JSON object, and exits with 1 where an error, growing memory or no answer was seen.
"""

import argparse
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

BOUNDARY = "load-boundary"
# Memory at the end may be this much above that of the first fifth: allocators keep some.
GROWTH_MAX = 1.15


def png(width, height):
    """Waves with some noise, as PNG, without any library."""
    rows = bytearray()
    state = 1
    for y in range(height):
        rows.append(0)
        for x in range(width):
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            noise = state >> 27
            rows += bytes(((x * 3 + noise) & 255, (y * 2 + noise) & 255, ((x + y) ^ noise) & 255))
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows), 1)) + chunk(b"IEND", b"")


def form(picture):
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Client(threading.Thread):
    def __init__(self, port, query, body, end):
        super().__init__(daemon=True)
        self.port, self.query, self.body, self.end = port, query, body, end
        self.done, self.busy, self.errors, self.seconds = 0, 0, [], []

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while time.monotonic() < self.end:
            start = time.monotonic()
            try:
                connection.request("POST", f"/upscale?{self.query}", self.body, HEADERS)
                answer = connection.getresponse()
                content = answer.read()
            except OSError as error:
                self.errors.append(repr(error))
                connection.close()
                continue
            if answer.status == 200 and content[:4] == b"\x89PNG":
                self.done += 1
                self.seconds.append(time.monotonic() - start)
            elif answer.status == 429:
                self.busy += 1
                time.sleep(min(float(answer.getheader("Retry-After")), 5.0))
            else:
                self.errors.append(f"{answer.status} {content[:200]!r}")


def slow_upload(port, body, end):
    """Holds an upload open, a byte a second."""
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port)) as stream:
            head = f"POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items()) + "\r\n"
            try:
                stream.sendall(head.encode() + body[:200])
                for byte in body[200:]:
                    if time.monotonic() > end:
                        return
                    stream.sendall(bytes((byte,)))
                    time.sleep(1)
            except OSError:
                pass


def resident(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ready(port, process):
    while process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("the worker did not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default="target/release/upscaled")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--size", default="854x480")
    parser.add_argument("--upscale", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--port", type=int, default=18090)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--no-bench", action="store_true", help="leave the engine alone out")
    asked = parser.parse_args()
    binary = os.path.abspath(asked.bin)
    width, height = map(int, asked.size.split("x"))
    body = form(png(width, height))
    with tempfile.TemporaryDirectory() as root:
        command = [binary, "worker", "--root", root, "--port", str(asked.port), "--model", asked.model]
        process = subprocess.Popen(command + ["--workers", str(asked.workers)], stderr=subprocess.DEVNULL)
        try:
            ready(asked.port, process)
            start, used = time.monotonic(), processor_seconds(process.pid)
            end = start + asked.seconds
            clients = [Client(asked.port, f"upscale={asked.upscale}", body, end) for _ in range(asked.clients)]
            slow = threading.Thread(target=slow_upload, args=(asked.port, body, end), daemon=True)
            for thread in clients + [slow]:
                thread.start()
            memory = []
            while time.monotonic() < end:
                time.sleep(1)
                memory.append(resident(process.pid))
            for client in clients:
                client.join()
            wall = time.monotonic() - start
            used = processor_seconds(process.pid) - used
        finally:
            process.terminate()
            code = process.wait(40)
    done = sum(client.done for client in clients)
    seconds = sorted(second for client in clients for second in client.seconds)
    errors = [error for client in clients for error in client.errors]
    fifth = max(1, len(memory) // 5)
    early, late = max(memory[:2 * fifth]), max(memory[-fifth:])
    figures = {
        "pictures": done,
        "pictures_a_second": done / wall,
        "processor_ms_a_picture": 1000 * used / max(1, done),
        "busy_answers": sum(client.busy for client in clients),
        "errors": errors[:10],
        "median_seconds": seconds[len(seconds) // 2] if seconds else None,
        "p99_seconds": seconds[int(len(seconds) * 0.99)] if seconds else None,
        "memory_mib_early": early >> 20,
        "memory_mib_late": late >> 20,
        "exit_code": code,
    }
    if not asked.no_bench:
        bench = [binary, "model", "bench", asked.model, "--size", asked.size, "--json", "--set", "autotune=false"]
        rows = json.loads(subprocess.run(bench, check=True, capture_output=True).stdout)
        engine = max((row for row in rows if row.get("fps")), key=lambda row: row["fps"])
        figures["engine_frames_a_second"] = engine["fps"]
        figures["of_the_engine"] = done / wall / engine["fps"]
        # Of the processors' time instead of the clock's: what else runs on the machine matters less.
        figures["of_the_engine_by_processor_time"] = engine["core_milliseconds"] / figures["processor_ms_a_picture"]
    print(json.dumps(figures, indent=2))
    if errors or code != 0 or not done or late > GROWTH_MAX * early:
        sys.exit(1)


if __name__ == "__main__":
    main()
