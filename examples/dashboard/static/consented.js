// Tells the page that opened this window how the consent went. The code in the URL is of no use
// to anybody: the consent itself is what counts.

const answer = new URLSearchParams(location.search);
history.replaceState(null, "", location.pathname);
opener?.postMessage(
  { state: answer.get("state"), error: answer.get("error_description") }, location.origin);
close();
