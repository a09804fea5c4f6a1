// Whether `this` fits what a waitForElement asks for.
function (visible, attributes, properties) {
  const style = this.isConnected ? getComputedStyle(this) : null;
  const box = this.getBoundingClientRect();
  const shown = style !== null && box.width > 0 && box.height > 0 && style.visibility === 'visible';
  if (shown !== visible) return false;
  for (const [name, value] of Object.entries(attributes)) {
    if (this.getAttribute(name) !== value) return false;
  }
  const same = (wanted, value) =>
    wanted !== null && typeof wanted === 'object'
      ? value !== null && value !== undefined && Object.entries(wanted).every(([key, part]) => same(part, value[key]))
      : wanted === value;
  return same(properties, this);
}
