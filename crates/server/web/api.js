// The client: the key, JSON requests, streams of server-sent events, errors as the server words them.

const KEY = "verve.key";

const BROKEN = "The connection was closed before the answer was complete.";

/** The API key: for this tab, or for this device if it is to be remembered. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "",
  remembered: () => localStorage.getItem(KEY) !== null,
  set(value, remember) {
    key.forget();
    if (value) (remember ? localStorage : sessionStorage).setItem(KEY, value);
  },
  forget() {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
  },
};

/** What went wrong, in the server's words. `status` is 0 when there was no answer. */
export class ApiError extends Error {
  constructor(message, { status = 0, type = null, param = null, code = null, requestId = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, type, param, code, requestId, retryAfter });
  }
}

async function send(method, path, body, signal) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const facts = {
    status: response.status,
    requestId: response.headers.get("x-request-id"),
    retryAfter: response.headers.get("retry-after"),
  };
  const text = await response.text().catch(() => "");
  try {
    const { message, type, param, code } = JSON.parse(text).error;
    return new ApiError(message, { ...facts, type, param, code });
  } catch {
    return new ApiError(text.trim().slice(0, 500) || response.statusText || "An answer without words.", facts);
  }
}

/** Sends a request and gives the JSON of its answer. */
export async function request(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  return response.json();
}

/** Sends a request for a stream and gives each event's JSON, until `[DONE]`. */
export async function* stream(path, body, signal) {
  const response = await send("POST", path, body, signal);
  const requestId = response.headers.get("x-request-id");
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const value = JSON.parse(data);
    if (value.error) throw new ApiError(value.error.message, { status: response.status, requestId, ...value.error });
    yield value;
  }
  throw new ApiError(BROKEN, { requestId });
}

/** The `data` of each event in a stream of bytes, as the HTML standard reads server-sent events. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new ApiError(BROKEN);
      });
      rest += value ?? "";
      // A carriage return at the end may be half of a line's end.
      const lines = rest.split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
