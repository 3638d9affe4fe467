// Draws one dashboard: `window.draw({dashboard, panels, from, to, variables, annotations})`. What shoot.py has asked
// Prometheus for goes in; Grafana's own components draw it. Heat maps, bands of states and bar charts live in Grafana's
// core, which npm does not carry: those three are drawn here, from the same fields, colours and units.
import {
  FieldColorModeId, FieldConfigOptionsRegistry, FieldType, ThemeContext, VizOrientation, applyFieldOverrides,
  cacheFieldDisplayNames, createTheme,
  dateTime, formattedValueToString, getDisplayValueAlignmentFactors, getFieldColorModeForField, getFieldDisplayName,
  getFieldDisplayValues,
  getFieldSeriesColor, getValueFormat, standardTransformers, standardTransformersRegistry, transformDataFrame,
} from '@grafana/data';
import {
  BarGauge, BigValue, GlobalStyles, Icon, PanelChrome, PanelContextProvider, TimeSeries, VizLegend, VizRepeater,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { interpolateOranges } from 'd3-scale-chromatic';
import { useLayoutEffect, useRef } from 'react';
import { flushSync } from 'react-dom';
import { createRoot } from 'react-dom/client';
import { firstValueFrom } from 'rxjs';

const ROW = 30, GAP = 8, MARGIN = 16, HEAD = 76; // Grafana's grid, and the place above it
const FONT = '12px Inter, sans-serif';
const theme = createTheme({ colors: { mode: 'dark' } });

standardTransformersRegistry.setInit(() =>
  [...new Map(Object.values(standardTransformers).map((one) => [one.id, one])).values()].map((one) => ({ id: one.id, name: one.name, transformation: () => Promise.resolve(one) })));

// ------------------------------------------------------------------------------------------------ from answers to fields

const legendOf = (answer, labels) => {
  const format = answer.target.legendFormat;
  if (format && format !== '__auto') return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, name) => labels[name] ?? '');
  const { __name__: name = '', ...rest } = labels;
  const text = Object.entries(rest).map(([key, value]) => `${key}="${value}"`).join(', ');
  return text ? `${name}{${text}}` : name || answer.expression;
};

const timeField = (times, step) => ({ name: 'Time', type: FieldType.time, values: times, config: { interval: step * 1000 } });

function seriesOf(answer) {
  return answer.lines.map(({ labels, points }) => ({
    refId: answer.target.refId,
    length: points.length,
    fields: [
      timeField(points.map(([at]) => at * 1000), answer.step),
      { name: 'Value', type: FieldType.number, labels, values: points.map(([, value]) => value),
        config: { displayNameFromDS: legendOf(answer, labels) } },
    ],
  }));
}

// Cumulative buckets become those between two bounds, each at the times of the first.
function bucketsOf(answer) {
  const bound = (line) => (line.labels.le === '+Inf' ? Infinity : Number(line.labels.le));
  const lines = [...answer.lines].sort((a, b) => bound(a) - bound(b));
  let below = new Map();
  return lines.map((line) => {
    const here = new Map(line.points);
    const times = line.points.map(([at]) => at);
    const values = times.map((at) => Math.max(0, here.get(at) - (below.get(at) ?? 0)));
    below = here;
    return {
      refId: answer.target.refId, length: times.length,
      fields: [
        timeField(times.map((at) => at * 1000), answer.step),
        { name: 'Value', type: FieldType.number, labels: line.labels, values, config: { displayNameFromDS: line.labels.le } },
      ],
    };
  });
}

function tableOf(answer, several) {
  const names = [...new Set(answer.lines.flatMap(({ labels }) => Object.keys(labels)))].sort();
  const rows = answer.lines.flatMap(({ labels, points }) => points.map(([at, value]) => ({ labels, at, value })));
  return {
    refId: answer.target.refId, length: rows.length,
    fields: [
      { name: 'Time', type: FieldType.time, values: rows.map(({ at }) => at * 1000), config: {} },
      ...names.map((name) => ({
        name, type: FieldType.string, values: rows.map(({ labels }) => labels[name] ?? ''), config: { filterable: true },
      })),
      { name: several ? `Value #${answer.target.refId}` : 'Value', type: FieldType.number,
        values: rows.map(({ value }) => value), config: {} },
    ],
  };
}

function framesOf(answers) {
  const tables = answers.filter(({ target }) => target.format === 'table').length;
  return answers.flatMap((answer) => {
    if (answer.target.format === 'table') return answer.lines.length ? [tableOf(answer, tables > 1)] : [];
    return answer.target.format === 'heatmap' ? bucketsOf(answer) : seriesOf(answer);
  });
}

// Everything that a panel may configure of a field: the standard properties, and whatever it names under `custom`.
function registryOf(panel) {
  const standard = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'thresholds', 'mappings', 'links', 'color',
    'description', 'fieldMinMax', 'filterable'];
  const custom = new Set(Object.keys(panel.fieldConfig?.defaults?.custom ?? {}));
  for (const { properties } of panel.fieldConfig?.overrides ?? []) {
    for (const { id } of properties) if (id.startsWith('custom.')) custom.add(id.slice(7));
  }
  const entry = (id, path, isCustom) => ({ id, path, name: id, isCustom, process: (value) => value, shouldApply: () => true });
  return new FieldConfigOptionsRegistry(() => [
    ...standard.map((name) => entry(name, name, false)),
    ...[...custom].map((name) => entry(`custom.${name}`, name, true)),
  ]);
}

const filled = (text, scoped) => String(text ?? '').replace(/\$\{__field\.labels\.(\w+)\}/g,
  (whole, name) => scoped?.__dataContext?.value?.field?.labels?.[name] ?? whole);

const unfinished = (thresholds) => thresholds?.steps?.forEach((step) => { step.value ??= -Infinity; });

async function fieldsOf(panel) {
  const source = { defaults: {}, overrides: [], ...panel.fieldConfig };
  unfinished(source.defaults.thresholds);
  for (const { properties } of source.overrides) for (const { value } of properties) unfinished(value);
  let frames = framesOf(panel.answers);
  if (panel.transformations?.length) {
    frames = await firstValueFrom(transformDataFrame(panel.transformations, frames, { interpolate: (text) => text }));
  }
  const fieldConfigRegistry = registryOf(panel);
  frames = applyFieldOverrides({ data: frames, fieldConfig: source, fieldConfigRegistry, replaceVariables: filled, theme,
    timeZone: 'utc' });
  cacheFieldDisplayNames(frames);
  // Once series are put on common times their names are looked for anew, and colours go by names: settle them now.
  for (const field of frames.flatMap(({ fields }) => fields)) {
    if (field.config.color?.mode === FieldColorModeId.PaletteClassicByName) {
      field.config.color = { mode: FieldColorModeId.Fixed, fixedColor: getFieldSeriesColor(field, theme).color };
    }
  }
  return frames;
}

// ------------------------------------------------------------------------------------------------------- kinds of panels

const Empty = ({ panel, width, height }) => (
  <div style={{ width, height, display: 'flex', alignItems: 'center', justifyContent: 'center',
    color: theme.colors.text.secondary }}>
    {panel.fieldConfig?.defaults?.noValue ?? 'No data'}
  </div>
);

function Graph({ panel, frames, width, height, range, annotations }) {
  if (!frames.length) return <Empty {...{ panel, width, height }} />;
  const { legend } = panel.options;
  return (
    <TimeSeries {...{ frames, width, height, legend, theme }} timeRange={range} timeZone="utc" options={panel.options}>
      {(builder) => <Marks builder={builder} annotations={annotations} />}
    </TimeSeries>
  );
}

// Annotations: a dashed line where something happened, a band where it lasted.
function Marks({ builder, annotations }) {
  useLayoutEffect(() => {
    builder.addHook('draw', (u) => {
      const { ctx, bbox } = u;
      ctx.save();
      for (const { color, from, to } of annotations) {
        const [x, end] = [from, to].map((at) => Math.max(bbox.left, Math.min(u.valToPos(at, 'x', true), bbox.left + bbox.width)));
        ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(color);
        ctx.setLineDash([4, 4]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.setLineDash([]);
        ctx.beginPath();
        ctx.moveTo(x - 4, bbox.top + bbox.height + 5);
        ctx.lineTo(x + 4, bbox.top + bbox.height + 5);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.fill();
        if (end > x + 1) {
          ctx.fillRect(x, bbox.top + bbox.height + 1, end - x, 3);
          ctx.globalAlpha = 0.06;
          ctx.fillRect(x, bbox.top, end - x, bbox.height);
          ctx.globalAlpha = 1;
        }
      }
      ctx.restore();
    });
  }, [builder]);
  return null;
}

const displaysOf = (panel, frames) => getFieldDisplayValues({
  data: frames, fieldConfig: { defaults: {}, overrides: [], ...panel.fieldConfig }, theme, timeZone: 'utc',
  reduceOptions: { calcs: ['lastNotNull'], ...panel.options.reduceOptions },
  replaceVariables: filled, sparkline: panel.type === 'stat' && panel.options.graphMode !== 'none',
});

function Stat({ panel, frames, width, height, range }) {
  const { options } = panel;
  const values = displaysOf(panel, frames);
  return (
    <VizRepeater {...{ width, height }} getValues={() => values} getAlignmentFactors={getDisplayValueAlignmentFactors}
      source={frames} itemSpacing={3} renderCounter={0} autoGrid orientation={options.orientation ?? VizOrientation.Auto}
      renderValue={({ value, alignmentFactors, count, ...size }) => (
        <BigValue {...size} {...{ theme, alignmentFactors, count }} value={value.display} text={options.text}
          sparkline={value.sparkline && { ...value.sparkline, timeRange: range }}
          colorMode={options.colorMode} graphMode={options.graphMode} justifyMode={options.justifyMode}
          textMode={options.textMode} />
      )} />
  );
}

function Bars({ panel, frames, width, height }) {
  if (!frames.length) return <Empty {...{ panel, width, height }} />;
  const { options } = panel;
  const values = displaysOf(panel, frames);
  return (
    <VizRepeater {...{ width, height }} getValues={() => values} getAlignmentFactors={getDisplayValueAlignmentFactors}
      source={frames} itemSpacing={10} renderCounter={0} minVizWidth={options.minVizWidth ?? 8}
      minVizHeight={options.minVizHeight ?? 16} maxVizHeight={options.maxVizHeight ?? 300}
      orientation={options.orientation ?? VizOrientation.Auto}
      renderValue={({ value, alignmentFactors, orientation, ...size }) => (
        <BarGauge {...size} {...{ theme, alignmentFactors, orientation }} value={value.display} field={value.field}
          text={options.text} display={value.view?.getFieldDisplayProcessor(value.colIndex)} itemSpacing={10}
          displayMode={options.displayMode ?? 'gradient'} showUnfilled={options.showUnfilled ?? true}
          valueDisplayMode={options.valueMode ?? 'color'} namePlacement={options.namePlacement ?? 'auto'} />
      )} />
  );
}

function Grid({ panel, frames, width, height, range }) {
  if (!frames.length || !frames[0].length) return <Empty {...{ panel, width, height }} />;
  const { options } = panel;
  return (
    <TableNG data={frames[0]} {...{ width, height }} noHeader={options.showHeader === false} cellHeight={options.cellHeight}
      sortBy={options.sortBy} fieldConfig={panel.fieldConfig} timeRange={range} structureRev={1}
      initialRowIndex={undefined} getActions={() => []} />
  );
}

// --------------------------------------------------------------------------------------------------- drawn by ourselves

function Canvas({ width, height, paint }) {
  const ref = useRef(null);
  useLayoutEffect(() => {
    const ratio = window.devicePixelRatio;
    const canvas = ref.current;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const ctx = canvas.getContext('2d');
    ctx.scale(ratio, ratio);
    ctx.font = FONT;
    paint(ctx);
  });
  return <canvas ref={ref} style={{ width, height, display: 'block' }} />;
}

const widest = (ctx, texts) => Math.max(...texts.map((text) => ctx.measureText(text).width), 0);

const clipped = (ctx, text, room) => {
  if (ctx.measureText(text).width <= room) return text;
  let kept = text;
  while (kept && ctx.measureText(`${kept}…`).width > room) kept = kept.slice(0, -1);
  return `${kept}…`;
};

function timeAxis(ctx, { left, right, bottom }, range) {
  const [from, to] = [range.from.valueOf(), range.to.valueOf()];
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440].map((minutes) => minutes * 60_000);
  const step = steps.find((one) => ((right - left) * one) / (to - from) >= 70) ?? steps.at(-1);
  ctx.fillStyle = theme.colors.text.primary;
  ctx.textAlign = 'center';
  ctx.textBaseline = 'top';
  const x = (at) => left + ((at - from) / (to - from)) * (right - left);
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
    if (x(at) < left + 15 || x(at) > right - 15) continue;
    ctx.fillText(dateTime(at).utc().format('HH:mm'), x(at), bottom + 6);
  }
  return x;
}

const nameOf = (frame, frames) => getFieldDisplayName(frame.fields[1], frame, frames);

function States({ panel, frames, width, height, range }) {
  if (!frames.length) return <Empty {...{ panel, width, height }} />;
  const legend = legendOfStates(frames);
  const room = height - (panel.options.legend?.showLegend !== false ? 26 : 0);
  return (
    <div style={{ width, height }}>
      <Canvas width={width} height={room} paint={(ctx) => paintStates(ctx, { frames, width, height: room, range, panel })} />
      {panel.options.legend?.showLegend !== false && <VizLegend items={legend} displayMode="list" placement="bottom" />}
    </div>
  );
}

function legendOfStates(frames) {
  const { config } = frames[0].fields[1];
  if (config.mappings?.length) {
    return config.mappings.flatMap(({ options }) => Object.values(options))
      .map(({ text, color }) => ({ label: text, color: theme.visualization.getColorByName(color), yAxis: 1 }));
  }
  const format = (value) => formattedValueToString(frames[0].fields[1].display(value));
  return (config.thresholds?.steps ?? []).map(({ value, color }, at, all) => ({
    label: value === -Infinity ? (all[1] ? `< ${format(all[1].value)}` : 'any') : `${format(value)}+`,
    color: theme.visualization.getColorByName(color), yAxis: 1,
  }));
}

function paintStates(ctx, { frames, width, height, range, panel }) {
  const names = frames.map((frame) => nameOf(frame, frames));
  const left = Math.min(widest(ctx, names) + 12, width * 0.35), right = width - 8, bottom = height - 22;
  const x = timeAxis(ctx, { left, right, bottom }, range);
  const tall = bottom / frames.length;
  const inner = tall * (panel.options.rowHeight ?? 0.9);
  frames.forEach((frame, row) => {
    const [times, field] = frame.fields;
    const top = row * tall + (tall - inner) / 2;
    ctx.fillStyle = theme.colors.text.primary;
    ctx.textAlign = 'right';
    ctx.textBaseline = 'middle';
    if (tall >= 10) ctx.fillText(clipped(ctx, names[row], left - 12), left - 8, top + inner / 2);
    for (const { from, to, value } of bandsOf(times.values, field, times.config.interval, range)) {
      const shown = field.display(value);
      ctx.globalAlpha = (field.config.custom?.fillOpacity ?? 70) / 100;
      ctx.fillStyle = shown.color;
      ctx.fillRect(x(from), top, Math.max(x(to) - x(from), 1), inner);
      ctx.globalAlpha = 1;
    }
  });
}

// Equal values, or those of one threshold, beside each other are one band.
function bandsOf(times, field, step, range) {
  const found = [];
  times.forEach((at, i) => {
    const value = field.values[i];
    if (value == null || Number.isNaN(value)) return;
    const color = field.display(value).color;
    const last = found.at(-1);
    const to = Math.min(at + step, range.to.valueOf());
    if (last && last.color === color && at <= last.to + step) last.to = to;
    else found.push({ from: at, to, value, color });
  });
  return found;
}

function Heat({ panel, frames, width, height, range }) {
  if (!frames.length) return <Empty {...{ panel, width, height }} />;
  return <Canvas {...{ width, height }} paint={(ctx) => paintHeat(ctx, { panel, frames, width, height, range })} />;
}

function paintHeat(ctx, { panel, frames, width, height, range }) {
  const { options } = panel;
  const axis = getValueFormat(options.yAxis?.unit ?? 'short');
  const numeric = frames.every(({ fields }) => fields[1].labels?.le !== undefined);
  const names = frames.map((frame) => {
    const le = frame.fields[1].labels?.le;
    if (!numeric) return nameOf(frame, frames);
    return le === '+Inf' ? '+Inf' : formattedValueToString(axis(Number(le), options.yAxis?.decimals));
  });
  const left = Math.min(widest(ctx, names) + 12, width * 0.3), right = width - 8, bottom = height - 44;
  const x = timeAxis(ctx, { left, right, bottom }, range);
  const tall = bottom / frames.length;
  const values = frames.flatMap(({ fields }) => fields[1].values).filter((value) => value > 0);
  const most = Math.max(...values, 1e-12);
  const exponent = options.color?.exponent ?? 0.5;
  const shade = (value) => interpolateOranges(1 - (value / most) ** exponent); // dark means few, as in the dark theme
  const gap = options.cellGap ?? 1;
  frames.forEach(({ fields: [times, field] }, row) => {
    const top = bottom - (row + 1) * tall; // the first at the bottom, as on an axis
    ctx.fillStyle = theme.colors.text.primary;
    ctx.textAlign = 'right';
    ctx.textBaseline = 'middle';
    const every = Math.ceil(12 / tall);
    if (row % every === 0) ctx.fillText(clipped(ctx, names[row], left - 12), left - 8, top + tall / 2);
    times.values.forEach((at, i) => {
      if (!(field.values[i] > 0)) return;
      ctx.fillStyle = shade(field.values[i]);
      const wide = x(at) - x(at - times.config.interval);
      const start = Math.max(x(at) - wide, left);
      ctx.fillRect(start, top + gap / 2, Math.max(x(at) - start - (wide > 3 ? gap : 0), 1), tall - gap);
    });
  });
  paintScale(ctx, { left, bottom: height - 14, shade, most, exponent, format: frames[0].fields[1].display });
}

function paintScale(ctx, { left, bottom, shade, most, exponent, format }) {
  const wide = 160;
  for (let i = 0; i < wide; i++) {
    ctx.fillStyle = shade((i / wide) ** (1 / exponent) * most);
    ctx.fillRect(left + i, bottom - 4, 1, 10);
  }
  ctx.fillStyle = theme.colors.text.primary;
  ctx.textBaseline = 'middle';
  ctx.textAlign = 'left';
  ctx.fillText(`0 to ${formattedValueToString(format(most))}`, left + wide + 8, bottom + 1);
}

function Chart({ panel, frames, width, height }) {
  if (!frames.length || !frames[0].length) return <Empty {...{ panel, width, height }} />;
  const numbers = frames[0].fields.filter(({ type }) => type === FieldType.number);
  const items = numbers.map((field) => ({ label: getFieldDisplayName(field, frames[0], frames), color: colorOf(field), yAxis: 1 }));
  const legend = panel.options.legend?.showLegend !== false ? 26 : 0;
  return (
    <div style={{ width, height }}>
      <Canvas width={width} height={height - legend}
        paint={(ctx) => paintChart(ctx, { panel, frame: frames[0], numbers, width, height: height - legend })} />
      {legend > 0 && <VizLegend items={items} displayMode="list" placement="bottom" />}
    </div>
  );
}

const colorOf = (field) => (field.config.color?.mode === FieldColorModeId.Fixed
  ? theme.visualization.getColorByName(field.config.color.fixedColor)
  : getFieldColorModeForField(field).getCalculator(field, theme)(0, 0));

function paintChart(ctx, { panel, frame, numbers, width, height }) {
  const { options } = panel;
  const along = frame.fields.find(({ name, config }) => [name, config.displayName].includes(options.xField))
    ?? frame.fields.find(({ type }) => type === FieldType.string || type === FieldType.time);
  const texts = along.values.map((value) => formattedValueToString(along.display(value)));
  const all = numbers.flatMap(({ values }) => values).filter((value) => value != null);
  const least = Math.min(numbers[0].config.min ?? 0, ...(numbers[0].config.min == null ? all : [0]), 0);
  const most = numbers[0].config.max ?? Math.max(...all, 0) * 1.08 ?? 1;
  const step = niceStep((most - least || 1) / Math.max(2, Math.floor(height / 50)));
  const ticks = [];
  for (let at = Math.ceil(least / step) * step; at <= most + 1e-12; at += step) ticks.push(at);
  const decimals = Math.max(0, -Math.floor(Math.log10(step)) - (numbers[0].config.unit === 'percentunit' ? 2 : 0));
  const marks = ticks.map((at) => formattedValueToString(numbers[0].display(at, decimals)));
  const left = widest(ctx, marks) + 12, right = width - 8;
  const band = (right - left) / frame.length;
  const shorten = options.xTickLabelMaxLength ? (text) => (text.length > options.xTickLabelMaxLength
    ? `${text.slice(0, options.xTickLabelMaxLength)}…` : text) : (text) => text;
  const labels = texts.map(shorten);
  const tilted = !!options.xTickLabelRotation || widest(ctx, labels) > band - 6;
  const every = tilted ? Math.max(1, Math.ceil(14 / band)) : 1;
  const bottom = height - (tilted ? Math.min(widest(ctx, labels) * 0.71 + 14, height * 0.4) : 22);
  const y = (value) => bottom - ((value - least) / (most - least || 1)) * (bottom - 6);
  ctx.textBaseline = 'middle';
  ticks.forEach((at, i) => {
    ctx.fillStyle = theme.colors.border.weak;
    ctx.fillRect(left, y(at), right - left, 1);
    ctx.fillStyle = theme.colors.text.primary;
    ctx.textAlign = 'right';
    ctx.fillText(marks[i], left - 8, y(at));
  });
  const group = band * (options.groupWidth ?? 0.7), each = group / numbers.length;
  labels.forEach((text, i) => {
    const start = left + i * band + (band - group) / 2;
    numbers.forEach((field, n) => {
      const value = field.values[i];
      if (value == null || Number.isNaN(value)) return;
      const wide = each * (options.barWidth ?? 0.97);
      ctx.fillStyle = field.config.color?.mode === FieldColorModeId.Thresholds ? field.display(value).color : colorOf(field);
      ctx.globalAlpha = (field.config.custom?.fillOpacity ?? 80) / 100;
      ctx.fillRect(start + n * each + (each - wide) / 2, Math.min(y(value), y(0)), wide, Math.abs(y(value) - y(0)));
      ctx.globalAlpha = 1;
    });
    if (i % every) return;
    ctx.fillStyle = theme.colors.text.primary;
    ctx.save();
    ctx.translate(left + (i + 0.5) * band, bottom + (tilted ? 6 : 12));
    ctx.textAlign = tilted ? 'right' : 'center';
    if (tilted) ctx.rotate(-Math.PI / 4);
    ctx.fillText(text, 0, 0);
    ctx.restore();
  });
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
}

const KINDS = {
  timeseries: Graph, stat: Stat, bargauge: Bars, table: Grid, heatmap: Heat, 'state-timeline': States, barchart: Chart,
};

// --------------------------------------------------------------------------------------------------------- the dashboard

function Panel({ panel, frames, range, annotations, left, top, width, height }) {
  const style = { position: 'absolute', left, top, width, height };
  if (panel.type === 'row') {
    return (
      <div style={{ ...style, display: 'flex', alignItems: 'center', gap: 6, fontSize: 16, fontWeight: 500 }}>
        <Icon name={panel.collapsed ? 'angle-right' : 'angle-down'} /> {panel.title}
      </div>
    );
  }
  const Kind = KINDS[panel.type];
  return (
    <div style={style} data-panel={panel.title}>
      <PanelChrome {...{ width, height }} title={panel.title} description={() => ''} padding={panel.type === 'table' ? 'none' : 'md'}
        hoverHeader={false} displayMode={panel.transparent ? 'transparent' : 'default'}>
        {(w, h) => <Kind {...{ panel, frames, range, annotations }} width={w} height={h} />}
      </PanelChrome>
    </div>
  );
}

function Head({ dashboard, variables, range, width }) {
  const chip = { border: `1px solid ${theme.colors.border.medium}`, borderRadius: 2, fontSize: 12, lineHeight: '24px' };
  return (
    <div style={{ position: 'absolute', left: MARGIN, top: 8, width: width - 2 * MARGIN }}>
      <div style={{ display: 'flex', justifyContent: 'space-between', fontSize: 18, fontWeight: 500 }}>
        <span>{dashboard.title}</span>
        <span style={{ fontSize: 12, color: theme.colors.text.secondary }}>
          {range.from.utc().format('YYYY-MM-DD HH:mm')} to {range.to.utc().format('HH:mm')} UTC
        </span>
      </div>
      <div style={{ display: 'flex', gap: 10, marginTop: 4 }}>
        {variables.map(({ label, value }) => (
          <span key={label} style={chip}>
            <span style={{ background: theme.colors.background.secondary, padding: '4px 8px' }}>{label}</span>
            <span style={{ padding: '4px 8px', color: theme.colors.text.secondary }}>{value}</span>
          </span>
        ))}
      </div>
    </div>
  );
}

const context = { eventsScope: '__global_', eventBus: null, sync: () => 0 };

function Dashboard({ dashboard, panels, range, variables, annotations, width }) {
  const column = (width - 2 * MARGIN + GAP) / 24;
  const bottom = Math.max(...panels.map(({ panel: { gridPos } }) => gridPos.y + gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PanelContextProvider value={context}>
        <div id="drawn" style={{ position: 'relative', width, height: HEAD + bottom * (ROW + GAP) + GAP,
          background: theme.colors.background.canvas, color: theme.colors.text.primary }}>
          <Head {...{ dashboard, variables, range, width }} />
          {panels.map(({ panel, frames }, i) => (
            <Panel key={i} {...{ panel, frames, range, annotations }}
              left={MARGIN + panel.gridPos.x * column} top={HEAD + panel.gridPos.y * (ROW + GAP)}
              width={panel.gridPos.w * column - GAP} height={panel.gridPos.h * (ROW + GAP) - GAP} />
          ))}
        </div>
      </PanelContextProvider>
    </ThemeContext.Provider>
  );
}

const nowhere = { subscribe: () => ({ unsubscribe: () => {} }) };
nowhere.pipe = () => nowhere;
context.eventBus = { publish: () => {}, getStream: () => nowhere, subscribe: () => ({ unsubscribe: () => {} }),
  removeAllListeners: () => {}, newScopedBus: () => context.eventBus };

window.draw = async ({ dashboard, panels, from, to, variables, annotations, width }) => {
  const unknown = panels.filter(({ type }) => type !== 'row' && !KINDS[type]);
  if (unknown.length) throw new Error(`No way to draw a panel of type ${unknown[0].type}: ${unknown[0].title}`);
  const range = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
  const drawn = await Promise.all(panels.map(async (panel) => (
    { panel, frames: panel.type === 'row' ? [] : await fieldsOf(panel) })));
  const root = createRoot(document.getElementById('root'));
  flushSync(() => root.render(<ThemeContext.Provider value={theme}><GlobalStyles /></ThemeContext.Provider>));
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} ${FONT}`))); // before text is measured
  flushSync(() => root.render(<Dashboard {...{ dashboard, range, variables, annotations, width }} panels={drawn} />));
};
