"""The style sheet and the script of the console. Each page contains both."""

from __future__ import annotations

from .markup import Html

REFRESH_SECONDS = 2

STYLE = Html("""
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:#1b2229;background:#fff}
header{
  background:#12303f;color:#fff;padding:.5rem 1rem;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;
  align-items:center}
header a{color:#fff;padding:.25rem 0}
header a[aria-current]{font-weight:700;text-decoration-thickness:3px}
header strong{margin-right:.5rem}
header nav{display:flex;gap:1.1rem}
#refresh{margin:0 0 0 auto;font-size:.875rem}
main{max-width:76rem;margin:0 auto;padding:0 1rem 3rem}
h1{font-size:1.5rem;margin:1rem 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:1.75rem 0 .5rem}
a{color:#07577d}
a:focus-visible,button:focus-visible,input:focus-visible,select:focus-visible,textarea:focus-visible,
summary:focus-visible,.scroll:focus-visible{
  outline:3px solid #b3560b;outline-offset:1px}
.scroll{overflow-x:auto;margin:.25rem 0 1rem}
table{border-collapse:collapse;min-width:50%}
caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{padding:.3rem 1.25rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #d5dbe0}
th{font-size:.875rem;color:#47525c}
td{max-width:24rem;overflow-wrap:break-word}
th.n{text-align:right}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.ok{color:#156233}
.bad{color:#a3160d;font-weight:600}
p.bad{white-space:pre-line}
dl{display:flex;flex-wrap:wrap;gap:.25rem 2rem;margin:.5rem 0}
dt{font-size:.875rem;color:#47525c}
dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
pre{
  background:#f2f5f7;border:1px solid #d5dbe0;padding:.6rem;overflow-x:auto;white-space:pre-wrap;
  overflow-wrap:anywhere;margin:.25rem 0;font:14px/1.45 ui-monospace,monospace;max-height:28rem}
pre.hex{white-space:pre}
form{display:flex;flex-wrap:wrap;gap:.6rem 1rem;align-items:end;margin:.5rem 0}
label{display:block;font-size:.875rem;font-weight:600}
label.inline{display:inline}
form div{flex:1 1 12rem}
form div.wide{flex-basis:100%}
input,select,textarea,button{
  font:inherit;padding:.4rem .5rem;border:1px solid #66727d;border-radius:3px;background:#fff;
  color:inherit;max-width:100%}
input:not([type=checkbox]),select,textarea{width:100%}
textarea{font:14px/1.45 ui-monospace,monospace}
button{background:#07577d;border-color:#07577d;color:#fff;padding:.4rem 1rem}
button.danger{background:#a3160d;border-color:#a3160d}
header button{background:#12303f;border-color:#fff;padding:.1rem .6rem;font-size:.875rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:1rem}
figure{margin:0}
.plots figure{display:flex;flex-direction:column;justify-content:flex-end}
figcaption{font-size:.875rem}
.plots svg{width:100%;height:5rem;background:#f2f5f7;border:1px solid #d5dbe0;display:block}
.axis{display:flex;justify-content:space-between;font-size:.8rem;color:#47525c}
.note{color:#47525c;font-size:.9rem}
.key{display:inline-block;width:.9em;height:.9em;vertical-align:-.1em}
.placement{display:flex}
.placement>svg{flex:none}
.placement>.scroll{flex:1 1 auto;min-width:0;margin:0 0 1rem}
.mode{border:1px solid #8aa0ad;border-radius:3px;padding:0 .5rem;font-size:.875rem}
.mode.write{background:#a3160d;border-color:#fff}
@media(max-width:40rem){th,td{padding-right:.4rem}td{font-size:.875rem;max-width:9.5rem}th{font-size:.8rem}}
svg text{font-size:12px;font-family:system-ui,sans-serif}
""")

SCRIPT = Html(
    """
(() => {
  const parts = document.querySelectorAll("[data-live]");
  if (!parts.length) return;
  const state = document.getElementById("refresh");
  const button = document.createElement("button");
  const text = document.createElement("span");
  let paused = false, since = new Date();
  const say = (words) => { if (text.textContent !== words) text.textContent = words; };
  button.type = "button";
  button.textContent = "Pause";
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Go on" : "Pause";
    say(paused ? "Paused " : "Live ");
  });
  say("Live ");
  state.replaceChildren(text, button);
  const place = new URL(location.href);
  place.searchParams.delete("sample");
  const refresh = async () => {
    try {
      if (paused || document.hidden) return;
      const answer = await fetch(place, {cache: "no-store"});
      if (!answer.ok) throw new Error("status " + answer.status);
      // The policy of this page would complain about the style of the other one, which has another nonce.
      const plain = (await answer.text()).replace(/<style[^]*?<\\/style>/, "");
      const page = new DOMParser().parseFromString(plain, "text/html");
      for (const part of parts) {
        const fresh = page.getElementById(part.id);
        if (!fresh || part.contains(document.activeElement) || fresh.innerHTML === part.innerHTML) continue;
        const left = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
        part.replaceChildren(...fresh.childNodes);
        part.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = left[at] || 0; });
      }
      since = new Date();
      if (!paused) say("Live ");
    } catch (error) {
      say("Not refreshed since " + since.toLocaleTimeString() + " (" + error.message + ") ");
    } finally {
      setTimeout(refresh, SECONDS * 1000);
    }
  };
  setTimeout(refresh, SECONDS * 1000);
})();
""".replace("SECONDS", str(REFRESH_SECONDS))
)
