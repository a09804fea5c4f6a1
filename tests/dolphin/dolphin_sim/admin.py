"""The routes by which a test arranges the world and reads what happened (see README.md for each).

Bad input is refused whole: 400 where the body is no JSON, 422 with the JSON pointer of the field and what is
allowed, 404 for an unknown path or profile, 405 for a wrong method. Nothing is changed by a refused call.
"""

import json
import re

from . import faults, launch, profiles
from .faults import BadField
from .wire import Answer

PERSON = re.compile(r"/profiles/([0-9]{1,19})/(open|close|kill)$")

app_action = profiles.fields({
    "action": (None, profiles.nullable(profiles.one_of("down", "up", "restart"))),
    "orphans": ("leave", profiles.one_of("leave", "kill")),
    "move_port": (False, profiles.flag),
    "signed_in": (None, profiles.nullable(profiles.flag)),
    "reset_session_token": (None, profiles.nullable(profiles.flag)),
    "plan": (None, profiles.nullable(profiles.one_of("paid", "free"))),
    "tokens": (None, profiles.nullable(profiles.texts)),
    "max_parallel_starts": (None, profiles.nullable(profiles.number(0, 1000))),
    "temporary_browser": (None, profiles.nullable(profiles.one_of("stub", "chromium"))),
    "cloud_rpm": (None, profiles.nullable(profiles.number(0, 1_000_000))),
    "cloud_most_per_page": (None, profiles.nullable(profiles.number(1, 1000))),
    "cloud_numbers": (None, profiles.nullable(profiles.one_of("int", "text"))),
})
reset_options = profiles.fields({"data": ("keep", profiles.one_of("keep", "wipe"))})


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Admin:
    def __init__(self, world):
        self.world = world

    async def handle(self, request, connection):
        try:
            answer = Answer.of(200, await self.route(request))
        except BadField as bad:
            answer = Answer.of(422, {"error": f"{bad.pointer or 'the body'} {bad.says}", "field": bad.pointer})
        except Refused as refused:
            answer = Answer.of(refused.status, {"error": str(refused)})
        await connection.send(answer.bytes(close=request.wants_close()))
        return False

    async def route(self, request):
        routes = {
            "/profiles": {"POST": self.set_profiles, "DELETE": self.delete_profiles, "GET": self.get_profiles},
            "/faults": {"POST": self.set_fault, "DELETE": self.delete_faults, "GET": self.get_faults},
            "/faults/names": {"GET": self.fault_names},
            "/app": {"POST": self.change_app, "GET": self.get_app},
            "/log": {"GET": self.log},
            "/state": {"GET": self.state},
            "/reset": {"POST": self.reset},
        }
        person = PERSON.match(request.path)
        if person is not None:
            if request.method != "POST":
                raise Refused(405, "use POST")
            return await self.person(int(person[1]), person[2])
        if request.path not in routes:
            raise Refused(404, "no such path; there are " + ", ".join(routes) + ", /profiles/{id}/open|close|kill")
        methods = routes[request.path]
        if request.method not in methods:
            raise Refused(405, "use " + " or ".join(methods))
        return await methods[request.method](request)

    @staticmethod
    def json(request, default=None):
        if not request.body and default is not None:
            return default
        try:
            return json.loads(request.body)
        except ValueError as reason:
            raise Refused(400, f"the body is not JSON: {reason}") from None

    async def set_profiles(self, request):
        app = self.world.app
        found = profiles.checked_list(self.json(request), app.clock_ms())
        total = len(app.profiles.keys() | {one.id for one in found})
        if total > profiles.MOST_PROFILES:
            raise BadField("", f"would make {total} profiles; at most {profiles.MOST_PROFILES} are held")
        app.profiles.update({profile.id: profile for profile in found})
        return {"profiles": len(app.profiles)}

    async def delete_profiles(self, request):
        await self.world.cut(wipe_data=True)
        self.world.app.profiles.clear()
        return {"profiles": 0}

    async def get_profiles(self, request):
        return [profile.shown() for profile in self.world.app.profiles.values()]

    async def set_fault(self, request):
        return {"id": self.world.book.set(self.json(request), self.world.app.clock_ms()).id}

    async def delete_faults(self, request):
        self.world.book.forget()
        return {"faults": 0}

    async def get_faults(self, request):
        return [fault.shown() for fault in self.world.book.faults]

    async def fault_names(self, request):
        return faults.names()

    async def change_app(self, request):
        wanted = app_action("", self.json(request))
        settings = self.world.app.settings
        settings.update({key: wanted[key] for key in settings if wanted.get(key) is not None})
        await self.world.act(wanted)
        return self.world.shown()

    async def get_app(self, request):
        return self.world.shown()

    async def log(self, request):
        numbers = {}
        for key in ("after", "profile"):
            word = request.query.get(key)
            if word is not None and not word.isdigit():
                raise BadField(f"/{key}", "must be a number")
            numbers[key] = None if word is None else int(word)
        return self.world.journal.read(numbers["after"] or 0, request.query.get("call"), numbers["profile"])

    async def state(self, request):
        return {**self.world.shown(), **self.world.app.shown(), **self.world.journal.summary(),
                "faults": [fault.shown() for fault in self.world.book.faults]}

    async def reset(self, request):
        options = reset_options("", self.json(request, default={}))
        await self.world.cut(wipe_data=options["data"] == "wipe")
        self.world.book.forget()
        self.world.journal.forget()
        self.world.cloud.forget()
        return self.world.shown()

    async def person(self, profile_id, verb):
        """A human opens, closes or loses the window of a profile."""
        app = self.world.app
        profile = app.profiles.get(profile_id)
        if profile is None:
            raise Refused(404, f"there is no profile {profile_id}")
        if verb == "open":
            if profile_id in app.runs or app.leftovers(profile_id):
                raise Refused(409, f"profile {profile_id} runs already")
            try:
                run = app.begin(profile, automation=False, tabs=profile.start_tabs)
                await run.launching
            except launch.LaunchFailed as reason:
                raise Refused(500, str(reason)) from None
            return {"pid": run.browser.pid, "run_id": run.run_id}
        living = [one for one in app.browsers if one.order.profile_id == profile_id and one.alive()]
        if not living:
            raise Refused(409, f"profile {profile_id} has no living browser")
        for browser in living:
            await (browser.close() if verb == "close" else browser.kill())
        return {"ended": [browser.pid for browser in living]}
