"""The cloud API: names and ids of profiles (reference §4, behaviour 11).

A Bearer token of `settings.tokens` is required. The list is a Laravel paginator without `success`; `total` and
`per_page` are texts where `cloud_numbers` is "text". The rate limit is real: 500 calls a minute unless set
otherwise, and its headers are on every answer. There is no run state here, as in the real one.
"""

import collections
import urllib.parse

from .service import Service
from .wire import Answer

LIMIT_DEFAULT = 50
MONTH = "2026-03-01 12:00:00"


class Cloud(Service):
    name = "cloud"

    def __init__(self, app, book, journal):
        super().__init__(app, book, journal)
        self.recent = collections.deque()
        self.app.settings |= {"cloud_rpm": 500, "cloud_most_per_page": 100, "cloud_numbers": "int"}

    def forget(self):
        self.recent.clear()

    def classify(self, request):
        last = request.path.rpartition("/")[2]
        single = request.path.startswith("/browser_profiles/") and last.isdigit() and len(last) < 20
        return "cloud", int(last) if single else None

    async def handle(self, request, connection):
        now = self.app.clock_ms()
        while self.recent and self.recent[0] <= now - 60_000:
            self.recent.popleft()
        if len(self.recent) <= self.app.settings["cloud_rpm"]:
            self.recent.append(now)
        return await super().handle(request, connection)

    async def answered(self, call):
        answer = await super().answered(call)
        if answer is not None:
            rpm = self.app.settings["cloud_rpm"]
            left = max(0, rpm - len(self.recent))
            for name, allowed, rest in (("rph", rpm * 60, rpm * 60 - len(self.recent)), ("rpm", rpm, left),
                                        ("rps", rpm, left)):
                answer.headers += [(f"x-ratelimiter-allowed-{name}", allowed), (f"x-ratelimiter-{name}-left", rest)]
        return answer

    async def refuse(self, fault, call):
        seconds = fault.params.get("retry_after_seconds", -1)
        return {
            "cloud_401": self.unauthorised,
            "cloud_403": lambda: self.denied("E_BROWSER_PROFILE_ACCESS_DENIED"),
            "cloud_404": self.not_found,
            "cloud_429": lambda: self.too_many(None if seconds < 0 else seconds),
            "cloud_500": lambda: Answer.of(fault.params["status"], {"message": "Server Error"}),
            "cloud_html": lambda: Answer.html(fault.params["status"], "Service Temporarily Unavailable"),
        }[fault.name]()

    @staticmethod
    def unauthorised():
        return Answer.of(401, {"message": "Unauthenticated."})

    @staticmethod
    def not_found():
        return Answer.of(404, {"message": "Not found"})

    @staticmethod
    def denied(code):
        text = "Access denied"
        return Answer.of(403, {"success": False, "error": text,
                               "errorObject": {"type": "E_ACCESS", "code": code, "text": text}})

    @staticmethod
    def too_many(retry_after_seconds=None):
        headers = [] if retry_after_seconds is None else [("retry-after", str(retry_after_seconds))]
        return Answer.of(429, {"message": "Too Many Attempts."}, headers)

    async def carry_out(self, call):
        request, app = call.request, self.app
        if len(self.recent) > app.settings["cloud_rpm"]:
            return self.too_many()
        if request.bearer() not in app.settings["tokens"]:
            return self.unauthorised()
        if request.method != "GET":
            return Answer.of(501, {"message": "the simulator's cloud is read-only"})
        if request.path == "/browser_profiles":
            return self.page(call)
        if call.profile_id is None:
            return self.not_found()
        profile = app.profiles.get(call.profile_id)
        if profile is None or profile.state == "unknown":
            return self.not_found()
        if profile.state == "no_access":
            return self.denied("E_BROWSER_PROFILE_ACCESS_DENIED")
        if profile.state == "password" and request.query.get("browserProfilePassword") != profile.password:
            return self.denied("E_BROWSER_PROFILE_WRONG_PASSWORD")
        return Answer.of(200, {"data": self.item(profile)})

    def item(self, profile):
        label = profile.status_label
        usable = profile.state != "no_access"
        return {
            "id": profile.id, "name": profile.name, "platform": profile.platform, "browserType": "anty",
            "status": {"id": 1, "name": label, "color": "green"} if label else None, "tags": profile.tags,
            "proxy": None, "folder": None,
            "access": {"view": 1, "update": int(usable), "delete": int(usable), "share": int(usable),
                       "usage": int(usable)},
            "requirePassword": profile.state == "password", "transferStatus": None, "cloudSyncDisabled": False,
            "lastStartTime": None, "updated_at": MONTH,
        }

    def page(self, call):
        query, settings = call.request.query, self.app.settings
        limit = min(positive(query.get("limit"), LIMIT_DEFAULT), settings["cloud_most_per_page"])
        bad = call.fired.get("cloud_bad_page")
        number = 1 if bad and bad["kind"] == "always_page_1" else positive(query.get("page"), 1)
        needle = query.get("query", "").lower()
        found = [one for one in self.app.profiles.values()
                 if one.state != "unknown" and needle in one.name.lower()]
        found.sort(key=lambda one: one.id)
        data = [self.item(one) for one in found[(number - 1) * limit:number * limit]]
        last = max(1, -(-len(found) // limit))
        base = f"http://{call.request.headers.get('host', 'localhost')}/browser_profiles"
        others = {key: value for key, value in query.items() if key != "page"}

        def url(page):
            return f"{base}?{urllib.parse.urlencode({**others, 'page': page})}"

        body = {
            "current_page": number, "data": data, "first_page_url": url(1),
            "from": (number - 1) * limit + 1 if data else None, "last_page": last, "last_page_url": url(last),
            "next_page_url": url(number + 1) if number < last else None, "path": base, "per_page": limit,
            "prev_page_url": url(number - 1) if number > 1 else None,
            "to": (number - 1) * limit + len(data) if data else None, "total": len(found),
        }
        if settings["cloud_numbers"] == "text":
            body |= {"total": str(body["total"]), "per_page": str(body["per_page"])}
        return Answer.of(200, spoiled(body, bad["kind"], url) if bad else body)


def positive(word, default):
    return int(word) if word and word.isdigit() and 0 < int(word) < 10**9 else default


def spoiled(body, kind, url):
    """A list answer that is wrong in one way."""
    change = {
        "no_data": lambda: body.pop("data"),
        "data_not_a_list": lambda: body.update(data={str(one["id"]): one for one in body["data"]}),
        "items_without_id": lambda: [one.pop("id") for one in body["data"]],
        "ids_as_text": lambda: [one.update(id=str(one["id"])) for one in body["data"]],
        "text_numbers": lambda: body.update({key: str(body[key]) for key in
                                             ("current_page", "last_page", "per_page", "total")}),
        "null_urls": lambda: body.update({key: None for key in body if key.endswith("_url") or key in ("from", "to")}),
        "last_page_lies": lambda: body.update(last_page=1_000_000),
        "next_page_lies": lambda: body.update(last_page=1_000_000, next_page_url=url(body["current_page"] + 1)),
        "always_page_1": lambda: body.update(current_page=1, last_page=1_000_000, next_page_url=url(1)),
        "empty_page": lambda: body.update(data=[]),
        "no_last_page": lambda: body.pop("last_page"),
        "names_missing": lambda: [one.update(name=None) for one in body["data"]],
    }
    change[kind]()
    return body
