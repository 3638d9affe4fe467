// Charts. Reference is blue and wide, the window orange and narrow in front of it, on the same bins and scale.

/** A line over time; where nothing is known there is a gap. Its axis goes up to `least` at least. */
function spark(values, what, least = 0) {
  const there = values.filter(known);
  const svg = draw("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img" });
  svg.setAttribute("aria-label", what);
  svg.append(draw("line", { class: "base", x1: 0, x2: 100, y1: 29.5, y2: 29.5 }));
  if (there.length < 2) return svg;
  const top = Math.max(...there, least) || 1;
  const x = (i) => (100 * i) / (values.length - 1);
  const y = (value) => 28.5 - (26 * value) / top;
  let run = [];
  const end = () => {
    if (run.length === 1) run.push([Math.min(run[0][0] + 0.6, 100), run[0][1]]);
    if (run.length) {
      const line = run.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(2)} ${b.toFixed(2)}`).join("");
      const last = run[run.length - 1][0].toFixed(2);
      svg.append(draw("path", { class: "area", d: `${line}L${last} 29.5L${run[0][0].toFixed(2)} 29.5Z` }));
      svg.append(draw("path", { class: "line", d: line }));
    }
    run = [];
  };
  values.forEach((value, i) => (known(value) ? run.push([x(i), y(value)]) : end()));
  end();
  return svg;
}

const largest = (bins) => Math.max(1e-9, ...(bins.reference || []), ...(bins.window || []));

/** The two distributions in a row of the table. */
function mini(bins) {
  const size = Math.max((bins.reference || bins.window || []).length, 1);
  const svg = draw("svg", { viewBox: `0 0 ${size} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const top = largest(bins);
  const bar = (kind, share, left, width) =>
    share > 0 && svg.append(draw("rect", { class: kind, x: left, width, y: 1 - share / top, height: share / top }));
  (bins.reference || []).forEach((share, i) => bar("b-ref", share, i + 0.06, 0.88));
  (bins.window || []).forEach((share, i) => bar("b-cur", share, i + 0.32, 0.36));
  return svg;
}

/** A round number not below x, to end an axis at. */
function ceiling(x) {
  const unit = 10 ** Math.floor(Math.log10(x));
  return [1, 2, 2.5, 4, 5, 10].map((step) => step * unit).find((one) => one >= x * 0.999);
}

/** The bins of a chart: name, shares, and whether it stands apart, as what is missing does. */
function binsOf(feature) {
  const { bins } = feature;
  const at = (side, i) => (side ? side[i] : null);
  const found = binNames(bins).map((name, i) => ({
    name, reference: at(bins.reference, i), window: at(bins.window, i), apart: MEANINGS.has(name),
  }));
  if (bins.more && bins.more.bins)
    found.splice(-2, 0, { name: `${whole(bins.more.bins)} more`, reference: bins.more.reference, window: bins.more.window, apart: true });
  const shown = found.filter((bin) => bin.name !== "_rare" || bin.reference || bin.window);
  const { missing, reference_missing: before } = feature;
  if (known(missing) || known(before)) shown.push({ name: "_missing", reference: before, window: missing, apart: true });
  return shown;
}

/** Upright bars for numbers, with the real bounds between them; `width` in pixels. */
function histogram(feature, width) {
  const all = binsOf(feature), { bins } = feature;
  const inner = all.filter((bin) => !bin.apart), apart = all.filter((bin) => bin.apart);
  const left = 46, height = 184, floor = 148, gap = 18;
  const top = ceiling(Math.max(0.01, ...all.flatMap((bin) => [bin.reference || 0, bin.window || 0])));
  const step = Math.min((width - left - gap - 4) / (inner.length + apart.length * 1.25), 64);
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-label", `Distribution of ${feature.name}; the numbers are below`);
  for (const share of [0, 0.5, 1]) {
    const y = floor - share * (floor - 8);
    svg.append(draw("line", { class: "grid-line", x1: left, x2: width, y1: y, y2: y }));
    svg.append(draw("text", { class: "axis", x: left - 6, y: y + 4, "text-anchor": "end" }, `${number(100 * top * share)} %`));
  }
  const place = (bin, x, room) => {
    const group = draw("g", {}, draw("title", {}, tip(bin)), draw("rect", { x, y: 8, width: room, height: floor - 8, fill: "transparent" }));
    const tall = (share) => (share / top) * (floor - 8);
    const bar = (kind, share, from, part) =>
      share > 0 && group.append(draw("rect", { class: kind, x: x + room * from, width: room * part, y: floor - tall(share), height: tall(share) }));
    bar("b-ref", bin.reference, 0.05, 0.9);
    bar("b-edge", bin.reference, 0.05, 0.9);
    bar("b-cur", bin.window, 0.3, 0.4);
    svg.append(group);
  };
  inner.forEach((bin, i) => place(bin, left + i * step, step));
  const after = left + inner.length * step + gap;
  apart.forEach((bin, i) => {
    place(bin, after + i * step * 1.25 + step * 0.125, step);
    const middle = after + (i + 0.5) * step * 1.25;
    svg.append(label(bin.name, Math.min(middle, width - bin.name.length * 3.2), floor + 15 + (i % 2 && step < 44 ? 13 : 0)));
  });
  const marks = bins.kind === "edges"
    ? toldApart(bins.at).map((edge, i) => [edge, left + (i + 1) * step])
    : inner.map((bin, i) => [bin.name, left + (i + 0.5) * step]);
  const widest = Math.max(0, ...marks.map(([text]) => text.length)) * 6.4 + 8;
  const every = Math.max(1, Math.ceil(widest / step));
  marks.forEach(([text, x], i) => (i % every === 0 || every === 1) && svg.append(label(text, x, floor + 15)));
  return svg;
}

const label = (text, x, y) => draw("text", { class: "axis", x, y, "text-anchor": "middle" }, text);
const tip = (bin) =>
  `${bin.name}${MEANINGS.has(bin.name) ? ` (${MEANINGS.get(bin.name)})` : ""}: reference ${percent(bin.reference)}, window ${percent(bin.window)}`;

const MOST_CATEGORIES = 16;

/** Lying bars for categories: their names need the room. */
function categories(feature) {
  const all = binsOf(feature), weight = (bin) => Math.max(bin.reference || 0, bin.window || 0);
  const named = all.filter((bin) => !bin.apart).sort((a, b) => weight(b) - weight(a));
  const rest = named.splice(MOST_CATEGORIES);
  const shown = [...named, ...all.filter((bin) => bin.apart)];
  if (rest.length) {
    const sum = (side) => (rest.some((bin) => known(bin[side])) ? rest.reduce((total, bin) => total + (bin[side] || 0), 0) : null);
    shown.splice(named.length, 0, { name: `${rest.length} smaller ones`, reference: sum("reference"), window: sum("window"), apart: true });
  }
  return pairs(shown);
}

/** A list of names with two bars each; without a reference, one. */
function pairs(shown) {
  const top = Math.max(1e-9, ...shown.flatMap((bin) => [bin.reference || 0, bin.window || 0]));
  const both = shown.some((bin) => known(bin.reference));
  return make("ul", { class: "cats" }, ...shown.map((bin) => {
    const one = (kind, share) => {
      const bar = make("span", { class: kind });
      bar.style.width = `${(100 * (share || 0)) / top}%`;
      bar.style.visibility = share > 0 ? "visible" : "hidden";
      return bar;
    };
    const share = make("span", { class: "share" }, both ? `${percent(bin.reference)} → ` : null, make("b", {}, percent(bin.window)));
    const what = make("span", { class: bin.apart ? "what special" : "what", title: tip(bin) }, bin.name);
    return make("li", {}, what, make("span", { class: "two" }, both ? one("r", bin.reference) : null, one("c", bin.window)), share);
  }));
}

/** What has been counted in buckets, where there is no reference to lay it on. */
function buckets(counted, width) {
  const total = counted.counts.reduce((a, b) => a + b, 0) || 1;
  const bins = { kind: "edges", at: counted.bounds, reference: null, window: counted.counts.map((n) => n / total) };
  return histogram({ name: "what was counted", bins }, width);
}

/** Smoothed PSI over the last hour, with the noise floor of now, which it has to leave behind. */
function course(trend, noise, width) {
  const height = 92, left = 40, floor = 76, values = trend.filter(known);
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Smoothed PSI over the last hour" });
  const top = ceiling(Math.max(0.02, ...values, noise || 0));
  const y = (value) => floor - (value / top) * (floor - 8);
  for (const share of [0, 1]) {
    svg.append(draw("line", { class: "grid-line", x1: left, x2: width, y1: y(share * top), y2: y(share * top) }));
    svg.append(draw("text", { class: "axis", x: left - 6, y: y(share * top) + 4, "text-anchor": "end" }, number(share * top)));
  }
  if (known(noise)) svg.append(draw("line", { class: "noise-line", x1: left, x2: width, y1: y(noise), y2: y(noise) }));
  let path = "", pen = false;
  trend.forEach((value, i) => {
    if (known(value)) path += `${pen ? "L" : "M"}${(left + ((width - left - 2) * i) / Math.max(trend.length - 1, 1)).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = known(value);
  });
  svg.append(draw("path", { class: "line", d: path }));
  return svg;
}
