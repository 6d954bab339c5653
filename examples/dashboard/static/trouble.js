// Trouble on command: what each button orders, and what is to be said about it.

const SIGNED_IN_ANEW = "Tokens that were exchanged before stay valid until they end; you were " +
  "signed in anew, so that this shows at the exchange of the new token.";

/** By command: what the page says, and whether the person is signed in anew, unasked. */
export const TROUBLE = {
  "withdraw-consent": {
    says: `The web API has lost your consent to call Graph. ${SIGNED_IN_ANEW}`,
    signsInAnew: true,
  },
  "demand-mfa": {
    says: `Tokens for the partner API now need a second factor. ${SIGNED_IN_ANEW}`,
    signsInAnew: true,
  },
  "partner-down": { says: "The partner API answers every call with 503." },
  "partner-slow": { says: "The partner API takes longer than the two seconds that it is given." },
  "partner-404": { says: "The partner API answers every call with 404." },
  "revoke": {
    says: "Your sessions have ended, and the partner API knows: it refuses your tokens of " +
      "before, although they have not expired. Graph does not know yet.",
  },
  "end": { says: "All trouble has ended, and you were signed in anew.", signsInAnew: true },
};
