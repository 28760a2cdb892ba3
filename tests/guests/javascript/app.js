// JSON Merge Patch (RFC 7396): `{"target": …, "patch": …}` becomes what the patch makes of the target.

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

function merge(target, patch) {
  if (!isObject(patch)) return patch;
  const merged = isObject(target) ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete merged[name];
    else merged[name] = merge(merged[name], value);
  }
  return merged;
}

async function answer(request) {
  const { target, patch } = await request.json();
  return new Response(JSON.stringify(merge(target, patch)), {
    headers: { 'content-type': 'application/json', 'x-caller': request.headers.get('sandgate-caller') ?? '' },
  });
}

addEventListener('fetch', (event) => event.respondWith(answer(event.request)));
