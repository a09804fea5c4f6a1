// The composer of the practice site. It has the habits of real ones: a dialog that opens late, a file
// input nobody can see, a caption box that owns its text and draws itself anew on every input, and a
// Share button that does not guard against a second click (the server counts them).
"use strict";

const page = document.body.dataset;
const DIALOG_OPENS_AFTER_MS = 450;
const POLL_EVERY_MS = 250;
const POLL_LIMIT = 2400;
const CAPTION_LIMIT = 2200;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// A rich text box in the manner of Lexical and Draft: `text` is the truth, the DOM only shows it.
class CaptionBox {
  constructor(changed) {
    this.text = "";
    this.changed = changed;
    this.placeholder = make("div", { class: "placeholder", "aria-hidden": "true" }, "Write a caption…");
    this.box = make("div", {
      class: "caption", contenteditable: "true", role: "textbox", "aria-multiline": "true",
      "aria-label": "Caption", spellcheck: "false", "data-editor": "caption",
    });
    this.frame = make("div", { class: "caption-frame" }, this.box, this.placeholder);
    this.box.addEventListener("beforeinput", (event) => this.beforeInput(event));
    this.box.addEventListener("input", (event) => this.afterInput(event));
    this.observer = new MutationObserver(() => this.draw(null));
    this.box.addEventListener("compositionstart", () => this.observer.disconnect());
    this.box.addEventListener("compositionend", () => this.takeOver());
    this.draw(null);
  }

  beforeInput(event) {
    if (!event.cancelable) return; // a composition: the DOM is read back when it ends
    event.preventDefault();
    const [from, to] = this.range(event);
    const kind = event.inputType;
    if (kind.startsWith("insert")) {
      const line = kind === "insertParagraph" || kind === "insertLineBreak";
      const data = line ? "\n" : event.data ?? event.dataTransfer?.getData("text/plain") ?? "";
      this.replace(from, to, data.replaceAll("\r\n", "\n"));
    } else if (kind.startsWith("delete")) {
      this.replace(from, to, "");
    }
  }

  // Reached by compositions and editing commands, which the browser itself writes into the DOM, and by
  // scripts that wrote there: a stranger's change is drawn away.
  afterInput(event) {
    if (event.isComposing) return;
    if (event.isTrusted) this.takeOver();
    else this.draw(null);
  }

  takeOver() {
    const caret = this.offset(getSelection().anchorNode, getSelection().anchorOffset);
    this.text = [...this.box.childNodes].map((line) => line.textContent).join("\n");
    this.draw(caret);
  }

  range(event) {
    const given = event.getTargetRanges()[0];
    const selection = getSelection();
    if (given) {
      return [this.offset(given.startContainer, given.startOffset), this.offset(given.endContainer, given.endOffset)];
    }
    const ends = [
      this.offset(selection.anchorNode, selection.anchorOffset), this.offset(selection.focusNode, selection.focusOffset),
    ];
    return ends.sort((a, b) => a - b);
  }

  replace(from, to, data) {
    this.text = (this.text.slice(0, from) + data + this.text.slice(to)).slice(0, CAPTION_LIMIT);
    this.draw(from + data.length);
  }

  // Place in the text of a place in the DOM.
  offset(node, at) {
    const lines = [...this.box.childNodes];
    let before = 0;
    for (const [number, line] of lines.entries()) {
      if (node === this.box && number === at) return Math.max(before, 0);
      if (line === node || line.contains(node)) {
        const inside = document.createRange();
        inside.setStart(line, 0);
        inside.setEnd(node, at);
        return before + inside.toString().length;
      }
      before += line.textContent.length + 1;
    }
    return this.text.length;
  }

  draw(caret) {
    this.observer.disconnect();
    this.box.replaceChildren(...this.text.split("\n").map((line) => {
      if (line === "") return make("div", { "data-line": "" }, make("br"));
      const parts = line.split(/(#[\p{L}\p{N}_]+)/u).filter(Boolean);
      return make("div", { "data-line": "" }, ...parts.map((part) => (
        make("span", part.startsWith("#") && part.length > 1 ? { class: "tag" } : {}, part)
      )));
    }));
    this.placeholder.hidden = this.text !== "";
    if (caret !== null) this.place(Math.min(caret, this.text.length));
    this.observer.observe(this.box, { childList: true, subtree: true, characterData: true });
    this.changed(this.text);
  }

  place(caret) {
    let left = caret;
    for (const line of this.box.childNodes) {
      if (left > line.textContent.length) { left -= line.textContent.length + 1; continue; }
      for (const span of line.childNodes) {
        const text = span.firstChild;
        if (!text) break;
        if (left <= text.length) { getSelection().collapse(text, left); return; }
        left -= text.length;
      }
      getSelection().collapse(line, 0);
      return;
    }
  }
}

class Composer {
  constructor() {
    this.file = null;
    this.body = make("div");
    this.dialog = make("div", { class: "dialog", role: "dialog", "aria-modal": "true", "aria-label": "Create a post" }, this.body);
    this.veil = make("div", { class: "veil" }, this.dialog);
    document.body.append(this.veil);
    this.choose();
  }

  show(title, ...content) {
    this.body.replaceChildren(make("h2", {}, title), ...content);
  }

  choose() {
    const input = make("input", { type: "file", id: "media", name: "media", accept: "video/*,image/*" });
    input.addEventListener("change", () => { if (input.files[0]) this.preview(input.files[0]); });
    this.show("Create a post", make("div", { class: "drop" },
      make("div", {}, "Drag a video here"), input, make("label", { for: "media", class: "button" }, "Select from computer")));
  }

  preview(file) {
    this.file = file;
    const next = make("button", { class: "primary", "data-action": "next", disabled: "", onclick: () => this.describe() }, "Next");
    const note = make("span", { class: "note" }, "Preparing the preview…");
    const video = make("video", { muted: "", playsinline: "", "aria-label": "Preview" });
    const ready = (text) => { note.textContent = `${file.name}, ${file.size.toLocaleString("en")} bytes${text}`; next.disabled = false; };
    video.addEventListener("loadeddata", () => ready(`, ${video.duration.toFixed(1)} s`), { once: true });
    video.addEventListener("error", () => ready(", no preview"), { once: true });
    video.src = URL.createObjectURL(file);
    this.show("Preview", video, make("footer", {}, note, next));
  }

  describe() {
    const count = make("span", { class: "note" });
    const status = make("div", { role: "status" });
    const caption = new CaptionBox((text) => { count.textContent = `${text.length} / ${CAPTION_LIMIT}`; });
    const label = page.shareLabel;
    const share = make("button", { class: "primary", "data-action": label.toLowerCase().replaceAll(" ", "-"), type: "button" }, label);
    share.addEventListener("click", () => {
      status.textContent = "Sharing…";
      this.share(caption.text).catch(() => this.failed("Your connection was lost."));
    });
    this.show("New post", caption.frame, status, make("footer", {}, count, share));
  }

  async share(caption) {
    const nonce = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const query = new URLSearchParams(page.switches);
    query.set("as", page.profile);
    query.set("nonce", nonce);
    query.set("caption", caption);
    const answer = await fetch(`/upload?${query}`, {
      method: "POST", body: this.file, headers: { "content-type": "application/octet-stream" },
    });
    if (answer.status === 403) return location.assign((await answer.json()).to);
    if (!answer.ok) return this.failed("");
    this.show("Sharing", make("div", { class: "spinner" }), make("p", { class: "center" }, "Processing your video…"));
    for (let turn = 0; turn < POLL_LIMIT; turn += 1) {
      await new Promise((resolve) => setTimeout(resolve, POLL_EVERY_MS));
      const state = await (await fetch(`/upload/${nonce}`)).json();
      if (state.state === "published") return this.done(state.url);
    }
    return this.failed("It takes too long.");
  }

  failed(why) {
    this.show("New post", make("p", { class: "alert center", role: "alert" }, `Something went wrong. ${why}`));
  }

  done(url) {
    this.show("Post shared", make("div", { class: "center", role: "status", "data-shared": "" },
      make("p", {}, "Your post has been shared."), make("a", { class: "post-link", href: url }, "View post")));
  }
}

document.getElementById("new-post")?.addEventListener("click", () => {
  setTimeout(() => new Composer(), DIALOG_OPENS_AFTER_MS);
});

document.getElementById("accept-cookies")?.addEventListener("click", (event) => {
  document.cookie = "practice_cookies=ok; path=/; max-age=31536000; samesite=lax";
  event.target.closest(".veil").remove();
});
