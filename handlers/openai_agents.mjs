// OpenAI's Agents SDK. Carries the conversation, streams, can be cancelled. To copy and change.
//
//     npm install @openai/agents@0.20.0 zod
//     OPENAI_API_KEY=… turnhost --handler handlers/openai_agents.mjs
import { Agent, OpenAIProvider, Runner, tool } from '@openai/agents';
import { spawn } from 'node:child_process';
import { z } from 'zod';

const shell = ({ env, signal }) => tool({
  name: 'shell',
  description: 'Runs a shell command and returns what it printed.',
  parameters: z.object({ command: z.string() }),
  execute: ({ command }) => new Promise((done) => {
    // A group of its own: a cancel ends what the command has started, too.
    const options = { env: { ...process.env, ...env }, detached: true, stdio: ['ignore', 'pipe', 'pipe'] };
    const child = spawn('sh', ['-c', command], options);
    const stop = () => process.kill(-child.pid, 'SIGKILL');
    signal.aborted ? stop() : signal.addEventListener('abort', stop);
    let output = '';
    for (const pipe of [child.stdout, child.stderr]) pipe.setEncoding('utf8').on('data', (data) => (output += data));
    child.on('close', (code) => {
      signal.removeEventListener('abort', stop);
      done(`exit code ${code}\n${output}`);
    });
  }),
});

export async function handler(invocation, sender) {
  const { userPrompt, systemPrompt, model, outputFormat, env = {}, signal, state } = invocation;
  const setting = (name) => env[name] ?? process.env[name];
  const provider = new OpenAIProvider({ apiKey: setting('OPENAI_API_KEY'), baseURL: setting('OPENAI_BASE_URL') });
  const runner = new Runner({ modelProvider: provider, tracingDisabled: true });
  const outputType = outputFormat && { ...outputFormat, name: 'output', strict: false };
  const tools = [shell({ env, signal })];
  const agent = new Agent({ name: 'agent', instructions: systemPrompt, model, tools, outputType });
  const stream = await runner.run(agent, userPrompt, {
    stream: true, signal, maxTurns: 50, previousResponseId: state?.previous_response_id,
  });
  for await (const event of stream) {
    if (event.type === 'raw_model_stream_event' && event.data.type === 'output_text_delta') {
      sender.sendTextDelta(event.data.delta);
    } else if (event.name === 'message_output_created') {
      sender.sendAssistantMessage(event.item.content);
    } else if (event.name === 'tool_called') {
      const { callId, name, arguments: input } = event.item.rawItem;
      sender.sendToolUse({ id: callId, name, input: JSON.parse(input) });
    } else if (event.name === 'tool_output') {
      sender.sendToolResult({ id: event.item.rawItem.callId, output: String(event.item.output) });
    }
  }
  await stream.completed;
  const { inputTokens, outputTokens, totalTokens } = stream.state.usage;
  sender.sendUsage({ inputTokens, outputTokens });
  const output = stream.finalOutput;
  const answer = outputFormat ? { type: 'structured_output', structuredOutput: output } : { type: 'text', text: output ?? '' };
  const metadata = { usage: { inputTokens, outputTokens, totalTokens } };
  return { ...answer, metadata, state: { previous_response_id: stream.lastResponseId } };
}
