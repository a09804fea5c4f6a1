// Round trips a second of a small CDP message, by turns over each endpoint of argv, as Playwright makes them.
// Prints a JSON list with the median rate of each.
const { chromium } = require('playwright-core');

const TURNS = 15;
const PINGS = 400;

async function main(endpoints) {
  const browsers = await Promise.all(endpoints.map((endpoint) => chromium.connectOverCDP(endpoint)));
  const sessions = await Promise.all(browsers.map((browser) => browser.newBrowserCDPSession()));
  const rates = endpoints.map(() => []);
  for (let turn = 0; turn <= TURNS; turn += 1) {
    for (const [number, session] of sessions.entries()) {
      const began = process.hrtime.bigint();
      for (let ping = 0; ping < PINGS; ping += 1) {
        await session.send('Browser.getVersion');
      }
      // The first turn warms up.
      if (turn > 0) rates[number].push((PINGS * 1e9) / Number(process.hrtime.bigint() - began));
    }
  }
  const median = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];
  console.log(JSON.stringify(rates.map(median)));
  await Promise.all(browsers.map((browser) => browser.close()));
}

main(process.argv.slice(2));
