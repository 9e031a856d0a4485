// Runs a JavaScript handler module for turnhost: loads it, then turns lines of the stdio handler protocol into calls of
// its `run(invocation, sender)` and what it does into lines. README.md beside this file tells both sides to people.
//
// Owns: descriptor 3 (lines from the server) and descriptor 4 (lines to it), the console, and the fate of stray errors.
// Does not own: stdout and stderr (log); deadlines, restarts, redaction (the server's); `state`, which passes through JSON.
//
// The server feeds this source on stdin: node --input-type=module - /abs/path/handler.mjs

import { AsyncLocalStorage } from 'node:async_hooks';
import { Console } from 'node:console';
import fs from 'node:fs';
import net from 'node:net';
import { basename } from 'node:path';
import { Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import { format, types } from 'node:util';

const [STDERR, FROM_SERVER, TO_SERVER] = [2, 3, 4];
const FLUSH_AT = 64 * 1024; // characters that may wait in memory; a pipe takes about as much at once
const BREATHE_EVERY = 128; // sends after which an awaiting handler lets the event loop run once
const EXIT_AFTER_MS = 900; // how long running turns may tidy up once the server is gone; all of it within 1 s

const modulePath = process.argv[2];
const READY = { type: 'ready', name: basename(modulePath), capabilities: ['concurrent', 'cancel', 'steer'] };
const currentTurn = new AsyncLocalStorage(); // tells which turn a stray error belongs to
const turns = new Map(); // id -> Turn, the running ones
let agent = null; // what the module exports: an object with `run`
let stopping = false;

// --- Lines to the server ---
//
// Lines are gathered and written by one blocking write when the microtasks queued so far have run. Blocking is the
// point: a handler that talks faster than the server reads is held back, and memory stays flat. process.stdout is never
// touched: that would make a pipe non-blocking and let node buffer without bound.

let gathered = '';
let [flushQueued, serverGone] = [false, false];
const done = Promise.resolve();

function say(line) {
  gathered += line;
  if (gathered.length >= FLUSH_AT) flush();
  else if (!flushQueued) {
    flushQueued = true;
    done.then(flush);
  }
}

function flush() {
  flushQueued = false;
  if (gathered === '') return;
  const bytes = Buffer.from(gathered);
  gathered = '';
  if (serverGone || writeAll(TO_SERVER, bytes)) return;
  serverGone = true;
  setImmediate(stop); // not now: this may run inside a call of the handler
}

// Returns false if nobody reads any more.
function writeAll(descriptor, bytes) {
  for (let at = 0; at < bytes.length; ) {
    try {
      at += fs.writeSync(descriptor, bytes, at);
    } catch (error) {
      if (error.code !== 'EAGAIN') return false;
      // Somebody made the pipe non-blocking. Atomics.wait is the one way to sleep without the event loop.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
  return true;
}

// What sender calls return. It is resolved already: an `await` goes on in a later microtask than the flush, so after it
// the line is written. Now and then it takes a trip round the event loop, or a handler that awaits in a tight loop would
// starve pings and never learn of its own cancel.
let [sends, breather] = [0, null];
function handedOver() {
  sends += 1;
  if (sends % BREATHE_EVERY !== 0) return done;
  return (breather ??= new Promise((resolve) => setImmediate(resolve)).then(() => (breather = null)));
}

// JSON.stringify writes half a surrogate pair (a string cut inside an emoji) as an escape that strict readers refuse.
// Only such halves come out as \ud…, so each becomes U+FFFD; the first branch steps over escaped backslashes.
function wellFormed(json) {
  return json.includes('\\ud') ? json.replace(/\\\\|\\ud[89a-f]../g, (m) => (m === '\\\\' ? m : '\ufffd')) : json;
}

// --- Console: to stderr, by blocking writes; replaced in place, so that every reference to the console follows ---
const stderr = new Writable({
  write: (chunk, _encoding, next) => next(void writeAll(STDERR, chunk)), // a log nobody reads is no reason to fail
});
for (const [name, method] of Object.entries(new Console({ stdout: stderr, stderr }))) {
  if (typeof method === 'function') console[name] = method;
}

// --- Errors: a thrown value becomes { message, metadata } of plain JSON ---
const [TEXT_MAX, DEPTH_MAX, ITEMS_MAX] = [4000, 4, 20];
const VALUES_MAX = 2000; // in one description: what 20 keys on 4 levels could add up to is far more
const ERROR_KEYS = ['name', 'message', 'stack', 'cause'];
const INTERNAL_FRAME = /^\s+at (?:.*\()?(?:async )?(?:node:|turnhost-bridge\.mjs:)/;
const HANDLER_FRAME = /^\s+at (?!.*\((?:<anonymous>|index \d+)\)$)/;

function describeThrown(thrown) {
  const message = attempt(() => thrownText(thrown)) ?? 'the handler threw a value that cannot be read';
  return { message, metadata: attempt(() => thrownMetadata(thrown)) ?? { error_type: typeof thrown } };
}

// A getter that throws or a revoked proxy must not cost a turn its error.
function attempt(read) {
  try {
    return read();
  } catch {
    return undefined;
  }
}

function thrownText(thrown) {
  if (isString(thrown)) return thrown;
  if (isError(thrown) && isString(thrown.message) && thrown.message !== '') return thrown.message;
  const plain = new Description().value(thrown, 0);
  return typeof plain === 'string' ? plain : String(JSON.stringify(plain));
}

function thrownMetadata(thrown) {
  const description = new Description();
  const details = typeof thrown === 'object' && !isError(thrown) ? description.value(thrown, 0) : undefined;
  if (!isError(thrown)) return { error_type: typeof thrown, error_details: details ?? undefined };
  description.path.push(thrown);
  const metadata = description.errorHead(thrown, 0);
  if (isObject(thrown.metadata)) Object.assign(metadata, description.value(thrown.metadata, 0));
  const own = description.properties(thrown, 0, [...ERROR_KEYS, 'metadata']);
  return { ...metadata, error_details: Object.keys(own).length === 0 ? undefined : own };
}

class Description {
  path = []; // the objects around the value, to find cycles
  count = 0;

  value(value, depth) {
    this.count += 1;
    if (typeof value === 'string') return cut(value);
    if (['function', 'symbol', 'bigint'].includes(typeof value)) return cut(String(value));
    if (typeof value !== 'object' || value === null) return value;
    if (this.path.includes(value)) return '[circular]';
    if (depth >= DEPTH_MAX || this.count > VALUES_MAX) return '[max depth reached]';
    this.path.push(value);
    const plain = this.object(value, depth);
    this.path.pop();
    return plain;
  }

  object(value, depth) {
    if (Array.isArray(value)) return value.slice(0, ITEMS_MAX).map((item) => this.value(item, depth + 1));
    // The keys of a buffer are its indexes: listing those of a large one would take for ever.
    if (ArrayBuffer.isView(value)) return { ...value.subarray?.(0, ITEMS_MAX) };
    if (!isError(value)) return this.properties(value, depth, []);
    const head = this.errorHead(value, depth);
    // A stack starts with the message; without a stack the message would be lost.
    if (head.stack === undefined && value.message) head.message = cut(String(value.message));
    return { ...head, ...this.properties(value, depth, ERROR_KEYS) };
  }

  errorHead(error, depth) {
    const stack = handlerStack(error.stack);
    const cause = error.cause === undefined ? undefined : this.value(error.cause, depth + 1);
    return { error_name: String(error.name), stack: stack && cut(stack), cause };
  }

  properties(object, depth, without) {
    const keys = Object.keys(object).filter((key) => !without.includes(key)).slice(0, ITEMS_MAX);
    return Object.fromEntries(keys.map((key) => [key, attempt(() => this.value(object[key], depth + 1))]));
  }
}

// Frames of this file and of node say nothing about the handler. A stack that has no others is dropped.
function handlerStack(stack) {
  if (!isString(stack)) return undefined;
  const lines = stack.split('\n');
  const kept = lines.filter((line) => !INTERNAL_FRAME.test(line));
  return kept.length === lines.length || kept.some((line) => HANDLER_FRAME.test(line)) ? kept.join('\n') : undefined;
}

const isString = (value) => typeof value === 'string';
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const isError = (value) => value instanceof Error || types.isNativeError(value); // the second: of other vm contexts
const typeName = (value) => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value);
const cut = (text) =>
  text.length <= TEXT_MAX ? text : `${text.slice(0, TEXT_MAX)}... [truncated ${text.length - TEXT_MAX} chars]`;

// --- Results ---
const resultError = (defect) => Object.assign(new Error(`handler result: ${defect}`), { name: 'HandlerResultError' });

// What `run` returned becomes { data, metadata?, stateJson? }.
function readResult(result) {
  const wanted = 'expected an object with type "text" or "structured_output"';
  if (typeof result === 'string') return { data: { type: 'text', text: result } };
  if (!isObject(result)) throw resultError(`${wanted}, got ${typeName(result)}`);
  const { type, text, structuredOutput, metadata, state } = result;
  const read = { data: type === 'text' ? { type, text } : { type, structured_output: structuredOutput } };
  if (type === 'structured_output') expectObject('structuredOutput', structuredOutput);
  else if (type !== 'text') throw resultError(`${wanted}, got type ${JSON.stringify(type) ?? typeName(type)}`);
  else if (typeof text !== 'string') throw resultError(`"text" must be a string, got ${typeName(text)}`);
  if (metadata != null) expectObject('metadata', (read.metadata = metadata));
  // undefined: keep the session's state. null: clear it.
  if (state !== undefined) read.stateJson = toJson('state', state);
  return read;
}

function toJson(name, value) {
  let reason = `it is a ${typeof value}`;
  try {
    const json = JSON.stringify(value);
    if (json !== undefined) return json;
  } catch (error) {
    reason = String(error?.message ?? error).split('\n')[0]; // V8 tells the whole path of a cycle
  }
  throw resultError(`"${name}" cannot be serialised: ${reason}`);
}

function expectObject(name, value) {
  // Read back, because a toJSON method, such as a Date's, may make something else of an object.
  const read = isObject(value) && toJson(name, value)[0] !== '{' ? JSON.parse(toJson(name, value)) : value;
  if (!isObject(read)) throw resultError(`"${name}" must be an object, got ${typeName(read)}`);
}

// --- A turn ---
class Turn {
  #controller; // made when somebody asks for it: most handlers never do
  ended = false;
  errors = []; // { message, metadata } of what was sent as error or thrown; the first decides the outcome
  inputs = []; // steering texts nobody listened to yet
  inputListeners = [];
  lateCallTold = false;

  constructor(id) {
    this.id = id;
    this.idJson = JSON.stringify(id);
    turns.set(id, this);
  }

  // `stateJson` goes out exactly as JSON.stringify wrote it.
  say(type, fields, stateJson) {
    const line = wellFormed(JSON.stringify({ type, id: this.id, ...fields }));
    say(stateJson === undefined ? `${line}\n` : `${line.slice(0, -1)},"state":${stateJson}}\n`);
  }

  get controller() { return (this.#controller ??= new AbortController()); }

  // Whether the turn still takes what `method` has to say.
  open(method) {
    if (this.ended && !this.lateCallTold) {
      this.lateCallTold = true;
      const text = `${method} was called after the turn had ended: dropped, as further calls will be`;
      this.say('log', { level: 'debug', text });
    }
    return !this.ended;
  }

  // Listeners are called inside the turn's context, so that an error in one is found to be this turn's.
  abort() {
    currentTurn.run(this, () => this.controller.abort());
  }

  input(text) {
    if (this.inputListeners.length === 0) this.inputs.push(text);
    else currentTurn.run(this, () => this.inputListeners.forEach((listener) => listener(text)));
  }

  async run(line) {
    try {
      const result = await currentTurn.run(this, () => agent.run(makeInvocation(this, line), makeSender(this)));
      // After an error message `return;` is the usual way out and no second error.
      this.end(result === undefined && this.errors.length > 0 ? {} : readResult(result));
    } catch (thrown) {
      this.fail(thrown);
    }
  }

  fail(thrown) {
    this.errors.push(describeThrown(thrown));
    this.end({});
  }

  // The one place where a turn ends, whatever its handler did. The first error decides; all else is attached to it.
  end({ data, metadata, stateJson }) {
    if (this.ended) return;
    if (this.errors.length === 0) {
      const { type, ...answer } = data;
      this.say('result', { ...answer, metadata }, stateJson);
    } else {
      const [first, ...further] = this.errors;
      const attached = { ...first.metadata };
      if (data) attached.result = { data, metadata: metadata ?? {} };
      if (further.length > 0) attached.further_errors = further.map((e) => ({ error: e.message, metadata: e.metadata }));
      this.say('error', { message: first.message, metadata: attached }, stateJson);
    }
    // Only now, so that a value that fails to become JSON after all still ends the turn, by `fail`.
    this.ended = true;
    turns.delete(this.id);
    if (stopping && turns.size === 0) setImmediate(() => process.exit(0));
  }
}

function makeInvocation(turn, line) {
  const log = (level) => (...args) => turn.open('logger') && turn.say('log', { level, text: format(...args) });
  return {
    systemPrompt: line.system_prompt ?? undefined,
    userPrompt: line.prompt,
    outputFormat: line.output_format ?? undefined,
    model: line.model ?? undefined,
    env: line.env ?? undefined,
    secrets: line.secrets ?? [],
    get signal() { return turn.controller.signal; },
    logger: { log: log('info'), warn: log('warn'), error: log('error'), debug: log('debug') },
    // From here on: ours, beyond the RuntimeUse shape.
    state: line.state ?? undefined,
    sessionId: line.session_id,
    turnId: turn.id,
    attempt: line.attempt,
    sourceId: line.source_id ?? undefined,
    attachments: line.attachments ?? [],
    metadata: line.metadata ?? undefined, traceparent: line.traceparent ?? undefined, tracestate: line.tracestate ?? undefined,
    onInput(listener) {
      if (typeof listener !== 'function') throw new TypeError(`onInput: expected a function, got ${typeName(listener)}`);
      turn.inputListeners.push(listener);
      turn.inputs.splice(0).forEach((text) => listener(text));
    },
  };
}

const KINDS = {
  'a string': isString,
  'a string or an array of strings': (value) => Array.isArray(value) && value.every(isString),
  'a boolean': (value) => typeof value === 'boolean',
  'a number': Number.isFinite,
  'a whole number': (value) => Number.isSafeInteger(value) && value >= 0,
  'an integer': (value) => value === (value | 0),
  'anything': () => true,
};
for (const [kind, fits] of Object.entries(KINDS)) KINDS[`${kind}?`] = (value) => value === undefined || fits(value);

const TOKENS = ['inputTokens', 'outputTokens', 'cachedTokens', 'reasoningTokens'].map((name) => [name, 'a whole number?']);

// The sender's calls: the type of the line each makes, and what it takes. A question mark: may be absent.
const CALLS = {
  sendAssistantMessage: ['text', { message: 'a string or an array of strings', block: 'a string?' }],
  sendTextDelta: ['delta', { text: 'a string', block: 'a string?', discard: 'a boolean?' }],
  sendThinking: ['thinking', { text: 'a string' }],
  sendToolUse: ['tool_use', { id: 'a string', name: 'a string', input: 'anything' }],
  sendToolResult: ['tool_result', { id: 'a string', output: 'a string?', isError: 'a boolean?', exitCode: 'an integer?' }],
  sendProgress: ['progress', { kind: 'a string', detail: 'anything' }],
  sendUsage: ['usage', { ...Object.fromEntries(TOKENS), costUsd: 'a number?' }],
  sendWarning: ['warning', { text: 'a string', field: 'a string?' }],
};

for (const call of Object.values(CALLS)) {
  call[1] = Object.entries(call[1]).map(([name, kind]) => {
    const renamed = { id: 'call_id', message: 'parts' }[name];
    const wireName = renamed ?? name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    return { name, kind, fits: KINDS[kind], key: `,"${wireName}":` };
  });
}

// Put together by hand: handlers make these calls by the hundred thousand.
function makeLine(turn, method, values) {
  const [type, fields] = CALLS[method];
  let line = `{"type":"${type}","id":${turn.idJson}`;
  for (const { name, kind, fits, key } of fields) {
    const value = values?.[name] ?? undefined;
    const got = typeof value === 'number' ? value : typeName(value);
    if (!fits(value)) throw new TypeError(`${method}: ${name} must be ${kind.replace('?', '')}, got ${got}`);
    const json = JSON.stringify(value);
    if (json !== undefined) line += key + json;
  }
  return wellFormed(`${line}}\n`);
}

// Functions that need no `this`, so that a handler may take them apart: const { sendTextDelta } = sender.
function makeSender(turn) {
  const send = (method, values) => {
    const line = makeLine(turn, method, values);
    if (turn.open(method)) say(line);
    return handedOver();
  };
  return {
    sendAssistantMessage: (message, options) =>
      send('sendAssistantMessage', { message: isString(message) ? [message] : message, block: options?.block }),
    sendErrorMessage(text, metadata = {}) {
      const got = `${typeName(text)} and ${typeName(metadata)}`;
      if (!isString(text) || !isObject(metadata)) throw new TypeError(`sendErrorMessage: expected a string and an object, got ${got}`);
      // Copied, since the handler may change its object later. An error is never lost over its metadata.
      const copy = attempt(() => JSON.parse(JSON.stringify(metadata))) ?? new Description().value(metadata, 0);
      if (turn.open('sendErrorMessage')) turn.errors.push({ message: text, metadata: copy });
      return handedOver();
    },
    sendTextDelta: (text, options) => send('sendTextDelta', { text, block: options?.block, discard: options?.discard }),
    sendThinking: (text) => send('sendThinking', { text }),
    sendToolUse: (use) => send('sendToolUse', use),
    sendToolResult: (result) => send('sendToolResult', result),
    sendProgress: (kind, detail) => send('sendProgress', { kind, detail }),
    sendUsage: (usage) => send('sendUsage', usage),
    sendWarning: (text, field) => send('sendWarning', { text, field }),
  };
}

// --- Loading the module ---
const NO_TYPESCRIPT = `a TypeScript handler needs Node.js 22.18 or later, this is ${process.version}: compile the handler to .mjs, or name a newer node with --node`;
async function load() {
  try {
    if (/\.[cm]?ts$/.test(modulePath) && !process.features.typescript) throw NO_TYPESCRIPT;
    agent = findAgent(await import(pathToFileURL(modulePath).href));
    // A text and no Error, since a stack of this file would help nobody.
    if (!agent) throw `module at ${modulePath} must export an AgentHandler (as default or named "handler")`;
  } catch (error) {
    return failToLoad(error);
  }
  read(); // not earlier: what the server says meanwhile waits in the pipe
}

function findAgent(exports) {
  // TypeScript compiled to CommonJS has a `default` of its own inside the one that node gives it.
  const byDefault = exports.default?.__esModule ? exports.default.default : exports.default;
  const candidates = [byDefault, exports.handler, exports.default?.handler];
  const plain = candidates.find((candidate) => typeof candidate === 'function');
  return candidates.find((candidate) => typeof candidate?.run === 'function') ?? (plain && { run: plain });
}

function failToLoad(error) {
  const name = isError(error) && error.name !== 'Error' ? `${error.name}: ` : '';
  const message = name + describeThrown(error).message.replace(/ imported from .*\[eval1\]$/, '');
  say(`${wellFormed(JSON.stringify({ type: 'error', message }))}\n`);
  if (!(error instanceof SyntaxError) || handlerStack(error.stack) !== undefined) {
    console.error(error);
    process.exit(1); // the exit hook flushes
  }
  // Which line of which file it is, only node knows. It says so and exits with 1 when nobody catches the error.
  process.removeAllListeners('uncaughtException');
  setImmediate(() => {
    throw error;
  });
}

// --- Lines from the server ---
function take(text) {
  const line = attempt(() => JSON.parse(text)) ?? {};
  if (line.type === 'hello') say(`${JSON.stringify(READY)}\n`);
  else if (line.type === 'ping') say(`{"type":"pong","n":${line.n}}\n`);
  else if (line.type === 'cancel') turns.get(line.id)?.abort();
  else if (line.type === 'input') turns.get(line.id)?.input(line.text);
  else if (line.type === 'turn') new Turn(line.id).run(line);
  else console.error('turnhost bridge: a line from the server was not understood (%d characters)', text.length);
}

function read() {
  const pieces = []; // of a line whose end has not come yet; joined once, so long lines cost no more than their length
  const buffer = Buffer.allocUnsafeSlow(64 * 1024); // read into again and again: what is kept of it is copied
  const callback = (count) => {
    const chunk = buffer.subarray(0, count);
    let start = 0;
    for (let end; (end = chunk.indexOf(10, start)) !== -1; start = end + 1) {
      pieces.push(chunk.subarray(start, end));
      take((pieces.length === 1 ? pieces.pop() : Buffer.concat(pieces.splice(0))).toString()); // decoded whole: no character is cut
    }
    if (start < count) pieces.push(Buffer.from(chunk.subarray(start)));
  };
  const input = new net.Socket({ fd: FROM_SERVER, readable: true, writable: false, onread: { buffer, callback } });
  input.on('error', stop).on('end', stop).resume();
}

// --- Ends ---
// The server is gone: whoever still runs may tidy up for a moment.
function stop() {
  if (!stopping) setTimeout(() => process.exit(0), turns.size === 0 ? 0 : EXIT_AFTER_MS);
  stopping = true;
  turns.forEach((turn) => turn.abort());
}

// An exception or rejection that no handler code caught. The turn it belongs to fails, and the process goes on. If that
// turn cannot be told, every running one fails and so does the process, since nobody knows what is broken.
function blame(thrown) {
  if (!agent) return failToLoad(thrown);
  const known = currentTurn.getStore();
  if (known?.ended) return console.error(`turnhost bridge: after turn ${known.id} had ended:`, thrown);
  const blamed = known ? [known] : [...turns.values()];
  if (!known) console.error('turnhost bridge: error outside of any call:', thrown);
  for (const turn of blamed) {
    turn.fail(thrown);
    turn.abort();
  }
  if (blamed.length !== 1) process.exit(1);
}

process.on('uncaughtException', blame);
process.on('unhandledRejection', blame);
process.on('exit', flush); // process.exit() in handler code loses nothing that was said before it
await load(); // if it never ends, node ends the process with exit code 13

// Names this file in stack traces; node would call it [eval1].
//# sourceURL=turnhost-bridge.mjs
