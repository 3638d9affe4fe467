// The features: one row each, kept as long as the feature is there, so that what is open stays open. Nothing is drawn
// before it can be seen.

const STATISTIC = { numeric: "KS", categorical: "TV" };

class Feature {
  constructor(watcher) {
    this.open = this.visible = false;
    this.cell = {};
    const cell = (name, kind, label) => {
      this.cell[name] = make("span", {});
      return make("span", { class: kind }, label ? make("span", { class: "label" }, `${label} `) : null, this.cell[name]);
    };
    this.verdict = make("span", { class: "pill" });
    this.mini = make("span", { class: "mini", "aria-hidden": "true" });
    this.trend = make("span", { class: "trend" });
    this.button = make("button", { type: "button", class: "row", "aria-expanded": "false" },
      cell("name", "name"), this.verdict, this.mini,
      make("span", { class: "nums" },
        cell("psi", "num psi", "PSI"), cell("noise", "num noise", "noise floor"), cell("distance", "num distance", "distance"),
        cell("missing", "num missing", "missing"), cell("n", "num rows", "rows")),
      this.trend);
    this.detail = make("div", { class: "detail", hidden: "" });
    this.node = make("li", { class: "feature" }, this.button, this.detail);
    this.node.feature = this;
    this.button.addEventListener("click", () => this.toggle(!this.open));
    watcher.observe(this.node);
  }

  toggle(open) {
    this.open = open;
    this.button.setAttribute("aria-expanded", String(open));
    this.detail.hidden = !open;
    this.paint();
  }

  /** Take what is new; draw it if it can be seen. */
  update(data, context) {
    this.data = data;
    this.context = context;
    const id = `detail-${data.id}`;
    if (this.detail.id !== id) {
      this.detail.id = id;
      this.button.setAttribute("aria-controls", id);
    }
    say(this.cell.name, data.name);
    say(this.verdict, data.verdict);
    this.verdict.className = `pill ${data.verdict.replace(" ", "-")}`;
    say(this.cell.psi, fixed(data.psi));
    say(this.cell.noise, fixed(data.noise));
    const distance = known(data.distance) ? `${STATISTIC[data.kind]} ${fixed(data.distance)}` : NOTHING;
    fill(this.cell.distance, [distance, data.floor], () => [distance, known(data.distance) ? make("small", {}, ` / ${fixed(data.floor, 2)}`) : null]);
    say(this.cell.missing, percent(data.missing));
    say(this.cell.n, whole(data.n));
    this.paint();
  }

  paint() {
    if (!this.visible || !this.data) return;
    const { bins, trend, noise } = this.data;
    fill(this.mini, bins, () => [mini(bins)]);
    fill(this.trend, [trend, noise], () => [trend && trend.filter(known).length > 1 ? spark(trend, "Smoothed PSI over the last hour", 3 * noise) : null]);
    if (this.open) this.explain();
  }

  /** The open part: what is said of the feature, in words, pictures and numbers. */
  explain() {
    const { data, context } = this;
    if (!this.parts) {
      const parts = (this.parts = {
        why: make("p", { class: "why" }), moved: make("p", { class: "why" }), plot: make("div", { class: "plot" }),
        numbers: make("div", {}), course: make("div", { class: "plot" }), facts: make("dl", { class: "facts-table" }),
      });
      parts.table = make("details", { class: "numbers" }, make("summary", {}, "All bins in numbers"), parts.numbers);
      parts.table.addEventListener("toggle", () => this.explain());
      parts.history = make("div", {}, make("h3", {}, "Smoothed PSI over the last hour; dashed, the noise floor of now"), parts.course);
      this.detail.append(parts.why, parts.moved, make("div", { class: "panels" },
        make("div", {}, parts.plot, parts.table), make("div", { class: "side" }, parts.facts, parts.history)));
    }
    const parts = this.parts, width = Math.floor(parts.plot.clientWidth);
    say(parts.why, why(data, context));
    const moved = largestMove(data);
    say(parts.moved, moved);
    parts.moved.hidden = !moved;
    const shares = [data.bins, data.missing, data.reference_missing, width];
    fill(parts.plot, shares, () => [data.kind === "numeric" ? histogram(data, width) : categories(data)]);
    if (parts.table.open) fill(parts.numbers, shares.slice(0, 3), () => [numbers(data)]);
    const points = (data.trend || []).filter(known).length;
    parts.history.hidden = points < 2;
    if (points > 1) {
      const room = Math.floor(parts.course.clientWidth);
      fill(parts.course, [data.trend, data.noise, room], () => [course(data.trend, data.noise, room)]);
    }
    fill(parts.facts, [data, context.min_rows], () => facts(data).flatMap(([name, text, title]) => [make("dt", title ? { title } : {}, name), make("dd", {}, text)]));
  }
}

/** The verdict, and what it rests on, in a sentence. */
function why(data, context) {
  const rows = `${whole(data.n)} of ${whole(context.min_rows)} rows with a value; nothing is said before that.`;
  if (data.verdict === "not captured")
    return "No row has brought this feature so far, so nothing is said about it. Is it called the same in the requests?";
  if (data.verdict === "waiting") return rows;
  const muted = data.verdict === "muted" ? "A rule mutes this feature: it is measured, and never part of a verdict. " : "";
  if (muted) return known(data.psi) ? muted : muted + rows;
  if (!data.drifted) return "As in the reference: no change is both significant and large.";
  const said = {
    distribution: () => `its distribution moved (${STATISTIC[data.kind]} distance ${fixed(data.distance)}, from ${fixed(data.floor)} on it counts as large)`,
    missing: () => `${percent(data.missing)} of the rows have no value, ${percent(data.reference_missing)} in the reference`,
    other: () => `${percent(data.other)} of the values are ones that the reference never saw`,
  };
  return `${data.verdict[0].toUpperCase()}${data.verdict.slice(1)} drift: ${data.reasons.map((reason) => said[reason]()).join("; ")}.`;
}

/** Where most of the change is. */
function largestMove(data) {
  if (!data.drifted || !data.bins.window || !data.bins.reference) return "";
  const all = binsOf(data).filter((bin) => known(bin.reference) && known(bin.window));
  const bin = all.reduce((a, b) => (Math.abs(b.window - b.reference) > Math.abs(a.window - a.reference) ? b : a), all[0]);
  return `Most of all: ${MEANINGS[bin.name] || bin.name} went from ${percent(bin.reference)} to ${percent(bin.window)}.`;
}

function facts(data) {
  const arrow = (a, b, show) => `${show(a)} → ${show(b)}`;
  const numeric = data.kind === "numeric";
  return [
    ["PSI", fixed(data.psi), "Population stability index of window and reference, in nats"],
    ["PSI, smoothed", fixed(data.psi_smoothed), "With half a row added to every bin; this is what is held against the noise floor"],
    ["Noise floor", fixed(data.noise), "What the smoothed PSI rarely exceeds without any drift, with so many rows"],
    [numeric ? "Kolmogorov-Smirnov" : "Total variation", fixed(data.distance), "Largest difference of the two, between 0 and 1"],
    ["Counts as large from", fixed(data.floor)],
    ["Probability without drift", !known(data.pvalue) ? NOTHING : data.pvalue < 1e-4 ? "< 0.0001" : number(data.pvalue)],
    ["Jensen-Shannon", fixed(data.js)],
    known(data.mean) || known(data.reference_mean) ? ["Mean", arrow(data.reference_mean, data.mean, (x) => number(x, 4))] : null,
    ["Missing", arrow(data.reference_missing, data.missing, percent)],
    known(data.other) ? ["Never seen before", percent(data.other)] : null,
    ["Rows with a value", arrow(data.m, data.n, whole), "Of the reference, and of the window"],
  ].filter(Boolean);
}

function numbers(data) {
  const head = make("tr", {}, ...["bin", "reference", "window"].map((text) => make("th", { scope: "col" }, text)));
  const rows = binsOf(data).map((bin) =>
    make("tr", {}, make("td", {}, bin.name), make("td", {}, percent(bin.reference)), make("td", {}, percent(bin.window))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
}

/** An id is a place in the reference: after a reload another feature may be there. */
const keyOf = (data) => `${data.id} ${data.name}`;

/** The list of all features: filter, order, and which of them are on the screen. */
class Features {
  constructor() {
    this.known = new Map();
    this.order = [];
    this.keys = "";
    this.watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        entry.target.feature.visible = entry.isIntersecting;
        if (entry.isIntersecting) entry.target.feature.paint();
      }
    }, { rootMargin: "300px" });
    this.search = make("input", { type: "search", placeholder: "Filter by name", autocomplete: "off", spellcheck: "false" });
    this.search.setAttribute("aria-label", "Filter the features by name");
    this.only = make("input", { type: "checkbox" });
    this.search.addEventListener("input", () => this.filter());
    this.only.addEventListener("change", () => this.filter());
    this.count = make("span", { class: "count" });
    this.list = make("ul", {});
    this.none = make("p", { class: "none", hidden: "" });
    const columns = ["", "Feature", "Verdict", "Distribution", "PSI", "Noise floor", "Distance / floor", "Missing", "Rows", "PSI, last hour"];
    this.node = make("section", { "aria-label": "Features" },
      make("div", { class: "section-head" }, make("h2", {}, "Features, worst first "), this.count, legend(),
        make("div", { class: "tools" }, make("label", {}, this.search), make("label", {}, this.only, "drifted only"))),
      make("div", { class: "card" },
        make("div", { class: "columns", "aria-hidden": "true" }, ...columns.map((text, i) => make("span", i > 3 && i < 9 ? { class: "num" } : {}, text))),
        this.list, this.none));
  }

  update(drift) {
    const there = new Set(drift.features.map(keyOf));
    for (const [key, feature] of this.known) {
      if (there.has(key)) continue;
      this.watcher.unobserve(feature.node);
      feature.node.remove();
      this.known.delete(key);
    }
    for (const data of drift.features) {
      const key = keyOf(data);
      if (!this.known.has(key)) this.known.set(key, new Feature(this.watcher));
      this.known.get(key).update(data, drift);
    }
    this.arrange(drift.features);
    this.leftOut = drift.left_out;
    this.filter();
  }

  /** Worst first. Among those whose verdict stays the same the order does too: rows that jump cannot be read. */
  arrange(features) {
    const keys = JSON.stringify(features.map((data) => [data.id, data.name, data.verdict]).sort((a, b) => a[0] - b[0]));
    if (keys === this.keys) return;
    this.keys = keys;
    const focused = document.activeElement;
    let at = null;
    for (const data of features) {
      const { node } = this.known.get(keyOf(data)), next = at ? at.nextSibling : this.list.firstChild;
      if (node !== next) this.list.insertBefore(node, next);
      at = node;
    }
    if (focused && focused !== document.activeElement && this.list.contains(focused)) focused.focus({ preventScroll: true });
  }

  /**
   * The rows that whoever looks is looking at: those that are open or have the focus, else all in view; none as long
   * as the beginning of the list is.
   */
  inView() {
    if (this.list.getBoundingClientRect().top > 60) return [];
    const seen = [...this.list.children].filter((node) => {
      const { top, bottom } = node.getBoundingClientRect();
      return !node.hidden && bottom > 60 && top < window.innerHeight;
    });
    const chosen = seen.filter((node) => node.feature.open || node.contains(document.activeElement));
    return chosen.length ? chosen : seen;
  }

  filter() {
    const wanted = this.search.value.trim().toLowerCase();
    let shown = 0;
    for (const feature of this.known.values()) {
      const fits = feature.data.name.toLowerCase().includes(wanted) && (!this.only.checked || feature.data.drifted === true);
      if (feature.node.hidden === fits) feature.node.hidden = !fits;
      shown += fits;
    }
    const left = this.leftOut ? `; ${plural(this.leftOut, "more is", "more are")} not shown` : "";
    say(this.count, (shown === this.known.size ? plural(shown, "feature") : `${whole(shown)} of ${whole(this.known.size)}`) + left);
    this.none.hidden = shown > 0;
    say(this.none, this.only.checked && !wanted ? "No feature has drifted." : "No feature fits the filter.");
  }

  redraw() {
    for (const feature of this.known.values()) feature.paint();
  }
}

const legend = () => make("p", { class: "legend" },
  make("span", {}, make("i", { class: "ref" }), "reference"), make("span", {}, make("i", { class: "cur" }), "window"));
