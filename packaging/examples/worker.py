#!/usr/bin/env python3
"""An outside worker for cove: takes items of an external flow and publishes them with Playwright (see README.md).
The click on Share cannot be undone: it comes once, right after cove's yes to `arm`, and never without it."""
import argparse, hashlib, json, os, sys, threading, time, urllib.parse, urllib.request
from playwright.sync_api import sync_playwright
WALLS = {"/login": "needs_human", "/challenge": "needs_human", "/limit": "rate_limited"}
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {os.environ.get('COVE_TOKEN', '')}"}
class Stop(Exception): """Ends an attempt: (what happened, and where it is no mere error the reason as cove knows it)."""

def call(path, body, tries=1):
    request = urllib.request.Request(f"{args.url}/api/v1/claims{path}", json.dumps(body).encode(), HEADERS)
    for left in reversed(range(tries)):
        try:
            return json.loads(urllib.request.urlopen(request, timeout=90).read() or "null")  # a 204 has no body: no work
        except OSError as error:  # an answer of 400 and more has a code; no answer has none
            code = getattr(error, "code", 503)
            if not left or code < 500 and code != 429:
                raise Stop(f"cove: {error} {error.read().decode() if code != 503 else ''}") from error
        time.sleep(2)

def publish(page, path, body, inputs, file):
    page.goto(f"{inputs['site']}/?" + urllib.parse.urlencode({"as": inputs["account"]}))
    if wall := WALLS.get(urllib.parse.urlsplit(page.url).path): raise Stop(f"it was sent to {page.url}", wall)
    page.get_by_role("button", name="New post").click()
    page.locator("[role=dialog] input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Next").click()
    page.get_by_role("textbox", name="Caption").fill(inputs["caption"])
    share = page.get_by_role("button", name="Share", exact=True)
    share.click(trial=True)  # waits for all that a click waits for, and does not click
    yes = call(path + "/arm", body | {"media_sha256": hashlib.file_digest(open(file, "rb"), "sha256").hexdigest()})
    share.click(timeout=max(1, yes["click_within_seconds"] * 1000))
    return page.locator("[data-shared] a.post-link").evaluate("link => link.href")

def work(item, path, body, browsers):
    said, done = None, threading.Event()
    def keep():  # ends where a refresh is refused (canceled, or too late): `arm` is refused as well, and so it fails
        while not done.wait(args.ttl / 3): call(path + "/refresh", body, tries=5)
    threading.Thread(target=keep, daemon=True).start()
    try:
        with browsers.launch_persistent_context(f"{args.profiles}/{item['profile']}", executable_path=args.chromium) as context:
            context.set_default_timeout(args.timeout * 1000)
            said = "complete", {"url": publish(context.pages[0], path, body, item["inputs"], item["files"]["video"]["path"])}
    except Exception as error:  # cove knows whether this was before the click or after it
        told, reason = (*error.args, "error")[:2] if isinstance(error, Stop) else (str(error), "error")
        said = said or ("fail", {"reason": reason, "message": told[:500]})
    done.set()
    try: print(item["id"], call(f"{path}/{said[0]}", body | said[1], tries=5)["state"], *said[1].values(), flush=True)
    except Stop as refused: print(item["id"], refused, file=sys.stderr, flush=True)
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
for name, default, told in [("url", os.environ.get("COVE_URL", "http://127.0.0.1:8088"), "where cove listens"),
        ("kind", "studio", "the flow's cove.external"), ("owner", f"worker-{os.getpid()}", "name of this worker"),
        ("chromium", os.environ.get("CHROMIUM", "/usr/bin/chromium"), "the browser"), ("ttl", 60, "seconds of a lease"),
        ("profiles", "worker-profiles", "folder for browser data"), ("timeout", 30, "seconds a step"), ("items", 10**9, "to do")]:
    parser.add_argument(f"--{name}", default=default, type=type(default), help=told)
args = parser.parse_args()
with sync_playwright() as playwright:
    for _ in range(args.items):
        asked = {"kinds": [args.kind], "owner": args.owner, "ttl_seconds": args.ttl, "wait_seconds": 60}
        while not (claim := call("", asked, tries=10**6)): pass
        work(claim["item"], "/" + claim["claim_id"], {"fence": claim["fence"]}, playwright.chromium)
