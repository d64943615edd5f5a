"use strict";
// The page of the feed. Text from the service goes in as text, never as markup.

const $ = (id) => document.getElementById(id);
const COLOURS = ["#1f5fbf", "#2a7d46", "#c98a00", "#8a4fbf", "#b3382c", "#3a8a9a", "#7a7f8c"];
const REACTIONS = [["click", "Watched"], ["like", "Like"], ["share", "Share"], ["hide", "Hide"]];
const state = { token: "", user: 0, shown: [], busy: false };

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

async function call(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { Authorization: `Bearer ${state.token}`, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    askForToken();
    throw new Error("the token is not the service's");
  }
  if (!answer.ok) {
    const detail = typeof content.detail === "string" ? content.detail : JSON.stringify(content);
    throw new Error(`${answer.status}: ${detail}`);
  }
  return content;
}

const number = (value, digits = 3) => Number(value).toPrecision(digits).replace(/e\+?/, "e");
const percent = (p) => (p >= 0.1 ? `${(100 * p).toFixed(0)} %` : `${(100 * p).toPrecision(2)} %`);

function eventId() {
  // randomUUID needs https or localhost; behind a plain address the random bytes do as well.
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0"))
    .join("");
}

function heads(item) {
  const box = element("div", { class: "heads" });
  for (const [head, p] of Object.entries(item.heads)) {
    const fill = element("i");
    // P(engage) is spread over the whole catalogue: its bar is on a scale ten times as fine.
    fill.style.width = `${Math.min(100, 100 * (head === "engage" ? 10 * p : p))}%`;
    box.append(element("span", {}, head), element("span", { class: `bar ${head}` }, fill),
      element("span", {}, percent(p)));
  }
  return box;
}

function why(item) {
  const parts = [`value ${number(item.value)}`];
  for (const [cause, less] of Object.entries(item.penalty)) {
    if (less > 0) parts.push(`${number(less, 2)} less for ${cause}`);
  }
  if (item.propensity < 1) parts.push(`drawn with ${number(item.propensity, 2)}`);
  return parts.join(", ");
}

function card(item, before) {
  const tags = element("div", { class: "tags" });
  tags.append(element("span", { class: `tag slot ${item.slot}` }, item.slot));
  for (const source of item.sources) tags.append(element("span", { class: "tag" }, source));
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
  const about = [item.creator, ...item.genres].filter(Boolean).join(" · ");
  const text = element("div", {},
    element("div", { class: "title" }, item.title), element("div", { class: "about" }, about),
    tags, element("div", { class: "why" }, why(item)), actions);
  return element("li", { class: fresh ? "item fresh" : "item", "data-item": item.item_id },
    element("div", { class: "place" }, String(item.position + 1)), text, heads(item));
}

function showFacts(answer) {
  const facts = [["user", answer.user_id], ["arm", answer.arm], ["bundle", answer.version],
    ["request", answer.request_id]];
  if (answer.cold_start) facts.push(["history", "none yet: popular and fresh items"]);
  if (answer.fallback) facts.push(["fallback", `because of ${answer.fallback}`]);
  $("facts").replaceChildren(...facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", { id: `fact-${name}` }, String(value)))));
}

function showRequest(timings) {
  const { total, ...stages } = timings;
  const bar = element("div", { class: "parts", role: "img", "aria-label": "time by stage" });
  const key = element("div", { class: "key" });
  Object.entries(stages).forEach(([stage, ms], i) => {
    const colour = COLOURS[i % COLOURS.length];
    const part = element("i", { title: `${stage} ${ms.toFixed(2)} ms` });
    part.style.width = `${(100 * ms) / total}%`;
    part.style.background = colour;
    bar.append(part);
    const dot = element("i");
    dot.style.background = colour;
    key.append(dot, element("span", {}, stage), element("b", {}, `${ms.toFixed(2)} ms`));
  });
  key.append(element("span"), element("span", {}, "total"), element("b", {}, `${total.toFixed(2)} ms`));
  $("request").replaceChildren(bar, key);
}

async function showFeed() {
  const answer = await call("POST", "/feed", { user_id: state.user, k: Number($("count").value) });
  const before = state.shown;
  state.shown = answer.items.map((item) => item.item_id);
  state.request = answer.request_id;
  $("feed").replaceChildren(...answer.items.map((item) => card(item, before)));
  $("feed").dataset.request = answer.request_id;
  showFacts(answer);
  showRequest(answer.timings_ms);
  return answer;
}

async function react(item, reaction) {
  if (state.busy) return;
  state.busy = true;
  try {
    await call("POST", "/events", {
      event_id: eventId(), request_id: state.request, user_id: state.user,
      item_id: item.item_id, reaction,
    });
    const before = state.shown;
    await showFeed();
    const came = state.shown.filter((id) => !before.includes(id)).length;
    say(`${reaction}: ${item.title}. The next feed has ${came} other item${came === 1 ? "" : "s"}.`);
    await showStages();
  } catch (error) {
    say(error.message, true);
  } finally {
    state.busy = false;
  }
}

async function showStages() {
  const rows = await call("GET", "/stages");
  $("stages").tBodies[0].replaceChildren(...rows.map((row) => element("tr", {},
    element("td", {}, row.stage), element("td", {}, String(row.n)),
    element("td", {}, row.p50_ms.toFixed(2)), element("td", {}, row.p99_ms.toFixed(2)))));
}

async function showExperiment() {
  const experiment = await call("GET", "/experiment");
  $("arms").tBodies[0].replaceChildren(...experiment.arms.map((arm) => element("tr", {},
    element("td", {}, arm.name), element("td", {}, arm.version), element("td", {}, percent(arm.weight)))));
}

async function choose(user) {
  state.user = user;
  state.shown = [];
  say("");
  await showFeed();
  await Promise.all([showStages(), showExperiment()]);
}

function askForToken() {
  $("login").hidden = false;
  $("token").focus();
}

async function begin() {
  const people = await call("GET", "/users");
  $("login").hidden = true;
  $("person").replaceChildren(...people.map((person) => element("option", { value: person.user_id },
    `${person.user_id}: ${person.watched} films, last ${person.recent[0] ?? "none"}`)));
  if (people.length > 0) await choose(people[0].user_id);
}

const guarded = (work) => work().catch((error) => say(error.message, true));

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(() => choose(Number($("user-id").value || $("person").value)));
});
$("person").addEventListener("change", () => {
  $("user-id").value = "";
  guarded(() => choose(Number($("person").value)));
});
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = $("token").value.trim();
  sessionStorage.setItem("token", state.token);
  guarded(begin);
});

// `make serve` prints the address with #token=...: a fragment is never sent to a server.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
state.token = sessionStorage.getItem("token") ?? "";
if (state.token) guarded(begin); else askForToken();
setInterval(() => {
  if (state.user && !document.hidden) showStages().catch(() => {});
}, 3000);
