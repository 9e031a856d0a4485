// A WebSocket server with the package `ws` that answers in its own process, for `make bench`: what a JavaScript handler
// under turnhost is compared with. `@stream N` says N messages first.
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false }, () => {
  console.log(`ws on port ${server.address().port} `);
});

server.on('connection', (socket) => {
  socket.on('message', (data) => {
    const invocation = JSON.parse(data);
    const stream = /^@stream (\d+)$/.exec(invocation.user_prompt);
    if (stream) {
      for (let n = 1; n <= Number(stream[1]); n += 1) {
        socket.send(JSON.stringify({ message_type: 'assistant_message', text_blocks: [`message ${n}`] }));
      }
    } else {
      socket.send(JSON.stringify({ message_type: 'assistant_message', text_blocks: [`You said: ${invocation.user_prompt}`] }));
    }
    socket.send(JSON.stringify({ message_type: 'result_message', data: { type: 'text', text: invocation.user_prompt } }));
  });
});
