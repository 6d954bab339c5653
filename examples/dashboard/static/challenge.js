// What the web API refuses, and what the person can do about it.

import { find, make } from "./dom.js";
import { randomText } from "./sign_in.js";

/** An answer of the web API that is no success. */
export class Refusal extends Error {
  constructor(response, body) {
    const reason = body.error_description ?? body.title ?? "no reason was given";
    super(`Status ${response.status}: ${reason}`);
    this.body = body;
    this.header = response.headers.get("WWW-Authenticate") ?? "";
    this.needsSignIn = response.status === 401 && !body.consent_uri;
  }
}

export async function readJSON(response) {
  const body = await response.json();
  if (!response.ok) throw new Refusal(response, body);
  return body;
}

/** Say what went wrong, what is missing, and what the person can do; `canRetry`: try once more. */
export function showProblem(error, canRetry) {
  const { consent_uri: consentUri, scopes, claims } = error.body ?? {};
  const title = consentUri ? "Your consent is missing"
    : claims ? "A newer or stronger sign-in is needed"
    : error.needsSignIn ? "You have to sign in again" : "That did not work";
  find("problem-title").textContent = title;
  find("reason").textContent = error.message;
  find("missing").replaceChildren(
    ...fact("Scope", scopes?.join(" ")),
    ...fact("App", consentUri && `the web API, client id ${clientOf(consentUri)}`),
    ...fact("Claims", claims));
  find("advice").textContent = consentUri
    ? "The web API needs it to act as you. The page behind the button asks for the web API, " +
      "under its own client id: a consent to this page would not help."
    : claims ? "The claims go along with the next sign-in, which brings what they demand." : "";
  find("header").textContent = `WWW-Authenticate: ${error.header}`;
  find("challenge").hidden = !error.header;
  find("give-consent").hidden = !consentUri;
  find("sign-in-again").hidden = !error.needsSignIn;
  find("try-again").hidden = !canRetry || Boolean(error.needsSignIn);
  find("problem").hidden = false;
}

const clientOf = (uri) => new URL(uri).searchParams.get("client_id");

const fact = (term, text) => text ? [make("dt", "", term), make("dd", "", text)] : [];

/**
 * Open the consent page in a window of its own, and return what comes back from it:
 * `error` says why there is no consent; null if the window was closed before.
 */
export function askConsent(consentUri, username) {
  // Elsewhere a page opens consent_uri as it is. The demo's sign-in pages are at this page's
  // origin too, so that a person accepts one certificate.
  const { pathname, search } = new URL(consentUri);
  const page = new URL(pathname + search, location.origin);
  const state = randomText();
  page.searchParams.set("state", state);
  page.searchParams.set("login_hint", username);
  const popup = open(page, "consent", "popup,width=520,height=640");
  if (!popup) throw new Error("The browser has blocked the consent page: allow popups here.");
  return new Promise((resolve) => {
    const hear = ({ origin, data }) => {
      if (origin === location.origin && data?.state === state) end(data);
    };
    const watch = setInterval(() => {
      if (popup.closed) setTimeout(end, GRACE, null);
    }, GRACE);
    const end = (answer) => {
      clearInterval(watch);
      removeEventListener("message", hear);
      resolve(answer);
    };
    addEventListener("message", hear);
  });
}

/** Milliseconds in which a window that has closed may still be heard. */
const GRACE = 300;
