#!/usr/bin/env python3
"""An outside worker for cove: takes items of an external flow and publishes them with Playwright (see README.md).

The click on Share cannot be undone: it comes once, right after cove's yes to `arm`, and never without it."""
import argparse, contextlib, hashlib, json, os, sys, threading, time, urllib.parse, urllib.request
from playwright.sync_api import sync_playwright

WALLS = {"/login": "needs_human", "/challenge": "needs_human", "/limit": "rate_limited"}
class Stop(Exception):
    """Ends an attempt: (what happened, and where it is no mere error the reason as cove knows it)."""

def call(path, body, tries=1):
    token = os.environ.get("COVE_TOKEN")
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"{args.url}/api/v1/claims{path}", json.dumps(body).encode(), headers)
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return json.loads(answer.read() or "null")  # a 204 has no body: no work
        except OSError as error:  # an answer of 400 and more has a code; no answer has none
            code = getattr(error, "code", 503)
            if not left or code < 500 and code != 429:
                raise Stop(f"cove: {error} {error.read().decode() if code != 503 else ''}") from error
        time.sleep(2)

def keep(path, body, done):  # where a refresh is refused, `arm` is refused as well
    while not done.wait(args.ttl / 3):
        with contextlib.suppress(Stop):
            call(path + "/refresh", body | {"ttl_seconds": args.ttl})

def publish(page, path, body, item):
    inputs, file = item["inputs"], item["files"]["video"]["path"]
    page.goto(f"{inputs['site']}/?" + urllib.parse.urlencode({"as": inputs["account"]}))
    if wall := WALLS.get(urllib.parse.urlsplit(page.url).path):
        raise Stop(f"{inputs['account']} was sent to {page.url}", wall)
    page.get_by_role("button", name="New post").click()
    page.locator("[role=dialog] input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Next").click()
    page.get_by_role("textbox", name="Caption").click()
    page.keyboard.insert_text(inputs["caption"])
    share = page.get_by_role("button", name="Share", exact=True)
    share.click(trial=True)  # waits for all that a click waits for, and does not click
    with open(file, "rb") as video:
        media = hashlib.file_digest(video, "sha256").hexdigest()
    yes = call(path + "/arm", body | {"media_sha256": media})
    share.click(timeout=max(1, yes["click_within_seconds"] * 1000))
    return page.locator("[data-shared] a.post-link").evaluate("link => link.href")

def work(item, path, body, browsers):
    said, done = None, threading.Event()
    threading.Thread(target=keep, args=(path, body, done), daemon=True).start()
    try:
        folder = os.path.join(args.profiles, item["profile"])
        with browsers.launch_persistent_context(folder, executable_path=args.chromium) as context:
            context.set_default_timeout(args.timeout * 1000)
            said = "complete", {"url": publish(context.pages[0], path, body, item)}
    except Exception as error:  # cove knows whether this was before the click or after it
        reason = error.args[1] if isinstance(error, Stop) and error.args[1:] else "error"
        said = said or ("fail", {"reason": reason, "message": str(error.args[0] if error.args else error)[:500]})
    done.set()
    try:
        print(item["id"], call(f"{path}/{said[0]}", body | said[1], tries=5)["state"], *said[1].values(), flush=True)
    except Stop as refused:
        print(item["id"], refused, file=sys.stderr, flush=True)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
for name, default, told in [
        ("url", os.environ.get("COVE_URL", "http://127.0.0.1:8088"), "where cove listens"),
        ("kind", "studio", "the flow's cove.external"), ("owner", f"worker-{os.getpid()}", "name of this worker"),
        ("chromium", os.environ.get("CHROMIUM", "/usr/bin/chromium"), "the browser"),
        ("profiles", "worker-profiles", "folder with a folder of browser data a profile"),
        ("ttl", 60, "seconds of a lease"), ("timeout", 30, "seconds a step"), ("items", 10**9, "to do, then end")]:
    parser.add_argument(f"--{name}", default=default, type=type(default), help=told)
args = parser.parse_args()
asked = {"kinds": [args.kind], "owner": args.owner, "ttl_seconds": args.ttl, "wait_seconds": 60}
with sync_playwright() as playwright:
    while args.items > 0:
        if claim := call("", asked, tries=10**6):
            args.items -= 1
            work(claim["item"], "/" + claim["claim_id"], {"fence": claim["fence"]}, playwright.chromium)
