"use strict";
// The page of the feed. Text from the service goes in as text, never as markup.

const $ = (id) => document.getElementById(id);
const COLOURS = ["#3f7fd9", "#3a9a5a", "#d29a1e", "#9a62cc", "#cf5346", "#3f9aab", "#8a90a0"];
const REACTIONS = [["click", "Watched"], ["like", "Like"], ["share", "Share"], ["hide", "Hide"]];
const REFRESH_MS = 3000;
const state = { token: "", user: 0, request: "", shown: [], busy: false, asked: 0 };
const unsure = new Map(); // ids of events whose answer never came: sent again under the same id

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function say(text, bad = false) {
  $("message").textContent = text;
  $("message").className = bad ? "bad" : "";
}

class TokenRefused extends Error {}

async function call(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: { Authorization: `Bearer ${state.token}`, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error("The service does not answer. Is it running? What you see may be out of date.");
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    askForToken();
    throw new TokenRefused("This token is not the service's. Sign in with the one it printed.");
  }
  if (!answer.ok) {
    const detail = typeof content.detail === "string" ? content.detail : "no reason was given";
    const wait = answer.headers.get("Retry-After");
    throw new Error(`${answer.status}: ${detail}${wait ? `. Try again in ${wait} s.` : ""}`);
  }
  return content;
}

const number = (value, digits = 3) => Number(value).toPrecision(digits).replace(/e\+?/, "e");
const words = (name) => name.replaceAll("_", " ");

function percent(p) {
  if (p >= 0.1) return `${(100 * p).toFixed(0)} %`;
  return p === 0 || p >= 1e-4 ? `${Number((100 * p).toPrecision(2))} %` : "< 0.01 %";
}

function eventId() {
  // randomUUID needs https or localhost; behind a plain address the random bytes do as well.
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0"))
    .join("");
}

function heads(item, mostEngaged) {
  const box = element("div", { class: "heads" });
  for (const [head, p] of Object.entries(item.heads)) {
    const fill = element("i");
    fill.style.width = `${100 * (head === "engage" ? p / mostEngaged : p)}%`;
    box.append(element("span", {}, head), element("span", { class: `bar ${head}` }, fill),
      element("span", {}, percent(p)));
  }
  return box;
}

function why(item) {
  if (Object.keys(item.heads).length === 0) return "not scored";
  const parts = [`value ${number(item.value)}`];
  for (const [cause, less] of Object.entries(item.penalty)) {
    if (less > 0) parts.push(`${cause} penalty ${number(less, 2)}`);
  }
  if (parts.length === 1) parts.push("no penalty");
  if (item.propensity < 1) parts.push(`propensity ${number(item.propensity, 2)}`);
  return parts.join(" · ");
}

function card(item, before, mostEngaged) {
  const tags = element("div", { class: "tags" });
  tags.append(element("span", { class: `tag slot ${item.slot}`, title: "slot" }, item.slot));
  for (const source of item.sources.filter((name) => name !== item.slot)) {
    tags.append(element("span", { class: "tag source", title: "source" }, words(source)));
  }
  const fresh = before.length > 0 && !before.includes(item.item_id);
  if (fresh) tags.append(element("span", { class: "tag new" }, "new in this feed"));
  const actions = element("div", { class: "actions" });
  for (const [reaction, label] of REACTIONS) {
    const button = element("button", {
      type: "button", "data-reaction": reaction, "aria-label": `${label}: ${item.title}`,
    }, label);
    button.addEventListener("click", () => react(item, reaction));
    actions.append(button);
  }
  const about = [item.creator, item.genres.join(", ")].filter(Boolean).join(" · ");
  const text = element("div", { class: "text" },
    element("h3", { class: "title" }, item.title), element("div", { class: "about" }, about), tags);
  return element("li", { class: fresh ? "item fresh" : "item", "data-item": item.item_id },
    element("div", { class: "place" }, String(item.position + 1)), text, heads(item, mostEngaged),
    element("div", { class: "why" }, why(item)), actions);
}

function showFacts(answer) {
  const facts = [["user", answer.user_id], ["arm", answer.arm], ["bundle", answer.version],
    ["request", answer.request_id]];
  if (answer.cold_start) facts.push(["history", "none yet"]);
  if (answer.fallback) facts.push(["fallback", answer.fallback]);
  $("facts").replaceChildren(...facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", { id: `fact-${name}` }, String(value)))));
  const told = [];
  if (answer.fallback) {
    told.push(`This is a fallback feed: the stage “${answer.fallback}” failed or was late. It shows `
      + "the last ranking for this person, or popular and fresh films, without scores.");
  }
  if (answer.cold_start) {
    const proposed = answer.fallback ? "" : ", so popular and fresh films are proposed";
    told.push(`Nothing is known of this person yet${proposed}. React to one, and the next feed is `
      + "made from it.");
  }
  if (answer.items.length === 0) told.push("No film is left that this person may be shown.");
  $("banner").textContent = told.join(" ");
  $("banner").hidden = told.length === 0;
}

function showRequest({ total, ...stages }) {
  const bar = element("div", { class: "parts", "aria-hidden": "true" });
  const key = element("div", { class: "key" });
  Object.entries(stages).forEach(([stage, ms], i) => {
    const part = element("i", { title: `${stage} ${ms.toFixed(2)} ms` });
    part.style.width = `${(100 * ms) / Math.max(total, 1e-9)}%`;
    const dot = element("i");
    part.style.background = dot.style.background = COLOURS[i % COLOURS.length];
    bar.append(part);
    key.append(dot, element("span", {}, stage), element("b", {}, `${ms.toFixed(2)} ms`));
  });
  key.append(element("span"), element("b", {}, "total"), element("b", {}, `${total.toFixed(2)} ms`));
  $("request").replaceChildren(bar, key);
}

async function showFeed() {
  const turn = ++state.asked;
  const user = state.user;
  const answer = await call("POST", "/feed", { user_id: user, k: Number($("count").value) });
  if (turn !== state.asked) return false; // another feed was asked for meanwhile
  const before = state.shown;
  state.shown = answer.items.map((item) => item.item_id);
  state.request = answer.request_id;
  const mostEngaged = Math.max(1e-9, ...answer.items.map((item) => item.heads.engage ?? 0));
  $("main").hidden = false;
  $("feed").replaceChildren(...answer.items.map((item) => card(item, before, mostEngaged)));
  showFacts(answer);
  showRequest(answer.timings_ms);
  $("feed").dataset.request = answer.request_id;
  return true;
}

async function react(item, reaction) {
  if (state.busy) return;
  state.busy = true;
  const { user, request } = state;
  const event = `${request} ${item.item_id} ${reaction}`;
  // A lost answer does not say whether the event arrived: a second try must be the same event.
  if (!unsure.has(event)) unsure.set(event, eventId());
  try {
    await call("POST", "/events", {
      event_id: unsure.get(event), request_id: request, user_id: user, item_id: item.item_id,
      reaction,
    });
    unsure.delete(event);
    if (user !== state.user) return;
    const before = state.shown;
    if (!await showFeed()) return;
    const came = state.shown.filter((id) => !before.includes(id)).length;
    say(`${reaction}: ${item.title}. The next feed has ${came} new item${came === 1 ? "" : "s"}.`);
    // The button that was pressed is gone: the keyboard goes on at the same place.
    const place = $("feed").children[Math.min(item.position, $("feed").children.length - 1)];
    (place?.querySelector(`[data-reaction=${reaction}]`) ?? $("feed-title"))
      .focus({ preventScroll: true });
    await showStages();
  } catch (error) {
    say(error.message, true);
  } finally {
    state.busy = false;
  }
}

async function showStages() {
  const rows = await call("GET", "/stages");
  rows.sort((a, b) => (a.stage === "total") - (b.stage === "total"));
  $("stages").tBodies[0].replaceChildren(...rows.map((row) => element("tr", {},
    element("th", { scope: "row" }, row.stage), element("td", {}, String(row.n)),
    element("td", {}, row.p50_ms.toFixed(2)), element("td", {}, row.p99_ms.toFixed(2)))));
  $("live").textContent = `As of ${new Date().toLocaleTimeString()}; asked again every `
    + `${REFRESH_MS / 1000} s.`;
}

async function showExperiment() {
  const experiment = await call("GET", "/experiment");
  const part = experiment.coverage < 1 ? `, ${percent(experiment.coverage)} of the units` : "";
  $("experiment-name").textContent = experiment.name + part;
  $("arms").tBodies[0].replaceChildren(...experiment.arms.map((arm) => element("tr", {},
    element("th", { scope: "row" }, arm.name), element("td", {}, arm.version),
    element("td", {}, percent(arm.weight)))));
  const shadow = experiment.shadow;
  $("shadow").hidden = !shadow;
  if (shadow) {
    $("shadow").textContent = `${shadow.arm} is asked in the shadow of ${percent(shadow.share)} of `
      + `the feeds: the same first item ${shadow.same} times, another ${shadow.other}, failed `
      + `${shadow.failed}.`;
  }
}

async function choose(user) {
  state.user = user;
  state.shown = [];
  say("");
  $("person").value = String(user);
  await showFeed();
  await Promise.all([showStages(), showExperiment()]);
}

function askForToken() {
  sessionStorage.removeItem("token");
  state.token = "";
  state.user = 0;
  $("main").hidden = true;
  $("who").hidden = true;
  $("login").hidden = false;
  $("token").value = "";
  $("token").focus();
}

async function begin() {
  const people = await call("GET", "/users");
  sessionStorage.setItem("token", state.token);
  $("login").hidden = true;
  $("who").hidden = false;
  $("person").replaceChildren(...people.map((person) => element("option", { value: person.user_id },
    `${person.user_id}: ${person.watched} film${person.watched === 1 ? "" : "s"}, last `
    + `${person.recent[0] ?? "none"}`)));
  if (people.length > 0) await choose(people[0].user_id);
  else say("Nobody has a history yet. Enter a user id to see the feed of a newcomer.");
}

const guarded = (work) => work().catch((error) => say(error.message, true));

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = Number($("user-id").value || $("person").value);
  if (user) guarded(() => choose(user));
});
$("person").addEventListener("change", () => {
  $("user-id").value = "";
  guarded(() => choose(Number($("person").value)));
});
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = $("token").value.trim();
  say("");
  guarded(begin);
});

// `make serve` prints the address with #token=...: a fragment is never sent to a server.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) history.replaceState(null, "", location.pathname);
state.token = given ?? sessionStorage.getItem("token") ?? "";
if (state.token) guarded(begin); else askForToken();
setInterval(() => {
  if (!state.user || document.hidden) return;
  showStages().catch((error) => { $("live").textContent = error.message; });
}, REFRESH_MS);
