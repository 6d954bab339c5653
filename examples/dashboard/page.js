// Signs a person in (authorization code with PKCE, RFC 7636), loads the dashboard, draws it.
// The token lives in this module's memory alone: it is gone when the page is closed.

const config = await (await fetch("config.json")).json();
const redirectUri = `${location.origin}/`;
const session = { token: null, exchanges: 0, loads: [] };

const find = (id) => document.getElementById(id);

/** Make an element; texts become text nodes, so nothing that an API says is read as HTML. */
function make(name, className = "", ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// --- Signing in -------------------------------------------------------------------------------

const encodeBase64url = (bytes) =>
  btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const randomText = () => encodeBase64url(crypto.getRandomValues(new Uint8Array(32)));

async function startSignIn() {
  const verifier = randomText();
  const state = randomText();
  sessionStorage.setItem("sign-in", JSON.stringify({ verifier, state }));
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  const query = new URLSearchParams({
    response_type: "code",
    client_id: config.client_id,
    redirect_uri: redirectUri,
    scope: config.scope,
    state,
    code_challenge: encodeBase64url(new Uint8Array(digest)),
    code_challenge_method: "S256",
  });
  location.assign(`${config.authorize_url}?${query}`);
}

/** Redeem the code with which the sign-in page has sent the browser back, if it has. */
async function finishSignIn() {
  const answer = new URLSearchParams(location.search);
  history.replaceState(null, "", redirectUri);
  const asked = JSON.parse(sessionStorage.getItem("sign-in"));
  sessionStorage.removeItem("sign-in");
  if (!answer.has("state")) return;
  if (answer.get("state") !== asked?.state) throw new Error("This sign-in was not started here.");
  if (answer.has("error")) throw new Error(answer.get("error_description"));
  const response = await fetch(config.token_url, {
    method: "POST",
    body: new URLSearchParams({
      grant_type: "authorization_code",
      client_id: config.client_id,
      code: answer.get("code"),
      code_verifier: asked.verifier,
      redirect_uri: redirectUri,
      scope: config.scope,
    }),
  });
  session.token = (await readJSON(response)).access_token;
}

function signOut() {
  Object.assign(session, { token: null, exchanges: 0, loads: [] });
  find("problem").hidden = true;
  show();
}

// --- Loading ----------------------------------------------------------------------------------

async function readJSON(response) {
  const body = await response.json();
  if (response.ok) return body;
  const reason = body.error_description ?? body.title ?? "no reason was given";
  throw new Error(`Status ${response.status}: ${reason}`);
}

async function call(path, options = {}) {
  const headers = { Authorization: `Bearer ${session.token}` };
  return readJSON(await fetch(path, { ...options, headers }));
}

async function load(options) {
  const sent = performance.now();
  const dashboard = await call("dashboard", options);
  const seen = performance.now() - sent;
  const { exchanges } = await call("backstage/exchanges");
  const made = exchanges - session.exchanges;
  session.exchanges = exchanges;
  session.loads.push({ number: session.loads.length + 1, dashboard, seen, exchanges: made });
  show();
}

/** Run an action of the person with its button disabled, and say what went wrong. */
async function run(button, action) {
  button.disabled = true;
  find("problem").hidden = true;
  try {
    await action();
  } catch (error) {
    find("reason").textContent = error.message;
    find("problem").hidden = false;
    find("try-again").hidden = session.token === null;
  } finally {
    button.disabled = false;
  }
}

/** Load anew, past the refusal that the API remembers for a moment (Cache-Control: no-cache). */
const tryAgain = () => load({ cache: "reload" });

// --- Showing ----------------------------------------------------------------------------------

const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;
const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const WHAT = { validation: "check the token", token: "wait for the token", call: "call" };

function show() {
  const latest = session.loads.at(-1);
  find("welcome").hidden = session.token !== null;
  find("account").hidden = session.token === null;
  find("signed-in").hidden = find("dashboard").hidden = !latest;
  if (!latest) return;
  const { me, data, settings } = latest.dashboard;
  find("user").textContent = me.displayName;
  const counts = [count(session.loads.length, "load"), count(session.exchanges, "exchange")];
  find("exchanges").textContent = `${counts.join(", ")} so far.`;
  showPart("me", me.tokenAudience, me.tokenScopes,
    make("p", "big", me.displayName), make("p", "source", me.userPrincipalName));
  showPart("data", data.token_audience, data.token_scopes,
    make("p", "", `${data.owner} works on`),
    make("ul", "", ...data.projects.map((name) => make("li", "", name))));
  showPart("settings", settings.token_audience, settings.token_scopes,
    make("p", "", `${settings.owner} prefers`),
    make("dl", "", ...Object.entries(settings.values).flatMap(([name, value]) =>
      [make("dt", "", name), make("dd", "", value)])));
  showTimeline();
}

function showPart(name, audience, scopes, ...content) {
  const part = find(`part-${name}`);
  part.querySelector(".content").replaceChildren(...content);
  part.querySelector(".token").replaceChildren(
    "Token for ", make("strong", "", audience), ", scope ", make("strong", "", scopes));
}

/** Show the first load and the latest one, at the same scale. */
function showTimeline() {
  const shown = session.loads.filter((load, index, all) => index === 0 || index === all.length - 1);
  const scale = Math.max(...shown.map((load) => load.dashboard.total));
  find("pictures").replaceChildren(...shown.map((load) => figure(load, scale)));
  find("numbers").replaceChildren(...shown.flatMap((load) =>
    load.dashboard.timeline.map(({ lane, kind, start, end }) => make("tr", "",
      ...[`${load.number}`, lane, WHAT[kind], ...[start, end, end - start].map((n) => n.toFixed(2))]
        .map((text) => make("td", "", text))))));
}

function figure(load, scale) {
  const temperature = load.exchanges ? "cold" : "warm";
  const name = `Load ${load.number}, ${temperature}`;
  const facts = `${milliseconds(load.dashboard.total)} in the web API, ` +
    `${milliseconds(load.seen)} seen by the browser, ${count(load.exchanges, "exchange")}`;
  const result = make("figure", "",
    make("figcaption", "", make("strong", "", name), make("span", "", ` · ${facts}`)));
  result.dataset.load = temperature;
  result.append(picture(load.dashboard.timeline, scale, `${name}: ${facts}`));
  return result;
}

// --- The picture ------------------------------------------------------------------------------

function draw(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Return the distance of the ticks on an axis: 1, 2 or 5 times a power of ten. */
function tickDistance(scale, most) {
  const power = 10 ** Math.floor(Math.log10(scale / most));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => scale / step <= most);
}

/** Draw one row for each lane; the lane's name stands left of its bars, or above if it is narrow. */
function picture(spans, scale, title) {
  const width = find("pictures").clientWidth;
  const isNarrow = width < 560;
  const left = isNarrow ? 0 : 180;
  const [rowHeight, barTop, barHeight] = isNarrow ? [48, 20, 20] : [30, 5, 20];
  const x = (time) => left + (time / scale) * (width - left - 1);
  const lanes = [...new Set(spans.map((span) => span.lane))];
  const bottom = lanes.length * rowHeight;
  const height = bottom + 20;
  const svg = draw("svg", { role: "img", viewBox: `0 0 ${width} ${height}`, height });
  const spoken = spans.map(({ lane, kind, start, end }) =>
    `${lane}, ${WHAT[kind]}: ${start} to ${end} ms`);
  svg.append(draw("title", {}, title), draw("desc", {}, spoken.join("; ")));

  const step = tickDistance(scale, isNarrow ? 4 : 8);
  for (let time = 0; time <= scale; time += step) {
    const anchor = time === 0 ? "start" : x(time) > width - 24 ? "end" : "middle";
    svg.append(
      draw("line", { class: "grid", x1: x(time), x2: x(time), y1: 0, y2: bottom + 4 }),
      draw("text", { class: "tick", x: x(time), y: height - 3, "text-anchor": anchor }, `${time}`));
  }
  lanes.forEach((lane, row) => {
    const y = row * rowHeight;
    svg.append(draw("text", { x: 0, y: y + (isNarrow ? 15 : 20) }, lane));
    for (const span of spans.filter((candidate) => candidate.lane === lane)) {
      const barWidth = Math.max(x(span.end) - x(span.start), 1.5);
      const took = milliseconds(span.end - span.start);
      const bar = draw("rect", { class: `bar ${span.kind}`, x: x(span.start), y: y + barTop,
        width: barWidth, height: barHeight, rx: Math.min(3, barWidth / 3) });
      bar.append(draw("title", {}, `${WHAT[span.kind]}: ${took}`));
      svg.append(bar);
      if (barWidth > 46) {
        svg.append(draw("text", { class: "amount", x: x(span.start) + barWidth / 2,
          y: y + barTop + 14, "text-anchor": "middle" }, took));
      }
    }
  });
  return svg;
}

// --- Start ------------------------------------------------------------------------------------

find("sign-in").addEventListener("click", (event) => run(event.target, startSignIn));
find("sign-out").addEventListener("click", signOut);
find("load-again").addEventListener("click", (event) => run(event.target, () => load()));
find("try-again").addEventListener("click", (event) => run(event.target, tryAgain));
addEventListener("resize", () => session.loads.length && showTimeline());
await run(find("sign-in"), finishSignIn);
show();
if (session.token) await run(find("load-again"), () => load());
