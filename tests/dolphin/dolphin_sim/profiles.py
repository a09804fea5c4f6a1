"""What a profile is, and the validation of profiles that the admin is given.

A profile says which browser stands behind it, how its answers look (the switches of section 8), how long things
take, and how the cloud shows it. Whether it runs is the app's knowledge, not the profile's.
"""

from . import refusals
from .faults import BadField

MOST_PROFILES = 5000
MOST_DELAY_MS = 600_000


def text(most):
    def check(pointer, value):
        if not isinstance(value, str) or len(value) > most:
            raise BadField(pointer, f"must be a text of at most {most} characters")
        return value
    return check


def one_of(*choices):
    def check(pointer, value):
        if value not in choices or isinstance(value, bool) and True not in choices:
            raise BadField(pointer, "must be one of " + ", ".join(str(choice) for choice in choices))
        return value
    return check


def flag(pointer, value):
    if not isinstance(value, bool):
        raise BadField(pointer, "must be true or false")
    return value


def number(least, most):
    def check(pointer, value):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadField(pointer, f"must be an integer from {least} to {most}")
        return value
    return check


def nullable(check):
    return lambda pointer, value: None if value is None else check(pointer, value)


def fields(rules):
    """An object whose fields are checked by `rules`: name -> (default, check)."""
    def check(pointer, value):
        if not isinstance(value, dict):
            raise BadField(pointer, "must be an object")
        for key in value:
            if key not in rules:
                raise BadField(f"{pointer}/{key}", "is not known; known are " + ", ".join(rules))
        return {
            key: rule(f"{pointer}/{key}", value[key]) if key in value else default
            for key, (default, rule) in rules.items()
        }
    return check


def texts(pointer, value):
    if not isinstance(value, list) or len(value) > 100:
        raise BadField(pointer, "must be a list of at most 100 texts")
    return [text(200)(f"{pointer}/{at}", item) for at, item in enumerate(value)]


delay = number(0, MOST_DELAY_MS)

# §2.2: path is what was captured, url is what the vendor's OpenAPI shows.
automation_style = fields({"ws": ("path", one_of("path", "url")), "port": ("int", one_of("int", "text"))})
refusal = fields({
    "status": (500, number(200, 599)), "code": (None, nullable(text(200))), "text": ("Internal error", text(2000)),
})

RULES = {
    "id": (None, number(1, 2**63 - 1)),
    "name": ("", text(200)),
    "browser": ("stub", one_of("stub", "chromium")),
    "automation_style": ({"ws": "path", "port": "int"}, automation_style),
    "start_delay_ms": (0, delay),
    "stop_delay_ms": (0, delay),
    "running_lag_ms": (500, delay),
    "just_created_ms": (0, delay),
    "state": ("normal", one_of("normal", "unknown", "no_access", "password")),
    "refusal": ({"status": 500, "code": None, "text": "Internal error"}, refusal),
    "password": ("secret", text(200)),
    "free": (False, flag),
    "start_tabs": ("one", one_of("one", "none", "restored")),
    "duplicate_style": ("errorObject", one_of(*refusals.DUPLICATE_STYLES)),
    "no_automation_style": ("absent", one_of("absent", "null")),
    "stop_when_not_running": ("true", one_of("true", "false_message")),
    "stop_while_starting": ("waits", one_of("waits", "not_running")),
    "leftover_start": ("locked", one_of("locked", "duplicate")),
    "platform": ("linux", one_of("windows", "macos", "linux", "android")),
    "tags": ([], texts),
    "status_label": (None, nullable(text(200))),
}
whole = fields(RULES)


class Profile:
    def __init__(self, values, created_ms):
        self.values = values
        self.created_ms = created_ms
        self.__dict__.update(values)

    def shown(self):
        return dict(self.values)


def checked(pointer, value, created_ms):
    if isinstance(value, dict) and "id" not in value:
        raise BadField(f"{pointer}/id", "is missing")
    values = whole(pointer, value)
    values["name"] = values["name"] or f"profile {values['id']}"
    return Profile(values, created_ms)


def checked_list(value, created_ms):
    if not isinstance(value, list):
        raise BadField("", "must be a list of profiles")
    if len(value) > MOST_PROFILES:
        raise BadField("", f"must hold at most {MOST_PROFILES} profiles")
    found = [checked(f"/{at}", item, created_ms) for at, item in enumerate(value)]
    seen = set()
    for at, profile in enumerate(found):
        if profile.id in seen:
            raise BadField(f"/{at}/id", "is there twice")
        seen.add(profile.id)
    return found
