// Says whether `this` can be acted on now, and where. An element is actionable when it is attached,
// visible, in the viewport (scrolled there), not moving between frames, enabled, and not covered.
async function (offset, lookOnly) {
  const element = this;
  const no = (why) => ({ ok: false, why });
  if (!element.isConnected) return no('it is not in the page any more');
  const visible = () => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && style.visibility === 'visible';
  };
  if (!visible()) return no('it is not visible');
  // Also within containers that scroll by themselves, where the viewport says nothing.
  element.scrollIntoViewIfNeeded(true);
  // A tab that draws no frames must not hang the step; a busy machine may be late with them.
  const frame = () => new Promise((done) => {
    const timer = setTimeout(done, 500);
    requestAnimationFrame(() => { clearTimeout(timer); done(); });
  });
  await frame();
  const first = element.getBoundingClientRect();
  // Two frames on: late ones may follow each other so closely that hardly anything moves between them.
  await frame();
  await frame();
  if (!element.isConnected) return no('it is not in the page any more');
  if (!visible()) return no('it is not visible');
  const second = element.getBoundingClientRect();
  const moved = ['x', 'y', 'width', 'height'].some((side) => Math.abs(first[side] - second[side]) > 0.5);
  if (moved) return no('it is moving');
  const disabled = element.matches(':disabled') || element.closest('[aria-disabled="true"], [inert]');
  if (disabled) return no('it is disabled');
  const fits = offset && offset[0] >= 0 && offset[1] >= 0 && offset[0] < second.width && offset[1] < second.height;
  const x = second.x + (fits ? offset[0] : second.width / 2);
  const y = second.y + (fits ? offset[1] : second.height / 2);
  if (x < 0 || y < 0 || x >= innerWidth || y >= innerHeight) return no('it is outside of the viewport');
  if (lookOnly) return { ok: true, x, y };
  let hit = document.elementFromPoint(x, y);
  while (hit && hit.shadowRoot) {
    const deeper = hit.shadowRoot.elementFromPoint(x, y);
    if (!deeper || deeper === hit) break;
    hit = deeper;
  }
  const over = (node) => {
    for (let at = node; at; at = at.parentNode ?? at.host) if (at === element) return true;
    return false;
  };
  const label = (node) => node instanceof HTMLLabelElement && node.control === element;
  if (!hit || !(over(hit) || [...document.elementsFromPoint(x, y)].slice(0, 1).some(label))) {
    const name = hit ? hit.tagName.toLowerCase() + (hit.id ? '#' + hit.id : '') +
      (typeof hit.className === 'string' && hit.className ? '.' + hit.className.trim().split(/\s+/).join('.') : '') : 'nothing';
    return no('it is covered by ' + name);
  }
  return { ok: true, x, y };
}
