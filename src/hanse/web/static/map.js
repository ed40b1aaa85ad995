// The world map: sites by kind and state, links, flows, and a dot for each new decision.
// Everything is drawn with createElementNS and textContent; no string from the wire becomes markup.

const SVG = "http://www.w3.org/2000/svg";
const WORLD = "/static/vendor/world-atlas-2.0.2-countries-110m.json";
const SHAPES = {
  micro: "M7.5 0A7.5 7.5 0 1 1-7.5 0A7.5 7.5 0 1 1 7.5 0Z",
  edge: "M0-9 9 6.8H-9Z",
  region: "M-7-7H7V7H-7Z",
};
const DOTS_MAX = 24; // more moving at once is a blur
const DOT_MS = 1100;
const PULSE_MS = 900;
const LABELLED_PX_MIN = 190; // shorter links crowd their labels; title and table have the figure
const STAGGER_MS = 90;
const still = matchMedia("(prefers-reduced-motion: reduce)");

function el(name, attributes = {}, parent = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

export const linkId = (a, b) => [a, b].sort().join("~");

export function linkState(link) {
  const ways = (link.a_to_b === "open") + (link.b_to_a === "open");
  return ["cut", "one-way", "open"][ways];
}

// The middle of the widest gap between longitudes lies behind the reader.
function centreLongitude(sites) {
  const lons = sites.map((site) => site.lon_deg).sort((a, b) => a - b);
  let widest = 360 - (lons.at(-1) - lons[0]);
  let start = lons[0];
  for (let i = 1; i < lons.length; i += 1) {
    if (lons[i] - lons[i - 1] > widest) {
      widest = lons[i] - lons[i - 1];
      start = lons[i];
    }
  }
  return start + (360 - widest) / 2;
}

export class WorldMap {
  constructor(svg, onChoose) {
    this.svg = svg;
    this.onChoose = onChoose;
    this.ground = el("g", { "aria-hidden": "true" }, svg);
    this.links = el("g", {}, svg);
    this.flows = el("g", { "aria-hidden": "true" }, svg);
    this.moving = el("g", { "aria-hidden": "true" }, svg);
    this.sites = el("g", {}, svg);
    const marker = el("marker", { id: "ahead", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" }, el("defs", {}, svg));
    el("path", { d: "M0 0 8 4 0 8Z", fill: "context-stroke" }, marker);
    this.nodes = new Map();
    this.at = new Map();
    this.view = null;
    this.seen = null;
    this.dots = 0;
    this.chosen = null;
    new ResizeObserver(() => this.project()).observe(svg);
  }

  async load() {
    this.world = await (await fetch(WORLD)).json();
    this.project();
  }

  update(view) {
    const shape = (one) => one.sites.map((site) => `${site.id} ${site.lat_deg} ${site.lon_deg}`).join();
    const moved = this.view === null || shape(this.view) !== shape(view);
    this.view = view;
    if (moved) this.project();
    else this.draw();
    this.animate(view.decisions);
  }

  choose(site) {
    this.chosen = site;
    for (const [id, node] of this.nodes) {
      if (id === `site ${site}`) node.setAttribute("data-chosen", "");
      else node.removeAttribute("data-chosen");
    }
  }

  sideAwayFrom(site) {
    const at = this.at.get(site);
    return at && at[0] > this.svg.clientWidth / 2 ? "left" : "right";
  }

  project() {
    const width = this.svg.clientWidth;
    const height = this.svg.clientHeight;
    if (!width || !height || !this.view?.sites.length) return;
    const sites = this.view.sites;
    const side = Math.min(width * 0.1, 64);
    const projection = d3.geoNaturalEarth1().rotate([-centreLongitude(sites), 0]);
    const around = { type: "MultiPoint", coordinates: sites.flatMap((site) => corners(site)) };
    projection.fitExtent([[side, 50], [width - side, height - 46]], around);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const path = d3.geoPath(projection);
    this.ground.replaceChildren();
    el("path", { class: "grat", d: path(d3.geoGraticule10()) ?? "" }, this.ground);
    if (this.world) {
      const countries = this.world.objects.countries;
      el("path", { class: "land", d: path(topojson.feature(this.world, this.world.objects.land)) ?? "" }, this.ground);
      el("path", { class: "borders", d: path(topojson.mesh(this.world, countries)) ?? "" }, this.ground);
    }
    this.path = path;
    this.at = new Map(sites.map((site) => [site.id, projection([site.lon_deg, site.lat_deg])]));
    this.where = new Map(sites.map((site) => [site.id, [site.lon_deg, site.lat_deg]]));
    this.draw();
  }

  draw() {
    if (!this.path) return;
    const kept = new Set();
    const placed = this.view.sites.map((site) => box(this.at.get(site.id), 11, 11));
    for (const site of this.view.sites) kept.add(this.drawSite(site, placed));
    for (const link of this.view.links) kept.add(this.drawLink(link, placed));
    const most = Math.max(1, ...this.view.flows.map((flow) => flow[2]));
    for (const flow of this.view.flows) kept.add(this.drawFlow(flow, most));
    for (const [key, node] of this.nodes) {
      if (!kept.has(key)) {
        node.remove();
        this.nodes.delete(key);
      }
    }
  }

  node(key, make) {
    if (!this.nodes.has(key)) this.nodes.set(key, make());
    return this.nodes.get(key);
  }

  drawSite(site, placed) {
    const key = `site ${site.id}`;
    const node = this.node(key, () => this.makeSite(site));
    const [x, y] = this.at.get(site.id);
    node.setAttribute("transform", `translate(${x} ${y})`);
    node.dataset.state = site.state;
    node.dataset.served = site.served;
    const sub = subtitle(site);
    node.setAttribute("aria-label", `${site.id}, ${site.kind}, ${site.city}: ${site.state}, ${sub}`);
    const [name, below] = node.querySelectorAll("text");
    below.textContent = this.svg.clientWidth < 520 && site.state === "up" ? "" : sub;
    const wide = Math.max(name.getComputedTextLength(), below.getComputedTextLength());
    const tall = below.textContent ? 29 : 15;
    const spot = freeSpot(x, y, wide, tall, placed, this.svg);
    placed.push(spot.box);
    name.setAttribute("text-anchor", spot.anchor);
    below.setAttribute("text-anchor", spot.anchor);
    name.setAttribute("x", spot.dx);
    below.setAttribute("x", spot.dx);
    name.setAttribute("y", spot.dy + 11);
    below.setAttribute("y", spot.dy + 25);
    return key;
  }

  makeSite(site) {
    const node = el("g", { class: "site", tabindex: "0", role: "button" }, this.sites);
    node.dataset.testid = `site-${site.id}`;
    el("circle", { class: "halo", r: 14 }, node);
    el("path", { class: "body", d: SHAPES[site.kind] ?? SHAPES.micro }, node);
    el("path", { class: "sign sign-silent", d: "M-3.5-3.5 3.5 3.5M3.5-3.5-3.5 3.5" }, node);
    el("path", { class: "sign sign-degraded", d: "M0-3.5V1.5M0 4.2V4.6" }, node);
    el("text", {}, node).textContent = site.id;
    el("text", { class: "sub" }, node);
    node.addEventListener("click", () => this.onChoose(site.id));
    node.addEventListener("keydown", (press) => {
      if (press.key !== "Enter" && press.key !== " ") return;
      press.preventDefault();
      this.onChoose(site.id);
    });
    return node;
  }

  drawLink(link, placed) {
    const id = linkId(link.a, link.b);
    const key = `link ${id}`;
    if (!this.at.has(link.a) || !this.at.has(link.b)) return key;
    const node = this.node(key, () => {
      const made = el("g", {}, this.links);
      made.dataset.testid = `link-${id}`;
      el("title", {}, made);
      el("path", { class: "link" }, made);
      el("path", { class: "link-sign sign-cut", d: "M-5-5 5 5M5-5-5 5" }, made);
      el("path", { class: "link-sign sign-way", d: "M-5-6 5 0-5 6" }, made);
      el("text", { class: "rtt" }, made);
      return made;
    });
    const state = linkState(link);
    node.dataset.state = state;
    const forward = link.a_to_b === "open";
    const [from, to] = forward ? [link.a, link.b] : [link.b, link.a];
    const words = { open: "open", cut: "cut both ways", "one-way": `only ${from} → ${to}` }[state];
    node.querySelector("title").textContent = `${link.a} – ${link.b}: ${words}, ${link.rtt_ms.toFixed(0)} ms`;
    const line = node.querySelector(".link");
    line.setAttribute("d", this.path({ type: "LineString", coordinates: [this.where.get(from), this.where.get(to)] }) ?? "");
    this.drawLinkSigns(node, line, link, state, placed);
    return key;
  }

  drawLinkSigns(node, line, link, state, placed) {
    const length = line.getTotalLength();
    const mid = line.getPointAtLength(length / 2);
    const next = line.getPointAtLength(Math.min(length / 2 + 2, length));
    const turn = (Math.atan2(next.y - mid.y, next.x - mid.x) * 180) / Math.PI;
    for (const sign of node.querySelectorAll(".link-sign")) sign.setAttribute("transform", `translate(${mid.x} ${mid.y}) rotate(${turn})`);
    const label = node.querySelector(".rtt");
    label.textContent = `${link.rtt_ms.toFixed(0)} ms`;
    const spot = [0.5, 0.38, 0.62, 0.28].map((part) => line.getPointAtLength(length * part)).find((at) => {
      const own = [at.x - 26, at.y - 9, at.x + 26, at.y + 5];
      return length > LABELLED_PX_MIN && !placed.some((other) => overlap(own, other));
    });
    label.setAttribute("visibility", spot ? "visible" : "hidden");
    if (!spot) return;
    const raised = state === "open" ? 3.5 : -9;
    label.setAttribute("x", spot.x);
    label.setAttribute("y", spot.y + raised);
    placed.push([spot.x - 26, spot.y - 9, spot.x + 26, spot.y + 5]);
  }

  drawFlow([entry, site, count], most) {
    const key = `flow ${entry} > ${site}`;
    if (entry === site || !this.at.has(entry) || !this.at.has(site)) return key;
    const node = this.node(key, () => {
      const made = el("path", { class: "flow", "marker-end": "url(#ahead)" }, this.flows);
      made.dataset.testid = `flow-${entry}>${site}`;
      return made;
    });
    node.dataset.count = count;
    node.setAttribute("d", this.arc(entry, site));
    node.setAttribute("stroke-width", (1.2 + 3.3 * Math.sqrt(count / most)).toFixed(1));
    return key;
  }

  // To the right of the direction of travel, so that two opposite flows do not cover each other.
  arc(entry, site) {
    const [x1, y1] = this.at.get(entry);
    const [x2, y2] = this.at.get(site);
    const long = Math.hypot(x2 - x1, y2 - y1) || 1;
    const [ux, uy] = [(x2 - x1) / long, (y2 - y1) / long];
    const bow = Math.min(0.2 * long + 6, 70);
    const gap = Math.min(11, long / 3);
    const bend = [(x1 + x2) / 2 + uy * bow, (y1 + y2) / 2 - ux * bow];
    return `M${x1 + ux * gap} ${y1 + uy * gap}Q${bend[0]} ${bend[1]} ${x2 - ux * gap} ${y2 - uy * gap}`;
  }

  animate(decisions) {
    const fresh = this.seen === null ? [] : decisions.filter((row) => !this.seen.has(row.request_id));
    this.seen = new Set(decisions.map((row) => row.request_id));
    fresh.reverse().slice(-DOTS_MAX).forEach((row, order) => setTimeout(() => this.travel(row), order * STAGGER_MS));
  }

  travel(row) {
    if (!this.path || document.hidden) return;
    const flow = this.nodes.get(`flow ${row.entry} > ${row.site}`);
    if (!row.site || !flow || still.matches || this.dots >= DOTS_MAX) {
      this.pulse(row.site || row.entry, row);
      return;
    }
    const dot = el("circle", { class: "dot", r: 4.5 }, this.moving);
    dot.dataset.testid = `dot-${row.request_id}`;
    this.dots += 1;
    const begun = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, now - begun) / DOT_MS);
      const eased = part * part * (3 - 2 * part);
      const at = flow.isConnected ? flow.getPointAtLength(flow.getTotalLength() * eased) : null;
      if (at && part < 1) {
        dot.setAttribute("cx", at.x);
        dot.setAttribute("cy", at.y);
        requestAnimationFrame(step);
        return;
      }
      dot.remove();
      this.dots -= 1;
      this.pulse(row.site, row);
    };
    requestAnimationFrame(step);
  }

  pulse(site, row) {
    const at = this.at.get(site);
    if (!at) return;
    const ring = el("circle", { class: "pulse", cx: at[0], cy: at[1], r: 12 }, this.moving);
    ring.dataset.testid = `pulse-${row.request_id}`;
    ring.dataset.outcome = row.outcome;
    const end = { opacity: 0, r: still.matches ? "12px" : "26px" };
    ring.animate([{ opacity: 1, r: "9px" }, end], { duration: PULSE_MS, easing: "ease-out" }).finished.finally(() => ring.remove());
  }
}

// A margin of some degrees, so that one city or a tight league still shows where it lies.
function corners(site) {
  const lat = (shift) => Math.max(-85, Math.min(85, site.lat_deg + shift));
  return [[site.lon_deg - 3, lat(0)], [site.lon_deg + 3, lat(0)], [site.lon_deg, lat(-4)], [site.lon_deg, lat(4)]];
}

function subtitle(site) {
  if (site.standing) return site.state === "silent" ? `${site.standing.state}, silent` : site.standing.state;
  if (site.state === "silent") return `silent ${site.age_s.toFixed(0)} s`;
  if (!site.status || site.state === "never seen") return "no report yet";
  const { running, waiting } = site.status;
  const load = waiting ? `${running.toFixed(0)} run, ${waiting.toFixed(0)} wait` : `${running.toFixed(0)} running`;
  return site.state === "degraded" ? `degraded, ${load}` : load;
}

function box([x, y], wide, tall) {
  return [x - wide, y - tall, x + wide, y + tall];
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

// Right, left, above, below, then the corners: the first that covers nothing and stays inside.
function freeSpot(x, y, wide, tall, placed, svg) {
  const gap = 13;
  const spots = [
    { dx: gap, dy: -tall / 2, anchor: "start" },
    { dx: -gap, dy: -tall / 2, anchor: "end" },
    { dx: 0, dy: -tall - gap, anchor: "middle" },
    { dx: 0, dy: gap, anchor: "middle" },
    { dx: gap, dy: -tall - 3, anchor: "start" },
    { dx: gap, dy: 3, anchor: "start" },
    { dx: -gap, dy: -tall - 3, anchor: "end" },
    { dx: -gap, dy: 3, anchor: "end" },
  ];
  for (const spot of spots) {
    const left = x + spot.dx - { start: 0, middle: wide / 2, end: wide }[spot.anchor];
    spot.box = [left, y + spot.dy, left + wide, y + spot.dy + tall];
    const inside = left > 2 && left + wide < svg.clientWidth - 2 && spot.box[1] > 2 && spot.box[3] < svg.clientHeight - 2;
    if (inside && !placed.some((other) => overlap(spot.box, other))) return spot;
  }
  return spots[0];
}
