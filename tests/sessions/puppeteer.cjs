// Puppeteer on a lent session: argv is the endpoint, the practice site, a file, the length of a
// large message. Prints JSON.
const puppeteer = require('puppeteer-core');

async function main([endpoint, site, file, length]) {
  const browser = await puppeteer.connect({ browserWSEndpoint: endpoint, defaultViewport: null });
  const page = await browser.newPage();
  await page.goto(`${site}/?as=anna`);
  await page.locator('::-p-aria([name="New post"][role="button"])').click();
  const chosen = await page.waitForSelector('[role=dialog] input[type=file]');
  await chosen.uploadFile(file);
  console.log(JSON.stringify({
    title: await page.title(),
    version: (await browser.version()).replace(/^.*\//, ''),
    file_bytes: await chosen.evaluate((input) => input.files[0].size),
    sent: await page.evaluate((text) => text.length, 'x'.repeat(Number(length))),
    fetched: (await page.evaluate((length) => 'y'.repeat(length), Number(length))).length,
  }));
  await page.close();
  await browser.disconnect();
}

main(process.argv.slice(2));
