"""Every call that arrived, and the greatest number of starts and stops that were under way at once.

Written by the services, read by the admin's /log and /state. Bounded: the oldest entries go, and their number is
kept. A call that hangs is in the log from its arrival, with `status` null until something is sent.
"""

import collections
import contextlib
import time

MOST_ENTRIES = 20_000
HEADERS_OF_NOTE = ("host", "user-agent", "content-type", "connection", "origin")


class Journal:
    def __init__(self):
        self.began = time.monotonic()
        self.now = collections.Counter()
        self.now_by_profile = collections.Counter()
        self.forget()

    def forget(self):
        self.entries = collections.deque(maxlen=MOST_ENTRIES)
        self.dropped = 0
        self.next_number = 1
        self.calls = collections.Counter()
        self.most = collections.Counter()
        self.most_by_profile = collections.Counter()

    def time_ms(self):
        return round((time.monotonic() - self.began) * 1000)

    def arrived(self, service, call, profile, request):
        """Adds the entry of a call; the caller fills `status` and `ended_ms` in."""
        if len(self.entries) == MOST_ENTRIES:
            self.dropped += 1
        headers = {name: request.headers[name] for name in HEADERS_OF_NOTE if name in request.headers}
        if "authorization" in request.headers:
            headers["authorization"] = request.headers["authorization"].partition(" ")[0] + " ..."
        if "x-anty-session-token" in request.headers:
            headers["x-anty-session-token"] = "..."
        entry = {
            "number": self.next_number, "time_ms": self.time_ms(), "ended_ms": None, "service": service,
            "call": call, "profile": profile, "method": request.method, "path": request.path,
            "query": request.query, "headers": headers, "status": None, "faults": [],
        }
        self.next_number += 1
        self.entries.append(entry)
        self.calls[call] += 1
        return entry

    @contextlib.contextmanager
    def under_way(self, call, profile):
        """Counts a start or a stop while it is handled."""
        one = (call, profile)
        self.now[call] += 1
        self.now_by_profile[one] += 1
        self.most[call] = max(self.most[call], self.now[call])
        self.most_by_profile[one] = max(self.most_by_profile[one], self.now_by_profile[one])
        try:
            yield
        finally:
            self.now[call] -= 1
            self.now_by_profile[one] -= 1

    def read(self, after=0, call=None, profile=None):
        chosen = [
            entry for entry in self.entries
            if entry["number"] > after
            and (call is None or entry["call"] == call)
            and (profile is None or entry["profile"] == profile)
        ]
        return {"entries": chosen, "dropped": self.dropped}

    def summary(self):
        by_profile = {}
        for (call, profile), most in self.most_by_profile.items():
            if profile is not None and call in ("start", "stop"):
                by_profile.setdefault(str(profile), {"start": 0, "stop": 0})[call] = most
        return {
            "calls": dict(self.calls),
            "now": {call: self.now[call] for call in ("start", "stop")},
            "most_at_once": {
                "start": self.most["start"], "stop": self.most["stop"], "by_profile": by_profile,
            },
        }
