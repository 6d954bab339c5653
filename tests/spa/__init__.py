"""A single-page app with the real MSAL, and the web API on another origin that it calls."""
