// Hands the answer of the sign-in service from a popup or an iframe to the page that opened it.
msalRedirectBridge.broadcastResponseToMainFrame();
