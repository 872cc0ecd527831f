import { readFileSync } from 'node:fs';
import type { Readiness } from '../wire/readiness.ts';
import { podEnvironment } from './environment.ts';
import { endWhenLonely } from './lonely.ts';
import { startProbes } from './probes.ts';
import { Judge, type Served } from './readiness.ts';
import { serveSession } from './serve.ts';
import { startServer, type TunnelServer } from './server.ts';

/** What `lpk` mounts beside this file: `key` (64 hex digits) and `config.json`. */
type Config = {
  session: string;
  listen: 'pod' | 'loopback';
  port: number;
  probePort: number;
  holdMs: number;
  lonelyMs?: number;
  readiness?: Readiness;
};

/** The agent itself; `folder` is where it was mounted. Runs until it is ended. */
export async function runAgent(folder: string): Promise<void> {
  const environment = podEnvironment(process.env);
  process.env.UV_THREADPOOL_SIZE = '32'; // getaddrinfo blocks a thread each; four slow names must not hold up the rest

  const config = JSON.parse(readFileSync(`${folder}/config.json`, 'utf8')) as Config;
  const key = Buffer.from(readFileSync(`${folder}/key`, 'utf8').trim(), 'hex');

  const servers: TunnelServer[] = [];
  let served: Served | undefined;
  const judge = new Judge(config.readiness ?? 'connected', () => served);
  const operations = { readiness: () => judge.carried };
  const listen = async (host: string | undefined) => {
    const server = await startServer({
      host,
      port: config.port,
      key,
      holdMs: config.holdMs,
      onSession: (session) => {
        console.log(`session started`);
        session.on('up', () => console.log('laptop connected'));
        session.on('down', (reason) => console.log(`laptop lost: ${reason}`));
        session.on('end', (error) => console.log(`session ended: ${error.message}`));
        served = { session, listeners: serveSession(session, environment, operations) };
      },
    });
    servers.push(server);
  };
  await listen(config.listen === 'loopback' ? '127.0.0.1' : undefined);
  await startProbes(config.probePort, judge);
  console.log(
    `lpk agent for session ${config.session}: port ${config.port} (${config.listen}), probes on ${config.probePort}`,
  );

  const leave = async () => {
    await Promise.all(servers.map((server) => server.close()));
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, leave);
  if (config.lonelyMs !== undefined) {
    endWhenLonely(() => servers.some((server) => server.session() !== undefined), config.lonelyMs, leave);
  }
}
