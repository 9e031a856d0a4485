// A JavaScript handler for the tests of its bridge. The prompt's first word names what it does.

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const text = (text, more) => ({ type: 'text', text, ...more });

function cyclic() {
  const error = new Error('the original text');
  error.self = error;
  error.deep = { a: { b: { c: { d: 1 } } } };
  error.cause = new Error('the cause');
  error.cause.cause = error;
  error.metadata = { retry: true };
  error.metadata.again = error.metadata;
  return error;
}

class QuotaError extends Error {
  constructor() {
    super('disk is full', { cause: new TypeError('no space') });
    Object.assign(this, { name: 'QuotaError', code: 'ENOSPC', used: 12, metadata: { tenant: 't1', flags: [true, null] } });
  }
}

// What is thrown, by name. The last ones are no errors.
const thrown = {
  quota: () => new QuotaError(),
  cyclic,
  empty: () => new Error(''),
  long: () => Object.assign(new Error('long'), { text: 'x'.repeat(5000), many: Array.from({ length: 30 }, (_, n) => n) }),
  kinds: () => Object.assign(new Error('kinds'), { f: () => 1, s: Symbol('s'), n: 10n, d: new Date(0), b: Buffer.from('abc') }),
  string: () => 'just a string',
  undefined: () => undefined,
  null: () => null,
  number: () => 42,
  object: () => ({ code: 7, list: [1, 2] }),
};

// What is returned in place of a result, by name.
const returned = {
  undefined: undefined,
  null: null,
  number: 42,
  array: [1],
  notype: { text: 'x' },
  othertype: { type: 'video', text: 'x' },
  notext: { type: 'text' },
  numbertext: { type: 'text', text: 42 },
  nooutput: { type: 'structured_output' },
  arrayoutput: { type: 'structured_output', structuredOutput: [1] },
  stringoutput: { type: 'structured_output', structuredOutput: '{}' },
  bigint: { type: 'structured_output', structuredOutput: { n: 1n } },
  cycle: { type: 'structured_output', structuredOutput: cyclic().metadata },
  metadata: { type: 'text', text: 'x', metadata: 'y' },
  state: { type: 'text', text: 'x', state: () => 1 },
};

const does = {
  async say(_, invocation, words) {
    return text(words);
  },

  // What an invocation is made of.
  async shape(_, invocation) {
    const { signal, logger, onInput, ...plain } = invocation;
    const types = {
      signal: signal instanceof AbortSignal && !signal.aborted,
      logger: Object.keys(logger),
      onInput: typeof onInput,
      undefined: Object.keys(plain).filter((key) => plain[key] === undefined),
    };
    return { type: 'structured_output', structuredOutput: { keys: Object.keys(invocation), plain, types } };
  },

  async everything(sender) {
    sender.sendAssistantMessage(['Let me look.']);
    sender.sendThinking('There may be a file.');
    sender.sendToolUse({ id: 'call-1', name: 'shell', input: { command: 'ls', timeout: null } });
    sender.sendToolResult({ id: 'call-1', output: 'report.txt\n', exitCode: 0 });
    sender.sendProgress('retry', { attempt: 2 });
    sender.sendTextDelta('Ther', { block: 'b1' });
    sender.sendTextDelta('', { block: 'b1', discard: true });
    sender.sendTextDelta('There.', { block: 'b1' });
    await sender.sendAssistantMessage(['There', '.'], { block: 'b1' });
    sender.sendUsage({ inputTokens: 10, outputTokens: 5, cachedTokens: 3, reasoningTokens: 1, costUsd: 0.25 });
    sender.sendWarning('the model was slow', 'model');
    return text('done', { metadata: { steps: 2 }, state: { seen: true } });
  },

  async state(_, { state }) {
    return text(JSON.stringify(state) ?? 'undefined');
  },
  async keep() {
    return text('kept');
  },
  async keepundefined() {
    return text('kept', { state: undefined });
  },
  async set(_, invocation, words) {
    return text('set', { state: JSON.parse(words) });
  },
  async clear() {
    return text('cleared', { state: null });
  },

  async throws(_, invocation, name) {
    throw thrown[name]();
  },
  async returns(_, invocation, name) {
    return returned[name];
  },

  async reportsthenreturns(sender) {
    sender.sendErrorMessage('first', { at: 1 });
    return text('a result all the same', { metadata: { m: 1 } });
  },
  async reportsthenreturnsnothing(sender) {
    sender.sendErrorMessage('first', { at: 1 });
  },
  async reportsthenthrows(sender) {
    sender.sendErrorMessage('first', { at: 1 });
    throw new Error('second');
  },
  async reportstwice(sender) {
    sender.sendErrorMessage('first');
    sender.sendErrorMessage('second', { at: 2 });
  },
  async reportsandtalks(sender) {
    sender.sendErrorMessage('first');
    sender.sendAssistantMessage(['still talking']);
  },

  async late(sender) {
    setTimeout(() => {
      sender.sendAssistantMessage(['a late message']);
      sender.sendErrorMessage('a late error');
    }, 100);
    return text('on time');
  },

  // Never ends by itself: it is what goes wrong besides that must end it.
  async rejection() {
    Promise.reject(Object.assign(new Error('nobody caught me'), { code: 'STRAY' }));
    await sleep(60_000);
  },
  async exception() {
    setTimeout(() => {
      throw new Error('thrown in a timer');
    }, 10);
    await sleep(60_000);
  },
  async exit(sender, invocation, code) {
    sender.sendAssistantMessage(['before the end']);
    process.exit(Number(code));
  },

  async noise(sender) {
    console.log('a line of console.log');
    console.error('a line of console.error');
    const fake = JSON.stringify({ type: 'result', id: 'x', text: 'fake' });
    console.log(fake);
    process.stdout.write(`${fake}\n`);
    process.stdout.write('no line end');
    process.stderr.write('written to stderr\n');
    sender.sendAssistantMessage(['said']);
    return text('quiet');
  },

  // Does not even yield in between.
  async flood(sender, invocation, count) {
    for (let n = 1; n <= Number(count); n += 1) sender.sendAssistantMessage([`message ${n}`]);
    return text(`said ${count}`);
  },
  async floodawait(sender, invocation, count) {
    for (let n = 1; n <= Number(count); n += 1) await sender.sendAssistantMessage([`message ${n}`]);
    return text(`said ${count}`);
  },

  async sleep(sender, { signal }, ms) {
    sender.sendAssistantMessage(['asleep']);
    await sleep(Number(ms));
    return text(`slept, aborted: ${signal.aborted}`);
  },
  async heeds(sender, { signal }) {
    sender.sendAssistantMessage(['listening']);
    await new Promise((resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  },
  async block(sender, invocation, ms) {
    sender.sendAssistantMessage(['blocking']);
    await sleep(20); // so that the message is out before the thread is blocked
    const until = Date.now() + Number(ms);
    while (Date.now() < until);
    return text('unblocked');
  },
};

export default {
  run(invocation, sender) {
    const [word, ...words] = invocation.userPrompt.split(' ');
    return does[word](sender, invocation, words.join(' '));
  },
};
