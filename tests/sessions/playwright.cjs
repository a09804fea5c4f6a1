// Playwright for Node on a lent session: argv is the endpoint, the practice site, a file. Prints JSON.
const { chromium } = require('playwright-core');

async function main([endpoint, site, file]) {
  const browser = await chromium.connectOverCDP(endpoint);
  const page = await browser.contexts()[0].newPage();
  await page.goto(`${site}/?as=anna`);
  await page.getByRole('button', { name: 'New post' }).click();
  const chosen = page.locator('[role=dialog] input[type=file]');
  await chosen.setInputFiles(file);
  console.log(JSON.stringify({
    title: await page.title(),
    version: browser.version(),
    file_bytes: await chosen.evaluate((input) => input.files[0].size),
    sent: await page.evaluate((text) => text.length, 'x'.repeat(20_000_000)),
    fetched: (await page.evaluate(() => 'y'.repeat(20_000_000))).length,
  }));
  await page.close();
  await browser.close();
}

main(process.argv.slice(2));
