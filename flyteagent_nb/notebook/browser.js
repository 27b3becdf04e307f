// Clicks, keys and fields in flyteagent_nb's HTML reach the kernel through this model. It has no view: what a person sees is plain
// HTML, which stays in the notebook as it is; where no kernel answers, the parts marked fa-live stay hidden.

const STYLE = `
.fa-box { border-color: var(--jp-border-color2, #8884) !important; background: var(--jp-layout-color1, transparent) !important; }
.fa-soft { color: var(--jp-ui-font-color2, #7a7a7a) !important; }
.fa-rule, .fa-rule td, .fa-rule th { border-color: var(--jp-border-color2, #8884) !important; }
.fa-wait { color: var(--jp-warn-color0, #b3690a) !important; } .fa-bg-wait { background-color: var(--jp-warn-color1, #b3690a) !important; }
.fa-run { color: var(--jp-brand-color0, #1f7fd0) !important; } .fa-bg-run { background-color: var(--jp-brand-color1, #1f7fd0) !important; }
.fa-ok { color: var(--jp-success-color0, #2c8c3c) !important; } .fa-bg-ok { background-color: var(--jp-success-color1, #2c8c3c) !important; }
.fa-bad { color: var(--jp-error-color0, #d8453c) !important; } .fa-bg-bad { background-color: var(--jp-error-color1, #d8453c) !important; }
.fa-bg-none { background-color: var(--jp-layout-color3, #8884) !important; }
[data-jp-theme-light="false"] .fa-wait { color: #ffb74d !important; }
[data-jp-theme-light="false"] .fa-run { color: #64b5f6 !important; }
[data-jp-theme-light="false"] .fa-ok { color: #81c784 !important; }
[data-jp-theme-light="false"] .fa-bad { color: #ef9a9a !important; }
.fa-button { font: inherit; font-size: 12px; padding: 2px 10px; border-radius: 4px; cursor: pointer;
  color: var(--jp-ui-font-color1, inherit); background: var(--jp-layout-color2, #8882); border: 1px solid var(--jp-border-color2, #8886); }
.fa-button:hover { background: var(--jp-layout-color3, #8884); }
.fa-button:focus-visible, .fa-field:focus-visible { outline: 2px solid var(--jp-brand-color1, #1f7fd0); outline-offset: 1px; }
.fa-button[aria-disabled="true"] { opacity: .6; cursor: default; }
.fa-field { font: inherit; font-size: 13px; padding: 3px 6px; border-radius: 4px; color: var(--jp-ui-font-color1, inherit);
  background: var(--jp-layout-color0, transparent); border: 1px solid var(--jp-border-color1, #8886); box-sizing: border-box; }
.fa-field[aria-invalid="true"] { border-color: var(--jp-error-color1, #d8453c); }
.fa-field::placeholder { color: var(--jp-ui-font-color3, #8888); opacity: 1; }
.fa-field[type="checkbox"] { accent-color: var(--jp-brand-color1, #1f7fd0); vertical-align: -2px; }
[data-jp-theme-light="false"] .fa-field { color-scheme: dark; }
`;

const clock = (seconds) => {
  if (seconds < 59.5) return seconds < 9.95 ? seconds.toFixed(1) + " s" : Math.round(seconds) + " s";
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
};

const CONTROLS = "[data-fa-do], [data-fa-filter], [data-fa-field]";

function start(model) {
  const kernel = model.get("kernel");
  const ours = `[data-fa-kernel="${CSS.escape(kernel)}"]`;
  const all = (selector) => document.querySelectorAll(`${ours} ${selector}, ${ours}${selector}`);
  const seen = new WeakMap(); // a clock's element -> when it came, in ms of this page
  const filters = new Map(); // a block's id -> what was typed or chosen in its filters
  const drafts = new Map(); // a field's key -> what was typed into it, and the reset that it was typed after
  let focused = null; // the control that had the focus when its block was replaced

  const style = document.createElement("style");
  style.textContent = STYLE + `${ours} .fa-live { display: revert !important; } ${ours} .fa-still { display: none; }`;
  document.head.append(style);

  const blockOf = (element) => element.closest?.(ours);
  const keyOf = (control) => `${blockOf(control)?.dataset.faBlock}/${control.dataset.faDo ?? ""}/${control.dataset.faId ?? control.name ?? ""}`;

  const typedInto = (field) => (field.type === "checkbox" ? "checked" : "value");
  const fieldsOf = (block) => {
    const values = {};
    for (const field of block.querySelectorAll("[data-fa-field]")) values[field.name] = field[typedInto(field)];
    return values;
  };

  const act = (event) => {
    const control = event.target.closest?.("[data-fa-do]");
    const block = control && blockOf(control);
    if (!block) return;
    if (event.type === "keydown" ? event.key !== "Enter" && event.key !== " " : event.button !== 0) return;
    event.stopPropagation(); // else Enter is a command of the notebook too
    if (event.type === "keydown") event.preventDefault();
    if (control.getAttribute("aria-disabled") === "true") return;
    if (control.dataset.faDo === "copy") {
      navigator.clipboard?.writeText(control.dataset.faText);
      const text = control.textContent;
      control.textContent = "Copied";
      setTimeout(() => (control.textContent = text), 1200);
      return;
    }
    if (control.dataset.faBusy) {
      control.textContent = control.dataset.faBusy;
      control.setAttribute("aria-disabled", "true");
    }
    const fields = control.dataset.faFields === undefined ? undefined : fieldsOf(block);
    model.send({ do: control.dataset.faDo, id: control.dataset.faId, block: block.dataset.faBlock, fields });
  };

  // Enter in a field of a form runs it, with Ctrl in one of many lines; a key that is typed into a field is no command of the notebook.
  const typed = (event) => {
    const field = event.target.closest?.("[data-fa-field], [data-fa-filter]");
    if (!field || !blockOf(field)) return;
    event.stopPropagation();
    const runs = field.tagName === "INPUT" || event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && field.dataset.faField !== undefined && runs && !event.isComposing) {
      event.preventDefault();
      const button = blockOf(field).querySelector("[data-fa-fields]");
      if (button) act({ type: "pointerdown", button: 0, target: button, stopPropagation() {}, preventDefault() {} });
    }
  };

  const filter = (block) => {
    const wanted = filters.get(block.dataset.faBlock);
    if (!wanted) return;
    let shown = 0;
    for (const row of block.querySelectorAll("[data-fa-row]")) {
      const fits = (!wanted.phase || row.dataset.faPhase === wanted.phase) &&
        (!wanted.text || row.dataset.faRow.includes(wanted.text.toLowerCase()));
      row.style.display = fits ? "" : "none";
      shown += fits;
    }
    const none = block.querySelector("[data-fa-none]");
    if (none) none.style.display = shown ? "none" : "";
  };

  const filtered = (event) => {
    const field = event.target.closest?.("[data-fa-filter]");
    const block = field && blockOf(field);
    if (!block) return;
    filters.set(block.dataset.faBlock, { ...filters.get(block.dataset.faBlock), [field.dataset.faFilter]: field.value });
    filter(block);
  };

  const drafted = (event) => {
    const field = event.target.closest?.("[data-fa-field]");
    if (field && blockOf(field)) drafts.set(keyOf(field), { typed: field[typedInto(field)], reset: field.dataset.faReset });
  };

  // A block is replaced as a whole when something changed: give back what was typed, and the focus.
  const replaced = () => {
    for (const block of document.querySelectorAll(ours)) {
      if (seen.has(block)) continue;
      seen.set(block, true);
      // Older than this page's view of it: it was loaded from the file, and the kernel's updates do not reach it.
      if (Date.now() / 1000 - Number(block.dataset.faAt) > 5) model.send({ do: "stale", block: block.dataset.faBlock });
      const wanted = filters.get(block.dataset.faBlock);
      if (wanted) {
        for (const field of block.querySelectorAll("[data-fa-filter]")) field.value = wanted[field.dataset.faFilter] ?? field.value;
        filter(block);
      }
      for (const field of block.querySelectorAll("[data-fa-field]")) {
        const draft = drafts.get(keyOf(field));
        if (!draft) continue;
        if (draft.reset === field.dataset.faReset) field[typedInto(field)] = draft.typed;
        else drafts.delete(keyOf(field)); // the kernel has filled it anew
      }
      if (focused && (document.activeElement === document.body || !document.activeElement?.isConnected)) {
        const { key, from, to } = focused; // as focus() remembers anew
        for (const control of block.querySelectorAll(CONTROLS)) {
          if (keyOf(control) !== key) continue;
          control.focus({ preventScroll: true });
          if (from != null && control.setSelectionRange) control.setSelectionRange(from, to);
        }
      }
    }
    tick();
  };
  const remember = (event) => {
    const control = event.target.closest?.(CONTROLS);
    focused = control && blockOf(control) ? { key: keyOf(control), from: control.selectionStart, to: control.selectionEnd } : null;
  };

  const tick = () => {
    const now = performance.now();
    for (const element of all("[data-fa-elapsed]")) {
      if (!seen.has(element)) seen.set(element, now);
      element.textContent = clock(Number(element.dataset.faElapsed) + (now - seen.get(element)) / 1000);
    }
  };

  // What a page that was opened again shows of a block is replaced from here; the notebook's own updates come first.
  const sent = ({ block, html }) => setTimeout(() => {
    for (const old of document.querySelectorAll(`${ours}[data-fa-block="${CSS.escape(block)}"]`)) old.outerHTML = html;
  }, 150);
  model.on("msg:custom", sent);

  let queued = false;
  const observer = new MutationObserver(() => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; replaced(); });
  });
  observer.observe(document.body, { childList: true, subtree: true });
  const timer = setInterval(tick, 250);
  const listeners = [["pointerdown", act], ["keydown", act], ["keydown", typed], ["input", filtered], ["change", filtered],
    ["input", drafted], ["change", drafted], ["focusin", remember], ["input", remember], ["keyup", remember], ["pointerup", remember]];
  for (const [name, handler] of listeners) document.addEventListener(name, handler, true);
  replaced();
  model.send({ do: "ready" });
  return () => {
    for (const [name, handler] of listeners) document.removeEventListener(name, handler, true);
    model.off("msg:custom", sent);
    observer.disconnect();
    clearInterval(timer);
    style.remove();
  };
}

export default {
  initialize: ({ model }) => start(model),
  render() {},
};
