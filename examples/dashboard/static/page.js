// Loads the dashboard and shows it, or as much of it as there is.
// The token lives in this module's memory alone: it is gone when the page is closed.

import { askConsent, readJSON, showProblem } from "./challenge.js";
import { count, find, make, milliseconds } from "./dom.js";
import { describe, picture } from "./picture.js";
import { finishSignIn, startSignIn } from "./sign_in.js";
import { TROUBLE } from "./trouble.js";

const nobody = () => ({ token: null, exchanges: 0, loads: [], refusal: null });
const session = nobody();

// --- Calling the web API ----------------------------------------------------------------------

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
}

/** Run an action of the person with its button disabled, and say what went wrong. */
async function run(button, action) {
  button.disabled = true;
  try {
    await action();
    session.refusal = null;
    find("problem").hidden = true;
  } catch (error) {
    session.refusal = error;
    showProblem(error, session.token !== null);
  } finally {
    button.disabled = false;
    show();
  }
}

/** Load anew, past the refusal that the API remembers for a moment (Cache-Control: no-cache). */
const tryAgain = () => load({ cache: "reload" });

async function giveConsent() {
  const { refusal } = session;
  const answer = await askConsent(refusal.body.consent_uri, session.username);
  if (!answer) throw refusal;
  if (answer.error) throw Object.assign(new Error(answer.error), refusal);
  return tryAgain();
}

/** Sign in again, with the claims that were demanded, if they were. */
function signInAgain() {
  const { claims } = session.refusal.body;
  return startSignIn({ login_hint: session.username, ...(claims && { claims }) });
}

async function makeTrouble(name) {
  const { says, signsInAnew } = TROUBLE[name];
  await call(`backstage/${name}`, { method: "POST" });
  if (signsInAnew) return startSignIn({ prompt: "none", login_hint: session.username }, says);
  find("notice").textContent = says;
  return load();
}

function signOut() {
  Object.assign(session, nobody());
  find("problem").hidden = true;
  find("notice").textContent = "";
  show();
}

// --- Showing ----------------------------------------------------------------------------------

/** By name, what a part's token is for and what it shows. */
const PARTS = {
  me: (me) => [me.tokenAudience, me.tokenScopes,
    make("p", "big", me.displayName), make("p", "source", me.userPrincipalName)],
  data: (data) => [data.token_audience, data.token_scopes,
    make("p", "", `${data.owner} works on`),
    make("ul", "", ...data.projects.map((name) => make("li", "", name)))],
  settings: (settings) => [settings.token_audience, settings.token_scopes,
    make("p", "", `${settings.owner} prefers`),
    make("dl", "", ...Object.entries(settings.values).flatMap(([name, value]) =>
      [make("dt", "", name), make("dd", "", value)]))],
};

function show() {
  const latest = session.refusal ? null : session.loads.at(-1);
  find("welcome").hidden = session.token !== null;
  find("account").hidden = find("trouble").hidden = session.token === null;
  find("parts").hidden = find("timeline").hidden = !latest;
  find("user").textContent = session.name;
  if (!latest) return;
  const counts = [count(session.loads.length, "load"), count(session.exchanges, "exchange")];
  find("exchanges").textContent = `${counts.join(", ")} so far.`;
  for (const name of Object.keys(PARTS)) showPart(name, latest.dashboard);
  showTimeline();
}

function showPart(name, dashboard) {
  const part = find(`part-${name}`);
  const failure = dashboard.failures[name];
  part.classList.toggle("missing", Boolean(failure));
  if (failure) {
    part.querySelector(".content").replaceChildren(
      make("p", "big", "Missing"), make("p", "failure", `${part.dataset.api}: ${failure}.`));
    part.querySelector(".token").textContent = "The dashboard does without it.";
    return;
  }
  const [audience, scopes, ...content] = PARTS[name](dashboard[name]);
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
    load.dashboard.timeline.map((span) => make("tr", "",
      ...[`${load.number}`, span.lane, describe(span),
        ...[span.start, span.end, span.end - span.start].map((n) => n.toFixed(2))]
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
  const width = find("pictures").clientWidth;
  result.append(picture(load.dashboard.timeline, { width, scale, title: `${name}: ${facts}` }));
  return result;
}

// --- Start ------------------------------------------------------------------------------------

const ACTIONS = {
  "sign-in": () => startSignIn(),
  "load-again": () => load(),
  "try-again": tryAgain,
  "give-consent": giveConsent,
  "sign-in-again": signInAgain,
};
for (const [id, action] of Object.entries(ACTIONS)) {
  find(id).addEventListener("click", (event) => run(event.target, action));
}
for (const button of document.querySelectorAll("[data-trouble]")) {
  button.addEventListener("click", () => run(button, () => makeTrouble(button.dataset.trouble)));
}
find("sign-out").addEventListener("click", signOut);
addEventListener("resize", show);

await run(find("sign-in"), async () => {
  const signedIn = await finishSignIn();
  if (!signedIn) return;
  find("notice").textContent = signedIn.notice;
  Object.assign(session, signedIn);
  await load();
});
