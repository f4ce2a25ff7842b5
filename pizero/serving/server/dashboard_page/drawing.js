// Lines and bars on a canvas, in the page's colours.

export const STAGE_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8A8A8A"];

const FONT = '11px system-ui, "DejaVu Sans", sans-serif';

function colours() {
  const style = getComputedStyle(document.documentElement);
  const found = {};
  for (const name of ["text", "quiet", "line", "grid", "blue", "orange", "ground"])
    found[name] = style.getPropertyValue(`--${name}`).trim();
  return found;
}

/** Give a canvas the pixels that its box has on this screen, empty it, and return its context in CSS pixels. */
function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = FONT;
  return { pen, width, height };
}

/** Write a number in about four digits. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
  return text.replace("-", "−");
}

/** Return two to five round numbers between two others. */
function round(low, high) {
  const rough = (high - low) / 3, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high; index += 1) found.push(Number((index * step).toPrecision(6)));
  return found;
}

/** Draw lines over ticks: `lines` are {points: [[tick, value or null] …], kind}, `limits` two numbers. */
export function drawLines(canvas, { lines, first, last, now, limits }) {
  const { pen, width, height } = prepared(canvas);
  const colour = colours();
  const values = lines.flatMap((line) => line.points.map((point) => point[1])).filter((value) => value !== null);
  const span = limits[1] - limits[0];
  let low = Math.min(...values), high = Math.max(...values);
  if (!values.length) [low, high] = limits;
  const room = Math.max((high - low) * 0.1, span * 0.02);
  // A limit that is near is shown: it is what the motion may run into.
  low = low - room < limits[0] + span * 0.1 ? Math.min(low - room, limits[0] - span * 0.03) : low - room;
  high = high + room > limits[1] - span * 0.1 ? Math.max(high + room, limits[1] + span * 0.03) : high + room;
  const left = 44, right = width - 4, top = 6, bottom = height - 16;
  const x = (tick) => left + ((tick - first) / Math.max(last - first, 1)) * (right - left);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);

  pen.fillStyle = colour.quiet;
  pen.strokeStyle = colour.grid;
  pen.lineWidth = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const value of round(low, high)) {
    line(pen, [[left, y(value)], [right, y(value)]]);
    pen.fillText(short(value), left - 4, y(value));
  }
  pen.textBaseline = "bottom";
  pen.textAlign = "left";
  pen.fillText(short(first), left, height);
  pen.textAlign = "right";
  pen.fillText(short(last), right, height);
  if (now !== null) {
    pen.strokeStyle = colour.line;
    line(pen, [[x(now), top], [x(now), bottom]]);
    pen.textAlign = "center";
    pen.fillText("now", Math.min(Math.max(x(now), left + 40), right - 40), height);
  }
  pen.strokeStyle = colour.quiet;
  pen.setLineDash([5, 4]);
  for (const limit of limits)
    if (limit >= low && limit <= high) line(pen, [[left, y(limit)], [right, y(limit)]]);
  pen.setLineDash([]);
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, right - left + 4, bottom + 2);
  pen.clip();
  for (const { points, kind } of lines) {
    pen.strokeStyle = kind === "executed" ? colour.blue : colour.orange;
    pen.lineWidth = kind === "executed" ? 3.5 : kind === "chunk" ? 2 : 1.5;
    pen.globalAlpha = kind === "earlier" ? 0.4 : 1;
    for (const piece of pieces(points)) line(pen, piece.map(([tick, value]) => [x(tick), y(value)]));
    if (kind === "chunk" && points.length && points[0][1] !== null) {
      pen.fillStyle = colour.orange;
      pen.beginPath();
      pen.arc(x(points[0][0]), y(points[0][1]), 3.5, 0, 2 * Math.PI);
      pen.fill();
    }
  }
  pen.restore();
}

/** Draw the newest answers as stacked bars; `answers` are {stage: seconds}, `tick` seconds of a control tick. */
export function drawStacks(canvas, { answers, stages, tick }) {
  const { pen, width, height } = prepared(canvas);
  const colour = colours();
  const totals = answers.map((one) => Object.values(one).reduce((sum, value) => sum + value, 0));
  const most = Math.max(...totals, 1e-4) * 1.1;
  const left = 40, right = width - 2, top = 8, bottom = height - 16;
  const y = (seconds) => bottom - (seconds / most) * (bottom - top);
  pen.fillStyle = colour.quiet;
  pen.strokeStyle = colour.grid;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const value of round(0, most * 1000)) {
    line(pen, [[left, y(value / 1000)], [right, y(value / 1000)]]);
    pen.fillText(short(value), left - 4, y(value / 1000));
  }
  pen.textBaseline = "bottom";
  pen.textAlign = "left";
  pen.fillText("ms, earlier", left, height);
  pen.textAlign = "right";
  pen.fillText("latest answer", right, height);
  const step = (right - left) / Math.max(answers.length, 20);
  answers.forEach((one, place) => {
    let base = 0;
    stages.forEach((stage, index) => {
      const seconds = one[stage] ?? 0;
      pen.fillStyle = STAGE_COLOURS[index % STAGE_COLOURS.length];
      pen.fillRect(right - (answers.length - place) * step, y(base + seconds), Math.max(step - 1, 1), y(base) - y(base + seconds));
      base += seconds;
    });
  });
  if (tick < most) {
    pen.strokeStyle = colour.text;
    pen.setLineDash([5, 4]);
    line(pen, [[left, y(tick)], [right, y(tick)]]);
    pen.setLineDash([]);
    const text = "one control tick";
    pen.textAlign = "left";
    pen.fillStyle = colour.ground;
    pen.fillRect(left, y(tick) - 15, pen.measureText(text).width + 6, 14);
    pen.fillStyle = colour.text;
    pen.fillText(text, left + 3, y(tick) - 2);
  }
}

function line(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], place) => (place ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

/** Cut a line where a tick or a value is missing. */
function pieces(points) {
  const found = [];
  let before = null;
  for (const point of points) {
    if (point[1] === null) {
      before = null;
      continue;
    }
    if (before === null || point[0] !== before + 1) found.push([]);
    found[found.length - 1].push(point);
    before = point[0];
  }
  return found;
}
