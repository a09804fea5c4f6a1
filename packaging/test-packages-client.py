"""Asks a daemon so many times a second, each time on a connection of its own, until the named file appears.

    test-packages-client.py FILE RATE

Prints how many were answered, how many were refused or failed, and the longest wait for an answer, which is how
long the daemon was not ready. Exits with 1 where anything failed or hardly anything was asked.
"""

import concurrent.futures
import http.client
import os
import sys
import time

RATE = int(sys.argv[2])
PATIENCE_SECONDS = 30


def ask():
    began = time.monotonic()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", 8088, timeout=PATIENCE_SECONDS)
        connection.request("GET", "/api/v1/health/simple", headers={"connection": "close"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        outcome = "answered" if answer.status == 200 else f"status {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        outcome = repr(error)
    return outcome, time.monotonic() - began


with concurrent.futures.ThreadPoolExecutor(64 + RATE) as pool:
    asked = []
    begin = time.monotonic()
    while not os.path.exists(sys.argv[1]):
        asked.append(pool.submit(ask))
        time.sleep(max(0, begin + len(asked) / RATE - time.monotonic()))
    results = [one.result() for one in asked]
failed = [outcome for outcome, _ in results if outcome != "answered"]
longest = max(took for _, took in results)
print(f"{len(results)} requests, {len(failed)} failed {failed[:3] or ''}, longest wait {longest * 1000:.0f} ms")
sys.exit(bool(failed) or len(results) < RATE)
