// Keeps the page live: swaps in the server's sections, feeds map and charts, opens details.
// Not here: any wording or number formatting of tables; the server renders those.
import { WorldMap } from "./map.js";
import { Charts } from "./charts.js";

const SECTIONS = ["head", "verdict", "sites", "work", "refusals", "links", "decisions"];
const LOST_AFTER_MS = 4000; // four pictures missed
const byId = (id) => document.getElementById(id);

const map = new WorldMap(byId("map"), (site) => choose(site));
const charts = new Charts({ load: byId("chart-load"), carbon_g_per_kwh: byId("chart-carbon"), price_usd_per_kwh: byId("chart-price") });
let chosen = null;
let heardAt = 0;
let states = new Map();
let knownRequests = null;

function setWire(state, words) {
  const wire = byId("wire");
  if (wire.dataset.state === state) return;
  wire.dataset.state = state;
  wire.textContent = words;
}

function swap(sections) {
  for (const id of SECTIONS) {
    if (typeof sections[id] === "string") Idiomorph.morph(byId(id), sections[id], { morphStyle: "innerHTML" });
  }
  const rows = [...document.querySelectorAll("#decisions tbody tr")];
  const ids = new Set(rows.map((row) => row.dataset.testid));
  const fresh = knownRequests === null ? [] : rows.filter((row) => row.dataset.testid && !knownRequests.has(row.dataset.testid));
  const lit = { backgroundColor: getComputedStyle(document.documentElement).getPropertyValue("--lit").trim() };
  for (const row of fresh) row.animate([lit, { backgroundColor: "transparent" }], { duration: 1800, easing: "ease-out" });
  knownRequests = ids;
}

// Only what changes a person's picture is spoken: a site or the hub coming or going. In maintenance silence is no news.
function announce(view) {
  const now = new Map(view.sites.map((site) => [site.id, site.standing ? site.standing.state : site.state]));
  now.set("the hub", view.hub_up ? "up" : "lost");
  const said = [...now].filter(([id, state]) => states.has(id) && states.get(id) !== state).map(([id, state]) => `${id} is now ${state}`);
  states = now;
  if (said.length) byId("news").textContent = `${said.join(", ")}.`;
}

async function fragment(url) {
  const answer = await fetch(url);
  return answer.ok ? { html: await answer.text() } : { text: await answer.text() };
}

function fill(element, part) {
  if (part.html === undefined) element.textContent = part.text;
  else Idiomorph.morph(element, part.html, { morphStyle: "innerHTML" });
}

async function refreshPanel() {
  const site = chosen;
  if (site === null) return;
  const part = await fragment(`/sites/${encodeURIComponent(site)}?part=1`);
  if (site === chosen) fill(byId("panel-body"), part);
}

function choose(site) {
  chosen = chosen === site ? null : site;
  const panel = byId("panel");
  if (!panel.firstChild) {
    const body = document.createElement("div");
    body.id = "panel-body";
    const close = document.createElement("button");
    close.className = "close";
    close.textContent = "Close";
    close.addEventListener("click", () => choose(null));
    panel.append(body, close);
  }
  panel.hidden = chosen === null;
  map.choose(chosen);
  if (chosen === null) return;
  panel.dataset.side = map.sideAwayFrom(chosen);
  refreshPanel().catch(() => undefined);
}

async function showDecision(id, href) {
  const part = await fragment(`${href}?part=1`);
  fill(byId("detail-body"), part);
  const dialog = byId("detail");
  if (!dialog.open) dialog.showModal();
}

document.addEventListener("click", (click) => {
  if (click.ctrlKey || click.metaKey || click.shiftKey || click.button !== 0) return;
  const site = click.target.closest("a[data-site]");
  if (site) {
    click.preventDefault();
    choose(site.dataset.site);
    byId("map-frame").scrollIntoView({ block: "nearest" });
    return;
  }
  const row = click.target.closest("#decisions tbody tr");
  const request = click.target.closest("a[data-request]") ?? row?.querySelector("a[data-request]");
  if (!request || String(getSelection())) return;
  click.preventDefault();
  showDecision(request.dataset.request, request.getAttribute("href")).catch(() => location.assign(request.href));
});
document.addEventListener("keydown", (key) => {
  if (key.key === "Escape" && chosen !== null && !byId("detail").open) choose(null);
});
byId("detail").addEventListener("click", (click) => {
  if (click.target === byId("detail")) byId("detail").close();
});

function hearView(message) {
  const view = JSON.parse(message.data);
  heardAt = performance.now();
  setWire("on", "live");
  announce(view);
  map.update(view);
  charts.add(view);
  refreshPanel().catch(() => undefined);
}

document.body.classList.add("live");
const stream = new EventSource("/api/stream?page=1");
stream.addEventListener("view", hearView);
stream.addEventListener("page", (message) => swap(JSON.parse(message.data)));
stream.addEventListener("error", () => setWire("lost", "connection lost, retrying"));
setInterval(() => {
  if (heardAt && performance.now() - heardAt > LOST_AFTER_MS) setWire("lost", "no news, waiting");
}, 1000);

map.load().catch(() => undefined);
charts.load().then((drawn) => { byId("charts").hidden = !drawn; charts.resize(); }).catch(() => undefined);
