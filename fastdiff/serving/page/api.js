// The server's HTTP API, as docs/serving.md describes it.

/** What the server said instead of an answer. */
export class ServerError extends Error {
  constructor(message, status, parameter, retrySeconds) {
    super(message);
    this.status = status;
    this.parameter = parameter;
    this.retrySeconds = retrySeconds;
  }
}

/** Return the models, what each takes, and what it does now. */
export async function getStatus(key) {
  const response = await call("v1/status", { headers: authorization(key) });
  return response.json();
}

/** Yield the events of one request, as objects; `signal` cancels it. */
export async function* generate(request, key, signal) {
  const response = await call("v1/images/generations", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: toJson(request),
    signal,
  });
  let last;
  for await (const event of serverSentEvents(response.body)) {
    if (event.error) throw new ServerError(event.error.message, response.status, event.error.param);
    yield (last = event);
  }
  if (last?.type !== "image_generation.completed") throw lost();
}

// Seeds have 64 bits and JavaScript's numbers 53: they travel as BigInt and as text.

/** Return JSON in which a BigInt is a plain number, exactly. */
export function toJson(value) {
  const exact = (_, v) => (typeof v === "bigint" ? (JSON.rawJSON?.(String(v)) ?? Number(v)) : v);
  return JSON.stringify(value, exact);
}

function fromJson(text) {
  return JSON.parse(text, (name, value, context) =>
    name === "seed" ? (context?.source ?? String(value)) : value,
  );
}

function lost() {
  return new ServerError("The connection to the server was lost.", 0);
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError("The server does not answer.", 0);
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new ServerError(
    error?.message ?? `The server answered ${response.status}.`,
    response.status,
    error?.param,
    Number(response.headers.get("Retry-After")) || undefined,
  );
}

/** Yield the JSON of each event of a text/event-stream body. */
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : lost();
    });
    if (done) return;
    text = (text + value).replaceAll("\r\n", "\n");
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:"));
      if (data.length) yield fromJson(data.map((line) => line.slice(5)).join("\n"));
    }
  }
}
