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
    // `//` begins at the document wherever it is asked.
    add(nodes.filter((node) => root.contains(node)));
  } else if (kind === 'text') {
    // The smallest elements that hold the text: none of what they contain, shadow roots included, holds it,
    // too. Visible ones first. Scripts and styles show nothing.
    const skipped = new Set(['SCRIPT', 'STYLE', 'NOSCRIPT', 'HEAD', 'TEMPLATE']);
    const squeeze = (text) => text.replace(/\s+/g, ' ').trim();
    const wanted = squeeze(text);
    const texts = new Map();
    const read = (element) => {
      if (skipped.has(element.tagName)) return '';
      if (element instanceof HTMLInputElement) {
        return ['button', 'submit', 'reset'].includes(element.type) ? element.value : '';
      }
      return [...(element.shadowRoot?.childNodes ?? []), ...element.childNodes].map(textOf).join('');
    };
    const textOf = (node) => {
      if (node.nodeType === Node.TEXT_NODE) return node.data;
      if (node.nodeType !== Node.ELEMENT_NODE) return '';
      if (!texts.has(node)) texts.set(node, read(node));
      return texts.get(node);
    };
    const smallest = [];
    const walk = (element) => {
      if (!squeeze(textOf(element)).includes(wanted)) return false;
      const within = [...(element.shadowRoot?.children ?? []), ...element.children].filter(walk);
      if (within.length === 0) smallest.push(element);
      return true;
    };
    roots.forEach((root) => [...root.children].forEach(walk));
    const visible = (element) => element.checkVisibility({ visibilityProperty: true });
    add(smallest.filter(visible)) || add(smallest.filter((element) => !visible(element)));
  }
  return found;
}
