// Playwright for Node on a lent session: argv is the endpoint, the practice site, a file, the length of a
// large message. Prints JSON.
const { chromium } = require('playwright-core');

async function main([endpoint, site, file, length]) {
  const browser = await chromium.connectOverCDP(endpoint, { isLocal: true });
  const page = await browser.contexts()[0].newPage();
  await page.goto(`${site}/?as=anna`);
  await page.getByRole('button', { name: 'New post' }).click();
  // The page puts something else in its place when a file is chosen.
  const chosen = await page.locator('[role=dialog] input[type=file]').elementHandle();
  await chosen.setInputFiles(file);
  console.log(JSON.stringify({
    title: await page.title(),
    version: browser.version(),
    file_bytes: await chosen.evaluate((input) => input.files[0].size),
    sent: await page.evaluate((text) => text.length, 'x'.repeat(Number(length))),
    fetched: (await page.evaluate((length) => 'y'.repeat(length), Number(length))).length,
  }));
  await page.close();
  await browser.close();
}

main(process.argv.slice(2));
