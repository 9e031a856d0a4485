// The JavaScript handler that `make bench` measures: echoes, and says N messages for `@stream N`.
export default {
  async run(invocation, sender) {
    const stream = /^@stream (\d+)$/.exec(invocation.userPrompt);
    if (stream) {
      for (let n = 1; n <= Number(stream[1]); n += 1) sender.sendAssistantMessage([`message ${n}`]);
    } else {
      sender.sendAssistantMessage([`You said: ${invocation.userPrompt}`]);
    }
    const turn = (invocation.state?.turn ?? 0) + 1;
    return { type: 'text', text: invocation.userPrompt, state: { v: 1, turn } };
  },
};
