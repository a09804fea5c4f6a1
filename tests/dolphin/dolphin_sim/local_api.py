"""The routes of the Local API under /v1.0 (reference §1 to §3; behaviours 1 to 10 and 12 to 25).

No route here needs a Bearer token, and none is helped by one (10). Routes of level (b) need the session token (9);
those whose answers nobody has recorded say 501 after that check rather than inventing a success. Paths that only
some clients probe do not exist and answer a page (9).
"""

import asyncio
import json
import re

from . import launch, profiles, refusals, start_options
from .app import FIRST_TEMPORARY_ID
from .service import Service
from .wire import Answer

BASE = "/v1.0"
ONE_PROFILE = re.compile(r"/browser_profiles/([0-9]{1,19})(?:/(start|stop|change_proxy_ip))?$")
GUARDED = re.compile(
    r"/(check/proxy|proxy/[0-9]+/change_proxy_ip|cookies/import|export-cookies|local-storage/(export(/[0-9]+)?|import)"
    r"|import/cookies/[0-9]+/robot(-stop)?)$"
)
WAIT_SECONDS = 600.0
SUCCESS = {"success": True}


class LocalApi(Service):
    name = "local"

    def classify(self, request):
        if not request.path.startswith(BASE + "/"):
            return "other", None
        path = request.path.removeprefix(BASE)
        if path == "/browser_profiles/running" and request.method == "GET":
            return "running", None
        if path == "/auth/login-with-token" and request.method == "POST":
            return "login", None
        if path == "/browser_profiles/start" and request.method == "POST":
            return "start", None
        if path == "/browser_profiles" and request.method == "GET":
            return "list", None
        match = ONE_PROFILE.match(path)
        if match is None:
            return ("guarded" if GUARDED.match(path) else "other"), None
        verb, profile_id = match[2], int(match[1])
        if verb == "start" and request.method in ("GET", "POST") or verb == "stop" and request.method == "GET":
            return verb, profile_id
        if verb is None and request.method == "GET":
            return "list", profile_id
        return ("guarded" if verb == "change_proxy_ip" else "other"), profile_id

    async def carry_out(self, call):
        if call.kind == "login":
            return self.login(call.request)
        if call.kind == "other":
            return refusals.no_such_path(call.request.path)
        if call.kind in ("list", "guarded"):
            return self.guarded(call)
        if self.app.auth == "stuck":
            return refusals.token_refresh(self.app.stuck_status)
        if self.app.auth == "signed_out":
            return refusals.signed_out()
        if call.kind == "running":
            return Answer.of(200, self.app.running_map())
        if call.kind == "stop":
            return await self.stop(call)
        return await self.start(call)

    async def refuse(self, fault, call):
        name, params = fault.name, fault.params
        data_dir = self.app.data_dir(call.profile_id)
        simple = {
            "duplicate": lambda: refusals.duplicate(call.profile_id, params["variant"]),
            "ebusy": lambda: refusals.ebusy(data_dir),
            "locked_profile": lambda: refusals.locked(data_dir),
            "init_connection_error": lambda: refusals.init_connection_error(params["status"]),
            "free_plan_402": refusals.free_plan,
            "limit_499": refusals.free_plan_limit,
            "bad_request_400": lambda: refusals.bad_request("Bad request"),
            "too_many_429": lambda: refusals.too_many(after(params)),
            "unknown_profile": lambda: refusals.unknown(**params),
            "session_401": lambda: Answer.of(401, refusals.SESSION),
        }
        if name in simple:
            return simple[name]()
        if name == "just_created":
            late = self.app.clock_ms() - fault.set_at_ms >= params["for_ms"]
            return None if late else refusals.not_known_yet()
        if name == "signed_out_401":
            if params["until_login"]:
                self.app.auth = "signed_out"
            return refusals.signed_out()
        if name == "token_refresh_timeout":
            if params["until_login"]:
                self.app.auth, self.app.stuck_status = "stuck", params["status"]
            return refusals.token_refresh(params["status"])
        if params["closes"] and call.profile_id in self.app.runs:
            await self.app.stop(self.app.runs[call.profile_id])
        return refusals.stop_failed() if name == "stop_500" else refusals.already_exited()

    def login(self, request):
        """§2.1: the answer holds `success` and nothing else."""
        if "application/json" not in request.headers.get("content-type", ""):
            return refusals.bad_request("Content-Type must be application/json")
        try:
            token = json.loads(request.body)["token"]
        except (ValueError, KeyError, TypeError):
            return refusals.bad_request("token is required")
        if token not in self.app.settings["tokens"]:
            return Answer.of(401, {"success": False})
        self.app.auth = "ok"
        return Answer.of(200, SUCCESS)

    def guarded(self, call):
        """§2.5 and level (b): the session token, and nothing else, opens these."""
        if call.request.headers.get("x-anty-session-token") != self.app.session_token:
            return Answer.of(401, refusals.SESSION)
        if call.kind == "guarded":
            return Answer.of(501, {"error": "the simulator does not simulate this call"})
        shown = [{"id": one.id, "name": one.name} for one in self.app.profiles.values()
                 if call.profile_id in (None, one.id)]
        if call.profile_id is None:
            return Answer.of(200, {"data": shown})
        return Answer.of(200, {"data": shown[0]}) if shown else refusals.unknown()

    # Start.

    async def start(self, call):
        try:
            options = start_options.read(call.request)
        except start_options.BadOptions as bad:
            return refusals.bad_request(str(bad))
        if call.profile_id is None:
            profile = self.new_temporary()
        else:
            profile = self.app.profiles.get(call.profile_id)
            refusal = self.start_refusal(call.profile_id, profile, options)
            if refusal is not None:
                return refusal
        tabs = "none" if options.get("headless") or options.get("noTabs") else profile.start_tabs
        try:
            run = self.app.begin(profile, options.get("automation", False), tabs,
                                 lambda run, order: prepare(self.app, call.fired, run, order))
            browser = await asyncio.shield(run.launching)
        except launch.LaunchFailed as reason:
            return refusals.unknown(text=f"Browser was not launched: {reason}")
        follow(self.app, call, browser)
        late = call.fired.get("hang_but_launches")
        if late is not None:
            if not late["answer_after_ms"]:
                await call.connection.gone(WAIT_SECONDS)
                return None
            await asyncio.sleep(late["answer_after_ms"] / 1000)
        body = self.success_of(call.fired, profile, browser)
        if call.profile_id is None:
            body |= {"type": "temporary", "profileId": profile.id}
        return Answer.of(200, body)

    def start_refusal(self, profile_id, profile, options):
        """The app's own reasons to refuse a start, in the order of §3."""
        app = self.app
        if profile is None:
            return refusals.unknown()
        opened = profile.state == "password" and options.get("browserProfilePassword") == profile.password
        if profile.state != "normal" and not opened:
            return refusals.unknown(**profile.refusal)
        if app.clock_ms() - profile.created_ms < profile.just_created_ms:
            return refusals.not_known_yet()
        free = profile.free or app.settings["plan"] == "free"
        if free and options.get("automation"):
            return refusals.free_plan()
        if free and len(app.runs) >= 3:
            return refusals.free_plan_limit()
        starting = sum(run.state == "starting" for run in app.runs.values())
        if 0 < app.settings["max_parallel_starts"] <= starting:
            return refusals.too_many()
        how = app.blocked_by(profile_id)
        leftover = profile.leftover_start if app.leftovers(profile_id) else None
        if profile_id in app.runs or "duplicate" in (how, leftover):
            return refusals.duplicate(profile_id, profile.duplicate_style)
        if how == "ebusy":
            return refusals.ebusy(app.data_dir(profile_id))
        return refusals.locked(app.data_dir(profile_id)) if leftover else None

    def new_temporary(self):
        self.app.temporary += 1
        profile = profiles.checked("", {
            "id": FIRST_TEMPORARY_ID + self.app.temporary - 1, "name": "temporary",
            "browser": self.app.settings["temporary_browser"],
        }, self.app.clock_ms())
        self.app.profiles[profile.id] = profile
        return profile

    def success_of(self, fired, profile, browser):
        """§2.2, in the profile's style, or in the shape of a fault (15)."""
        null = {"success": True, "automation": None}
        if not browser.order.automation:
            return null if profile.no_automation_style == "null" else dict(SUCCESS)
        shape = fired.first("shape")
        shape = shape.name if shape is not None else None
        if shape in ("no_automation", "automation_null"):
            return null if shape == "automation_null" else dict(SUCCESS)
        port, unique = browser.port, browser.uuid
        if shape in ("port_zero", "other_port"):
            port = 0 if shape == "port_zero" else self.app.closed_port()
        if shape == "stale_uuid":
            unique = self.app.stale_uuid(profile.id)
        path = f"/devtools/browser/{unique}"
        if profile.automation_style["ws"] == "url":
            path = f"ws://127.0.0.1:{port}{path}"
        if profile.automation_style["port"] == "text":
            port = str(port)
        return {"success": True, "automation": {"port": port, "wsEndpoint": "" if shape == "empty_ws" else path}}

    # Stop.

    async def stop(self, call):
        app, fired = self.app, call.fired
        hangs = fired.get("stop_hangs")
        if hangs is not None:
            if hangs["closes"] and call.profile_id in app.runs:
                await app.stop(app.runs[call.profile_id])
            if not hangs["answer_after_ms"]:
                await call.connection.gone(WAIT_SECONDS)
                return None
            await asyncio.sleep(hangs["answer_after_ms"] / 1000)
            return Answer.of(200, SUCCESS)
        profile, run = app.profiles.get(call.profile_id), app.runs.get(call.profile_id)
        if call.request.query.get("retryToStop") == "true":
            await asyncio.gather(*(browser.kill() for browser in app.leftovers(call.profile_id)))
        if profile is None:
            return refusals.unknown()
        zombie = fired.get("zombie")
        if zombie is not None and run is not None and run.browser is not None:
            if not zombie["listed"]:
                app.let_go(run)
            return Answer.of(200, SUCCESS)
        unaware = run is not None and run.state == "starting" and profile.stop_while_starting == "not_running"
        if run is None or unaware or run.state == "lagging":
            if run is not None and run.state == "lagging" and not run.lags_after_stop:
                app.let_go(run)
            stopped = profile.stop_when_not_running == "true" and not unaware
            return Answer.of(200, SUCCESS) if stopped else refusals.already_exited()
        lag = fired.get("running_lag")
        await app.stop(run, lag["ms"] if lag else 0)
        for name, how in (("still_duplicate_for", "duplicate"), ("ebusy_for", "ebusy")):
            if fired.get(name) is not None:
                app.block(profile.id, fired.get(name)["ms"], how)
        return Answer.of(200, SUCCESS)


def after(params):
    seconds = params["retry_after_seconds"]
    return None if seconds < 0 else seconds


def prepare(app, fired, run, order):
    """What the faults change before the launch."""
    if fired.get("running_lag") is not None:
        run.lag_ms = fired.get("running_lag")["ms"]
    if fired.get("dead_proxy") is not None:
        order.proxy_port = app.closed_port()
    if fired.get("cdp_peer") is not None:
        order.peer = fired.get("cdp_peer")["peer"]
    if fired.get("cdp_socket") is not None:
        order.socket = fired.get("cdp_socket")["kind"]
    order.closed_port = fired.get("cdp_late") is not None or fired.get("cdp_never") is not None


def follow(app, call, browser):
    """What the faults do once the browser is up: after the answer, where the fault says so."""
    async def crash():
        await asyncio.sleep(call.fired.get("cdp_crash")["after_ms"] / 1000)
        await browser.kill()

    async def open_late():
        await asyncio.sleep(call.fired.get("cdp_late")["ms"] / 1000)
        await browser.open_port()

    async def freeze():
        browser.freeze(True)
        await asyncio.sleep(call.fired.get("cdp_frozen")["for_ms"] / 1000)
        browser.freeze(False)

    for name, work in (("cdp_crash", crash), ("cdp_late", open_late), ("cdp_frozen", freeze)):
        if call.fired.get(name) is not None:
            call.after.append(work())
