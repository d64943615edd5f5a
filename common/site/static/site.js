// Theme, menu, formulas, diagrams and search. Everything works from a disk, without a server.
"use strict";

const root = document.documentElement;
const dark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;

// --- formulas ---------------------------------------------------------------------------------

for (const place of document.querySelectorAll(".math")) {
  katex.render(place.textContent, place, {
    displayMode: place.classList.contains("display"),
    throwOnError: false,
  });
}

// --- diagrams ---------------------------------------------------------------------------------

const diagrams = [...document.querySelectorAll(".mermaid")];
const sources = diagrams.map((place) => place.textContent);

async function draw() {
  if (!diagrams.length) return;
  mermaid.initialize({
    startOnLoad: false,
    securityLevel: "strict",
    theme: dark() ? "dark" : "neutral",
    themeVariables: { edgeLabelBackground: getComputedStyle(document.body).backgroundColor },
    fontFamily: getComputedStyle(document.body).fontFamily,
  });
  diagrams.forEach((place, index) => {
    place.textContent = sources[index];
    place.removeAttribute("data-processed");
  });
  await mermaid.run({ nodes: diagrams });
  for (const svg of document.querySelectorAll(".mermaid svg")) {
    // Smaller than its own size only to the point where the letters can still be read.
    const { width } = svg.viewBox.baseVal;
    svg.style.width = `${width}px`;
    svg.style.maxWidth = "100%";
    svg.style.minWidth = `${Math.round((innerWidth < 600 ? 0.75 : 0.5) * width)}px`;
  }
}
draw();

// --- theme and menu ---------------------------------------------------------------------------

document.querySelector(".theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // A browser may refuse storage to pages from a disk; the choice then lasts for this page.
  }
  draw();
});

const menu = document.querySelector(".menu");
menu.addEventListener("click", () => {
  const open = document.body.classList.toggle("menu-open");
  menu.setAttribute("aria-expanded", String(open));
});
document.querySelector(".syllabus [aria-current]")?.scrollIntoView({ block: "center" });
scrollTo(0, location.hash ? scrollY : 0);

// --- search -----------------------------------------------------------------------------------

const input = document.querySelector(".search input");
const results = document.querySelector(".results");
const LIMIT = 20;
let index;

function load() {
  index ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `${input.dataset.base}assets/search-index.js`;
    script.onerror = () => reject(new Error("the search index is missing"));
    script.onload = () =>
      resolve(
        window.SEARCH_INDEX.map(([address, page, part, heading, text, kind]) => ({
          address, page, part, heading, text, kind,
          body: text.toLowerCase(),
          head: heading.toLowerCase(),
          top: page.toLowerCase(),
          // The title of its page says less of a section than of the page's beginning.
          share: heading ? 1 : 5,
          // A list of further reading has the words and explains none.
          worth: heading === "Reading" ? 0.4 : 1,
        })),
      );
    document.head.append(script);
  });
  return index;
}

// Every word must be there, at least as the beginning of one. A whole word counts more than a
// beginning, titles more than text, rare words more than common ones, words side by side more than
// apart; and a word that is said often counts less each time.
function find(sections, query) {
  const words = query.toLowerCase().split(/[^\p{L}\p{N}_@.+-]+/u).filter(Boolean);
  if (!words.length) return [];
  const scores = new Map(sections.map((section) => [section, 0]));
  const letter = "[\\p{L}\\p{N}]";
  for (const word of words) {
    const begins = new RegExp(`(?<!${letter})${escaped(word)}(${letter}*)`, "gu");
    const count = (text) => {
      let sum = 0;
      if (text.includes(word)) for (const hit of text.matchAll(begins)) sum += hit[1].length > 2 ? 0.3 : 1;
      return sum;
    };
    const hits = new Map();
    for (const section of scores.keys()) {
      const weight = section.share * count(section.top) + 4 * count(section.head) + count(section.body) / 2;
      if (weight) hits.set(section, weight / (weight + 1.5));
    }
    const rarity = Math.log(1 + sections.length / (1 + hits.size));
    for (const [section, score] of scores) {
      if (hits.has(section)) scores.set(section, score + rarity * hits.get(section));
      else scores.delete(section);
    }
  }
  const order = { lesson: 1, guide: 0.95, reference: 0.45, file: 0.4 };
  const phrase = words.join(" ");
  const ranked = [...scores].map(([section, score]) => {
    const together = words.length > 1 && `${section.top} ${section.head} ${section.body}`.includes(phrase);
    return [section, score * section.worth * order[section.kind] * (together ? 1.6 : 1)];
  });
  return ranked.sort((a, b) => b[1] - a[1]).map(([section]) => ({ section, words }));
}

const escaped = (text) => text.replace(/[.+*?^$()[\]{}|\\]/g, "\\$&");

function marked(text, words) {
  const line = document.createElement("div");
  line.className = "text";
  const lower = text.toLowerCase();
  const places = [words.join(" "), ...words].map((text) => lower.indexOf(text)).filter((at) => at >= 0);
  const first = places[0];
  const start = first === undefined ? 0 : Math.max(0, first - 60);
  let cut = text.slice(start, start + 190);
  if (start) cut = `… ${cut}`;
  for (const piece of cut.split(new RegExp(`(${words.map(escaped).join("|")})`, "iu"))) {
    const isHit = words.includes(piece.toLowerCase());
    const node = document.createElement(isHit ? "mark" : "span");
    node.textContent = piece;
    line.append(node);
  }
  return line;
}

function show(found, query) {
  results.replaceChildren();
  results.hidden = !query.trim();
  if (!found.length) {
    const nothing = document.createElement("p");
    nothing.textContent = `Nothing has all of: ${query}`;
    results.append(nothing);
  }
  for (const { section, words } of found.slice(0, LIMIT)) {
    const link = document.createElement("a");
    link.href = input.dataset.base + section.address;
    const where = document.createElement("div");
    where.className = "where";
    where.textContent = section.heading ? `${section.part} › ${section.page}` : section.part;
    const title = document.createElement("div");
    title.className = "title";
    title.textContent = section.heading || section.page;
    link.append(where, title, marked(section.text, words));
    results.append(link);
  }
  if (found.length > LIMIT) {
    const more = document.createElement("p");
    more.textContent = `${found.length - LIMIT} more; add a word`;
    results.append(more);
  }
}

function choose(step) {
  const links = [...results.querySelectorAll("a")];
  const now = links.findIndex((link) => link.classList.contains("chosen"));
  links[now]?.classList.remove("chosen");
  const next = links[Math.max(0, Math.min(links.length - 1, now + step))];
  next?.classList.add("chosen");
  next?.scrollIntoView({ block: "nearest" });
}

input.addEventListener("focus", load);
input.addEventListener("input", async () => {
  const sections = await load();
  show(find(sections, input.value), input.value);
});
input.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    choose(event.key === "ArrowDown" ? 1 : -1);
    event.preventDefault();
  } else if (event.key === "Enter") {
    (results.querySelector("a.chosen") ?? results.querySelector("a"))?.click();
  } else if (event.key === "Escape") {
    input.value = "";
    results.hidden = true;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) {
    input.focus();
    event.preventDefault();
  }
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".search")) results.hidden = true;
  if (results.contains(event.target)) results.hidden = true;
});
