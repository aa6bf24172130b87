"use strict";
// Draws the curves, answers the pointer, sorts the table. All text goes in as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const shown = data.groups.map(() => true);
  const view = { axis: data.axis, log: false, single: false };
  const MARGIN = { left: 54, right: 12, top: 8, bottom: 34 }, HEIGHT = 220;

  const make = (name, classes = "", text = null) => {
    const made = document.createElement(name);
    if (classes) made.className = classes;
    if (text !== null) made.textContent = text;
    return made;
  };
  const draw = (name, attributes, text = null) => {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) drawn.setAttribute(key, value);
    if (text !== null) drawn.textContent = text;
    return drawn;
  };

  // ---------------------------------------------------------------- numbers

  const written = (value) => {
    if (value === null) return "NaN";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(3);
    return String(+value.toPrecision(4));
  };
  const short = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && size < 1e-3) return value.toExponential(0);
    for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]])
      if (size >= unit) return +(value / (letter === "k" ? 1e3 : unit)).toPrecision(4) + letter;
    return String(+value.toPrecision(6));
  };
  const ticks = (low, high, count) => {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  };
  const decades = (low, high) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++)
      for (const each of [1, 2, 5]) if (each * 10 ** power >= low && each * 10 ** power <= high) found.push(each * 10 ** power);
    if (found.length < 3) return ticks(low, high, 4).filter((each) => each > 0);
    return found.length > 8 ? found.filter((each) => Number.isInteger(+Math.log10(each).toFixed(9))) : found;
  };

  // ---------------------------------------------------------------- one chart

  const placesOf = (curve) => data.places[curve.at][view.axis];
  const visible = (chart) => chart.curves.filter((curve) => shown[curve.group] && placesOf(curve));

  function limits(curves, log) {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    const see = (x, y) => {
      if (y === null || x === null || (log && y <= 0)) return;
      [left, right, low, high] = [Math.min(left, x), Math.max(right, x), Math.min(low, y), Math.max(high, y)];
    };
    for (const curve of curves) {
      const x = placesOf(curve);
      curve.mean.forEach((mean, k) => {
        see(x[k], mean);
        const spread = curve.deviation && curve.deviation[k];
        if (mean !== null && spread) { see(x[k], mean - spread); see(x[k], mean + spread); }
      });
      if (view.single) for (const each of curve.single) each.y.forEach((y, k) => placesOf(each) && see(placesOf(each)[k], y));
    }
    if (low === Infinity) return null;
    if (right === left) [left, right] = [left - 0.5, right + 0.5];
    if (high === low) [low, high] = log ? [low / 1.5, high * 1.5] : [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
    const room = (high - low) * 0.04;
    return log ? { left, right, low, high } : { left, right, low: low - room, high: high + room };
  }

  const path = (x, y, scale) => {  // a gap where there is no number
    let drawn = "", pen = "M";
    y.forEach((value, k) => {
      const at = value === null || x[k] === null ? null : scale(x[k], value);
      drawn += at ? `${pen}${at[0].toFixed(1)} ${at[1].toFixed(1)}` : "";
      pen = at ? "L" : "M";
    });
    return drawn;
  };

  const band = (x, curve, scale) => {
    const pieces = [];
    let upper = [], lower = [];
    const close = () => {
      if (upper.length > 1) pieces.push(`M${upper.join("L")}L${lower.reverse().join("L")}Z`);
      [upper, lower] = [[], []];
    };
    curve.mean.forEach((mean, k) => {
      const spread = curve.deviation[k];
      const high = mean === null || spread === null ? null : scale(x[k], mean + spread);
      const low = high && (scale(x[k], mean - spread) || [high[0], HEIGHT - MARGIN.bottom]);
      if (!high) return close();
      upper.push(high.map((each) => each.toFixed(1)).join(" "));
      lower.push(low.map((each) => each.toFixed(1)).join(" "));
    });
    close();
    return pieces.join("");
  };

  function drawChart(figure) {
    const { chart, svg } = figure;
    const width = svg.clientWidth || 380;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const curves = visible(chart);
    const positive = curves.every((curve) => curve.mean.every((each) => each === null || each > 0));
    const log = view.log && positive;
    const frame = limits(curves, log);
    figure.scale = null;
    if (!frame) {
      svg.append(draw("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, curves.length ? "no finite value" : "nothing shown"));
      return;
    }
    const inner = [width - MARGIN.left - MARGIN.right, HEIGHT - MARGIN.top - MARGIN.bottom];
    const up = log ? Math.log : (each) => each;
    const acrossOf = (x) => MARGIN.left + ((x - frame.left) / (frame.right - frame.left)) * inner[0];
    const downOf = (y) => MARGIN.top + (1 - (up(y) - up(frame.low)) / (up(frame.high) - up(frame.low))) * inner[1];
    const scale = (x, y) => (log && y <= 0 ? null : [acrossOf(x), downOf(y)]);
    for (const tick of log ? decades(frame.low, frame.high) : ticks(frame.low, frame.high, 4)) {
      svg.append(draw("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: downOf(tick), y2: downOf(tick) }));
      svg.append(draw("text", { x: MARGIN.left - 6, y: downOf(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    for (const tick of ticks(frame.left, frame.right, Math.max(2, Math.floor(inner[0] / 70))))
      svg.append(draw("text", { x: acrossOf(tick), y: HEIGHT - MARGIN.bottom + 15, "text-anchor": "middle" }, short(tick)));
    const title = data.axes.find((each) => each.name === view.axis).title + (view.log && !log ? " (not all above 0: linear)" : "");
    svg.append(draw("text", { x: MARGIN.left + inner[0] / 2, y: HEIGHT - 3, "text-anchor": "middle" }, title));
    for (const curve of curves)
      if (curve.deviation) svg.append(draw("path", { class: `band g${curve.group % 8}`, d: band(placesOf(curve), curve, scale) }));
    if (view.single)
      for (const curve of curves)
        for (const each of curve.single)
          if (placesOf(each)) svg.append(draw("path", { class: `single g${curve.group % 8}`, d: path(placesOf(each), each.y, scale) }));
    for (const curve of curves) {
      const x = placesOf(curve), dashes = data.groups[curve.group].dashes.map((each) => each * 1.8).join(" ");
      svg.append(draw("path", { class: `line g${curve.group % 8}`, d: path(x, curve.mean, scale), "stroke-dasharray": dashes }));
      if (x.length <= 12)
        curve.mean.forEach((mean, k) => {
          const at = mean === null ? null : scale(x[k], mean);
          if (at) svg.append(draw("circle", { class: `dot g${curve.group % 8}`, cx: at[0], cy: at[1], r: 2.6 }));
        });
    }
    figure.scale = { acrossOf, frame, scale, width, inner };
  }

  // ---------------------------------------------------------------- the pointer

  const nearest = (x, place) => x.reduce((best, each, k) => (Math.abs(each - place) < Math.abs(x[best] - place) ? k : best), 0);

  function point(figure, event) {
    leave(figure);
    if (!figure.scale) return;
    const { acrossOf, frame, scale, width, inner } = figure.scale;
    const box = figure.svg.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * width;
    const place = frame.left + ((across - MARGIN.left) / inner[0]) * (frame.right - frame.left);
    const curves = visible(figure.chart);
    const near = curves.map((curve) => nearest(placesOf(curve), place));
    const distances = curves.map((curve, k) => Math.abs(placesOf(curve)[near[k]] - place));
    const chosen = distances.indexOf(Math.min(...distances));
    const at = placesOf(curves[chosen])[near[chosen]];
    figure.svg.append(draw("line", { class: "cross", x1: acrossOf(at), x2: acrossOf(at), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    const tip = make("div", "tip");
    const unit = { step: "step", epoch: "epoch", seconds: "s", tokens: "tokens" }[view.axis];
    tip.append(make("div", "quiet", view.axis === "step" || view.axis === "epoch" ? `${unit} ${written(at)}` : `${written(at)} ${unit}`));
    const found = curves.map((curve, k) => ({ curve, k: near[k] })).filter(({ curve, k }) => Math.abs(acrossOf(placesOf(curve)[k]) - acrossOf(at)) < 14);
    found.sort((a, b) => (b.curve.mean[b.k] ?? -Infinity) - (a.curve.mean[a.k] ?? -Infinity));
    for (const { curve, k } of found.slice(0, 12)) {
      const row = make("div");
      const spread = curve.deviation && curve.deviation[k] !== null ? ` ± ${written(curve.deviation[k])}` : "";
      row.append(make("i", `swatch g${curve.group % 8}`), make("span", "name", data.groups[curve.group].label));
      row.append(make("span", "", written(curve.mean[k]) + spread));
      tip.append(row);
      const spot = curve.mean[k] === null ? null : scale(placesOf(curve)[k], curve.mean[k]);
      if (spot) figure.svg.append(draw("circle", { class: `dot mark g${curve.group % 8}`, cx: spot[0], cy: spot[1], r: 3.6 }));
    }
    if (found.length > 12) tip.append(make("div", "quiet", `and ${found.length - 12} more`));
    figure.node.append(tip);
    const side = acrossOf(at) > width / 2;
    const left = (acrossOf(at) / width) * box.width;
    tip.style.top = "24px";
    if (side) tip.style.right = `${box.width - left + 10}px`;
    else tip.style.left = `${left + 10}px`;
  }

  function leave(figure) {
    figure.node.querySelectorAll(".tip, .cross, .mark").forEach((each) => each.remove());
  }

  // ---------------------------------------------------------------- all charts

  const figures = [];
  function place(chart, where) {
    const node = make("figure", "chart");
    const svg = draw("svg", { role: "img", "aria-label": `${chart.metric} of each group, as curves` });
    node.append(make("figcaption", "", chart.metric), svg);
    where.append(node);
    const figure = { chart, node, svg, scale: null };
    svg.addEventListener("pointermove", (event) => point(figure, event));
    svg.addEventListener("pointerdown", (event) => point(figure, event));
    svg.addEventListener("pointerleave", () => leave(figure));
    figures.push(figure);
    new ResizeObserver(() => drawChart(figure)).observe(node);
  }
  const redraw = () => figures.forEach((figure) => { leave(figure); if (figure.svg.clientWidth) drawChart(figure); });

  function toggle(text, checked, change) {
    const label = make("label"), box = make("input");
    box.type = "checkbox";
    box.checked = checked;
    box.addEventListener("change", () => { change(box.checked); redraw(); });
    label.append(box, ...(typeof text === "string" ? [text] : text));
    return label;
  }

  function controls() {
    const bar = document.getElementById("controls");
    data.groups.forEach((group, number) => {
      if (!data.charts.some((chart) => chart.curves.some((curve) => curve.group === number))) return;
      const key = draw("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" });
      key.append(draw("path", { class: `line g${number % 8}`, d: "M0 5L30 5", "stroke-dasharray": group.dashes.map((each) => each * 1.8).join(" ") }));
      const signs = group.signs ? ` (${group.signs})` : "";
      const label = toggle([key, make("span", "", group.label + (group.runs > 1 ? ` · ${group.runs} runs` : "") + signs)], true, (on) => { shown[number] = on; });
      label.className = "key";
      bar.append(label);
    });
    const rest = make("div", "rest"), over = make("label", "", "over "), select = make("select");
    for (const axis of data.axes) {
      const option = make("option", "", axis.title);
      option.value = axis.name;
      option.selected = axis.name === view.axis;
      select.append(option);
    }
    select.addEventListener("change", () => { view.axis = select.value; redraw(); });
    over.append(select);
    rest.append(over, toggle("logarithmic", false, (on) => { view.log = on; }));
    if (data.groups.some((group) => group.runs > 1)) rest.append(toggle("each run by itself", false, (on) => { view.single = on; }));
    bar.append(rest);
  }

  if (data.charts.length) {
    controls();
    for (const chart of data.charts) place(chart, document.getElementById(chart.main ? "charts" : "more"));
    document.getElementById("others").hidden = data.charts.every((chart) => chart.main);
  } else document.getElementById("charts").append(make("p", "quiet", "Nothing was logged that has a course."));

  // ---------------------------------------------------------------- the table

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const order = (a, b) => {
          const [x, y] = [value(a), value(b)].map(Number);
          if (value(a) === "nan" || value(b) === "nan") return (value(a) === "nan") - (value(b) === "nan");  // always last
          const found = Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b), undefined, { numeric: true }) : x - y;
          return down ? -found : found;
        };
        body.append(...[...body.rows].sort(order));
      });
    });
  }

  addEventListener("beforeprint", () => { document.querySelectorAll("main > section > details").forEach((each) => { each.open = true; }); redraw(); });
})();
