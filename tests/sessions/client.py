"""Playwright for Python on a lent session: argv is the endpoint, the practice site, a file, the length
of a large message. Prints JSON."""
import json, sys
from playwright.sync_api import sync_playwright

endpoint, site, file, length = sys.argv[1:]
with sync_playwright() as playwright:
    browser = playwright.chromium.connect_over_cdp(endpoint, is_local=True)
    page = browser.contexts[0].new_page()
    page.goto(f"{site}/?as=anna")
    page.get_by_role("button", name="New post").click()
    # The page puts something else in its place when a file is chosen.
    chosen = page.locator("[role=dialog] input[type=file]").element_handle()
    chosen.set_input_files(file)
    print(json.dumps({
        "title": page.title(),
        "version": browser.version,
        "file_bytes": chosen.evaluate("input => input.files[0].size"),
        "sent": page.evaluate("text => text.length", "x" * int(length)),
        "fetched": len(page.evaluate("length => 'y'.repeat(length)", int(length))),
    }))
    page.close()
    browser.close()
