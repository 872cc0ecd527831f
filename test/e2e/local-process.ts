import { writeFileSync } from 'node:fs';
import http from 'node:http';

/**
 * A COMMAND for `lpk connect`, as a person's own program: writes its environment to a file, serves a port, fetches what a request
 * tells it to, ends with the exit code that a request names, and says which signals it got. SIGTERM ends it with 42.
 */
const [port, environmentFile] = process.argv.slice(2);
if (environmentFile) writeFileSync(environmentFile, JSON.stringify(process.env));

for (const signal of ['SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGTERM'] as const) {
  process.on(signal, () => {
    console.log(`got ${signal}`);
    if (signal === 'SIGTERM') process.exit(42);
  });
}

const server = http.createServer(async (request, response) => {
  const url = request.headers['x-fetch'];
  const fetched = url ? await fetch(String(url)).then((each) => each.text(), String) : '';
  const code = request.headers['x-exit'];
  if (code) response.on('close', () => process.exit(Number(code)));
  response.setHeader('connection', 'close').end(`process ${process.pid} ${fetched}`);
});
server.listen(Number(port), '127.0.0.1', () => console.log('listens'));
