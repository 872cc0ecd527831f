import { execFile } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import type net from 'node:net';
import { json } from 'node:stream/consumers';

/**
 * `within.ts serve`, as the COMMAND of lpk, runs programs for who asks at the port that it prints: they are captured as it is.
 * `within.ts run PORT PROGRAM ARGS…` asks, and is to its caller what the program would be.
 */

type Ended = { code: number; stdout: string; stderr: string };

function serve(): void {
  const server = http.createServer(async (request, response) => {
    const [program, ...args] = (await json(request)) as [string, ...string[]];
    const child = execFile(program, args, (error, stdout, stderr) => {
      const code = error ? (typeof error.code === 'number' ? error.code : 1) : 0;
      response.end(JSON.stringify({ code, stdout, stderr: stderr || (error?.message ?? '') } satisfies Ended));
    });
    response.on('close', () => child.kill()); // who asked may have been interrupted
  });
  server.listen(0, '127.0.0.1', () => console.log(`within: ${(server.address() as net.AddressInfo).port}`));
}

/** Not by fetch, which gives up on an answer after five minutes. */
async function ask(port: number, command: string[]): Promise<Ended> {
  const request = http.request({ host: '127.0.0.1', port, method: 'POST' });
  request.end(JSON.stringify(command));
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  return (await json(response)) as Ended;
}

if (process.argv[1] === import.meta.filename) {
  const [, , role, port, ...command] = process.argv;
  if (role === 'serve') serve();
  else {
    const { code, stdout, stderr } = await ask(Number(port), command);
    process.stdout.write(stdout);
    process.stderr.write(stderr);
    process.exitCode = code;
  }
}
