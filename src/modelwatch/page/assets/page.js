// The page: asks for the JSON every few seconds while somebody looks, and says so when it does not come.

const EVERY = 3000, SLOWEST = 30000, PATIENCE = 15000;
const SOURCE = location.origin + location.pathname.replace(/\/+$/, "") + "/data.json";
const byId = (id) => document.getElementById(id);

const DEGRADED = {
  directory: "The workers cannot share what they count, so this is what one of them has seen alone.",
  space: "There is no room to share what the workers count, so numbers of other workers may be old.",
  port: "The metrics' own port cannot be opened; it is tried again and again.",
};

const worst = (drift) => {
  const order = ["major", "moderate", "minor"];
  return order.find((word) => drift.features.some((feature) => feature.verdict === word)) || "ok";
};

class Tile {
  constructor(title) {
    this.value = make("p", { class: "value" });
    this.sub = make("p", { class: "sub" });
    this.spark = make("div", { class: "spark" });
    this.node = make("div", { class: "card tile" }, make("h3", {}, title), this.value, this.sub, this.spark);
  }

  show(value, unit, sub, values, what) {
    fill(this.value, [value, unit], () => [value, unit ? make("small", {}, ` ${unit}`) : null]);
    say(this.sub, sub);
    fill(this.spark, values, () => [spark(values, what)]);
  }
}

class Card {
  constructor(title) {
    this.pill = make("span", { class: "pill", hidden: "" });
    this.note = make("p", { class: "note" });
    this.plot = make("div", { class: "plot" });
    this.node = make("div", { class: "card output" }, make("div", { class: "head" }, make("h2", {}, title), this.pill), this.note, this.plot);
  }

  show(note, verdict, key, children) {
    say(this.note, note);
    this.note.hidden = !note;
    this.pill.hidden = !verdict;
    if (verdict) {
      say(this.pill, verdict);
      this.pill.className = `pill ${verdict.replace(" ", "-")}`;
    }
    const width = Math.floor(this.plot.clientWidth);
    fill(this.plot, [key, width], () => children(width));
  }
}

/** Everything about one model. Made once for it, then only told what is new. */
class Model {
  constructor() {
    this.title = make("h1", {});
    this.chip = make("span", { class: "chip" });
    this.facts = make("p", { class: "facts" });
    this.saying = make("div", { class: "card saying" });
    this.notices = make("ul", { class: "notices" });
    this.tiles = { requests: new Tile("Requests"), latency: new Tile("Latency, p95"), errors: new Tile("Errors"), drifted: new Tile("Drifted features") };
    this.ends = make("div", { class: "card ends" });
    this.features = new Features();
    this.predictions = new Card("Predictions");
    this.confidence = new Card("Confidence");
    this.detectors = new Card("Detectors");
    this.detectors.node.classList.add("wide");
    this.outputs = make("section", { "aria-label": "What the model returns" }, make("div", { class: "section-head" }, make("h2", {}, "What the model returns")),
      make("div", { class: "outputs" }, this.predictions.node, this.confidence.node, this.detectors.node));
    this.node = make("article", {},
      make("div", { class: "head" }, this.title, this.chip), this.facts, this.saying, this.notices,
      make("div", { class: "tiles" }, ...Object.values(this.tiles).map((tile) => tile.node)), this.ends, this.features.node, this.outputs);
  }

  /** Take what is new, without moving what is looked at: it stays where it is on the screen, and others move. */
  update(data, library) {
    const rows = this.features.inView(), nodes = rows.length ? rows : [this.outputs].filter((node) => node.getBoundingClientRect().top < 60);
    const places = nodes.map((node) => [node, node.getBoundingClientRect().top]);
    this.show(data, library);
    const moves = places.map(([node, before]) => node.getBoundingClientRect().top - before).sort((a, b) => a - b);
    const move = moves.length ? moves[Math.floor(moves.length / 2)] : 0;
    if (move) window.scrollBy({ top: move, behavior: "instant" });
  }

  show(data, library) {
    this.data = data;
    this.library = library;
    say(this.title, data.name);
    say(this.chip, data.version ? `version ${data.version}` : "no version");
    this.showFacts(data);
    this.showSaying(data);
    this.showNotices(data, library);
    this.showTiles(data);
    this.showEnds(data.service);
    this.features.node.hidden = !data.drift;
    if (data.drift) this.features.update(data.drift);
    this.showOutputs(data);
  }

  showFacts({ reference, loaded_at: since, drift, loaded }) {
    const parts = [];
    if (loaded === false) parts.push(["", "not loaded"]);
    else if (known(since)) parts.push(["loaded ", moment(since)]);
    if (reference) {
      const source = { file: "from a file", object: "given in code", learned: "learnt from traffic" }[reference.source] || reference.source;
      parts.push(["reference ", reference.id, `: ${plural(reference.rows, "row")}, ${source}, since ${moment(reference.since)}`]);
    }
    if (drift) {
      const { window, rows, seconds } = drift;
      const most = window.by === "rows" ? `the last ${whole(window.rows)}` : `of the last ${duration(window.seconds)}${window.by === "time" ? "" : " by their own times"}`;
      parts.push(["window: ", plural(rows, "row"), ` ${most}${known(seconds) ? `, the oldest ${duration(seconds)} old` : ""}`]);
    }
    fill(this.facts, parts, () => parts.map(([what, text, more]) => make("span", {}, what, make("b", {}, text), more)));
  }

  /** The one thing to know, in large letters. */
  showSaying({ drift, learning }) {
    let kind = "quiet", word, more, part = null;
    if (!drift && learning) {
      word = `Learning: ${whole(learning.rows || 0)} of ${plural(learning.wanted, "row")}`;
      more = `They become the reference, once they span ${duration(learning.seconds)}. Nothing is said about drift before that.`;
      part = (learning.rows || 0) / learning.wanted;
    } else if (!drift) {
      word = "No reference";
      more = 'So nothing is said about drift. Make one of the training data with ReferenceProfile.fit, or let the first rows be it with reference="learn".';
    } else if (!drift.judged) {
      const most = Math.max(0, ...drift.features.map((feature) => feature.n));
      const enough = drift.rows >= drift.min_rows;
      word = enough ? "Nothing to say yet" : `${whole(drift.rows)} of ${plural(drift.min_rows, "row")}; nothing is said before that`;
      more = enough ? "No feature that may speak has enough rows with a value." : "So few rows differ by chance alone. As soon as there are enough, each feature gets its verdict.";
      part = (enough ? most : drift.rows) / drift.min_rows;
    } else if (drift.drifted) {
      kind = worst(drift);
      word = `${whole(drift.drifted)} of ${plural(drift.judged, "feature")} drifted`;
      const names = drift.features.filter((feature) => feature.drifted).map((feature) => feature.name);
      more = names.slice(0, 4).join(", ") + (names.length > 4 ? ` and ${whole(names.length - 4)} more` : "");
    } else {
      kind = "ok";
      word = "No drift";
      more = `${plural(drift.judged, "feature is", "features are")} as in the reference: no change is both significant and large.`;
    }
    this.saying.className = `card saying ${kind}`;
    fill(this.saying, [word, more, part], () => {
      const bar = make("span", {});
      bar.style.width = `${100 * Math.min(part || 0, 1)}%`;
      return [make("div", {}, make("p", { class: "word" }, word), make("p", { class: "more" }, more), part === null ? null : make("div", { class: "progress" }, bar))];
    });
  }

  showNotices({ drift, reference, loaded }, library) {
    const found = library.degraded.map((reason) => ["bad", `modelwatch is degraded: ${DEGRADED[reason] || reason}`]);
    const errors = Object.entries(library.errors);
    if (errors.length) found.push(["warn", `modelwatch itself has failed ${errors.map(([stage, count]) => `${plural(count, "time")} at stage ${stage}`).join(", ")}. The service was not affected; telemetry was lost. Its log says more.`]);
    if (library.dropped) found.push(["warn", `${plural(library.dropped, "row")} could not be counted and ${library.dropped === 1 ? "is" : "are"} in none of these numbers.`]);
    if (library.captures === 0) found.push(["warn", "Rows cannot be found in requests by themselves here; only those that are recorded by hand are counted."]);
    if (loaded === false) found.push(["info", "The model is not loaded."]);
    if (reference && reference.reload_failed) found.push(["warn", "The last attempt to replace the reference failed; the old one is still in force."]);
    if (drift) {
      const named = (verdict) => drift.features.filter((feature) => feature.verdict === verdict);
      const lost = named("not captured");
      if (lost.length) found.push(["warn", `${plural(lost.length, "feature has", "features have")} never arrived: ${lost.slice(0, 5).map((feature) => feature.name).join(", ")}${lost.length > 5 ? " …" : ""}.`]);
      if (drift.judged && drift.waiting) found.push(["info", `${plural(drift.waiting, "feature has", "features have")} fewer than ${whole(drift.min_rows)} rows with a value; nothing is said of ${drift.waiting === 1 ? "it" : "them"}.`]);
    }
    this.notices.hidden = !found.length;
    fill(this.notices, found, () => found.map(([kind, text]) => make("li", { class: kind }, text)));
  }

  showTiles({ service, drift, history, rows }) {
    const { requests, latency, errors, drifted } = this.tiles;
    const span = known(service.seconds) ? `the last ${duration(service.seconds)}` : "";
    const flight = service.in_progress ? `, ${whole(service.in_progress)} in progress` : "";
    if (service.requests || !rows) {
      const sub = !service.requests ? "no request yet" : `${known(service.rate) ? `over ${span}; ` : ""}${whole(service.requests)} so far${flight}`;
      requests.show(number(service.rate), known(service.rate) ? "a second" : "", sub, history.rate, "Requests a second over the last hour");
    } else {
      requests.show(number(service.row_rate), known(service.row_rate) ? "rows a second" : "", `no request; ${plural(rows, "row")} recorded by hand`, history.rows, "Rows a second over the last hour");
    }
    const times = service.latency || service.latency_so_far;
    const when = service.latency ? `over ${span}` : "since the start";
    if (times) latency.show(quantile(times.p95), "", `p50 ${quantile(times.p50)}, p99 ${quantile(times.p99)}, mean ${milliseconds(times.mean)} ${when}`, history.latency, "Mean latency over the last hour");
    else latency.show(NOTHING, "", "no request yet", history.latency, "Mean latency over the last hour");
    const failed = (service.statuses.error || 0) + (service.statuses.timeout || 0);
    errors.show(percent(service.error_share), "", known(service.error_share) ? `errors and timeouts over ${span}; ${whole(failed)} so far` : service.requests ? `no request that was answered over the last minute; ${whole(failed)} so far` : "no request yet", history.errors, "Share of errors over the last hour");
    if (drift && drift.judged) drifted.show(whole(drift.drifted), `of ${whole(drift.judged)}`, drift.judged < drift.features.length + drift.left_out ? `${whole(drift.features.length + drift.left_out - drift.judged)} without a verdict` : "all features have a verdict", history.drifted, "Drifted features over the last hour");
    else drifted.show(NOTHING, "", drift ? `nothing is said below ${plural(drift.min_rows, "row")}` : "no reference", history.drifted, "Drifted features over the last hour");
  }

  showEnds({ statuses, requests }) {
    const there = Object.entries(statuses).filter(([, count]) => count > 0);
    this.ends.hidden = !requests;
    fill(this.ends, there, () => [
      make("h3", {}, "How requests ended, so far"),
      make("div", { class: "bar", "aria-hidden": "true" }, ...there.map(([status, count]) => {
        const part = make("span", { class: `s-${status}` });
        part.style.flexGrow = String(count);
        return part;
      })),
      make("ul", { class: "legend" }, ...there.map(([status, count]) => make("li", {}, make("i", { class: `s-${status}` }), status.replace("_", " "), make("b", {}, whole(count))))),
    ]);
  }

  showOutputs({ drift, predictions, confidence, detectors, rows }) {
    const feature = (name) => drift && drift.features.find((one) => one.name === name && one.bins.window);
    const chart = (one) => (width) => [legend(), one.kind === "numeric" ? histogram(one, width) : categories(one)];
    const seen = feature("prediction"), sure = feature("confidence");
    const mean = (counted) => `Mean ${number(counted.mean, 4)} over ${plural(counted.count, "row")} so far`;
    const { classes, values } = predictions;
    if (seen) {
      const note = seen.kind === "numeric" && known(seen.mean) ? `Mean ${number(seen.mean, 4)} in the window, ${number(seen.reference_mean, 4)} in the reference.` : "";
      this.predictions.show(note, seen.verdict, seen.bins, chart(seen));
    } else if (classes) {
      const total = classes.reduce((sum, [, count]) => sum + count, 0);
      const shown = classes.slice(0, MOST_CATEGORIES).map(([name, count]) => ({ name, reference: null, window: total ? count / total : null }));
      this.predictions.show(`Classes of ${plural(total, "row")} so far.`, "", classes, () => [total ? pairs(shown) : null]);
    } else if (values) this.predictions.show(`${mean(values)}.`, "", values, (width) => [buckets(values, width)]);
    else this.predictions.show(rows ? "No prediction was captured. Name it with @monitor.predict(prediction=…)." : "None so far.", "", "none", () => []);
    const low = confidence && known(confidence.low_share) ? ` ${percent(confidence.low_share)} of the rows are below ${number(confidence.low)}.` : "";
    if (sure) this.confidence.show(`Mean ${number(sure.mean, 3)} in the window, ${number(sure.reference_mean, 3)} in the reference.${low}`, sure.verdict, sure.bins, chart(sure));
    else if (confidence) this.confidence.show(`${mean(confidence)}.${low}`, "", confidence, (width) => [buckets(confidence, width)]);
    else this.confidence.show(rows ? "The model has returned none." : "None so far.", "", "none", () => []);
    const note = detectors.length ? "Page-Hinkley on means, second by second: it sees a change that stays, sooner than a window of an hour can." : "They watch the means of prediction and confidence, once there is a reference that has them as numbers.";
    this.detectors.show(note, "", detectors, () => [make("ul", { class: "detectors" }, ...detectors.map(detector))]);
  }

  redraw() {
    this.features.redraw();
    this.showOutputs(this.data);
  }
}

function detector(one) {
  const state = ["ok", "warning", "drift"][one.state] || String(one.state);
  const bar = make("span", {});
  bar.style.width = `${100 * Math.min((one.statistic || 0) / one.threshold, 1)}%`;
  const alarms = one.alarms ? `${plural(one.alarms, "alarm")}${known(one.last_alarm) ? `, the last at ${moment(one.last_alarm, true)}` : ""}` : "no alarm so far";
  return make("li", {}, make("div", { class: "head" }, make("span", {}, `mean ${one.signal}`), make("span", { class: `pill ${state}` }, state)),
    make("div", { class: "meter" }, bar), make("p", { class: "note" }, `statistic ${number(one.statistic)}, alarms at ${number(one.threshold)}; ${alarms}`));
}

/** The model that an address names; anybody may have written it. */
function named(hash) {
  try {
    return decodeURIComponent(hash.slice(1));
  } catch {
    return hash.slice(1);
  }
}

const page = {
  data: null, model: null, chosen: null, at: 0, failure: "", delay: EVERY, timer: 0, next: 0, busy: false,

  start() {
    this.chosen = named(location.hash);
    byId("again").addEventListener("click", () => this.ask());
    document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(this.timer) : this.ask()));
    window.addEventListener("online", () => this.ask());
    window.addEventListener("hashchange", () => this.choose(named(location.hash)));
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (width === window.innerWidth) return;  // a phone's address bar comes and goes
      width = window.innerWidth;
      requestAnimationFrame(() => this.model && this.model.redraw());
    });
    setInterval(() => this.tell(), 1000);
    this.ask();
  },

  async ask() {
    clearTimeout(this.timer);
    if (this.busy || document.hidden) return;
    this.busy = true;
    this.failure = await this.renew();
    this.busy = false;
    this.delay = this.failure ? Math.min(this.delay * 2, SLOWEST) : EVERY;
    this.next = Date.now() + this.delay;
    if (!document.hidden) this.timer = setTimeout(() => this.ask(), this.delay);
    this.tell();
  },

  /** Ask once, and show what comes; why not, or "". */
  async renew() {
    let data;
    try {
      const response = await fetch(SOURCE, { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE) });
      if (response.status === 401) return "the token is asked for anew; load the page again";
      if (!response.ok) return `the service answers ${response.status}`;
      data = await response.json();
    } catch (error) {
      return { TimeoutError: "no answer in time", TypeError: "the service cannot be reached", SyntaxError: "the answer cannot be read" }[error.name] || error.message;
    }
    try {
      this.show(data);
    } catch (error) {
      console.error(error);
      return "this page does not understand the answer, perhaps that of another version; load the page again";
    }
    this.at = Date.now();
    return "";
  },

  choose(name) {
    this.chosen = name;
    if (this.data) this.show(this.data);
  },

  show(all) {
    const { models, library } = all;
    const data = models.find((one) => one.name === this.chosen) || models[0];
    if (!data) return;
    if (!this.model || this.shown !== data.name) {
      this.model = new Model();
      this.shown = data.name;
      byId("main").replaceChildren(this.model.node);
    }
    this.model.update(data, library);
    this.showModels(models, data);
    document.title = `${data.drift && data.drift.drifted ? `(${data.drift.drifted}) ` : ""}${data.name} · modelwatch`;
    const workers = known(library.workers) ? `, ${plural(library.workers, "worker")}` : "";
    say(byId("about"), `modelwatch ${library.version}${workers}. Counts only: no row is kept.`);
    this.data = all;
  },

  /** A button for each model, with what has drifted; the same ones as long as the models are: one may have the focus. */
  showModels(models, chosen) {
    const nav = byId("models");
    fill(nav, models.map((one) => one.name), () => models.length < 2 ? [] : models.map((one) => {
      const button = make("button", { type: "button", title: one.name }, one.name, make("b", {}));
      button.addEventListener("click", () => (location.hash = encodeURIComponent(one.name)));
      return button;
    }));
    [...nav.children].forEach((button, i) => {
      const { drift } = models[i], current = models[i] === chosen;
      say(button.lastChild, drift && drift.drifted ? ` (${whole(drift.drifted)})` : "");
      if (current === button.hasAttribute("aria-current")) return;
      if (!current) return button.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      button.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
  },

  /** How old all this is. */
  tell() {
    const fresh = byId("fresh"), stale = byId("stale");
    const age = (Date.now() - this.at) / 1000;
    fresh.className = `fresh ${this.failure ? "late" : this.at ? "live" : ""}`;
    say(byId("fresh-text"), !this.at ? (this.failure ? "No data" : "Loading") : age < 2 ? "Updated just now" : `Updated ${duration(age)} ago`);
    stale.hidden = !this.failure;
    if (!this.failure) return;
    const since = this.at ? `What you see is from ${moment(this.at / 1000, true)}: ` : "Nothing has come yet: ";
    const left = Math.max(0, Math.ceil((this.next - Date.now()) / 1000));
    say(byId("stale-text"), `${since}${this.failure}.`);
    say(byId("stale-next"), this.busy ? "Trying again." : `Next try in ${left} s.`);
  },
};

page.start();
