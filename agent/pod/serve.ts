import type { Session } from '../wire/session.ts';
import type { Stream } from '../wire/stream.ts';
import { answer, answerControl, type Operations } from './control.ts';
import { dialTcp, dialUdp } from './dial.ts';
import { MountFiles } from './files.ts';
import { Listeners } from './listen.ts';
import { forwardDns, podResolverConfig } from './resolve.ts';
import { callUntilAnswered } from './self-test.ts';

/**
 * Everything a laptop may ask of the agent in one session. `environment`: the container's variables.
 * @returns the ports it has the agent listen on.
 */
export function serveSession(session: Session, environment: Record<string, string>, extra: Operations = {}): Listeners {
  const listeners = new Listeners(session);
  const files = new MountFiles();
  const operations: Operations = {
    environment: () => environment,
    resolver: () => podResolverConfig(),
    listen: ({ port }) => listeners.open(Number(port)),
    unlisten: ({ port }) => listeners.close(Number(port)),
    expect: ({ port, token, answer }) =>
      listeners.expected.expect(Number(port), { token: String(token), answer: String(answer) }),
    unexpect: ({ port }) => listeners.expected.forget(Number(port)),
    call: async ({ host, port, token, forMs }) => ({
      answer: await callUntilAnswered({
        host: String(host),
        port: Number(port),
        token: String(token),
        forMs: Number(forMs),
      }),
    }),
    ...extra,
  };
  session.on('stream', (stream: Stream) => {
    switch (stream.kind) {
      case 'tcp':
        return dialTcp(stream);
      case 'udp':
        return dialUdp(stream);
      case 'dns':
        return void answer(stream, (question) => forwardDns(question, podResolverConfig().nameservers));
      case 'control':
        return void answerControl(stream, operations);
      case 'files':
        return void files.serve(stream);
      case 'accept':
        return stream.reset('not-allowed', 'only the agent accepts connections');
    }
  });
  return listeners;
}
