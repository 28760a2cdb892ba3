// Files a message to the support desk under the category that its words speak for. A component of `wasi:http/proxy`, for any
// host of that world. README.md says what the model means; the build puts model.json in front of this text as `MODEL`.

const { categories, stem: STEM, margin: MARGIN, weights } = MODEL;
const WEIGHTS = new Map(Object.entries(weights));
const EVIDENCE = 5;

// Letters of Latin script alone, by their code points: every reader of the model must find the same words.
const words = (text) =>
  text
    .replace(/['\u2019]/g, '')
    .replace(/[A-Z\u00c0-\u00d6\u00d8-\u00de]/g, (letter) => String.fromCharCode(letter.charCodeAt(0) + 32))
    .match(/[a-z0-9\u00df-\u00f6\u00f8-\u024f]{2,}/g)
    ?.filter((word) => /[^0-9]/.test(word)) ?? [];

function triage(text) {
  const read = words(text);
  const heard = new Map();
  let known = 0;
  for (const word of read) {
    const stem = word.slice(0, STEM);
    if (!WEIGHTS.has(stem)) continue;
    known += 1;
    if (!heard.has(stem)) heard.set(stem, word);
  }
  const scores = categories.map(() => 0);
  for (const stem of heard.keys()) WEIGHTS.get(stem).forEach((weight, at) => (scores[at] += weight));
  const [best, second] = [...scores].sort((a, b) => b - a);
  const at = scores.indexOf(best);
  const clear = best - second >= MARGIN;
  return {
    category: clear ? categories[at] : 'unclear',
    margin: best - second,
    scores: Object.fromEntries(categories.map((category, at) => [category, scores[at]])),
    evidence: clear ? evidence(heard, at) : [],
    words: { read: read.length, known },
  };
}

// The words that speak most for a category, as they were first written.
function evidence(heard, at) {
  const weight = (stem) => WEIGHTS.get(stem)[at];
  const speaking = [...heard.keys()].filter((stem) => weight(stem) > 0);
  speaking.sort((a, b) => weight(b) - weight(a) || (a < b ? -1 : 1));
  return speaking.slice(0, EVIDENCE).map((stem) => heard.get(stem));
}

const reply = (status, body) =>
  new Response(JSON.stringify(body), { status, headers: { 'content-type': 'application/json' } });

async function answer(request) {
  const event = await request.json().catch(() => null);
  const { subject = '', message } = event ?? {};
  // A host that checks what it passes on never gets this answer.
  if (typeof subject !== 'string' || typeof message !== 'string') {
    return reply(422, { error: 'a message is wanted, as text, and perhaps a subject' });
  }
  return reply(200, triage(`${subject}\n${message}`));
}

addEventListener('fetch', (event) => event.respondWith(answer(event.request)));
