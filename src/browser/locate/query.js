// Finds the elements that one selector matches, below `this` (an element, through its open shadow root,
// or the document). Called in the page with the kind, the text, and how many matches are wanted.
function (kind, text, limit) {
  const root = this;
  const roots = root.shadowRoot ? [root, root.shadowRoot] : [root];
  const deep = function* (node) {
    for (const element of node.querySelectorAll('*')) {
      if (element.shadowRoot) {
        yield element.shadowRoot;
        yield* deep(element.shadowRoot);
      }
    }
  };
  const pierced = () => roots.flatMap((root) => [root, ...deep(root)]);
  const found = [];
  const add = (elements) => {
    for (const element of elements) {
      if (element.nodeType === Node.ELEMENT_NODE && !found.includes(element)) found.push(element);
      if (found.length >= limit) return true;
    }
    return false;
  };
  if (kind === 'css') {
    roots.some((root) => add(root.querySelectorAll(text)));
  } else if (kind === 'pierce') {
    pierced().some((root) => add(root.querySelectorAll(text)));
  } else if (kind === 'xpath') {
    const owner = root.ownerDocument ?? root;
    const result = owner.evaluate(text, root, null, XPathResult.ORDERED_NODE_SNAPSHOT_TYPE, null);
    const nodes = [];
    for (let n = 0; n < result.snapshotLength; n++) nodes.push(result.snapshotItem(n));
    add(nodes);
  } else if (kind === 'text') {
    // The smallest elements that hold the text: none of their children holds it, too.
    const skipped = new Set(['SCRIPT', 'STYLE', 'NOSCRIPT', 'HEAD', 'TEMPLATE']);
    const squeeze = (text) => text.replace(/\s+/g, ' ').trim();
    const wanted = squeeze(text);
    const shown = (element) => {
      if (element instanceof HTMLInputElement) {
        return ['button', 'submit', 'reset'].includes(element.type) ? element.value : '';
      }
      return element.textContent ?? '';
    };
    const holds = (element) => !skipped.has(element.tagName) && squeeze(shown(element)).includes(wanted);
    pierced().some((root) =>
      add([...root.querySelectorAll('*')].filter((element) =>
        holds(element) && ![...element.children].some(holds))));
  }
  return found;
}
