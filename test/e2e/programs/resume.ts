/** A debugger that lets a program go on which waits for one (node --inspect-brk): resume.ts ADDRESS:PORT. */
const [target] = (await (await fetch(`http://${process.argv[2]}/json/list`)).json()) as {
  webSocketDebuggerUrl: string;
}[];
const socket = new WebSocket(target?.webSocketDebuggerUrl as string);
let id = 0;
socket.onopen = () => {
  for (const method of ['Runtime.enable', 'Debugger.enable', 'Runtime.runIfWaitingForDebugger', 'Debugger.resume'])
    socket.send(JSON.stringify({ id: ++id, method }));
};
socket.onmessage = ({ data }) => {
  const { method } = JSON.parse(data as string) as { method?: string };
  if (method === 'Debugger.paused') socket.send(JSON.stringify({ id: ++id, method: 'Debugger.resume' }));
  if (method === 'Runtime.consoleAPICalled') {
    console.log('its console was heard');
    socket.close();
  }
};
