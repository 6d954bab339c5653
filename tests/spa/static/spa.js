// A single-page app on an origin of its own: it signs the user in with MSAL, calls the web API on
// another origin, and does what a refusal asks for.

const settings = await (await fetch("/settings.json")).json();
const scopes = [`api://${settings.apiClientId}/access_as_user`];
const signInService = new URL(settings.authority);
const bridge = `${location.origin}/bridge`; // where MSAL's popups and iframes return to

const app = new msal.PublicClientApplication({
  auth: {
    clientId: settings.clientId,
    authority: settings.authority,
    knownAuthorities: [signInService.host], // Entra's own hosts are known without
    redirectUri: `${location.origin}/`,
    clientCapabilities: ["CP1"], // "I can handle a claims challenge"
  },
});

/** Return a token of MSAL's cache or by its refresh token; or leave the page to sign in. */
async function getToken() {
  try {
    return (await app.acquireTokenSilent({ scopes, redirectUri: bridge })).accessToken;
  } catch (error) {
    if (!(error instanceof msal.InteractionRequiredAuthError)) throw error;
    await app.acquireTokenRedirect({ scopes, claims: error.claims });
    return new Promise(() => {}); // the page is being left
  }
}

async function callApi(headers = {}) {
  return fetch(`${settings.api}/projects`, {
    headers: { Authorization: `Bearer ${await getToken()}`, ...headers },
  });
}

/** Return the parameters of a refusal's challenge, such as error, scope, claims, consent_uri. */
function readChallenge(response) {
  const header = response.headers.get("WWW-Authenticate") ?? "";
  const pairs = header.matchAll(/(\w+)="([^"]*)"/g);
  return Object.fromEntries(Array.from(pairs, ([, name, value]) => [name, value]));
}

/** Leave the page for the one where the user can do what the API asks for. */
async function meet(challenge) {
  if (challenge.claims) {
    await app.acquireTokenRedirect({ scopes, claims: atob(challenge.claims) });
  } else if (challenge.consent_uri) {
    const url = new URL(challenge.consent_uri);
    if (url.origin !== signInService.origin) throw new Error("not a page of the sign-in service");
    sessionStorage.state = crypto.randomUUID();
    url.searchParams.set("state", sessionStorage.state);
    url.searchParams.set("login_hint", app.getActiveAccount().username);
    location.assign(url);
  } else {
    await app.acquireTokenRedirect({ scopes });
  }
}

/** Tell what the consent page says, if this is the return from it; its code is not for us. */
function readConsent() {
  if (location.pathname !== "/consented") return undefined;
  const answer = new URLSearchParams(location.search);
  history.replaceState(null, "", "/");
  if (answer.get("state") !== sessionStorage.state) return undefined;
  delete sessionStorage.state;
  return answer.has("error") ? "declined" : "given";
}

async function load(headers) {
  const response = await callApi(headers);
  const challenge = response.status === 401 ? readChallenge(response) : undefined;
  const error = challenge ? `, error="${challenge.error}"` : "";
  note(`${response.url} answered ${response.status}${error}`);
  if (challenge) showRefusal(challenge);
  else if (response.ok) show(await response.json());
  else showFailure(response);
}

async function start() {
  await app.initialize();
  const consent = readConsent();
  welcome(await app.handleRedirectPromise());
  const account = app.getActiveAccount();
  if (!account) {
    element("out").hidden = false;
    return;
  }
  if (consent) note(`the consent was ${consent}`);
  // what the API refused before the consent, it must not refuse from its memory now
  await load(consent === "given" ? { "Cache-Control": "no-cache" } : {});
}

/** Take in what a sign-in brought, if there was one just now. */
function welcome(answer) {
  if (answer) {
    app.setActiveAccount(answer.account);
    note(`${answer.account.name} signed in at ${signInService.origin}`);
  }
  const account = app.getActiveAccount();
  if (account) element("who").textContent = `${account.name} (${account.username})`;
  element("out").hidden = true;
}

async function signInByPopup() {
  welcome(await app.loginPopup({ scopes, redirectUri: bridge }));
  await load();
}

function showRefusal(challenge) {
  const isConsent = challenge.error === "consent_required";
  element("title").textContent = isConsent ? "Your consent is missing" : "Sign in again";
  element("missing").textContent = isConsent ? challenge.scope : atob(challenge.claims ?? "");
  element("go-on").onclick = () => meet(challenge);
  element("go-on").hidden = false;
  element("refusal").hidden = false;
  element("result").hidden = true;
}

function showFailure(response) {
  const seconds = response.headers.get("Retry-After");
  element("title").textContent = "That did not work";
  element("missing").textContent = seconds ? `Try again in ${seconds} seconds.` : "";
  element("go-on").hidden = true;
  element("refusal").hidden = false;
  element("result").hidden = true;
}

function show(data) {
  element("owner").textContent = `Projects of ${data.owner}`;
  element("projects").replaceChildren(...data.projects.map((name) => item(name)));
  element("refusal").hidden = true;
  element("result").hidden = false;
}

/** Add a line to what happened, which outlives the ways to the sign-in service and back. */
function note(text) {
  const steps = JSON.parse(sessionStorage.steps ?? "[]");
  if (text) steps.push(text);
  sessionStorage.steps = JSON.stringify(steps);
  element("steps").replaceChildren(...steps.map((step) => item(step)));
}

function item(text) {
  const line = document.createElement("li");
  line.textContent = text;
  return line;
}

function element(id) {
  return document.getElementById(id);
}

element("sign-in").onclick = () => app.loginRedirect({ scopes });
element("sign-in-by-popup").onclick = signInByPopup;
element("again").onclick = () => load();
note();
await start();
