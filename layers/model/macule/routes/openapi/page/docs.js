// What a reader of the documentation can do: search, copy, choose a language, send a request.
// Nothing is stored: an API key is in its input alone, and goes when the page does.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const element = (name, properties) => Object.assign(document.createElement(name), properties);
const root = location.origin + location.pathname.replace(/\/docs\/?$/, "");
const contents = one("#contents");
const menu = one("#menu");

document.documentElement.classList.add("scripted");
for (const sample of all(".sample")) {
  sample.textContent = sample.textContent.replace("http://localhost:8080", root);
}

// Contents: the menu of narrow screens, and the section that is read

function open(shown) {
  contents.classList.toggle("open", shown);
  menu.setAttribute("aria-expanded", shown);
}

menu.hidden = false;
menu.addEventListener("click", () => open(!contents.classList.contains("open")));
contents.addEventListener("click", (event) => event.target.closest("a") && open(false));

const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
const sections = all("section[id]").filter((section) => links.has(section.id));

function mark() {
  const end = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
  const read = sections.findLast((it) => it.getBoundingClientRect().top <= (end ? innerHeight : 120));
  for (const [id, link] of links) {
    const current = id === read?.id;
    if (current === link.hasAttribute("aria-current")) continue;
    link.toggleAttribute("aria-current", current);
    if (current) link.setAttribute("aria-current", "true");
    if (current && link.offsetParent) keepInView(link);
  }
}

// scrollIntoView would move the page too.
function keepInView(link) {
  const side = one("#side");
  const { top, bottom } = link.getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) side.scrollTop += top - innerHeight / 2;
}

let waiting = false;
addEventListener("scroll", () => {
  if (!waiting) requestAnimationFrame(() => ((waiting = false), mark()));
  waiting = true;
}, { passive: true });

// Links lead into what is folded, too.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (target.matches(".found")) one("details", target).open = true;
  target.scrollIntoView();
}

addEventListener("hashchange", unfold);
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (link && link.hash === location.hash) unfold(); // of which no hashchange tells
});

// Search

const entries = [
  ...all(".route").map((it) => entry("Route", it, one("h3", it).textContent, one("strong", it), one(".description", it))),
  ...all("section.topic").map((it) => entry("Section", it, one("h2", it).textContent, "", it)),
  ...all("tr[id]").map((it) => entry(it.closest("table").dataset.kind, it, it.cells[0].textContent, holderName(it), it)),
  ...all(".found").map((it) => entry(it.dataset.kind, it, it.dataset.name, "", one("summary", it))),
  ...all(".setting").map((it) => entry("Setting", it.closest("[id]"), it.textContent, holderName(it), it)),
];
const query = one("#query");
const found = one("#found");

function entry(kind, target, name, where, text) {
  const context = where.textContent ?? where;
  const words = kind === "Section" ? name : text.textContent;
  return { kind, id: target.id, name, context, text: `${kind} ${name} ${context} ${words}`.toLowerCase() };
}

// Say in which route or schema a row stands.
function holderName(part) {
  const holder = part.closest(".route, .found, .topic");
  return holder.dataset.name ?? one("h2, h3", holder).textContent;
}

function search() {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rank = ({ name }) => words.filter((word) => name.toLowerCase().includes(word)).length;
  const hits = words.length ? entries.filter(({ text }) => words.every((word) => text.includes(word))) : [];
  hits.sort((a, b) => rank(b) - rank(a));
  one("nav", contents).hidden = words.length > 0;
  one("#count").textContent = words.length ? `${hits.length || "No"} result${hits.length === 1 ? "" : "s"}` : "";
  found.replaceChildren(...hits.slice(0, 50).map(result));
}

function result({ kind, id, name, context }) {
  const link = element("a", { href: `#${id}` });
  link.append(name, element("small", { textContent: [kind, context].filter(Boolean).join(" · ") }));
  const item = element("li");
  item.append(link);
  return item;
}

// Down and up go through what was found, Enter goes to the first, Escape leaves.
function moveByKey(event) {
  const hits = all("a", found);
  const at = hits.indexOf(document.activeElement);
  if (event.key === "ArrowDown") (hits[at + 1] ?? hits[at])?.focus();
  else if (event.key === "ArrowUp") (hits[at - 1] ?? query).focus();
  else if (event.key === "Enter" && at < 0) hits[0]?.click();
  else if (event.key === "Escape") {
    query.value = "";
    search();
    query.focus();
  } else return;
  event.preventDefault();
}

one("#search").hidden = false;
one("#search").addEventListener("keydown", moveByKey);
query.addEventListener("input", search);
addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  open(true);
  query.focus();
});

// Samples: a language is chosen for all routes at once; all code can be copied

for (const [place, samples] of all(".samples").entries()) {
  const bar = element("div", { role: "tablist", ariaLabel: "Language" });
  for (const figure of all("figure", samples)) {
    const caption = one("figcaption", figure);
    const name = caption.textContent;
    figure.id = `sample-${place}-${name}`;
    const tab = element("button", { type: "button", role: "tab", textContent: name, id: `tab-${place}-${name}` });
    tab.setAttribute("aria-controls", figure.id);
    figure.role = "tabpanel";
    figure.setAttribute("aria-labelledby", tab.id);
    caption.hidden = true;
    bar.append(tab);
  }
  bar.addEventListener("click", ({ target }) => target.role === "tab" && choose(target));
  bar.addEventListener("keydown", switchByKey);
  samples.prepend(bar);
}

function choose(tab) {
  const before = tab.getBoundingClientRect().top;
  for (const it of all("[role=tab]")) {
    const chosen = it.textContent === tab.textContent;
    it.setAttribute("aria-selected", chosen);
    it.tabIndex = chosen ? 0 : -1;
    document.getElementById(it.getAttribute("aria-controls")).hidden = !chosen;
  }
  scrollBy(0, tab.getBoundingClientRect().top - before); // what stands above has changed its height
}

function switchByKey(event) {
  const tabs = all("[role=tab]", event.currentTarget);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tab = tabs.at((tabs.indexOf(event.target) + step) % tabs.length);
  tab.focus();
  choose(tab);
}

choose(one("[role=tab]"));

function withCopy(code) {
  const button = element("button", { type: "button", className: "copy", textContent: "Copy", ariaLive: "polite" });
  button.addEventListener("click", async () => {
    const done = await copy(one("pre", code));
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  code.append(button);
}

// Without https a page has no clipboard: then the code is selected.
async function copy(pre) {
  try {
    await navigator.clipboard.writeText(pre.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(pre);
    return document.execCommand("copy");
  }
}

all(".code").forEach(withCopy);

// Beside the text there is room for an answer, which scrolls if it is long.
if (matchMedia("(min-width: 76rem)").matches) {
  for (const usage of all(".usage")) one(":scope > details:not(.try)", usage)?.setAttribute("open", "");
}

// Try it

const SHOWN = ["content-type", "x-request-id", "x-memory-band", "server-timing", "retry-after", "ratelimit",
  "location", "etag", "www-authenticate", "allow"];
const MOST_CHARACTERS = 300; // of a text in an answer; a picture has 50,000

for (const details of all(".try")) {
  details.hidden = false;
  one("form", details).addEventListener("submit", (event) => {
    event.preventDefault();
    send(event.target, one(".answer", details));
  });
}

document.addEventListener("input", ({ target }) => {
  if (target.matches(".key")) all(".key").forEach((other) => (other.value = target.value));
});

async function send(form, answer) {
  const button = one("button", form);
  button.disabled = true;
  try {
    const { url, ...options } = await request(form);
    const began = performance.now();
    const response = await fetch(url, options);
    const body = await response.arrayBuffer();
    await show(answer, response, body, Math.round(performance.now() - began));
  } catch (error) {
    answer.replaceChildren(element("p", { textContent: `No answer came: ${error.message}` }));
  }
  button.disabled = false;
  answer.hidden = false;
  answer.focus();
}

async function request(form) {
  const { method, path } = form.dataset;
  const key = one(".key", form)?.value.trim();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const search = new URLSearchParams();
  let url = root + path;
  let body;
  for (const { name, value, files, dataset } of all("[data-in]", form)) {
    if (dataset.in === "path") url = url.replace(`{${name}}`, encodeURIComponent(value));
    if (dataset.in === "query" && value) search.set(name, value);
    if (dataset.in === "header" && value) headers[name] = value;
    if (dataset.in === "form") {
      body = new FormData();
      if (files[0]) body.set(name, files[0]);
    }
    if (dataset.in === "tensor") {
      body = await tensor(files[0]);
      headers["Content-Type"] = "application/json";
    }
  }
  if (search.size) url += `?${search}`;
  return { url, method, headers, body, cache: "no-store", credentials: "omit" };
}

async function tensor(file) {
  const bytes = new Uint8Array(file ? await file.arrayBuffer() : []);
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return JSON.stringify({ inputs: [{ name: "image", datatype: "BYTES", shape: [1], data: [btoa(text)] }] });
}

async function show(answer, response, body, ms) {
  const status = element("p");
  const words = element("strong", { textContent: `${response.status} ${response.statusText}` });
  status.append(words, ` in ${ms} ms, ${body.byteLength.toLocaleString("en")} bytes`);
  const list = element("dl");
  for (const name of SHOWN) {
    if (!response.headers.has(name)) continue;
    list.append(element("dt", { textContent: name }), element("dd", { textContent: response.headers.get(name) }));
  }
  const code = element("div", { className: "code" });
  const text = readable(response, body);
  code.append(element("pre", { tabIndex: 0, textContent: text }));
  answer.replaceChildren(status, list, ...(text ? [code] : []));
  if (text) withCopy(code);
}

function readable(response, body) {
  const kind = response.headers.get("content-type") ?? "";
  if (/^image|octet-stream/.test(kind)) return "";
  const text = new TextDecoder().decode(body);
  if (!kind.includes("json") || !text) return text;
  const document = JSON.parse(text);
  if (document.id && new URL(response.url).pathname.endsWith("/predictions")) fillIn(document.id);
  const cut = (_, part) => (typeof part === "string" ? shortened(part) : part);
  return JSON.stringify(document, cut, 2);
}

function shortened(text) {
  if (text.length <= MOST_CHARACTERS) return text;
  return `${text.slice(0, MOST_CHARACTERS)}… (${text.length.toLocaleString("en")} characters)`;
}

// A prediction that was asked for is the one to ask after.
function fillIn(id) {
  all('[name="id"][data-in="path"]').forEach((input) => (input.value = id));
}

unfold();
mark();
