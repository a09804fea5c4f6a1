"""Playwright for Python on a lent session: argv is the endpoint, the practice site, a file. Prints JSON."""
import json, os, sys
from playwright.sync_api import sync_playwright

endpoint, site, file = sys.argv[1:]
with sync_playwright() as playwright:
    browser = playwright.chromium.connect_over_cdp(endpoint)
    page = browser.contexts[0].new_page()
    page.goto(f"{site}/?as=anna")
    page.get_by_role("button", name="New post").click()
    page.locator("[role=dialog] input[type=file]").set_input_files(file)
    chosen = page.locator("[role=dialog] input[type=file]")
    large = "x" * 20_000_000
    print(json.dumps({
        "title": page.title(),
        "version": browser.version,
        "file_bytes": chosen.evaluate("input => input.files[0].size"),
        "sent": page.evaluate("text => text.length", large),
        "fetched": len(page.evaluate("() => 'y'.repeat(20000000)")),
    }))
    page.close()
    browser.close()
