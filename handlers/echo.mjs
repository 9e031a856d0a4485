// A complete turnhost handler in JavaScript: says the prompt back, and counts the turns of a session in its state.
// Try it: turnhost --handler echo.mjs. Copy it and put your agent where the echo is; README.md tells what else there is.

export default {
  async run(invocation, sender) {
    sender.sendAssistantMessage([`You said: ${invocation.userPrompt}`]);

    // The state is whatever this handler returned last in this session; undefined in the first turn.
    const turns = (invocation.state?.turns ?? 0) + 1;
    return { type: 'text', text: invocation.userPrompt, state: { turns } };
  },
};
