// Three small charts, one line for each site: load, carbon, price over the last minutes.
// Colour and dash follow the swatch beside the site's name in the table.

const KINDS = ["load", "carbon_g_per_kwh", "price_usd_per_kwh"];
const DASHES = [[], [6, 3], [2, 2], [8, 2, 2, 2], [10, 3], [3, 3], [5, 2], [1, 3]];
const HEIGHT = 118;

function sample(site) {
  if (!site.status || site.state === "silent") return { load: null, carbon_g_per_kwh: null, price_usd_per_kwh: null };
  const { running, waiting, power } = site.status;
  return { load: running + waiting, carbon_g_per_kwh: power.carbon_g_per_kwh, price_usd_per_kwh: power.price_usd_per_kwh };
}

// Hours and minutes where lines stand minutes apart, seconds too where they do not; UTC, as in the tables.
function clock(_plot, splits, _axis, _space, step) {
  return splits.map((at_s) => new Date(at_s * 1e3).toISOString().slice(11, step < 60 ? 19 : 16));
}

export class Charts {
  constructor(places) {
    this.places = places;
    this.plots = {};
    this.history = null;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.resize()).observe(places.load);
  }

  async load() {
    this.history = await (await fetch("/api/history.json")).json();
    return this.draw();
  }

  add(view) {
    const past = this.history;
    if (!past?.sites.length || view.at_s < (past.at_s.at(-1) ?? 0) + past.sample_s) return;
    const sites = new Map(view.sites.map((site) => [site.id, site]));
    past.at_s.push(view.at_s);
    for (const course of past.sites) {
      const figures = sites.has(course.site) ? sample(sites.get(course.site)) : {};
      for (const kind of KINDS) course[kind].push(figures[kind] ?? null);
    }
    const over = past.at_s.length - past.points_max;
    if (over > 0) {
      past.at_s.splice(0, over);
      for (const course of past.sites) for (const kind of KINDS) course[kind].splice(0, over);
    }
    for (const kind of KINDS) this.plots[kind]?.setData(this.data(kind));
  }

  data(kind) {
    return [this.history.at_s, ...this.history.sites.map((course) => course[kind])];
  }

  draw() {
    if (!this.history?.sites.length) return false;
    for (const kind of KINDS) {
      this.plots[kind]?.destroy();
      this.plots[kind] = new uPlot(this.options(kind), this.data(kind), this.places[kind]);
    }
    return true;
  }

  options(kind) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--faint"), font: "11px system-ui, sans-serif", grid: { stroke: colour("--line-soft"), width: 1 }, ticks: { show: false } };
    return {
      width: Math.max(this.places[kind].clientWidth, 200),
      height: HEIGHT,
      padding: [8, 4, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      tzDate: (at_s) => uPlot.tzDate(new Date(at_s * 1e3), "Etc/UTC"),
      scales: { y: { range: (_plot, _low, high) => [0, high > 0 ? high * 1.15 : 1] } },
      axes: [{ ...axis, size: 22, space: 70, values: clock }, { ...axis, size: 44, space: 26 }],
      series: [{}, ...this.history.sites.map((course, at) => ({
        label: course.site,
        stroke: colour(`--line-${at % DASHES.length}`),
        dash: DASHES[at % DASHES.length],
        width: 1.6,
        points: { show: false },
      }))],
    };
  }

  resize() {
    for (const kind of KINDS) {
      const width = this.places[kind].clientWidth;
      if (width && this.plots[kind] && this.plots[kind].width !== width) this.plots[kind].setSize({ width, height: HEIGHT });
    }
  }
}
