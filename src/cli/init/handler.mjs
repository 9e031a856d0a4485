// The agent of this bundle. Put yours where the echo is.

export default {
  async run(invocation, sender) {
    // Said piece by piece, as a model says it.
    sender.sendTextDelta('You said: ');
    sender.sendTextDelta(invocation.userPrompt);
    const answer = `You said: ${invocation.userPrompt}`;
    sender.sendAssistantMessage([answer]);

    // The state is whatever was returned last in this session; undefined in the first turn.
    const turns = (invocation.state?.turns ?? 0) + 1;
    return { type: 'text', text: answer, state: { turns } };
  },
};
