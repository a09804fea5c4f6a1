"""What the stub browser knows of CDP: targets, sessions, cookies and the few methods a library calls first.

Used by `stub` alone, in the stub's own process. Methods that only switch something on answer `{}`; a method that
would need a renderer answers the proper CDP error instead of an invented result. Pages have an address and no
content: `Page.navigate` changes the address and tells the events of a load.
"""

import json
import os
from urllib.parse import unquote

VERSION = {
    "Browser": "Chrome/156.0.0.0", "Protocol-Version": "1.3", "User-Agent": "Mozilla/5.0 (stub) Chrome/156.0.0.0",
    "V8-Version": "15.6.0.0", "WebKit-Version": "537.36 (@stub)",
}
SILENT = ("enable", "disable", "set", "clear", "add", "remove", "bringToFront", "runIfWaitingForDebugger",
          "emulate", "release", "activate")
MOST_TARGETS = 500


class CdpError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Browser:
    def __init__(self, uuid, data_dir, tabs, restore, dead_proxy):
        self.uuid = uuid
        self.data_dir = data_dir
        self.dead_proxy = dead_proxy
        self.closed = False
        self.clients = []
        self.targets = {}
        self.loads = {}
        self.made = 0
        self.jar = os.path.join(data_dir, "stub-state.json")
        self.state = {"cookies": []}
        if os.path.exists(self.jar):
            with open(self.jar) as file:
                self.state = json.load(file)
        for tab in restore and self.state.get("tabs") or tabs:
            self.new_target(tab)

    def keep(self):
        """Writes what a graceful end keeps: cookies and the open tabs."""
        self.state["tabs"] = [target["url"] for target in self.targets.values()]
        with open(self.jar + ".new", "w") as file:
            json.dump(self.state, file)
        os.rename(self.jar + ".new", self.jar)

    def new_target(self, url):
        if len(self.targets) >= MOST_TARGETS:
            raise CdpError(-32000, "too many targets")
        self.made += 1
        number = self.uuid.replace("-", "").upper()[:24] + f"{self.made:08X}"
        self.targets[number] = {
            "targetId": number, "type": "page", "title": url, "url": url, "attached": False,
            "canAccessOpener": False, "browserContextId": "STUBDEFAULTCONTEXT",
        }
        for client in self.clients:
            client.target_created(self.targets[number])
        return self.targets[number]

    def loader(self, target):
        """The id of the page's latest load."""
        return f"{target['targetId'][:24]}{self.loads.get(target['targetId'], 0):08X}"

    def close_target(self, number):
        if self.targets.pop(number, None) is None:
            raise CdpError(-32602, "No target with given id found")
        for client in self.clients:
            client.target_destroyed(number)

    def listed(self, target, host):
        number = target["targetId"]
        return {"description": "", "devtoolsFrontendUrl": "", "id": number, "title": target["title"],
                "type": "page", "url": target["url"], "webSocketDebuggerUrl": f"ws://{host}/devtools/page/{number}"}

    def http(self, method, target, host):
        path, _, query = target.partition("?")
        path = path.rstrip("/")
        if path == "/json/version":
            return "200 OK", self.json({**VERSION,
                                        "webSocketDebuggerUrl": f"ws://{host}/devtools/browser/{self.uuid}"})
        if path in ("/json", "/json/list"):
            return "200 OK", self.json([self.listed(one, host) for one in self.targets.values()])
        if path == "/json/new":
            if method != "PUT":
                return "405 Method Not Allowed", b"Using unsafe HTTP verb GET to invoke /json/new."
            return "200 OK", self.json(self.listed(self.new_target(unquote(query) or "about:blank"), host))
        for verb, said in (("close", b"Target is closing"), ("activate", b"Target activated")):
            number = path.removeprefix(f"/json/{verb}/")
            if number != path and number in self.targets:
                if verb == "close":
                    self.close_target(number)
                return "200 OK", said
        return "404 Not Found", b""

    @staticmethod
    def json(value):
        return json.dumps(value, indent=3).encode()

    def client_for(self, path, send):
        if path == f"/devtools/browser/{self.uuid}":
            client = Client(self, send, None)
        elif path.startswith("/devtools/page/") and path.rpartition("/")[2] in self.targets:
            client = Client(self, send, path.rpartition("/")[2])
        else:
            return None
        self.clients.append(client)
        return client


class Client:
    """One WebSocket. `page` is the target it is bound to, or None for the browser's own endpoint."""

    def __init__(self, browser, send, page):
        self.browser = browser
        self.send_text = send
        self.page = page
        self.sessions = {}
        self.made = 0
        self.discovers = False
        self.auto_attach = False
        self.follow = []

    def gone(self):
        if self in self.browser.clients:
            self.browser.clients.remove(self)

    def send(self, message):
        self.send_text(json.dumps(message, separators=(",", ":")).encode())

    def event(self, method, params, session=None):
        self.send({"method": method, "params": params, **({"sessionId": session} if session else {})})

    def target_created(self, target):
        if self.discovers:
            self.event("Target.targetCreated", {"targetInfo": target})
        if self.auto_attach:
            self.attach(target["targetId"])

    def target_destroyed(self, number):
        for session in [session for session, target in self.sessions.items() if target == number]:
            del self.sessions[session]
            self.event("Target.detachedFromTarget", {"sessionId": session, "targetId": number})
        if self.discovers:
            self.event("Target.targetDestroyed", {"targetId": number})

    def attach(self, number):
        target = self.browser.targets.get(number)
        if target is None:
            raise CdpError(-32602, "No target with given id found")
        self.made += 1
        session = f"{number[:16]}{self.made:016X}"
        self.sessions[session] = number
        target["attached"] = True
        self.event("Target.attachedToTarget", {"sessionId": session, "targetInfo": target,
                                               "waitingForDebugger": False})
        return session

    def message(self, data):
        try:
            call = json.loads(data)
            number, method = call["id"], call["method"]
        except (ValueError, KeyError, TypeError):
            self.send({"error": {"code": -32700, "message": "JSON: malformed message"}})
            return
        session = call.get("sessionId")
        around = {"id": number, **({"sessionId": session} if session else {})}
        if session is not None and session not in self.sessions:
            self.send({"id": number, "error": {"code": -32001, "message": "Session with given id not found."}})
            return
        page = self.sessions[session] if session else self.page
        try:
            result = self.call(method, call.get("params") or {}, page, session)
        except CdpError as error:
            self.send({**around, "error": {"code": error.code, "message": str(error)}})
            return
        self.send({**around, "result": result})
        follow, self.follow = self.follow, []
        for work in follow:
            work()
        if method == "Browser.close":
            self.browser.closed = True

    def call(self, method, params, page, session):
        known = getattr(self, method.replace(".", "_"), None)
        if known is not None:
            return known(params, page, session)
        domain, _, verb = method.partition(".")
        if domain and verb.startswith(SILENT):
            return {}
        raise CdpError(-32601, f"'{method}' wasn't found")

    def Browser_close(self, params, page, session):
        return {}

    def Browser_getVersion(self, params, page, session):
        return {"protocolVersion": "1.3", "product": VERSION["Browser"], "revision": "@stub",
                "userAgent": VERSION["User-Agent"], "jsVersion": VERSION["V8-Version"]}

    def Target_setDiscoverTargets(self, params, page, session):
        self.discovers = bool(params.get("discover"))
        if self.discovers:
            for target in list(self.browser.targets.values()):
                self.event("Target.targetCreated", {"targetInfo": target})
        return {}

    def Target_setAutoAttach(self, params, page, session):
        if page is None:
            self.auto_attach = bool(params.get("autoAttach"))
            if self.auto_attach:
                for number in list(self.browser.targets):
                    self.attach(number)
        return {}

    def Target_getTargets(self, params, page, session):
        return {"targetInfos": list(self.browser.targets.values())}

    def Target_getTargetInfo(self, params, page, session):
        target = self.browser.targets.get(params.get("targetId", page))
        return {"targetInfo": target or {"targetId": self.browser.uuid, "type": "browser", "title": "", "url": "",
                                         "attached": True, "canAccessOpener": False}}

    def Target_getBrowserContexts(self, params, page, session):
        return {"browserContextIds": [], "defaultBrowserContextId": "STUBDEFAULTCONTEXT"}

    def Target_attachToTarget(self, params, page, session):
        return {"sessionId": self.attach(params.get("targetId"))}

    def Target_detachFromTarget(self, params, page, session):
        if self.sessions.pop(params.get("sessionId"), None) is None:
            raise CdpError(-32602, "No session with given id")
        return {}

    def Target_createTarget(self, params, page, session):
        return {"targetId": self.browser.new_target(params.get("url") or "about:blank")["targetId"]}

    def Target_closeTarget(self, params, page, session):
        self.browser.close_target(params.get("targetId"))
        return {"success": True}

    def Storage_getCookies(self, params, page, session):
        return {"cookies": self.browser.state["cookies"]}

    Network_getCookies = Storage_getCookies

    def Storage_setCookies(self, params, page, session):
        self.browser.state["cookies"] += params.get("cookies", [])
        return {}

    def Page_getFrameTree(self, params, page, session):
        return {"frameTree": {"frame": self.frame(self.page_target(page))}}

    def Runtime_enable(self, params, page, session):
        target = self.page_target(page)
        self.event("Runtime.executionContextCreated", {"context": {
            "id": 1, "origin": "://", "name": "", "uniqueId": target["targetId"],
            "auxData": {"isDefault": True, "type": "default", "frameId": target["targetId"]}}}, session)
        return {}

    def Page_createIsolatedWorld(self, params, page, session):
        return {"executionContextId": 2}

    def Page_setLifecycleEventsEnabled(self, params, page, session):
        """Chrome tells again what the page has been through already; libraries wait for that."""
        if params.get("enabled"):
            self.lifecycle(self.page_target(page), session)
        return {}

    def Page_navigate(self, params, page, session):
        target = self.page_target(page)
        if self.browser.dead_proxy:
            return {"frameId": target["targetId"], "loaderId": self.browser.loader(target),
                    "errorText": "net::ERR_PROXY_CONNECTION_FAILED"}
        target["url"] = target["title"] = params.get("url", "about:blank")
        self.browser.loads[target["targetId"]] = self.browser.loads.get(target["targetId"], 0) + 1

        def load():
            self.event("Page.frameNavigated", {"frame": self.frame(target), "type": "Navigation"}, session)
            self.lifecycle(target, session)
            self.event("Page.loadEventFired", {"timestamp": 1.0}, session)
            for client in self.browser.clients:
                if client.discovers:
                    client.event("Target.targetInfoChanged", {"targetInfo": target})

        # As in Chrome, the answer comes first and the load follows.
        self.follow.append(load)
        return {"frameId": target["targetId"], "loaderId": self.browser.loader(target)}

    def lifecycle(self, target, session):
        for name in ("init", "commit", "DOMContentLoaded", "load", "networkAlmostIdle", "networkIdle"):
            self.event("Page.lifecycleEvent", {"frameId": target["targetId"], "loaderId": self.browser.loader(target),
                                               "name": name, "timestamp": 1.0}, session)

    def page_target(self, page):
        if page not in self.browser.targets:
            raise CdpError(-32601, "this needs a page")
        return self.browser.targets[page]

    def frame(self, target):
        return {"id": target["targetId"], "loaderId": self.browser.loader(target), "url": target["url"],
                "domainAndRegistry": "", "securityOrigin": "://", "mimeType": "text/html",
                "secureContextType": "InsecureScheme", "crossOriginIsolatedContextType": "NotIsolated",
                "gatedAPIFeatures": []}
