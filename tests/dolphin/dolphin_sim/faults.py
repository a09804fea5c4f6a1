"""The table of faults, and the book that decides which of them fire at a call.

A fault is a kind (its name, the calls it suits, its parameters with defaults) and an order: which call and
profile, from which matching call on, how often. The book counts matching calls from the moment the fault is set,
so the n-th is exact; `chance` draws from a generator of the fault's own, so that it does not depend on what else
happens. Knows nothing of what a fault does: the app, the local API and the cloud ask for a name.

Stages: `delay` waits before the call is carried out, `refuse` answers in its place, `launch` and `stop` change
what is done, `shape` changes a success, `peer` spoils the answer on its way out. Several may fire at one call; of
`refuse`, `shape` and `peer` the first one set is taken.
"""

import random

from . import peers, refusals, sockets

CALLS = ("start", "stop", "running", "login", "list", "cloud", "any")
LOCAL = ("start", "stop", "running", "login", "list")
EVERY = (*LOCAL, "cloud")
MOST_FAULTS = 1000
MOST_MS = 3_600_000
MOST_NUMBER = 2**30

# name: (behaviour, calls, stage, parameters with defaults, what it does). A parameter's type is its default's;
# a tuple is a choice whose first is the default; None is a text that may be absent.
KINDS = {
    "slow": (24, EVERY, "delay", {"ms": 1000, "per_profile_ms": 0},
             "carries the call out `ms` later, and `per_profile_ms` more for each profile that runs"),
    "slow_parallel_stop": (24, ("stop",), "delay", {"per_other_ms": 2000, "error_over": 0},
                           "takes `per_other_ms` more for each other stop under way; EBUSY where more than "
                           "`error_over` are (0 = never)"),
    "hang": (18, EVERY, "delay", {"for_ms": 600_000},
             "does nothing and answers nothing for `for_ms`, then closes"),
    "duplicate": (12, ("start",), "refuse", {"variant": refusals.DUPLICATE_STYLES},
                  "E_BROWSER_RUN_DUPLICATE in the chosen shape"),
    "ebusy": (13, ("start",), "refuse", {}, "500 whose text says EBUSY"),
    "ebusy_for": (13, ("stop",), "stop", {"ms": 3000}, "stops with success, and starts answer EBUSY for `ms`"),
    "still_duplicate_for": (13, ("stop",), "stop", {"ms": 3000},
                            "stops with success, and the profile stays DUPLICATE for `ms`"),
    "locked_profile": (13, ("start",), "refuse", {}, "500 whose text names DevToolsActivePort and a lock"),
    "init_connection_error": (16, ("start",), "refuse", {"status": 500}, "`initConnectionError`"),
    "generic_500": (16, EVERY, "refuse", {"status": 500}, "JSON without a code"),
    "html_500": (16, EVERY, "refuse", {"status": 500}, "a page instead of JSON"),
    "redirect": (16, EVERY, "refuse", {"status": 302, "to": "self"},
                 "redirects to `to`; `self` is the same address again"),
    "free_plan_402": (17, ("start",), "refuse", {}, "automation is not in the plan"),
    "limit_499": (17, ("start",), "refuse", {}, "a fourth profile on the Free plan"),
    "too_many_429": (17, ("start", "stop", "running", "login"), "refuse", {"retry_after_seconds": -1},
                     "too many launches; Retry-After where it is 0 or more"),
    "bad_request_400": (17, ("start", "stop", "login"), "refuse", {}, "the parameters are refused"),
    "signed_out_401": (17, LOCAL, "refuse", {"until_login": True},
                       "signs the app out: 401 until login-with-token (or this once)"),
    "token_refresh_timeout": (17, LOCAL, "refuse", {"until_login": True, "status": 401},
                              "the app is stuck in refreshing its login, until login-with-token (or this once)"),
    "unknown_profile": (21, ("start", "stop"), "refuse",
                        {"status": 500, "code": None, "text": "Internal error"},
                        "deleted, foreign or locked by a password, as configured"),
    "just_created": (22, ("start",), "refuse", {"for_ms": 5000}, "500 until `for_ms` after the fault was set"),
    "session_401": (9, LOCAL, "refuse", {}, "401 invalid session token"),
    "cdp_late": (14, ("start",), "launch", {"ms": 3000},
                 "the CDP port refuses connections until `ms` after the answer"),
    "cdp_never": (14, ("start",), "launch", {}, "the CDP port never opens"),
    "cdp_crash": (14, ("start",), "launch", {"after_ms": 0}, "the browser dies `after_ms` after the answer"),
    "cdp_peer": (14, ("start",), "launch", {"peer": tuple(peers.SENDERS)},
                 "the CDP port answers HTTP as a bad peer does, with that peer's defaults"),
    "cdp_socket": (14, ("start",), "launch", {"kind": tuple(sockets.KINDS)},
                   "the CDP port answers /json/version rightly, and its WebSocket is bad in the chosen way"),
    "cdp_frozen": (14, ("start",), "launch", {"for_ms": 600_000},
                   "the browser is stopped by SIGSTOP for `for_ms`: its port accepts and never answers"),
    "dead_proxy": (23, ("start",), "launch", {}, "the browser's proxy is a closed port: every navigation fails"),
    "hang_but_launches": (18, ("start",), "launch", {"answer_after_ms": 0},
                          "launches at once, and answers after `answer_after_ms` (0 = never)"),
    "no_automation": (15, ("start",), "shape", {}, "launches; the answer has no `automation`"),
    "automation_null": (15, ("start",), "shape", {}, "launches; `automation` is null"),
    "port_zero": (15, ("start",), "shape", {}, "launches; `port` is 0"),
    "empty_ws": (15, ("start",), "shape", {}, "launches; `wsEndpoint` is empty"),
    "stale_uuid": (15, ("start",), "shape", {}, "launches; `wsEndpoint` holds another browser's UUID"),
    "other_port": (15, ("start",), "shape", {}, "launches; `port` is one that nobody listens on"),
    "stop_hangs": (19, ("stop",), "stop", {"answer_after_ms": 0, "closes": False},
                   "answers after `answer_after_ms` (0 = never); closes the browser only where `closes`"),
    "stop_500": (19, ("stop",), "refuse", {"closes": False}, "500; closes the browser only where `closes`"),
    "zombie": (19, ("stop",), "stop", {"listed": False},
               "success; the process lives and CDP answers; `listed` keeps it in `running`"),
    "stop_success_false": (6, ("stop",), "refuse", {"closes": False},
                           "200 success:false, PID file not found; closes the browser only where `closes`"),
    "running_lag": (25, ("start", "stop"), "launch", {"ms": 3000},
                    "at start: this run stays in `running` for `ms` after its browser dies by itself. "
                    "At stop: it stays so after the stop"),
    "cloud_401": (11, ("cloud",), "refuse", {}, "the token is refused"),
    "cloud_403": (11, ("cloud",), "refuse", {}, "E_BROWSER_PROFILE_ACCESS_DENIED"),
    "cloud_404": (11, ("cloud",), "refuse", {}, "not found"),
    "cloud_429": (11, ("cloud",), "refuse", {"retry_after_seconds": -1},
                  "over the rate limit; Retry-After where it is 0 or more"),
    "cloud_500": (11, ("cloud",), "refuse", {"status": 500}, "the cloud fails"),
    "cloud_html": (11, ("cloud",), "refuse", {"status": 503}, "a page of a front server"),
    "cloud_bad_page": (11, ("cloud",), "shape",
                       {"kind": ("no_data", "data_not_a_list", "items_without_id", "ids_as_text", "text_numbers",
                                 "null_urls", "last_page_lies", "next_page_lies", "always_page_1", "empty_page",
                                 "no_last_page", "names_missing")},
                       "a list answer that is wrong in the chosen way"),
}

# These last by their nature, so `times` is 0 for them unless it is given.
LASTING = ("just_created", "slow_parallel_stop")
BEHAVIOUR_OF_PEER = {"reset_mid_answer": 24, "truncated_json": 16, "empty_body": 16}

for _name, (_send, _params, _says) in peers.SENDERS.items():
    _params = {**_params, "act": True}
    if _name == "wrong_json":
        _params["kind"] = tuple(peers.WRONG_JSON)
    KINDS[_name] = (BEHAVIOUR_OF_PEER.get(_name), EVERY, "peer", _params,
                    _says + "; where `act` is false the call is not carried out")


class BadField(Exception):
    """A field of an order is wrong; `pointer` says which."""

    def __init__(self, pointer, says):
        super().__init__(says)
        self.pointer = pointer
        self.says = says


def default_of(rule):
    return rule[0] if isinstance(rule, tuple) else rule


def checked_param(pointer, rule, value):
    if isinstance(rule, tuple):
        if value not in rule:
            raise BadField(pointer, "must be one of " + ", ".join(rule))
    elif rule is None:
        if value is not None and not isinstance(value, str):
            raise BadField(pointer, "must be a text or null")
    elif isinstance(rule, bool):
        if not isinstance(value, bool):
            raise BadField(pointer, "must be true or false")
    elif isinstance(rule, str):
        if not isinstance(value, str):
            raise BadField(pointer, "must be a text")
    elif isinstance(value, bool) or not isinstance(value, int):
        raise BadField(pointer, "must be an integer")
    elif not (-1 if rule == -1 else 0) <= value <= MOST_NUMBER or pointer.endswith("ms") and value > MOST_MS:
        raise BadField(pointer, f"must be 0 or more, at most {MOST_NUMBER}, and {MOST_MS} where it is a time")
    elif pointer.endswith("/status") and not 200 <= value <= 599:
        raise BadField(pointer, "must be a status from 200 to 599")
    elif pointer.endswith(("/bytes", "/count", "/depth")) and value == 0:
        raise BadField(pointer, "must be 1 or more")
    return value


def names():
    """The table as the admin shows it."""
    return [
        {"name": name, "behaviour": behaviour, "calls": list(calls), "stage": stage, "does": says,
         "params": {key: ({"default": rule[0], "one_of": list(rule)} if isinstance(rule, tuple)
                          else {"default": rule}) for key, rule in params.items()}}
        for name, (behaviour, calls, stage, params, says) in KINDS.items()
    ]


class Fault:
    def __init__(self, number, order, seed, now_ms):
        self.id = number
        self.name = order["fault"]
        self.stage = KINDS[self.name][2]
        self.call = order["call"]
        self.profile = order["profile"]
        self.nth = order["nth"]
        self.times = order["times"]
        self.chance = order["chance"]
        self.params = order["params"]
        self.set_at_ms = now_ms
        self.matched = 0
        self.fired = 0
        self.dice = random.Random(f"{seed}/fault/{number}")

    def meets(self, call, profile):
        """Counts the call where it matches, and says whether the fault fires at it."""
        if self.call not in (call, "any") or call not in KINDS[self.name][1]:
            return False
        if self.profile is not None and self.profile != profile:
            return False
        self.matched += 1
        lucky = self.chance is None or self.dice.random() < self.chance
        spent = self.times != 0 and self.fired >= self.times
        if self.matched < self.nth or spent or not lucky:
            return False
        self.fired += 1
        return True

    def shown(self):
        return {"id": self.id, "fault": self.name, "call": self.call, "profile": self.profile, "nth": self.nth,
                "times": self.times, "chance": self.chance, "params": self.params, "matched": self.matched,
                "fired": self.fired, "set_at_ms": self.set_at_ms}


class Fired:
    """The faults that fire at one call, in the order in which they were set."""

    def __init__(self, faults):
        self.faults = faults

    def get(self, name):
        """The parameters of the fault `name`, or None when it does not fire."""
        for fault in self.faults:
            if fault.name == name:
                return fault.params
        return None

    def first(self, stage):
        for fault in self.faults:
            if fault.stage == stage:
                return fault
        return None

    def shown(self):
        return [{"id": fault.id, "fault": fault.name} for fault in self.faults]


class Book:
    def __init__(self, seed):
        self.seed = seed
        self.next_id = 1
        self.faults = []

    def set(self, order, now_ms):
        """Takes one order, as JSON. Raises BadField."""
        if len(self.faults) >= MOST_FAULTS:
            raise BadField("", f"at most {MOST_FAULTS} faults can be set")
        fault = Fault(self.next_id, checked_order(order), self.seed, now_ms)
        self.next_id += 1
        self.faults.append(fault)
        return fault

    def forget(self):
        """Ids begin anew as well, so that a round after a reset draws the same."""
        self.faults = []
        self.next_id = 1

    def at(self, call, profile):
        return Fired([fault for fault in self.faults if fault.meets(call, profile)])


def checked_order(order):
    if not isinstance(order, dict):
        raise BadField("", "must be an object")
    known = ("call", "profile", "nth", "times", "fault", "params", "chance")
    for key in order:
        if key not in known:
            raise BadField(f"/{key}", "is not known; known are " + ", ".join(known))
    name, call = order.get("fault"), order.get("call")
    if name not in KINDS:
        raise BadField("/fault", "must be a name of GET /faults/names")
    if call not in CALLS:
        raise BadField("/call", "must be one of " + ", ".join(CALLS))
    suits = KINDS[name][1]
    if call != "any" and call not in suits:
        raise BadField("/call", f"{name} suits " + ", ".join(suits))
    profile = order.get("profile")
    if profile is not None and (isinstance(profile, bool) or not isinstance(profile, int) or profile < 1):
        raise BadField("/profile", "must be a positive integer or null")
    counts = {}
    for key, least in (("nth", 1), ("times", 0)):
        counts[key] = order.get(key, 0 if key == "times" and name in LASTING else 1)
        if isinstance(counts[key], bool) or not isinstance(counts[key], int) or counts[key] < least:
            raise BadField(f"/{key}", f"must be an integer, {least} or more")
    chance = order.get("chance")
    sound = isinstance(chance, (int, float)) and not isinstance(chance, bool) and 0 <= chance <= 1
    if chance is not None and not sound:
        raise BadField("/chance", "must be a number from 0 to 1, or null")
    given = order.get("params", {})
    if not isinstance(given, dict):
        raise BadField("/params", "must be an object")
    rules = KINDS[name][3]
    for key in given:
        if key not in rules:
            raise BadField(f"/params/{key}", f"is not a parameter of {name}; it has " + (", ".join(rules) or "none"))
    params = {key: checked_param(f"/params/{key}", rule, given.get(key, default_of(rule)))
              for key, rule in rules.items()}
    return {"fault": name, "call": call, "profile": profile, "chance": chance, "params": params, **counts}
