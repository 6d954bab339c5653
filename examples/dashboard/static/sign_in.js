// Signs a person in: authorization code with PKCE (RFC 7636).

const config = await (await fetch("config.json")).json();
const redirectUri = `${location.origin}/`;
const KEY = "sign-in";

const encodeBase64url = (bytes) =>
  btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

export const randomText = () => encodeBase64url(crypto.getRandomValues(new Uint8Array(32)));

/**
 * Leave for the sign-in page.
 * `more` are parameters of the authorization request; `notice` is what the page says afterwards.
 */
export async function startSignIn(more = {}, notice = "") {
  const verifier = randomText();
  const state = randomText();
  sessionStorage.setItem(KEY, JSON.stringify({ verifier, state, notice }));
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  const query = new URLSearchParams({
    response_type: "code",
    client_id: config.client_id,
    redirect_uri: redirectUri,
    scope: config.scope,
    state,
    code_challenge: encodeBase64url(new Uint8Array(digest)),
    code_challenge_method: "S256",
    ...more,
  });
  location.assign(`${config.authorize_url}?${query}`);
}

/** Redeem the code with which the sign-in page has sent the browser back; null if it has not. */
export async function finishSignIn() {
  const answer = new URLSearchParams(location.search);
  history.replaceState(null, "", redirectUri);
  const asked = JSON.parse(sessionStorage.getItem(KEY));
  sessionStorage.removeItem(KEY);
  if (!answer.has("state")) return null;
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
  const tokens = await response.json();
  if (!response.ok) throw new Error(`Status ${response.status}: ${tokens.error_description}`);
  const { name, preferred_username: username } = readClaims(tokens.id_token);
  return { token: tokens.access_token, name, username, notice: asked.notice };
}

/** Read an ID token, which came from the token endpoint itself; access tokens are none of ours. */
function readClaims(idToken) {
  const payload = atob(idToken.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(payload, (c) => c.charCodeAt(0))));
}
