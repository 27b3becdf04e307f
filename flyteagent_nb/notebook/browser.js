// Clicks, keys and fields in flyteagent_nb's HTML reach the kernel through this model. It has no view: what a person sees is plain
// HTML, which stays in the notebook as it is; where no kernel answers, the parts marked fnb-live stay hidden.

const STYLE = `
.fnb-box { border-color: var(--jp-border-color2, #8884) !important; background: var(--jp-layout-color1, transparent) !important; }
.fnb-soft { color: var(--jp-ui-font-color2, #7a7a7a) !important; }
.fnb-rule, .fnb-rule td, .fnb-rule th { border-color: var(--jp-border-color2, #8884) !important; }
.fnb-wait { color: color-mix(in srgb, var(--jp-warn-color0, #b3690a) 80%, #000) !important; } .fnb-bg-wait { background-color: var(--jp-warn-color1, #b3690a) !important; }
.fnb-run { color: var(--jp-brand-color0, #1f7fd0) !important; } .fnb-bg-run { background-color: var(--jp-brand-color1, #1f7fd0) !important; }
.fnb-ok { color: var(--jp-success-color0, #2c8c3c) !important; } .fnb-bg-ok { background-color: var(--jp-success-color1, #2c8c3c) !important; }
.fnb-bad { color: var(--jp-error-color0, #d8453c) !important; } .fnb-bg-bad { background-color: var(--jp-error-color1, #d8453c) !important; }
.fnb-bg-none { background-color: var(--jp-layout-color3, #8884) !important; }
[class*="fnb-bg-"] { forced-color-adjust: none; } /* a bar is nothing but its colour, which Windows' contrast themes take away */
[data-jp-theme-light="false"] .fnb-wait { color: #ffb74d !important; }
[data-jp-theme-light="false"] .fnb-run { color: #64b5f6 !important; }
[data-jp-theme-light="false"] .fnb-ok { color: #81c784 !important; }
[data-jp-theme-light="false"] .fnb-bad { color: #ef9a9a !important; }
/* Buttons stay in sight where a table is wider than its box. */
.fnb-act { position: sticky; right: 0; background: var(--jp-layout-color1, transparent); }
/* Where a view is narrow, what can be seen elsewhere makes room for what acts. */
.fnb-box { container-type: inline-size; }
@container (max-width: 640px) { .fnb-wide { display: none; } }
@container (max-width: 480px) { .fnb-mid { display: none; } .fnb-name { max-width: 92px !important; } }
.fnb-button { font: inherit; font-size: 12px; padding: 2px 10px; border-radius: 4px; cursor: pointer;
  color: var(--jp-ui-font-color1, inherit); background: var(--jp-layout-color2, #8882); border: 1px solid var(--jp-border-color2, #8886); }
.fnb-button:hover { background: var(--jp-layout-color3, #8884); }
.fnb-button:focus-visible, .fnb-field:focus-visible { outline: 2px solid var(--jp-brand-color1, #1f7fd0); outline-offset: 1px; }
.fnb-button[aria-disabled="true"] { opacity: .6; cursor: default; }
.fnb-field { font: inherit; font-size: 13px; padding: 3px 6px; border-radius: 4px; color: var(--jp-ui-font-color1, inherit);
  background: var(--jp-layout-color0, transparent); border: 1px solid var(--jp-border-color1, #8886); box-sizing: border-box; }
.fnb-field[aria-invalid="true"] { border-color: var(--jp-error-color1, #d8453c); }
.fnb-field::placeholder { color: var(--jp-ui-font-color2, #7a7a7a); opacity: 1; font-style: italic; }
.fnb-members:has(> legend input:not(:checked)) > div { opacity: .55; }
.fnb-field[type="checkbox"] { accent-color: var(--jp-brand-color1, #1f7fd0); vertical-align: -2px; }
[data-jp-theme-light="false"] .fnb-field { color-scheme: dark; }
`;

const clock = (seconds) => {
  if (seconds < 59.5) return seconds < 9.95 ? seconds.toFixed(1) + " s" : Math.round(seconds) + " s";
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
};

// All kernels of a page share it, and what is left of them when they are gone.
const addStyle = () => {
  if (document.getElementById("fnb-style")) return;
  document.head.append(Object.assign(document.createElement("style"), { id: "fnb-style", textContent: STYLE }));
};

const BUTTONS = "[data-fa-do], [data-fa-fold] > summary, a[href]";
const CONTROLS = `${BUTTONS}, [data-fa-filter], [data-fa-field]`;

// A place in a block, as the way to its node: it leads to the same place of the block that comes after.
const placeOf = (block, node, offset) => {
  const way = [];
  for (let at = node; at !== block; at = at.parentNode) way.unshift([...at.parentNode.childNodes].indexOf(at));
  return { way, offset };
};

const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // only https and localhost have a clipboard
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};

function start(model) {
  const kernel = model.get("kernel");
  const ours = `[data-fa-kernel="${CSS.escape(kernel)}"]`;
  const seen = new WeakMap(); // a block's or a clock's element -> when it came, in ms of this page
  const newest = new Map(); // a block's id -> when the newest of it was made, by the kernel's clock
  const apart = new Set(); // the ids of blocks that the kernel was told are where the notebook's updates do not reach
  const memory = new Map(); // a block's id -> what a person typed, chose, unfolded and scrolled there
  let focused = null; // the control that has the focus, or had it when its block was replaced
  let pressed = null; // the button that the mouse went down on: it may be another element when the mouse goes up
  let held = null; // the block that stays as it is: a list or a calendar would close, and a key be lost, while it is replaced
  let heldAt = 0; // when the kernel was last told, in ms of this page
  let rest; // the timer that lets it go when nothing more is typed
  let dragged = null; // the block in which the mouse went down, and not on a button
  let chosen = null; // the text that is selected in a block

  const style = document.createElement("style"); // what acts is shown while the kernel answers
  style.textContent = `${ours} .fnb-live { display: revert !important; } ${ours} .fnb-still { display: none; }`;
  const voice = document.createElement("div"); // for screen readers: a block is replaced as a whole, which they do not tell, or all of it
  voice.setAttribute("aria-live", "polite");
  voice.style.cssText = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap";
  const send = (content) => {
    try {
      model.send(content);
    } catch { // the kernel is gone
      end();
    }
  };

  const blockOf = (element) => element?.closest?.(ours);
  const of = (selector, event) => {
    const found = event.target?.closest?.(selector);
    return found && blockOf(found) ? found : null;
  };
  const linkOf = (control) => control.href && `${control.closest("tr")?.firstElementChild.textContent ?? ""} ${control.href}`;
  const keyOf = (control) => {
    const { faDo, faId, faFilter } = control.dataset;
    const name = faDo ? `${faDo}/${faId ?? ""}` : faFilter ?? (control.name || linkOf(control) || control.parentElement.dataset.faFold);
    return `${blockOf(control).dataset.faBlock}/${faDo ? "do" : control.tagName}/${name}`;
  };
  const memoryOf = (block) => {
    const id = block.dataset.faBlock;
    if (!memory.has(id)) memory.set(id, { filters: {}, fields: {}, folds: {}, scrolls: {} });
    return memory.get(id);
  };
  const typedInto = (field) => (field.type === "checkbox" ? "checked" : "value");

  // --- buttons ---

  const act = (control) => {
    const block = blockOf(control);
    if (control.getAttribute("aria-disabled") === "true") return;
    if (control.dataset.faDo === "copy") {
      const text = control.textContent;
      if (text === "Copied") return;
      copy(control.dataset.faText);
      hold(control); // an update would take the word away
      say("Copied");
      control.textContent = "Copied";
      setTimeout(() => (control.textContent = text), 1200);
      return;
    }
    const inputs = control.dataset.faFields === undefined ? [] : [...block.querySelectorAll("[data-fa-field]")];
    // The value of half a date, or of a number that is none, is the empty text, which means None or the default: the browser tells.
    const bad = inputs.find((field) => field.validity.badInput);
    if (bad) return bad.reportValidity();
    if (control.dataset.faBusy) {
      control.textContent = control.dataset.faBusy;
      control.setAttribute("aria-disabled", "true");
    }
    const fields = inputs.length ? Object.fromEntries(inputs.map((field) => [field.name, field[typedInto(field)]])) : undefined;
    release();
    send({ do: control.dataset.faDo, id: control.dataset.faId, block: block.dataset.faBlock, fields });
  };
  const take = (event) => {
    event.stopImmediatePropagation(); // a page that shows one kernel twice has two of us
    event.preventDefault();
  };
  const down = (event) => {
    const control = event.button === 0 && of(BUTTONS, event);
    pressed = control ? { control, key: keyOf(control) } : null;
    const field = of("[data-fa-filter], [data-fa-field]", event), block = blockOf(event.target);
    if (field) hold(field);
    else if (event.button === 0 && block && !control) hold(dragged = block); // text is being selected
  };
  const up = (event) => {
    const before = pressed;
    if (dragged) release();
    pressed = dragged = null;
    remember(event);
    const control = before && of(BUTTONS, { target: document.elementFromPoint(event.clientX, event.clientY) });
    if (!control || keyOf(control) !== before.key) return;
    if (control.dataset.faDo) act(control);
    else if (control !== before.control) control.click();
  };
  const clicked = (event) => {
    const control = of(BUTTONS, event);
    if (!control || control.href) return;
    if (control.tagName === "SUMMARY") {
      memoryOf(blockOf(control)).folds[control.parentElement.dataset.faFold] = !control.parentElement.open;
      return;
    }
    take(event);
    if (event.detail === 0) act(control); // not by a mouse: a screen reader, or a script
  };

  // What is typed is no command of the notebook. Enter in a field runs the form, with Ctrl in one of many lines.
  const key = (event) => {
    if (of("a[href]", event) && event.key === "Enter") return event.stopPropagation(); // it opens, and the notebook does not edit
    const button = of("[data-fa-do]", event);
    if (button && (event.key === "Enter" || event.key === " ")) {
      take(event);
      if (!event.repeat) act(button);
      return;
    }
    const field = of("[data-fa-filter], [data-fa-field], summary", event);
    if (!field) return;
    const chord = event.ctrlKey || event.metaKey;
    if (!chord || event.key === "Enter") event.stopPropagation();
    if (field.tagName !== "SUMMARY" && event.key !== "Tab" && event.key !== "Enter") hold(field);
    const runs = field.dataset.faField !== undefined && (field.tagName === "INPUT" || chord);
    if (event.key !== "Enter" || !runs || event.isComposing) return;
    take(event);
    const run = blockOf(field).querySelector("[data-fa-fields]");
    if (run) act(run);
  };

  const hold = (control) => {
    const block = blockOf(control).dataset.faBlock;
    if (held !== block || performance.now() - heldAt > 2000) {
      [held, heldAt] = [block, performance.now()];
      send({ do: "hold", block });
    }
    clearTimeout(rest);
    if (control !== dragged && control.tagName !== "SELECT" && !control.type?.startsWith("date")) rest = setTimeout(release, 1500);
  };
  const release = () => {
    clearTimeout(rest);
    if (held) send({ do: "release", block: held });
    held = null;
  };
  const left = (event) => { // not what had the focus before, which it loses after the mouse went down on a list
    const field = of("[data-fa-filter], [data-fa-field]", event);
    if (field && blockOf(field).dataset.faBlock === held) release();
  };

  // --- what a person did in a block outlives it: it is replaced as a whole ---

  const filter = (block) => {
    const { phase, text } = memoryOf(block).filters;
    let shown = 0;
    for (const row of block.querySelectorAll("[data-fa-row]")) {
      const fits = (!phase || row.dataset.faPhase === phase) && (!text || row.dataset.faRow.includes(text.trim().toLowerCase()));
      row.style.display = fits ? "" : "none";
      shown += fits;
    }
    const none = block.querySelector("[data-fa-none]");
    if (none) none.style.display = shown ? "none" : "";
  };
  const typed = (event) => {
    const control = of("[data-fa-filter], [data-fa-field]", event);
    if (!control) return;
    const { filters, fields } = memoryOf(blockOf(control));
    if (control.dataset.faField !== undefined) {
      fields[control.name] = { typed: control[typedInto(control)], reset: control.dataset.faReset };
    } else {
      filters[control.dataset.faFilter] = control.value;
      filter(blockOf(control));
    }
    remember(event);
  };
  const wheeled = (event) => { // who scrolls past a number that has the focus means the page, and the browser would count it up or down
    const field = of("[data-fa-field][type=number]", event);
    if (field && field === document.activeElement) field.blur();
  };
  const scrolled = ({ target }) => {
    if (target.dataset?.faScroll === undefined || !blockOf(target)) return;
    memoryOf(blockOf(target)).scrolls[target.dataset.faScroll] = [target.scrollLeft, target.scrollTop];
  };
  const remember = (event) => {
    const control = of(CONTROLS, event);
    if (!control && event.type !== "focusin") return;
    const caret = control && control.selectionStart != null ? [control.selectionStart, control.selectionEnd] : null;
    const place = control && blockOf(control).parentElement;
    focused = control && { key: keyOf(control), element: control, caret, place, host: place?.closest("[tabindex]") };
  };
  const restore = (block) => {
    if (!memory.has(block.dataset.faBlock)) return;
    const { filters, fields, folds, scrolls } = memoryOf(block);
    for (const control of block.querySelectorAll("[data-fa-filter]")) {
      const name = control.dataset.faFilter;
      if (filters[name] === undefined) continue;
      control.value = filters[name];
      if (control.value !== filters[name]) filters[name] = control.value = ""; // a choice that is no more
    }
    filter(block);
    for (const field of block.querySelectorAll("[data-fa-field]")) {
      const draft = fields[field.name];
      if (draft === undefined) continue;
      if (draft.reset === field.dataset.faReset) field[typedInto(field)] = draft.typed;
      else delete fields[field.name]; // the kernel has filled it anew
    }
    for (const fold of block.querySelectorAll("[data-fa-fold]")) fold.open = folds[fold.dataset.faFold] ?? fold.open;
    for (const place of block.querySelectorAll("[data-fa-scroll]"))
      [place.scrollLeft, place.scrollTop] = scrolls[place.dataset.faScroll] ?? [0, 0];
  };
  // A selection is of nodes, which are gone when a block is replaced: it is made again where the same words stand. A clock counts on.
  const wordsOf = (selection) => selection.toString().replace(/\d+/g, "");
  const select = () => {
    const selection = document.getSelection(), { anchorNode: from, focusNode: to } = selection;
    const block = selection.isCollapsed ? null : blockOf(from.nodeType === Node.TEXT_NODE ? from.parentElement : from);
    if (block?.contains(to)) {
      const ends = [placeOf(block, from, selection.anchorOffset), placeOf(block, to, selection.focusOffset)];
      chosen = { block, id: block.dataset.faBlock, host: block.parentElement, words: wordsOf(selection), ends };
    } else if (chosen?.block.isConnected) chosen = null; // else it was replaced
  };
  const reselect = (block) => {
    if (chosen?.id !== block.dataset.faBlock || chosen.block.isConnected) return;
    if (chosen.host.isConnected && chosen.host !== block.parentElement) return; // the same in another view
    const { ends, words } = chosen, selection = document.getSelection();
    chosen = null;
    const [from, to] = ends.map((end) => end.way.reduce((node, index) => node?.childNodes[index], block));
    const fits = (node, { offset }) => node && offset <= (node.length ?? node.childNodes.length);
    if (!selection.isCollapsed || !fits(from, ends[0]) || !fits(to, ends[1])) return;
    selection.setBaseAndExtent(from, ends[0].offset, to, ends[1].offset);
    if (wordsOf(selection) !== words) selection.removeAllRanges();
    else select();
  };
  const refocus = () => {
    if (!focused || focused.element.isConnected) return;
    const { key, caret, place, host } = focused;
    const now = document.activeElement;
    if (now && now !== document.body && now !== host && now.isConnected) {
      focused = null;
      return;
    }
    // A block may be on the page more than once ("Create New View for Cell Output"): the same place comes first.
    for (const control of [...(place?.querySelectorAll(CONTROLS) ?? []), ...document.querySelectorAll(CONTROLS)]) {
      if (!control.isConnected || !blockOf(control) || keyOf(control) !== key) continue;
      control.focus({ preventScroll: true });
      if (caret) control.setSelectionRange(...caret);
      focused.caret = caret; // focus() has made us look before it was set
      return;
    }
    focused = null; // the button is gone, as its run has ended; the keys go on from there
    host?.focus({ preventScroll: true });
  };

  // --- blocks come and go ---

  const replaced = () => {
    for (const block of document.querySelectorAll(ours)) {
      if (seen.has(block)) continue;
      seen.set(block, performance.now());
      // Only the kernel can tell whether this is the newest: its updates do not reach what was loaded from a file. Nor do they reach
      // a cell that was moved or pasted, which shows what was there before, nor an Output widget.
      const id = block.dataset.faBlock, at = Number(block.dataset.faAt), before = newest.get(id);
      const isApart = at <= before || block.closest(".widget-output") !== null;
      if (before === undefined || at < before || (isApart && !apart.has(id))) send({ do: "seen", block: id, at, apart: isApart });
      if (isApart) apart.add(id);
      newest.set(id, Math.max(at, before ?? at));
      restore(block);
      reselect(block);
    }
    refocus();
    tick();
  };
  const tick = () => {
    const now = performance.now();
    for (const element of document.querySelectorAll(`${ours} [data-fa-elapsed]`)) {
      if (!seen.has(element)) seen.set(element, now);
      const text = clock(Number(element.dataset.faElapsed) + (now - seen.get(element)) / 1000);
      if (element.textContent !== text) element.textContent = text;
    }
  };

  // The latest words alone, and not each at once: many runs may end together.
  let words = "", speaks = null;
  const say = (text) => {
    words = text;
    speaks ??= setTimeout(() => { speaks = null; voice.textContent = words; }, 500);
  };

  const sent = ({ block, html, at, say: text }) => {
    if (text !== undefined) say(text);
    else if (block === undefined) begin(); // the kernel answers
    // What a page that was opened again shows of a block is replaced from here; the notebook's own updates come first.
    else setTimeout(() => {
      for (const old of document.querySelectorAll(`${ours}[data-fa-block="${CSS.escape(block)}"]`))
        if (!(Number(old.dataset.faAt) >= at)) old.outerHTML = html;
    }, 150);
  };
  // The kernel was restarted, and answers no more; or its connection was lost and is there again.
  const changed = () => { end(); send({ do: "ready" }); };

  let queued = false;
  const observer = new MutationObserver((changes) => {
    if (changes.every((change) => change.target.dataset?.faElapsed !== undefined)) return;
    if (focused && !focused.element.isConnected) return replaced(); // at once: the next key would be the notebook's
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; replaced(); });
  });
  const listeners = [["pointerdown", down], ["pointerup", up], ["click", clicked], ["keydown", key], ["keyup", remember],
    ["input", typed], ["change", typed], ["change", left], ["focusout", left], ["focusin", remember], ["scroll", scrolled], ["wheel", wheeled]];
  let timer = null;
  const begin = () => {
    if (timer !== null) return;
    timer = setInterval(tick, 250);
    addStyle();
    document.head.append(style);
    document.body.append(voice);
    observer.observe(document.body, { childList: true, subtree: true });
    for (const [name, handler] of listeners) window.addEventListener(name, handler, true); // the notebook's own keys are on the document
    document.addEventListener("selectionchange", select);
    replaced();
  };
  const end = () => {
    if (timer === null) return;
    clearInterval(timer);
    timer = null;
    style.remove();
    voice.remove();
    observer.disconnect();
    for (const [name, handler] of listeners) window.removeEventListener(name, handler, true);
    document.removeEventListener("selectionchange", select);
  };
  model.on("msg:custom", sent);
  model.on("comm_live_update", changed);
  begin();
  send({ do: "ready" });
  return () => {
    end();
    model.off("msg:custom", sent);
    model.off("comm_live_update", changed);
  };
}

export default {
  initialize: ({ model }) => start(model),
  render() {},
};
