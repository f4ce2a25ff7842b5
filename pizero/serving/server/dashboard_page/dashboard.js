// The page of a policy server: what its clients see, get and do, and how they are stopped.
// Texts from outside go into the page as text alone.

import { drawLines, drawStacks, short, STAGE_COLOURS } from "/dashboard/drawing.js";

const QUIET_AFTER = 2; // seconds without a request
const SILENT_AFTER = 3000; // milliseconds without news from the server
const UNCONFIRMED_AFTER = 1500;
const LONGEST_WAIT = 3000; // milliseconds between two tries to connect
const EMERGENCY = "Use the robot's own emergency stop.";

const find = (id) => document.getElementById(id);
const cards = new Map();
const cameras = new Map();
let facts = null, state = null, watched = null, picked = false;
let socket = null, wait = 250, heard = 0, asked = null, refused = "";

/** Change a text only where it differs, so that screen readers speak when there is news. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, kind, text) {
  if (element.dataset.kind !== kind) element.dataset.kind = kind;
  write(element, text);
}

function copy(id) {
  return find(id).content.firstElementChild.cloneNode(true);
}

function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}

function ago(seconds) {
  if (seconds < 1) return "now";
  if (seconds < 120) return `${Math.round(seconds)} s ago`;
  return `${Math.round(seconds / 60)} min ago`;
}

// ---- the server

function link(kind, text) {
  document.body.dataset.link = kind;
  write(find("link"), text);
}

function open() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/dashboard/live`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (message) => {
    heard = performance.now();
    if (typeof message.data === "string") receive(JSON.parse(message.data));
    else showPicture(message.data);
  };
  socket.onclose = (event) => {
    socket = null;
    const why = event.code === 1013 || event.code === 1008 ? ` (${event.reason})` : "";
    link("gone", `server gone${why}, reconnecting …`);
    tell();
    setTimeout(open, wait);
    wait = Math.min(wait * 2, LONGEST_WAIT);
  };
}

function send(verb, client) {
  if (socket === null || socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify({ [verb]: client }));
  return true;
}

function receive(message) {
  if (message.kind === "contract") {
    wait = 250;
    if (JSON.stringify(message) !== JSON.stringify(facts)) lay(message);
    if (watched !== null) send("watch", watched);
  } else if (message.kind === "refused") {
    refused = message.why;
    asked = null;
  } else {
    state = message;
    link("live", "connected");
    choose();
    show();
  }
}

/** Watch the client that was picked, or else the first that is there. */
function choose() {
  const names = state.clients.map((client) => client.name);
  if (picked && names.includes(watched)) return;
  const here = state.clients.filter((client) => client.left === null);
  if (here.some((client) => client.name === watched)) return;
  const best = (here[0] ?? state.clients[0])?.name ?? null;
  if (best !== watched) watch(best);
}

function watch(name) {
  watched = name;
  for (const canvas of cameras.values()) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  send("watch", name);
}

// ---- stopping

function stop(client) {
  refused = "";
  const sent = send("stop", client);
  asked = { client, at: performance.now(), sent };
  tell();
}

function allow(client) {
  asked = null;
  refused = "";
  send("allow", client);
}

function confirmed() {
  if (state === null || asked === null) return false;
  if (asked.client === null) return state.stopped_all !== null;
  return state.clients.some((client) => client.name === asked.client && client.stopped !== null);
}

/** Say what became of a stop: not sent, not confirmed, requested, told. */
function tell() {
  const notice = find("notice");
  const lost = document.body.dataset.link === "gone";
  if (asked !== null && confirmed() && !lost && asked.sent) asked = null;
  const whom = asked === null ? "" : asked.client ?? "all clients";
  if (asked !== null && !asked.sent) {
    mark(notice, "bad", `NOT stopped: the server cannot be reached. ${EMERGENCY}`);
  } else if (asked !== null && (lost || performance.now() - asked.at > UNCONFIRMED_AFTER)) {
    mark(notice, "bad", `The server has not confirmed the stop of ${whom}. ${EMERGENCY}`);
  } else if (asked !== null) {
    mark(notice, "wait", `Stop of ${whom} sent …`);
  } else if (refused) {
    mark(notice, "bad", `Not done: ${refused}`);
  } else if (state !== null && state.stopped_all !== null) {
    const untold = state.clients.filter((client) => client.left === null && client.told === null).length;
    const rest = untold ? `${count(untold, "client has", "clients have")} not asked since and may still move.` : "Every client that is here was told.";
    mark(notice, "stopped", `All clients are stopped, also those that come. ${state.clients.length ? rest : ""}`);
  } else {
    mark(notice, "", "");
  }
}

function verdict(client) {
  if (client.stopped === null) return "";
  if (client.told !== null) return client.guard?.state === "stopped"
    ? "Told to stop; its guard says that it has stopped."
    : `Told to stop ${ago(client.told)}, with the answer to its request.`;
  if (client.left !== null) return "Stopped: who comes back from its machine is refused.";
  const seconds = short(facts.horizon / facts.rate);
  return `Stop requested. It has not asked since: it may go on with what it has, up to ${seconds} s.`;
}

// ---- showing

function condition(client) {
  if (client.stopped !== null) return ["bad", client.told === null ? "stop requested" : "told to stop"];
  if (client.left !== null) return ["none", `left ${ago(client.left)}`];
  if (client.guard !== null && client.guard.state !== "running") return ["wait", client.guard.state];
  if (client.heard > QUIET_AFTER) return ["wait", `quiet, last heard ${ago(client.heard)}`];
  return ["good", "asking"];
}

function card(name) {
  if (cards.has(name)) return cards.get(name);
  const item = copy("client");
  item.dataset.name = name;
  const [pick, halt, again] = item.querySelectorAll("button");
  write(item.querySelector(".name"), name);
  write(halt, "Stop");
  halt.setAttribute("aria-label", `Stop ${name}`);
  write(again, "Allow again");
  again.setAttribute("aria-label", `Allow ${name} again`);
  pick.addEventListener("click", () => {
    picked = true;
    watch(name);
  });
  halt.addEventListener("click", () => stop(name));
  again.addEventListener("click", () => allow(name));
  find("clients").append(item);
  cards.set(name, item);
  return item;
}

function showClients() {
  const names = new Set(state.clients.map((client) => client.name));
  for (const [name, item] of cards) {
    if (names.has(name)) continue;
    item.remove();
    cards.delete(name);
  }
  for (const client of state.clients) {
    const item = card(client.name);
    const [pick, halt, again] = item.querySelectorAll("button");
    item.classList.toggle("watched", client.name === watched);
    pick.setAttribute("aria-pressed", String(client.name === watched));
    mark(item.querySelector(".badge"), ...condition(client));
    const typical = client.typical === null ? "" : `, ${short(client.typical * 1000)} ms each`;
    write(item.querySelector(".facts"), `${count(client.answers, "answer", "answers")}, ${client.rate.toFixed(1)} a second${typical}`);
    halt.hidden = client.stopped !== null;
    again.hidden = client.stopped === null || state.stopped_all !== null;
    write(item.querySelector(".verdict"), verdict(client));
  }
  find("allow-all").hidden = state.stopped_all === null;
  find("stop-all").disabled = state.stopped_all !== null;
  find("nobody").hidden = state.clients.length > 0;
  find("unlisted").hidden = state.unlisted === 0;
  write(find("unlisted"), `Too many clients to list: ${count(state.unlisted, "request was", "requests were")} of others. “Stop all” reaches them too.`);
}

/** Lay out what follows from the contract: cameras, numbers and actions with names, units and limits. */
function lay(contract) {
  facts = contract;
  write(find("robot"), `· ${facts.robot}`);
  document.title = `${facts.robot} – pizero dashboard`;
  cameras.clear();
  find("cameras").replaceChildren(...facts.slots.map((slot) => {
    const figure = copy("camera"), canvas = figure.querySelector("canvas");
    canvas.width = canvas.height = facts.image_size;
    canvas.setAttribute("aria-label", `camera ${slot}, as the model sees it`);
    write(figure.querySelector(".name"), slot);
    figure.dataset.slot = slot;
    cameras.set(slot, canvas);
    return figure;
  }));
  find("state").tBodies[0].replaceChildren(...facts.state.map((dimension) => {
    const row = copy("number");
    write(row.querySelector("th"), dimension.name);
    write(row.querySelector(".unit"), dimension.unit);
    row.querySelector(".rail").title = `${short(dimension.low)} to ${short(dimension.high)}`;
    return row;
  }));
  find("dimensions").classList.toggle("many", facts.actions.length > 6);
  find("dimensions").replaceChildren(...facts.actions.map((dimension) => {
    const figure = copy("dimension");
    write(figure.querySelector(".name"), dimension.name);
    write(figure.querySelector(".unit"), dimension.unit);
    return figure;
  }));
}

async function showPicture(data) {
  const length = new DataView(data).getUint32(0, true);
  const { client, slot, number } = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const canvas = cameras.get(slot);
  if (client !== watched || canvas === undefined) return;
  const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  if (client !== watched) return;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  canvas.dataset.number = number;
}

function showSeen(client, details) {
  write(find("instruction"), client.instruction || "(none)");
  for (const figure of find("cameras").children) {
    const sent = details.cameras.includes(figure.dataset.slot);
    const missing = facts.absent === "black" ? "not sent: the model sees black" : "not sent: hidden from the model";
    write(figure.querySelector(".quiet"), sent ? `${facts.image_size} × ${facts.image_size}` : missing);
  }
  facts.state.forEach((dimension, place) => {
    const row = find("state").tBodies[0].rows[place], value = details.state[place] ?? null;
    const part = value === null ? 0 : (value - dimension.low) / (dimension.high - dimension.low);
    const dot = row.querySelector("i");
    write(row.querySelector(".value"), short(value));
    dot.classList.toggle("outside", part < 0 || part > 1);
    dot.style.left = `${Math.min(Math.max(part, 0), 1) * 100}%`;
  });
}

function showActions(client, details) {
  const chunks = details.chunks, now = client.tick, horizon = facts.horizon;
  const first = now === null ? 0 : now - 2 * horizon;
  const last = now === null ? horizon - 1 : now + horizon;
  write(find("axis"), now === null
    ? `${count(horizon, "tick", "ticks")} of the latest chunk; this client does not report what it executes`
    : `control ticks, ${short(facts.rate)} a second`);
  const shown = now === null ? chunks.slice(-1) : chunks;
  facts.actions.forEach((dimension, place) => {
    const canvas = find("dimensions").children[place].querySelector("canvas");
    const lines = shown.map((chunk, index) => ({
      kind: index === shown.length - 1 ? "chunk" : "earlier",
      points: chunk.actions.map((row, offset) => [chunk.tick + offset - (now === null ? chunk.tick : 0), row[place] ?? null]),
    }));
    const { ticks, actions } = details.executed;
    const done = ticks.map((tick, index) => [tick, actions[index][place] ?? null]).filter((point) => point[0] >= first);
    lines.splice(Math.max(lines.length - 1, 0), 0, { kind: "executed", points: done });
    drawLines(canvas, { lines, first, last, now, limits: [dimension.low, dimension.high] });
    const planned = shown.length ? short(shown[shown.length - 1].actions[0]?.[place]) : "–";
    const executed = done.length ? short(done[done.length - 1][1]) : "–";
    canvas.setAttribute("aria-label", `${dimension.name}, ${dimension.unit}: planned ${planned}, last executed ${executed}, limits ${short(dimension.low)} to ${short(dimension.high)}`);
  });
}

function row(body, place, texts) {
  const found = body.rows[place] ?? body.insertRow();
  while (found.cells.length < texts.length) found.append(document.createElement(found.cells.length ? "td" : "th"));
  texts.forEach((text, cell) => text !== null && write(found.cells[cell], text));
  return found;
}

function showLatency(details) {
  const stages = Object.keys(details.percentiles).filter((name) => name !== "total");
  drawStacks(find("timeline"), { answers: details.seconds, stages, tick: 1 / facts.rate });
  const body = find("stages").tBodies[0];
  const names = stages.length ? [...stages, "total"] : [];
  while (body.rows.length > names.length) body.deleteRow(-1);
  names.forEach((name, place) => {
    const line = row(body, place, [null, ...details.percentiles[name].map((seconds) => short(seconds * 1000))]);
    const head = line.cells[0];
    if (head.dataset.stage === name) return;
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = name === "total" ? "transparent" : STAGE_COLOURS[place % STAGE_COLOURS.length];
    head.dataset.stage = name;
    head.replaceChildren(swatch, name);
  });
  const total = details.percentiles.total;
  write(find("counted"), total ? `of the last ${count(details.counted, "answer", "answers")}` : "no answer yet");
  find("timeline").setAttribute("aria-label", total ? `time of the latest answers by stage: p50 ${short(total[0] * 1000)} ms, p99 ${short(total[2] * 1000)} ms` : "no answer yet");
}

function showGuard(client) {
  const kinds = { starting: "wait", running: "good", holding: "wait", stopped: "bad" };
  if (client.guard === null) mark(find("guard-state"), "none", "not reported");
  else mark(find("guard-state"), kinds[client.guard.state], client.guard.state);
  write(find("late"), client.guard === null ? "The guard runs beside the robot; this client says nothing of it." : `${count(client.late_ticks, "late tick", "late ticks")}`);
  const body = find("interventions").tBodies[0];
  const named = Object.entries(client.guard?.interventions ?? {}).sort((one, other) => other[1] - one[1]);
  const texts = client.guard !== null && !named.length ? [["no interventions", ""]] : named.map(([name, times]) => [name, String(times)]);
  while (body.rows.length > texts.length) body.deleteRow(-1);
  texts.forEach((text, place) => row(body, place, text));
}

function show() {
  showClients();
  const client = state.clients.find((one) => one.name === watched);
  const details = state.watched;
  const ready = client !== undefined && details !== null && details.name === watched;
  if (client === undefined) find("watched").hidden = true;
  if (ready) {
    find("watched").hidden = false;
    showSeen(client, details);
    showActions(client, details);
    showLatency(details);
    showGuard(client);
  }
  tell();
}

// ---- beginning

find("stop-all").addEventListener("click", () => stop(null));
find("allow-all").addEventListener("click", () => allow(null));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.repeat) stop(null);
});
setInterval(() => {
  if (socket !== null && document.body.dataset.link === "live" && performance.now() - heard > SILENT_AFTER)
    link("silent", "no news from the server: what is shown is old");
  tell();
}, 250);
open();
