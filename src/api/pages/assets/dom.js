// Building and updating the document: elements, tables, dialogs, problems, announcements.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    // The policy forbids style attributes, but not what a script sets.
    else if (name === "css") for (const [key, rule] of Object.entries(value)) element.style.setProperty(key, rule);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  add(element, children);
  return element;
}

/** Appends nodes and texts; `null`, `false` and nested lists are as one expects. */
export function add(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** An element; texts among the children are texts, never markup. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const set = (element, ...children) => {
  element.replaceChildren();
  return add(element, children);
};

let counter = 0;
export const unique = (prefix) => `${prefix}-${counter += 1}`;

export const link = (href, ...children) => h("a", { href }, children);
/** A message in which what stands between backticks is code. */
export const marked = (text) => String(text).split("`").map((part, index, all) => index % 2 && index < all.length - 1 ? h("code", null, part) : index % 2 ? `\`${part}` : part);
export const quiet = (...children) => h("div", { class: "quiet" }, children);
export const hidden = (text) => h("span", { class: "hidden" }, text);
export const number = (value, format, ...more) => h("td", { class: "number", title: value === null || value === undefined ? null : String(value) }, format(value), more);

export function button(label, onclick, attributes) {
  return h("button", { type: "button", ...attributes, onclick }, label);
}

export function section(title, attributes, ...children) {
  const id = unique("section");
  return h("section", { "aria-labelledby": id, ...attributes }, h("h2", { id }, title), children);
}

/** Says something to screen readers. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = "";
  // A change within one task would be one change to none.
  setTimeout(() => { announcer.textContent = text; }, 50);
}

/** What may be wider than the page scrolls by itself, and can then be focused to be scrolled by keys. */
export function scroller(label, ...children) {
  const box = h("div", { class: "scroller" }, children);
  const look = () => {
    const over = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", label]]) {
      if (over) box.setAttribute(name, value);
      else box.removeAttribute(name);
    }
  };
  const observer = new ResizeObserver(look);
  observer.observe(box);
  for (const child of box.children) observer.observe(child);
  return box;
}

/**
 * A table: columns are texts, or `{label, number, hide, wide}`; `rows` are `tr` or lists of cells, the first heading its
 * row. A caption that is seen stands above what scrolls.
 */
export function table(caption, columns, rows, attributes = {}) {
  const { body = h("tbody"), visible = false, ...rest } = attributes;
  add(body, rows.map((cells) => cells instanceof Node ? cells : row(cells)));
  const box = scroller(caption, h("table", rest,
    h("caption", { class: "hidden" }, caption),
    h("thead", null, h("tr", null, columns.map((column) => {
      const { label, number: figures, hide, wide } = typeof column === "string" ? { label: column } : column;
      return h("th", { scope: "col", class: [figures && "number", wide && "wide"].filter(Boolean).join(" ") || null }, hide ? hidden(label) : label);
    }))), body));
  return visible ? h("div", { class: "captioned" }, h("p", { class: "quiet", "aria-hidden": "true" }, caption), box) : box;
}

export function row(cells, attributes) {
  return h("tr", attributes, cells.map((cell, index) => cell instanceof HTMLTableCellElement ? cell
    : index === 0 ? h("th", { scope: "row" }, cell) : h("td", null, cell)));
}

// What each element was made from.
const marks = new WeakMap();

/**
 * Brings the children of a container in line with `items`, touching only those whose `mark` differs,
 * so that focus, selection and open details survive a refresh.
 */
export function keyed(container, items, mark, make) {
  const old = new Map([...container.children].map((child) => [child.dataset.key, child]));
  const children = items.map((item) => {
    const known = old.get(item.id);
    const signature = mark(item);
    if (known && marks.get(known) === signature) return known;
    const made = make(item);
    made.dataset.key = item.id;
    marks.set(made, signature);
    return made;
  });
  const focused = container.contains(document.activeElement) ? document.activeElement : null;
  const place = focused && { key: focused.closest("[data-key]")?.dataset.key, href: focused.getAttribute("href"), text: focused.textContent };
  children.forEach((child, index) => {
    if (container.children[index] !== child) container.insertBefore(child, container.children[index] || null);
  });
  while (container.children.length > children.length) container.lastElementChild.remove();
  if (focused && !focused.isConnected) {
    const again = children.find((child) => child.dataset.key === place.key);
    const same = again && [...again.querySelectorAll("a, button, input")];
    (same?.find((element) => element.getAttribute("href") === place.href && element.textContent === place.text) || same?.[0])?.focus();
  }
}

/** Problem details of the API, or any other error, as a block. */
export function problem(error, attributes) {
  const details = error.problem;
  return h("div", { class: "problem", role: "alert", ...attributes },
    h("strong", null, details?.title || "That did not work"),
    h("p", null, marked(details?.detail || error.message)),
    // One fault is in the detail already.
    details?.errors?.length > 1 && h("ul", null, details.errors.map((fault) => h("li", null,
      fault.pointer && h("code", null, fault.pointer), fault.pointer && " ", marked(fault.detail)))),
    details?.code && h("p", { class: "quiet" }, link(`docs/problems#${encodeURIComponent(details.code)}`, details.code),
      details.request_id && ` · request ${details.request_id}`));
}

/** A native dialog; resolves with the value of the button that closed it, an empty text after Escape. */
export function dialog(title, content, buttons) {
  return new Promise((resolve) => {
    const id = unique("dialog");
    const box = h("dialog", { "aria-labelledby": id, onclose() {
      resolve(box.returnValue);
      box.remove();
      // What opened it may be gone by now.
      if (document.activeElement === document.body) document.querySelector("main h1")?.focus();
    } },
      h("form", { method: "dialog" }, h("h2", { id }, title), content,
        h("div", { class: "actions" }, buttons.map(([label, value, kind]) =>
          // Enter in a field presses the first button that submits, which must not be the one that gives up.
          value ? h("button", { value, class: kind }, label) : button(label, () => box.close(""))))));
    // A form may not be sent anywhere (form-action 'none'), so its end is ours.
    box.firstChild.addEventListener("submit", (event) => {
      event.preventDefault();
      box.close(event.submitter?.value || "");
    });
    document.body.append(box);
    box.showModal();
  });
}

export async function confirmed(title, text, action) {
  return await dialog(title, h("p", null, text), [["Keep it", ""], [action, "yes", "danger"]]) === "yes";
}

/**
 * A button that works on something, its problem shown beside it. It is not `disabled` meanwhile: a dialog
 * could then not give the focus back to it.
 */
export function worker(label, work, attributes) {
  const place = h("span", { class: "worker" });
  const control = button(label, async () => {
    if (control.ariaDisabled) return;
    place.querySelector(".problem")?.remove();
    control.ariaDisabled = "true";
    try {
      await work();
    } catch (error) {
      if (error.name !== "AbortError") place.append(problem(error));
    } finally {
      control.ariaDisabled = null;
    }
  }, attributes);
  return add(place, control);
}

/** A labelled select. */
export function select(label, options, value, onchange, attributes) {
  const id = unique("select");
  const control = h("select", { id, onchange: () => onchange(control.value), ...attributes },
    options.map((option) => {
      const [name, text] = Array.isArray(option) ? option : [option, option];
      return h("option", { value: name, selected: name === value }, text);
    }));
  control.value = value;
  return h("div", { class: "choice" }, h("label", { for: id }, label), control);
}

export const sleep = (milliseconds, signal) => new Promise((resolve) => {
  const done = () => { clearTimeout(timer); signal?.removeEventListener("abort", done); resolve(); };
  const timer = setTimeout(done, milliseconds);
  signal?.addEventListener("abort", done);
});

/** A colour of the style sheet as it is now, for canvases, which know no variables. */
export function colour(name) {
  const probe = h("span", { css: { color: `var(--${name})` } });
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

export async function copy(text, control) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure context there is no clipboard; a selection that is copied works everywhere.
    const area = h("textarea", { class: "hidden", "aria-label": "To copy", value: text });
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    control?.focus();
  }
  announce("Copied");
  if (control) {
    const label = control.textContent;
    control.textContent = "Copied";
    setTimeout(() => { control.textContent = label; }, 1500);
  }
}
